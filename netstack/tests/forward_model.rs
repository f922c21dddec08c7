//! The forwarder against a model that is obviously right: a map from who talks with whom to since when. And whatever anybody
//! sends: counters add up, bounds hold, only SYNs are changed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_flow::{CloseReason, DropReason};
use adit_netstack::{ForwardConfig, ForwardId, Forwarder, NewFlow, Offloads, Passage, Refusal, Side};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    /// A packet, and what's said to it if it's one of a new flow.
    Packet {
        from: Side,
        what: Talk,
        verdict: Option<bool>,
    },
    Cut(usize),
    Forget,
    /// So many milliseconds.
    Wait(u64),
}

/// Who talks with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Talk {
    Udp {
        pod: u16,
        peer: u16,
    },
    /// Asked by the side, with an identifier.
    Ping(bool, u16),
    Gre,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    from: Side,
    passes: bool,
    last_ms: u64,
    id: Option<ForwardId>,
    packets: [u64; 2],
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Pod), Just(Side::Wire)]
}

fn op() -> impl Strategy<Value = Op> {
    let port = || prop_oneof![Just(53_u16), Just(1000), Just(2000)];
    let talk = prop_oneof![
        6 => (port(), port()).prop_map(|(pod, peer)| Talk::Udp { pod, peer }),
        2 => (any::<bool>(), 0..2_u16).prop_map(|(pods, ident)| Talk::Ping(pods, ident)),
        1 => Just(Talk::Gre),
    ];
    let verdict = prop_oneof![4 => Just(Some(true)), 2 => Just(Some(false)), 1 => Just(None)];
    let wait = prop_oneof![4 => 0..5000_u64, 2 => 0..40_000_u64, 1 => 0..400_000_u64];
    prop_oneof![
        10 => (side(), talk, verdict).prop_map(|(from, what, verdict)| Op::Packet { from, what, verdict }),
        1 => (0..10_usize).prop_map(Op::Cut),
        1 => Just(Op::Forget),
        4 => wait.prop_map(Op::Wait),
    ]
}

impl Talk {
    fn packet(self, from: Side) -> Vec<u8> {
        match self {
            Self::Udp { pod, peer } => {
                let (src, dst) = if from == Side::Pod {
                    (pod, peer)
                } else {
                    (peer, pod)
                };
                let ports = u32::from(src) << 16 | u32::from(dst);
                packet(from, 17, &[&ports.to_be_bytes()[..], &[0, 9, 0, 0, 7]].concat())
            }
            Self::Ping(pods, ident) => {
                let asks = pods == (from == Side::Pod);
                packet(
                    from,
                    1,
                    &[if asks { 8 } else { 0 }, 0, 0, 0, 0, ident as u8, 0, 1],
                )
            }
            Self::Gre => packet(from, 47, &[0, 0, 8, 0]),
        }
    }

    /// Whether a packet from `from` can be the first.
    fn may_begin(self, from: Side) -> bool {
        !matches!(self, Self::Ping(pods, _) if pods != (from == Side::Pod))
    }

    fn timeout_ms(self, opener: Side) -> u64 {
        match self {
            Self::Udp { pod, peer } => {
                let dialled = if opener == Side::Pod { peer } else { pod };
                if dialled < 1024 { 30_000 } else { 300_000 }
            }
            Self::Ping(..) => 60_000,
            Self::Gre => 300_000,
        }
    }
}

