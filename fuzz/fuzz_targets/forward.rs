//! The forwarder as a state machine: packets from both sides, verdicts, cuts, time. Nothing panics, bounds hold, counters add up, a
//! packet that passes is what it was but for the MSS of a SYN, and what the forwarder answers is a packet.
//!
//! The input is a list of records: what to do (see [`Record`]), how long to wait before, the length of a packet in two bytes,
//! and the packet. The corpus is made of packets as kernels send them.
#![no_main]

use std::time::{Duration, Instant};

use adit_flow::CloseReason;
use adit_netstack::{ForwardConfig, Forwarder, Offloads, Passage, Refusal, Side, Unreachable};
use libfuzzer_sys::fuzz_target;

const FLOWS: usize = 6;

/// One step. The first byte, from its lowest bit: the side (1), partial checksum (1), super-packet (1), verdict (2), mend the IPv4
/// header's checksum (1), cut a flow before (1), forget refusals before (1).
struct Record<'a> {
    from: Side,
    offloads: Offloads,
    verdict: u8,
    mends: bool,
    cuts: bool,
    forgets: bool,
    wait: Duration,
    packet: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(data: &mut &'a [u8]) -> Option<Self> {
        let ([what, wait, high, low], rest) = data.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        *data = rest;
        Some(Self {
            from: if what & 1 == 0 { Side::Pod } else { Side::Wire },
            offloads: Offloads {
                segment_size: (what & 4 != 0).then_some(1400),
                partial_checksum: what & 2 != 0,
            },
            verdict: what >> 3 & 3,
            mends: what & 32 != 0,
            cuts: what & 64 != 0,
            forgets: what & 128 != 0,
            wait: Duration::from_millis(1 << (wait & 31)),
            packet,
        })
    }
}

struct World {
    forwarder: Forwarder,
    now: Instant,
    handed_in: u64,
    passed: u64,
    answer: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let config = ForwardConfig {
            addresses: vec![[10, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()],
            max_flows: FLOWS,
            max_refused: 2,
            max_fragmented: 2,
            icmp_errors_per_second: 5,
            ..ForwardConfig::default()
        };
        Self { forwarder: Forwarder::new(config, 3, now), now, handed_in: 0, passed: 0, answer: Vec::new() }
    }

    fn apply(&mut self, record: &Record<'_>) {
        self.wait(record.wait);
        if record.cuts {
            let first = self.forwarder.flows().next();
            if let Some((id, _)) = first {
                assert!(self.forwarder.cut(self.now, id, CloseReason::PolicyChanged));
            }
        }
        while self.forwarder.poll_answer(&mut self.answer).is_some() {
            check(&self.answer);
        }
        if record.forgets {
            self.forwarder.forget_refusals();
        }
        let mut packet = record.packet.to_vec();
        if record.mends {
            mend(&mut packet);
        }
        self.handle(record, &mut packet);
        assert!(self.forwarder.flow_count() <= FLOWS);
        assert!(self.forwarder.flows().count() <= self.forwarder.flow_count());
    }

    fn handle(&mut self, record: &Record<'_>, packet: &mut [u8]) {
        let before = packet.to_vec();
        for attempt in 0..2 {
            self.handed_in += 1;
            match self.forwarder.handle(self.now, record.from, packet, record.offloads) {
                Passage::Answer(_) => check(self.forwarder.answer()),
                Passage::Drop(_) | Passage::ToKernel => assert_eq!(packet, before),
                Passage::Forward(_) => {
                    self.passed += 1;
                    let changed = packet.iter().zip(&before).filter(|(new, old)| new != old).count();
                    // An MSS and a checksum.
                    assert!(changed <= 4);
                }
                Passage::New(flow) => {
                    assert_eq!(self.forwarder.find(&flow.key), None);
                    match record.verdict {
                        0 | 1 => {
                            let admitted = self.forwarder.admit(self.now, &flow).is_ok();
                            assert!(!admitted || self.forwarder.find(&flow.key).is_some());
                        }
                        2 => self.forwarder.deny(self.now, &flow, Refusal::Reset),
                        _ => {
                            let refusal = Refusal::Unreachable(Unreachable::AdminProhibited);
                            self.forwarder.deny(self.now, &flow, refusal);
                        }
                    }
                    assert_eq!(packet, before);
                    if attempt == 0 {
                        continue;
                    }
                }
            }
            return;
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for _ in 0..100 {
            if self.forwarder.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
            self.forwarder.handle_timeout(self.now);
        }
        panic!("deadlines come without end");
    }
}

/// Puts the right checksum into an IPv4 header: no fuzzer would find it.
fn mend(packet: &mut [u8]) {
    let length = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    if packet.len() < length.max(20) || packet[0] >> 4 != 4 {
        return;
    }
    packet[10..12].fill(0);
    let sum = sum(&packet[..length]);
    packet[10..12].copy_from_slice(&(!sum).to_be_bytes());
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What the forwarder sends is whole, and no longer than it may be.
fn check(packet: &[u8]) {
    let length = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 {
        assert_eq!((length(2), sum(&packet[..20])), (packet.len(), 0xffff));
        assert!(packet.len() <= 576);
    } else {
        assert_eq!(length(4) + 40, packet.len());
        assert!(packet.len() <= 1280);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let mut world = World::new();
    for _ in 0..200 {
        let Some(record) = Record::read(&mut data) else { break };
        world.apply(&record);
    }
    let counters = world.forwarder.counters();
    let both = |of: &dyn Fn(Side) -> u64| of(Side::Pod) + of(Side::Wire);
    assert_eq!(both(&|side| counters.packets_from(side)), world.handed_in);
    assert_eq!(both(&|side| counters.forwarded_from(side)), world.passed);
    assert_eq!(
        world.passed + counters.dropped_total() + counters.to_kernel + counters.unknown,
        world.handed_in
    );
    world.wait(Duration::from_secs(1_000_000));
    world.wait(Duration::from_secs(1_000_000));
    assert_eq!((world.forwarder.flow_count(), world.forwarder.poll_timeout()), (0, None));
});
