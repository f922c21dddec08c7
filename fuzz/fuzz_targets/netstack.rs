//! The netstack as a state machine: segments near the expected numbers, raw frames, commands, time. Nothing panics, outputs
//! end, bounds hold, and when everything was aborted nothing is left.
#![no_main]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_flow::FourTuple;
use adit_netstack::{BufferSize, Config, Event, FlowId, MINIMUM_RING, Netstack, Refusal, RxChecksum};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Op {
    Segment { port: u8, flags: u8, seq: i8, ack: i8, far: bool, window: u16, data: u16, options: Vec<u8> },
    Frame { bytes: Vec<u8>, verify: bool },
    Payload { protocol: u8, bytes: Vec<u8> },
    Accept(u8),
    Refuse(u8),
    Connect(u8),
    Send(u8, u16),
    Give(u8, u16),
    Recv(u8, u16),
    Take(u8, u16),
    Shutdown(u8),
    Abort(u8),
    Release(u8),
    ReleaseAcks,
    Wait(u16),
    Sctp { port: u8, chunks: Vec<u8> },
}

const FLOWS: usize = 6;
const BUDGET: usize = 60_000;

struct World {
    stack: Netstack,
    now: Instant,
    /// Of each port: what the stack expects, what it sends next.
    numbers: [(u32, u32); 4],
    flows: Vec<FlowId>,
    packet: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let buffer = BufferSize { initial: 4096, max: 100_000 };
        let config = Config {
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            max_flows: FLOWS,
            max_half_open: 3,
            receive_buffer: buffer,
            send_buffer: buffer,
            buffer_budget: BUDGET,
            keep_alive: Some(Duration::from_secs(7)),
            ack_hold: Some(Duration::from_millis(1)),
            ..Config::default()
        };
        let stack = Netstack::new(config, 3, now);
        Self { stack, now, numbers: [(0, 0); 4], flows: Vec::new(), packet: Vec::new() }
    }

    fn flow(&self, index: u8) -> Option<FlowId> {
        self.flows.get(usize::from(index) % self.flows.len().max(1)).copied()
    }

    fn apply(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::Segment { port, flags, seq, ack, far, window, data, options } => {
                let (expected, next) = self.numbers[usize::from(port % 4)];
                let scale = if far { 1 << 20 } else { 1 };
                let seq = expected.wrapping_add((i32::from(seq) * scale) as u32);
                let ack = next.wrapping_add((i32::from(ack) * scale) as u32);
                let options = &options[..options.len().min(40) / 4 * 4];
                let mut tcp = (1000 + u16::from(port % 4)).to_be_bytes().to_vec();
                tcp.extend(443_u16.to_be_bytes());
                tcp.extend(seq.to_be_bytes());
                tcp.extend(ack.to_be_bytes());
                tcp.extend([((20 + options.len()) as u8 / 4) << 4, flags]);
                tcp.extend(window.to_be_bytes());
                tcp.extend([0; 4]);
                tcp.extend(options);
                tcp.resize(tcp.len() + usize::from(data.min(60_000)), 9);
                self.handle(6, &tcp);
            }
            Op::Frame { bytes, verify } => {
                let checksum = if verify { RxChecksum::Verify } else { RxChecksum::Partial };
                self.stack.handle_frame(now, &bytes, checksum);
            }
            Op::Payload { protocol, bytes } => self.handle(protocol, &bytes[..bytes.len().min(65_000)]),
            Op::Accept(index) => {
                if let Some(flow) = self.flow(index) {
                    let _ = self.stack.accept(now, flow);
                }
            }
            Op::Refuse(index) => {
                if let Some(flow) = self.flow(index) {
                    self.stack.refuse(now, flow, Refusal::Reset);
                }
            }
            Op::Connect(port) => {
                let pod = ([10, 0, 0, 1], 1000 + u16::from(port % 4)).into();
                if let Ok(flow) = self.stack.connect(now, FourTuple::new(([10, 9, 9, 9], 443).into(), pod)) {
                    self.flows.push(flow);
                }
            }
            Op::Send(index, count) => {
                if let Some(flow) = self.flow(index) {
                    let _ = self.stack.send(now, flow, &vec![7; usize::from(count)]);
                }
            }
            Op::Give(index, count) => {
                if let Some(flow) = self.flow(index) {
                    let _ = self.stack.send_bytes(now, flow, &mut vec![7; usize::from(count)].into());
                }
            }
            Op::Take(index, limit) => {
                if let Some(flow) = self.flow(index) {
                    let read = self.stack.recv_bytes(now, flow, limit.into());
                    assert!(read.map_or(0, |bytes| bytes.len()) <= usize::from(limit));
                }
            }
            Op::Recv(index, count) => {
                if let Some(flow) = self.flow(index) {
                    let _ = self.stack.recv(now, flow, &mut vec![0; usize::from(count)]);
                }
            }
            Op::Shutdown(index) => {
                if let Some(flow) = self.flow(index) {
                    self.stack.shutdown(now, flow);
                }
            }
            Op::Abort(index) => {
                if let Some(flow) = self.flow(index) {
                    self.stack.abort(now, flow);
                }
            }
            Op::ReleaseAcks => self.stack.release_acks(),
            Op::Release(index) => {
                if let Some(flow) = self.flow(index) {
                    self.stack.release(flow);
                    self.flows.retain(|other| *other != flow);
                }
            }
            Op::Sctp { port, chunks } => {
                let mut sctp = vec![3, port, 0, 7, 1, 2, 3, 4, 0, 0, 0, 0];
                sctp.extend(&chunks[..chunks.len().min(65_000)]);
                self.handle(132, &sctp);
            }
            Op::Wait(millis) => self.wait(Duration::from_millis(millis.into())),
        }
        self.drain();
    }

    /// A packet of the pod with a right IP header.
    fn handle(&mut self, protocol: u8, payload: &[u8]) {
        let length = 20 + payload.len();
        let mut frame = vec![0x45, 0, (length >> 8) as u8, length as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0];
        frame.extend([10, 0, 0, 1, 10, 9, 9, 9]);
        let sum: u32 = frame.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        frame[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(payload);
        self.stack.handle_frame(self.now, &frame, RxChecksum::Partial);
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..10_000 {
            let Some(at) = self.stack.poll_timeout().filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(at);
            self.stack.handle_timeout(self.now);
            self.drain();
        }
        panic!("deadlines come without end");
    }

    fn drain(&mut self) {
        for _ in 0..20_000 {
            match self.stack.poll_event() {
                Some(Event::Syn { flow, .. }) => self.flows.push(flow),
                Some(Event::Closed { flow, .. }) => self.flows.retain(|other| *other != flow),
                // Turned away, and sent back as by a service of another port.
                Some(Event::Sctp { src, dst, packet }) => {
                    let _ = self.stack.abort_sctp(self.now, FourTuple::new(src, dst), &packet);
                    let service = SocketAddr::new(dst.ip(), dst.port() ^ 0x0100 | 1);
                    let _ = self.stack.send_sctp(self.now, service, src, packet);
                }
                Some(_) => {}
                None if self.stack.poll_transmit(self.now, &mut self.packet).is_some() => self.learn(),
                None => {
                    assert!(self.stack.flow_count() <= FLOWS);
                    assert!(self.stack.ring_bytes() <= BUDGET + FLOWS * 2 * MINIMUM_RING);
                    assert_eq!(self.stack.counters().rebuilds_failed, 0);
                    return;
                }
            }
        }
        panic!("output comes without end");
    }

    fn learn(&mut self) {
        assert_eq!(usize::from(u16::from_be_bytes([self.packet[2], self.packet[3]])), self.packet.len());
        let tcp = &self.packet[20..];
        if self.packet[9] == 132 {
            // Another stack takes it as its pod's, checksum and all.
            let config = Config { addresses: vec![IpAddr::from([10, 9, 9, 9])], ..Config::default() };
            let mut peer = Netstack::new(config, 3, self.now);
            peer.handle_frame(self.now, &self.packet, RxChecksum::Verify);
            assert!(matches!(peer.poll_event(), Some(Event::Sctp { .. })), "{:?}", self.packet);
        }
        if self.packet[9] != 6 {
            return;
        }
        let be32 = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        let port = usize::from(u16::from_be_bytes([tcp[2], tcp[3]])).wrapping_sub(1000) % 4;
        let data = tcp.len() - usize::from(tcp[12] >> 4) * 4;
        let length = data as u32 + u32::from(tcp[13] & 1 != 0) + u32::from(tcp[13] & 2 != 0);
        self.numbers[port].1 = be32(4).wrapping_add(length);
        if tcp[13] & 0x10 != 0 {
            self.numbers[port].0 = be32(8);
        }
    }
}

fuzz_target!(|ops: Vec<Op>| {
    let mut world = World::new();
    for op in ops.into_iter().take(200) {
        world.apply(op);
    }
    for flow in std::mem::take(&mut world.flows) {
        world.stack.abort(world.now, flow);
    }
    world.drain();
    world.wait(Duration::from_secs(1000));
    assert_eq!((world.stack.flow_count(), world.stack.ring_bytes()), (0, 0));
});
