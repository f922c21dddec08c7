//! Any sequence of segments and commands: whatever a pod sends and an owner does, nothing panics, bounds hold, counters add up,
//! a flow's events come in their order, and in the end nothing is left.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_flow::{CloseReason, FourTuple};
use adit_netstack::{BufferSize, Config, Event, FlowId, MINIMUM_RING, Netstack, Refusal, RxChecksum};
use bytes::Bytes;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    /// A segment of one of few ports, whose numbers are near those that are expected.
    Segment {
        port: u16,
        flags: u8,
        seq: i32,
        ack: i32,
        window: u16,
        data: usize,
        scaled: bool,
    },
    /// Bytes that need not be a packet.
    Noise(Vec<u8>),
    Accept(usize),
    Refuse(usize, bool),
    Connect(u16),
    Send(usize, usize),
    Give(usize, usize),
    Recv(usize, usize),
    Take(usize, usize),
    Shutdown(usize),
    Abort(usize),
    Release(usize),
    ReleaseAcks,
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let flags = prop_oneof![
        4 => Just(0x10_u8),
        3 => Just(0x02),
        2 => Just(0x12),
        2 => Just(0x11),
        1 => Just(0x14),
        1 => Just(0x04),
        1 => any::<u8>(),
    ];
    let near = || prop_oneof![6 => Just(0_i32), 2 => -3..4_i32, 1 => -70_000..70_000_i32, 1 => any::<i32>()];
    let window = prop_oneof![1 => Just(0_u16), 4 => any::<u16>()];
    let data = prop_oneof![3 => Just(0_usize), 2 => 1..100_usize, 2 => 1000..60_000_usize];
    let segment = (1000..1004_u16, flags, near(), near(), window, data, any::<bool>()).prop_map(
        |(port, flags, seq, ack, window, data, scaled)| Op::Segment {
            port,
            flags,
            seq,
            ack,
            window,
            data,
            scaled,
        },
    );
    let flow = || 0..6_usize;
    prop_oneof![
        12 => segment,
        1 => proptest::collection::vec(any::<u8>(), 0..100).prop_map(Op::Noise),
        3 => flow().prop_map(Op::Accept),
        1 => (flow(), any::<bool>()).prop_map(|(flow, silent)| Op::Refuse(flow, silent)),
        1 => (1000..1004_u16).prop_map(Op::Connect),
        4 => (flow(), 0..100_000_usize).prop_map(|(flow, count)| Op::Send(flow, count)),
        2 => (flow(), 0..100_000_usize).prop_map(|(flow, count)| Op::Give(flow, count)),
        4 => (flow(), 0..100_000_usize).prop_map(|(flow, count)| Op::Recv(flow, count)),
        2 => (flow(), 0..100_000_usize).prop_map(|(flow, count)| Op::Take(flow, count)),
        1 => flow().prop_map(Op::Shutdown),
        1 => flow().prop_map(Op::Abort),
        1 => flow().prop_map(Op::Release),
        1 => Just(Op::ReleaseAcks),
        2 => (0..20_000_u64).prop_map(Op::Wait),
    ]
}

/// What the pod's kernel would know of a port.
#[derive(Default)]
struct Port {
    /// Next number that the stack expects, as it said.
    seq: u32,
    /// Next number that the stack will send.
    ack: u32,
}

struct World {
    stack: Netstack,
    now: Instant,
    ports: HashMap<u16, Port>,
    flows: Vec<FlowId>,
    stage: HashMap<FlowId, u8>,
    packet: Vec<u8>,
}

const BUDGET: usize = 100_000;
const FLOWS: usize = 5;

