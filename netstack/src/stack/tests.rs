//! Packet traces: what the pod's kernel sends, what it gets back, what the owner is told.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_flow::{CloseReason, DropReason, FourTuple, Protocol, RefuseReason};
use bytes::Bytes;

use super::{Datagram, Netstack};
use crate::packet::ip::{self, IpPacket};
use crate::packet::tcp::{ACK, FIN, Options, RST, SYN, Segment, Template};
use crate::packet::{icmp, udp};
use crate::{
    BufferSize, ClosedBy, Config, ConnectError, Counters, Echo, Event, FlowError, FlowId, PacketParts,
    QueueLimit, Refusal, RxChecksum, SendError, Unreachable,
};

mod acks;
mod closing;
mod datagrams;
mod opening;
mod resting;

/// The pod's SYN has this number; so its first byte has the next.
const POD_ISN: u32 = u32::MAX - 10;
const FIRST: u32 = POD_ISN.wrapping_add(1);
const POD: ([u8; 4], u16) = ([10, 0, 0, 1], 1000);
const REMOTE: ([u8; 4], u16) = ([10, 9, 9, 9], 443);
/// What the pod's kernel says of itself.
const OPTIONS: Options = Options {
    mss: Some(1460),
    window_scale: Some(7),
    sack: true,
};

/// A segment that the stack sent, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    flags: u8,
    /// From our initial sequence number.
    seq: u32,
    /// From the pod's first byte.
    ack: u32,
    data: Vec<u8>,
}

/// A stack, and the pod's kernel written by hand.
struct Rig {
    stack: Netstack,
    now: Instant,
    pod: SocketAddr,
    remote: SocketAddr,
    our_isn: u32,
    window: u16,
}

impl Rig {
    fn new(config: Config) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to have an Instant; only differences count"
        )]
        let now = Instant::now();
        let addresses = vec![IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().unwrap()];
        let stack = Netstack::new(Config { addresses, ..config }, 1, now);
        Self {
            stack,
            now,
            pod: POD.into(),
            remote: REMOTE.into(),
            our_isn: 0,
            window: 1000,
        }
    }

    /// With an established flow that the pod opened.
    fn open(config: Config) -> (Self, FlowId) {
        let mut rig = Self::new(config);
        let flow = rig.syn();
        rig.stack.accept(rig.now, flow).unwrap();
        rig.learn_isn();
        rig.pod(ACK, 0, 1, b"");
        assert_eq!(rig.events(), [Event::Established { flow }]);
        assert_eq!(rig.sent(), []);
        (rig, flow)
    }

    fn syn(&mut self) -> FlowId {
        self.raw(SYN, POD_ISN, 0, OPTIONS, b"");
        match self.events()[..] {
            [Event::Syn { flow, tuple }] => {
                assert_eq!(tuple, FourTuple::new(self.pod, self.remote));
                flow
            }
            ref other => panic!("a SYN is announced, not {other:?}"),
        }
    }

    fn learn_isn(&mut self) -> Segment {
        let frames = self.frames();
        let packet = IpPacket::parse(&frames[0]).unwrap();
        let segment = Segment::parse(packet.payload()).unwrap();
        self.our_isn = segment.seq;
        segment
    }

    /// A segment of the pod: `seq` from its first byte, `ack` from our initial sequence number.
    fn pod(&mut self, flags: u8, seq: i64, ack: u32, data: &[u8]) {
        let seq = FIRST.wrapping_add(seq as u32);
        let ack = if flags & ACK == 0 {
            0
        } else {
            self.our_isn.wrapping_add(ack)
        };
        self.raw(flags, seq, ack, Options::default(), data);
    }

    /// As [`pod`](Self::pod), without handing it in.
    fn frame(&self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Bytes {
        let mut frame = Vec::new();
        let template = Template {
            src: self.pod,
            dst: self.remote,
            seq: FIRST.wrapping_add(seq),
            ack: self.our_isn.wrapping_add(ack),
            flags,
            window: self.window,
            options: Options::default(),
        };
        template.emit(&mut frame, data);
        frame.into()
    }

    fn raw(&mut self, flags: u8, seq: u32, ack: u32, options: Options, data: &[u8]) {
        let mut frame = Vec::new();
        let template = Template {
            src: self.pod,
            dst: self.remote,
            seq,
            ack,
            flags,
            window: self.window,
            options,
        };
        template.emit(&mut frame, data);
        self.stack.handle_frame(self.now, &frame, RxChecksum::Partial);
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.stack.poll_event()).collect()
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut frame = Vec::new();
        while self.stack.poll_transmit(self.now, &mut frame).is_some() {
            frames.push(frame.clone());
            assert!(frames.len() < 1000, "output comes without end");
        }
        frames
    }

    fn sent(&mut self) -> Vec<Sent> {
        let frames = self.frames();
        frames.iter().map(|frame| self.read(frame)).collect()
    }

    fn read(&self, frame: &[u8]) -> Sent {
        let packet = IpPacket::parse(frame).unwrap();
        assert_eq!((packet.src, packet.dst), (self.remote.ip(), self.pod.ip()));
        let transport = packet.payload();
        let segment = Segment::parse(transport).unwrap();
        Sent {
            flags: segment.flags & (SYN | FIN | RST | ACK),
            seq: segment.seq.wrapping_sub(self.our_isn),
            ack: if segment.is(ACK) {
                segment.ack.wrapping_sub(FIRST)
            } else {
                0
            },
            data: transport[transport.len() - segment.data_len as usize..].to_vec(),
        }
    }

    /// Lets time pass, deadline by deadline; what was sent.
    fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let until = self.now + time;
        let mut sent = Vec::new();
        while let Some(at) = self.stack.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.stack.handle_timeout(self.now);
            sent.extend(self.sent());
        }
        self.now = until;
        sent
    }

    fn read_all(&mut self, flow: FlowId) -> Vec<u8> {
        let mut bytes = vec![0; 100_000];
        let count = self.stack.recv(self.now, flow, &mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    }

    fn write(&mut self, flow: FlowId, data: &[u8]) {
        assert_eq!(self.stack.send(self.now, flow, data), Ok(data.len()));
    }

    fn shutdown(&mut self, flow: FlowId) {
        self.stack.shutdown(self.now, flow);
    }

    fn counters(&self) -> &Counters {
        self.stack.counters()
    }
}

/// With rings that a test can fill and see.
fn config() -> Config {
    let buffer = BufferSize {
        initial: 16 << 10,
        max: 1 << 20,
    };
    Config {
        receive_buffer: buffer,
        send_buffer: buffer,
        ..Config::default()
    }
}

fn sent(flags: u8, seq: u32, ack: u32, data: &[u8]) -> Sent {
    Sent {
        flags,
        seq,
        ack,
        data: data.to_vec(),
    }
}

fn closed(flow: FlowId, reason: CloseReason, by: ClosedBy) -> Event {
    Event::Closed { flow, reason, by }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