fn packet(from: Side, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = match from {
        Side::Pod => ([10, 0, 0, 1], [10, 9, 9, 9]),
        Side::Wire => ([10, 9, 9, 9], [10, 0, 0, 1]),
    };
    let length = 20 + payload.len() as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend([src, dst].concat());
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

struct World {
    forwarder: Forwarder,
    epoch: Instant,
    now_ms: u64,
    records: BTreeMap<Talk, Record>,
}

impl World {
    fn new(config: ForwardConfig) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to have an Instant; only differences count"
        )]
        let epoch = Instant::now();
        let addresses = vec![[10, 0, 0, 1].into()];
        Self {
            forwarder: Forwarder::new(ForwardConfig { addresses, ..config }, 7, epoch),
            epoch,
            now_ms: 0,
            records: BTreeMap::new(),
        }
    }

    fn now(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now_ms)
    }

    fn handle(&mut self, from: Side, what: Talk) -> Passage {
        let now = self.now();
        self.forwarder
            .handle(now, from, &mut what.packet(from), Offloads::default())
    }

    fn expected(&self, from: Side, what: Talk) -> Option<Passage> {
        match self.records.get(&what) {
            Some(record) if record.passes => record.id.map(Passage::Forward),
            Some(_) => Some(Passage::Drop(DropReason::Denied)),
            None if what.may_begin(from) => None,
            None => Some(Passage::Drop(DropReason::NoFlow)),
        }
    }

    /// The next end is `record`'s, for `reason`.
    fn ends(&mut self, record: &Record, reason: CloseReason) {
        let ended = self.forwarder.poll_ended().expect("it ended");
        assert_eq!(
            (Some(ended.id), ended.reason, ended.key.from),
            (record.id, reason, record.from)
        );
        assert_eq!([ended.from_pod.packets, ended.from_wire.packets], record.packets);
        assert_eq!(
            ended.last_packet,
            self.epoch + Duration::from_millis(record.last_ms)
        );
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Packet { from, what, verdict } => self.send(from, what, verdict),
            Op::Cut(index) => {
                let passing: Vec<_> = self
                    .records
                    .iter()
                    .filter(|(_, record)| record.passes)
                    .map(|(&what, _)| what)
                    .collect();
                let Some(what) = passing.get(index % passing.len().max(1)) else {
                    return;
                };
                let record = self.records[what];
                let id = record.id.expect("it passes");
                assert!(self.forwarder.cut(self.now(), id, CloseReason::PolicyChanged));
                self.ends(&record, CloseReason::PolicyChanged);
                let refused = Record {
                    passes: false,
                    last_ms: self.now_ms,
                    ..record
                };
                self.records.insert(*what, refused);
            }
            Op::Forget => {
                self.forwarder.forget_refusals();
                self.records.retain(|_, record| record.passes);
            }
            Op::Wait(millis) => self.wait(millis),
        }
        assert_eq!(self.forwarder.poll_ended(), None);
        assert_eq!(self.forwarder.flow_count(), self.records.len());
        let passing = self.records.values().filter(|record| record.passes).count();
        assert_eq!(self.forwarder.flows().count(), passing);
    }

    fn send(&mut self, from: Side, what: Talk, verdict: Option<bool>) {
        let passage = self.handle(from, what);
        match (self.expected(from, what), passage) {
            (None, Passage::New(flow)) => self.decide(&flow, from, what, verdict),
            (expected, _) => {
                assert_eq!(Some(passage), expected, "{what:?} from {from:?}");
                self.note(from, what);
            }
        }
    }

    fn note(&mut self, from: Side, what: Talk) {
        if let Some(record) = self.records.get_mut(&what).filter(|record| record.passes) {
            record.last_ms = self.now_ms;
            record.packets[from as usize] += 1;
        }
    }

    fn decide(&mut self, flow: &NewFlow, from: Side, what: Talk, verdict: Option<bool>) {
        let (now, now_ms) = (self.now(), self.now_ms);
        assert!(!flow.established && flow.key.from == from);
        let Some(passes) = verdict else { return };
        let id = if passes {
            Some(self.forwarder.admit(now, flow).expect("there's room"))
        } else {
            self.forwarder.deny(now, flow, Refusal::Silent);
            None
        };
        let record = Record {
            from,
            passes,
            last_ms: now_ms,
            id,
            packets: [0; 2],
        };
        self.records.insert(what, record);
        assert_eq!(self.forwarder.find(&flow.key), id);
        assert_eq!(Some(self.handle(from, what)), self.expected(from, what));
        self.note(from, what);
    }

    fn wait(&mut self, millis: u64) {
        self.now_ms += millis;
        let now = self.now();
        while self.forwarder.poll_timeout().is_some_and(|at| at <= now) {
            self.forwarder.handle_timeout(now);
        }
        let now_ms = self.now_ms;
        let expires = |what: &Talk, record: &Record| {
            record.last_ms
                + if record.passes {
                    what.timeout_ms(record.from)
                } else {
                    5000
                }
        };
        let mut ended = Vec::new();
        self.records.retain(|what, record| {
            let lives = now_ms < expires(what, record);
            if !lives && record.passes {
                ended.push((record.id, record.packets));
            }
            lives
        });
        let mut told: Vec<_> = std::iter::from_fn(|| self.forwarder.poll_ended())
            .inspect(|end| assert_eq!(end.reason, CloseReason::Idle))
            .map(|end| (Some(end.id), [end.from_pod.packets, end.from_wire.packets]))
            .collect();
        told.sort_unstable();
        ended.sort_unstable();
        assert_eq!(told, ended);
    }
}