impl World {
    fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to have an Instant; only differences count"
        )]
        let now = Instant::now();
        let buffer = BufferSize {
            initial: 4096,
            max: 200_000,
        };
        let config = Config {
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            max_flows: FLOWS,
            max_half_open: 3,
            receive_buffer: buffer,
            send_buffer: buffer,
            buffer_budget: BUDGET,
            ack_hold: Some(Duration::from_millis(1)),
            ..Config::default()
        };
        let stack = Netstack::new(config, 3, now);
        let (ports, flows, stage, packet) = Default::default();
        Self {
            stack,
            now,
            ports,
            flows,
            stage,
            packet,
        }
    }

    fn apply(&mut self, op: &Op) {
        let now = self.now;
        let flow = |index: usize| self.flows.get(index % self.flows.len().max(1)).copied();
        match *op {
            Op::Segment { .. } => self.segment(op),
            Op::Noise(ref bytes) => self.stack.handle_frame(now, bytes, RxChecksum::Partial),
            Op::ReleaseAcks => self.stack.release_acks(),
            Op::Accept(index) => {
                if let Some(flow) = flow(index) {
                    let _ = self.stack.accept(now, flow);
                }
            }
            Op::Refuse(index, silent) => {
                if let Some(flow) = flow(index) {
                    self.stack
                        .refuse(now, flow, if silent { Refusal::Silent } else { Refusal::Reset });
                }
            }
            Op::Connect(port) => {
                let tuple = FourTuple::new(([10, 9, 9, 9], 443).into(), ([10, 0, 0, 1], port).into());
                if let Ok(flow) = self.stack.connect(now, tuple) {
                    self.flows.push(flow);
                }
            }
            Op::Send(index, count) => {
                if let Some(flow) = flow(index) {
                    let taken = self.stack.send(now, flow, &vec![7; count]);
                    assert!(taken.is_err() || taken.is_ok_and(|taken| taken <= count));
                }
            }
            Op::Give(index, count) => {
                if let Some(flow) = flow(index) {
                    let mut data = Bytes::from(vec![7; count]);
                    let taken = self.stack.send_bytes(now, flow, &mut data);
                    assert_eq!(taken.unwrap_or(0) + data.len(), count);
                }
            }
            Op::Recv(index, count) => {
                if let Some(flow) = flow(index) {
                    let read = self.stack.recv(now, flow, &mut vec![0; count]);
                    self.check_read(flow, read.unwrap_or(0));
                }
            }
            Op::Take(index, limit) => {
                if let Some(flow) = flow(index) {
                    let read = self.stack.recv_bytes(now, flow, limit);
                    let read = read.map_or(0, |bytes| bytes.len());
                    assert!(read <= limit);
                    self.check_read(flow, read);
                }
            }
            Op::Shutdown(index) => {
                if let Some(flow) = flow(index) {
                    self.stack.shutdown(now, flow);
                }
            }
            Op::Abort(index) => {
                if let Some(flow) = flow(index) {
                    self.stack.abort(now, flow);
                }
            }
            Op::Release(index) => {
                if let Some(flow) = flow(index) {
                    self.stack.release(flow);
                    self.flows.retain(|other| *other != flow);
                }
            }
            Op::Wait(millis) => self.wait(Duration::from_millis(millis)),
        }
        self.drain();
    }

    fn check_read(&self, flow: FlowId, read: usize) {
        let after_fin = self.stage.get(&flow).is_some_and(|stage| *stage >= FIN_TOLD);
        assert!(!after_fin || read == 0, "a byte after the FIN");
    }

    fn segment(&mut self, op: &Op) {
        let Op::Segment {
            port,
            flags,
            seq,
            ack,
            window,
            data,
            scaled,
        } = *op
        else {
            return;
        };
        let known = self.ports.entry(port).or_default();
        let seq = known.seq.wrapping_add(seq as u32);
        let ack = if flags & 0x10 == 0 {
            0
        } else {
            known.ack.wrapping_add(ack as u32)
        };
        let options: &[u8] = match (flags & 2 != 0, scaled) {
            (true, true) => &[2, 4, 0xff, 0xc8, 1, 3, 3, 7, 1, 1, 4, 2],
            (true, false) => &[2, 4, 2, 24],
            _ => &[],
        };
        let data = if flags & 2 != 0 { 0 } else { data };
        let length = 40 + options.len() + data;
        let mut frame = vec![
            0x45,
            0,
            (length >> 8) as u8,
            length as u8,
            0,
            0,
            0x40,
            0,
            64,
            6,
            0,
            0,
        ];
        frame.extend([10, 0, 0, 1, 10, 9, 9, 9]);
        let sum: u32 = frame
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        frame[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(port.to_be_bytes());
        frame.extend(443_u16.to_be_bytes());
        frame.extend(seq.to_be_bytes());
        frame.extend(ack.to_be_bytes());
        frame.extend([((20 + options.len()) as u8 / 4) << 4, flags]);
        frame.extend(window.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(options);
        frame.resize(length, 9);
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
            if let Some(event) = self.stack.poll_event() {
                self.on_event(&event);
            } else if self.stack.poll_transmit(self.now, &mut self.packet).is_some() {
                self.on_packet();
            } else {
                return self.check();
            }
        }
        panic!("output comes without end");
    }

    /// The pod's kernel learns the stack's numbers.
    fn on_packet(&mut self) {
        let tcp = &self.packet[20..];
        if self.packet[9] != 6 {
            return;
        }
        let port = u16::from_be_bytes([tcp[2], tcp[3]]);
        let be32 = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let data = tcp.len() - usize::from(tcp[12] >> 4) * 4;
        let known = self.ports.entry(port).or_default();
        known.ack =
            be32(4).wrapping_add(data as u32 + u32::from(tcp[13] & 1 != 0) + u32::from(tcp[13] & 2 != 0));
        if tcp[13] & 0x10 != 0 {
            known.seq = be32(8);
        }
    }

    fn on_event(&mut self, event: &Event) {
        let (flow, stage) = match event {
            Event::Syn { flow, .. } => {
                self.flows.push(*flow);
                (*flow, 0)
            }
            Event::Established { flow } => (*flow, 1),
            Event::Readable { flow } => (*flow, 2),
            Event::Writable { .. } => return,
            Event::RemoteFin { flow } => (*flow, FIN_TOLD),
            Event::Refused { flow, .. } => (*flow, 4),
            Event::Closed { flow, reason, .. } => {
                let told = self.stage.get(flow).copied().unwrap_or(0);
                assert!(
                    *reason != CloseReason::Fin || told == FIN_TOLD,
                    "a clean end without the pod's FIN"
                );
                self.flows.retain(|other| other != flow);
                (*flow, CLOSED_TOLD)
            }
            _ => return,
        };
        let before = self.stage.insert(flow, stage).unwrap_or(0);
        let repeats = stage == 2 && before == 2;
        assert!(
            before < stage || before == 0 || repeats,
            "{event:?} after stage {before}"
        );
    }

    fn check(&self) {
        let counters = self.stack.counters();
        assert!(self.stack.flow_count() <= FLOWS);
        assert!(self.stack.ring_bytes() <= BUDGET + FLOWS * 2 * MINIMUM_RING);
        let decided = counters.syns_accepted
            + counters.syns_refused
            + counters.syns_withdrawn
            + counters.syns_timed_out;
        assert_eq!(counters.syns_held, decided + self.stack.held_count() as u64);
        assert!(counters.established >= counters.closed_total());
        assert_eq!(counters.rebuilds_failed, 0);
    }

    fn finish(mut self) {
        for flow in std::mem::take(&mut self.flows) {
            self.stack.abort(self.now, flow);
        }
        self.drain();
        self.wait(Duration::from_secs(1000));
        let counters = self.stack.counters();
        assert_eq!(
            (
                self.stack.flow_count(),
                self.stack.held_count(),
                self.stack.ring_bytes()
            ),
            (0, 0, 0)
        );
        assert_eq!(self.stack.poll_timeout(), None);
        assert_eq!(counters.established, counters.closed_total());
        let opened = counters.connects + counters.syns_accepted;
        let failed = counters.connects_refused_total() + counters.handshakes_aborted;
        assert_eq!(opened, counters.established + failed);
    }
}

const FIN_TOLD: u8 = 3;
const CLOSED_TOLD: u8 = 5;

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1500), ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_keeps_the_invariants(ops in proptest::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.finish();
    }
}
