//! Whatever anybody sends: counters add up, bounds hold, only SYNs are changed.

use std::time::Duration;

use adit_flow::CloseReason;
use adit_netstack::{ForwardConfig, Offloads, Passage, Refusal, Side};
use proptest::prelude::*;

use crate::{forwarder, packet, side};

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
        let (mut forwarder, mut now) = forwarder(ForwardConfig {
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
                    let flow = forwarder.flows().nth(index);
                    if let Some((id, _)) = flow {
                        prop_assert!(forwarder.cut(now, id, CloseReason::PolicyChanged));
                    }
                    while forwarder.poll_answer(&mut out).is_some() {
                        prop_assert_eq!(out.len(), 40);
                    }
                    continue;
                }
                Input::Wait(millis) => {
                    now += Duration::from_millis(millis);
                    forwarder.handle_timeout(now);
                    continue;
                }
            };
            let before = bytes.clone();
            for attempt in 0..2 {
                handed_in += 1;
                match forwarder.handle(now, from, &mut bytes, Offloads::default()) {
                    Passage::New(flow) if attempt == 0 => {
                        if forwarder.admit(now, &flow).is_err() {
                            forwarder.deny(now, &flow, Refusal::Reset);
                        }
                        continue;
                    }
                    Passage::New(flow) => prop_assert!(forwarder.find(&flow.key).is_none()),
                    Passage::Answer(_) => prop_assert!(forwarder.answer().len() >= 40),
                    Passage::Forward(_) => passed += 1,
                    Passage::Drop(_) | Passage::ToKernel => {}
                }
                break;
            }
            prop_assert!(is_syn || bytes == before);
            prop_assert!(forwarder.flow_count() <= FLOWS);
        }
        let counters = forwarder.counters();
        let both = |of: &dyn Fn(Side) -> u64| of(Side::Pod) + of(Side::Wire);
        prop_assert_eq!(both(&|side| counters.packets_from(side)), handed_in);
        prop_assert_eq!(both(&|side| counters.forwarded_from(side)), passed);
        prop_assert_eq!(passed + counters.dropped_total() + counters.to_kernel + counters.unknown, handed_in);
        // In the end nothing is left.
        for _ in 0..100 {
            now += Duration::from_secs(3600);
            forwarder.handle_timeout(now);
        }
        prop_assert_eq!((forwarder.flow_count(), forwarder.poll_timeout()), (0, None));
        let counters = forwarder.counters();
        let ended: u64 = CloseReason::ALL.iter().map(|&reason| counters.ended(reason)).sum();
        prop_assert_eq!(ended, counters.admitted);
    }
}
