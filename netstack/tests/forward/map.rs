//! The forwarder against a model that is obviously right: a map from who talks with whom to since when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_flow::{CloseReason, DropReason};
use adit_netstack::{ForwardConfig, ForwardId, Forwarder, NewFlow, Offloads, Passage, Refusal, Side};
use proptest::prelude::*;

use crate::{forwarder, packet, side};

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

struct World {
    forwarder: Forwarder,
    epoch: Instant,
    now_ms: u64,
    records: BTreeMap<Talk, Record>,
}

impl World {
    fn new() -> Self {
        let (forwarder, epoch) = forwarder(ForwardConfig::default());
        Self {
            forwarder,
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
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
    }
}
