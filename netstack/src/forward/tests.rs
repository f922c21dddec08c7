//! The forwarder between a pod and a peer whose packets are made by hand.

use std::net::SocketAddr;
use std::time::Duration;

use adit_flow::{DropReason, FourTuple, Protocol};

use super::*;
use crate::packet::checksum::Sum;
use crate::packet::ip::{self, Header};
use crate::packet::tcp::{self, ACK, FIN, Options, RST, SYN, Segment, Template};
use crate::packet::{icmp, put16, udp};

mod admission;
mod connections;
mod errors;
mod fragments;
mod sizes;

/// A forwarder with its time, and the numbers of one connection through it.
struct Rig {
    forwarder: Forwarder,
    now: Instant,
}

fn rig() -> Rig {
    rig_with(ForwardConfig::default())
}

fn rig_with(config: ForwardConfig) -> Rig {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to have an Instant; only differences count"
    )]
    let now = Instant::now();
    let addresses = vec![pod(0).ip(), pod6(0).ip()];
    Rig {
        forwarder: Forwarder::new(ForwardConfig { addresses, ..config }, 7, now),
        now,
    }
}

impl Rig {
    fn handle(&mut self, from: Side, mut packet: Vec<u8>) -> Passage {
        self.handle_mut(from, &mut packet, Offloads::default())
    }

    fn handle_mut(&mut self, from: Side, packet: &mut [u8], offloads: Offloads) -> Passage {
        self.forwarder.handle(self.now, from, packet, offloads)
    }

    /// The flow that the packet is taken for a new one of.
    fn new_flow(&mut self, from: Side, packet: &[u8]) -> NewFlow {
        match self.handle(from, packet.to_vec()) {
            Passage::New(flow) => flow,
            other => panic!("not taken for a new flow: {other:?}"),
        }
    }

    /// Admits the flow of the packet, and hands it in again.
    fn admit(&mut self, from: Side, packet: &[u8]) -> ForwardId {
        let flow = self.new_flow(from, packet);
        let id = self.forwarder.admit(self.now, &flow).expect("there's room");
        assert_eq!(self.handle(from, packet.to_vec()), Passage::Forward(id));
        id
    }

    fn deny(&mut self, from: Side, packet: &[u8], refusal: Refusal) -> NewFlow {
        let flow = self.new_flow(from, packet);
        self.forwarder.deny(self.now, &flow, refusal);
        flow
    }

    #[track_caller]
    fn passes(&mut self, from: Side, packet: Vec<u8>) {
        let passage = self.handle(from, packet);
        assert!(matches!(passage, Passage::Forward(_)), "{passage:?}");
    }

    #[track_caller]
    fn drops(&mut self, from: Side, packet: Vec<u8>, reason: DropReason) {
        assert_eq!(self.handle(from, packet), Passage::Drop(reason));
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        while self.forwarder.poll_timeout().is_some_and(|at| at <= self.now) {
            self.forwarder.handle_timeout(self.now);
        }
    }

    fn ends(&mut self) -> Vec<(CloseReason, Option<Side>)> {
        std::iter::from_fn(|| self.forwarder.poll_ended())
            .map(|ended| (ended.reason, ended.by))
            .collect()
    }

    fn answers(&mut self) -> Vec<(Side, Vec<u8>)> {
        let mut out = Vec::new();
        std::iter::from_fn(|| Some((self.forwarder.poll_answer(&mut out)?, out.clone()))).collect()
    }
}

fn pod(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

fn peer(port: u16) -> SocketAddr {
    ([10, 9, 9, 9], port).into()
}

fn pod6(port: u16) -> SocketAddr {
    SocketAddr::new("fd00::1".parse().expect("an address"), port)
}

fn peer6(port: u16) -> SocketAddr {
    SocketAddr::new("fd00::9".parse().expect("an address"), port)
}

/// A segment as a kernel makes it: of the numbers that count, and with a right checksum.
fn seg(src: SocketAddr, dst: SocketAddr, flags: u8, seq: u32, ack: u32, data: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    let template = Template {
        src,
        dst,
        seq,
        ack,
        flags,
        window: 500,
        options: Options::default(),
    };
    template.emit(&mut packet, &vec![7; data]);
    complete(&mut packet, tcp::CHECKSUM_AT);
    packet
}

fn udp(src: SocketAddr, dst: SocketAddr, data: usize) -> Vec<u8> {
    let mut packet = udp::emit(src, dst, &vec![7; data]);
    complete(&mut packet, udp::CHECKSUM_AT);
    packet
}

/// Completes the checksum of a packet with a partial one.
fn complete(packet: &mut [u8], at: usize) {
    let header = Header::parse(packet).expect("a packet");
    let transport = &mut packet[header.payload_at..];
    let sum = Sum::default().add(transport).finish();
    put16(transport, at, sum);
}

/// A packet of any protocol.
fn raw(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ip::push_header(&mut packet, src, dst, protocol, payload.len());
    packet.extend_from_slice(payload);
    packet
}

fn ping(src: IpAddr, dst: IpAddr, ident: u16, reply: bool) -> Vec<u8> {
    let echo = crate::event::Echo {
        src,
        dst,
        ident,
        sequence: 1,
        payload: vec![0; 56],
    };
    icmp::emit_echo(&echo, reply)
}

/// Sets bytes of an IPv4 header and mends its checksum.
fn edit_v4(packet: &mut [u8], edit: impl FnOnce(&mut [u8])) {
    edit(packet);
    put16(packet, 10, 0);
    let length = usize::from(packet[0] & 15) * 4;
    let sum = Sum::default().add(&packet[..length]).finish();
    put16(packet, 10, sum);
}

fn segment(packet: &[u8]) -> Segment {
    let packet = ip::IpPacket::parse(packet).expect("a packet");
    assert!(packet.has_valid_checksum());
    Segment::parse(packet.payload()).expect("a segment")
}