proptest! {
    #[test]
    fn who_talks_with_whom_is_what_a_map_says(ops in proptest::collection::vec(op(), 0..120)) {
        let mut world = World::new(ForwardConfig::default());
        for op in ops {
            world.apply(op);
        }
    }
}

/// A segment near the numbers that its connection has, or bytes.
#[derive(Clone, Debug)]
enum Input {
    Segment {
        from: Side,
        port: u8,
        flags: u8,
        seq: i32,
        ack: i32,
        data: usize,
    },
    Noise {
        from: Side,
        protocol: u8,
        place: u16,
        payload: Vec<u8>,
    },
    Raw(Side, Vec<u8>),
    Cut(usize),
    Wait(u64),
}

fn input() -> impl Strategy<Value = Input> {
    let flags = prop_oneof![6 => Just(0x10_u8), 3 => Just(0x02), 3 => Just(0x12), 3 => Just(0x11), 2 => Just(0x04), 1 => any::<u8>()];
    let near = || prop_oneof![6 => Just(0_i32), 2 => -3..4_i32, 1 => any::<i32>()];
    let segment = (
        side(),
        0..4_u8,
        flags,
        near(),
        near(),
        prop_oneof![Just(0_usize), 1..3000_usize],
    )
        .prop_map(|(from, port, flags, seq, ack, data)| Input::Segment {
            from,
            port,
            flags,
            seq,
            ack,
            data,
        });
    let place = prop_oneof![4 => Just(0_u16), 2 => Just(0x2000), 2 => 0..5_u16, 1 => any::<u16>()];
    let bytes = || proptest::collection::vec(any::<u8>(), 0..100);
    let noise = (
        side(),
        prop_oneof![Just(1_u8), Just(6), Just(17), Just(132), any::<u8>()],
        place,
        bytes(),
    )
        .prop_map(|(from, protocol, place, payload)| Input::Noise {
            from,
            protocol,
            place,
            payload,
        });
    prop_oneof![
        12 => segment,
        4 => noise,
        1 => (side(), bytes()).prop_map(|(from, bytes)| Input::Raw(from, bytes)),
        1 => (0..4_usize).prop_map(Input::Cut),
        2 => (0..20_000_u64).prop_map(Input::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_bounds_hold_and_counters_add_up(inputs in proptest::collection::vec(input(), 0..150)) {
        const FLOWS: usize = 4;
        let mut world = World::new(ForwardConfig {
            max_flows: FLOWS,
            max_refused: 2,
            max_fragmented: 2,
            ..ForwardConfig::default()
        });
        let mut numbers = [[1000_u32; 2]; 4];
        let (mut handed_in, mut passed, mut out) = (0_u64, 0_u64, Vec::new());
        for input in inputs {
            let (from, mut bytes, is_syn) = match input {
                Input::Segment { from, port, flags, seq, ack, data } => {
                    let own = &mut numbers[usize::from(port)];
                    let seq = own[from as usize].wrapping_add(seq as u32);
                    let ack = own[from.other() as usize].wrapping_add(ack as u32);
                    own[from as usize] = seq.wrapping_add(data as u32 + u32::from(flags & 3 != 0));
                    let (src, dst) = if from == Side::Pod { (port, 80) } else { (80, port) };
                    let mut segment = vec![0, src + 1, 0, dst + 1];
                    segment.extend(seq.to_be_bytes());
                    segment.extend(ack.to_be_bytes());
                    segment.extend([0x60, flags, 1, 0, 0, 0, 0, 0, 2, 4, 0xff, 0xff]);
                    segment.resize(segment.len() + data, 0);
                    (from, packet(from, 6, &segment), flags & 2 != 0)
                }
                Input::Noise { from, protocol, place, payload } => {
                    let mut bytes = packet(from, protocol, &payload);
                    let old = u16::from_be_bytes([bytes[6], bytes[7]]);
                    bytes[6..8].copy_from_slice(&place.to_be_bytes());
                    let sum = u16::from_be_bytes([bytes[10], bytes[11]]);
                    let sum = u32::from(!sum) + u32::from(!old) + u32::from(place);
                    let sum = (sum & 0xffff) + (sum >> 16);
                    bytes[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
                    (from, bytes, protocol == 6)
                }
                Input::Raw(from, bytes) => (from, bytes, true),
                Input::Cut(index) => {
                    let flow = world.forwarder.flows().nth(index);
                    if let Some((id, _)) = flow {
                        prop_assert!(world.forwarder.cut(world.now(), id, CloseReason::PolicyChanged));
                    }
                    while world.forwarder.poll_answer(&mut out).is_some() {
                        prop_assert_eq!(out.len(), 40);
                    }
                    continue;
                }
                Input::Wait(millis) => {
                    world.now_ms += millis;
                    world.forwarder.handle_timeout(world.now());
                    continue;
                }
            };
            let before = bytes.clone();
            for attempt in 0..2 {
                handed_in += 1;
                match world.forwarder.handle(world.now(), from, &mut bytes, Offloads::default()) {
                    Passage::New(flow) if attempt == 0 => {
                        if world.forwarder.admit(world.now(), &flow).is_err() {
                            world.forwarder.deny(world.now(), &flow, Refusal::Reset);
                        }
                        continue;
                    }
                    Passage::New(flow) => prop_assert!(world.forwarder.find(&flow.key).is_none()),
                    Passage::Answer(_) => prop_assert!(world.forwarder.answer().len() >= 40),
                    Passage::Forward(_) => passed += 1,
                    Passage::Drop(_) | Passage::ToKernel => {}
                }
                break;
            }
            prop_assert!(is_syn || bytes == before);
            prop_assert!(world.forwarder.flow_count() <= FLOWS);
        }
        let counters = world.forwarder.counters();
        let both = |of: &dyn Fn(Side) -> u64| of(Side::Pod) + of(Side::Wire);
        prop_assert_eq!(both(&|side| counters.packets_from(side)), handed_in);
        prop_assert_eq!(both(&|side| counters.forwarded_from(side)), passed);
        prop_assert_eq!(passed + counters.dropped_total() + counters.to_kernel + counters.unknown, handed_in);
        // In the end nothing is left.
        for _ in 0..100 {
            world.now_ms += 3_600_000;
            world.forwarder.handle_timeout(world.now());
        }
        prop_assert_eq!((world.forwarder.flow_count(), world.forwarder.poll_timeout()), (0, None));
        let counters = world.forwarder.counters();
        let ended: u64 = CloseReason::ALL.iter().map(|&reason| counters.ended(reason)).sum();
        prop_assert_eq!(ended, counters.admitted);
    }
}
