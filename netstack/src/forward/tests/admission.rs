//! Who is let in: addresses, protocols, verdicts, bounds.

use super::*;

#[test]
fn a_flow_is_asked_for_once_and_passes_both_ways() {
    let mut rig = rig();
    for (pod, peer) in [(pod(1000), peer(53)), (pod6(1000), peer6(53))] {
        let flow = rig.new_flow(Side::Pod, &udp(pod, peer, 10));
        assert_eq!(flow.key.tuple, FourTuple::new(pod, peer));
        assert!(!flow.established);
        let id = rig.forwarder.admit(rig.now, &flow).unwrap();
        assert_eq!(
            rig.forwarder.admit(rig.now, &flow),
            Ok(id),
            "as often as one likes"
        );
        assert_eq!(rig.handle(Side::Pod, udp(pod, peer, 10)), Passage::Forward(id));
        assert_eq!(rig.handle(Side::Wire, udp(peer, pod, 300)), Passage::Forward(id));
        assert_eq!(rig.forwarder.find(&flow.key), Some(id));
    }
    assert_eq!(rig.forwarder.counters().forwarded_from(Side::Wire), 2);
    assert_eq!(rig.forwarder.flows().count(), 2);
    rig.wait(Duration::from_secs(31));
    assert_eq!(rig.forwarder.flow_count(), 0, "a well-known port: forgotten soon");
    let ended = rig.forwarder.poll_ended().unwrap();
    assert_eq!((ended.reason, ended.by), (CloseReason::Idle, None));
    assert_eq!(
        (ended.from_pod, ended.from_wire),
        (
            Traffic {
                packets: 1,
                bytes: 10
            },
            Traffic {
                packets: 1,
                bytes: 300
            }
        )
    );
    assert_eq!(ended.last_packet, ended.opened);
}

#[test]
fn only_the_pods_own_addresses_pass() {
    let mut rig = rig();
    let stranger = SocketAddr::from(([10, 0, 0, 2], 1000));
    rig.drops(Side::Pod, udp(stranger, peer(53), 1), DropReason::BadSource);
    rig.drops(Side::Pod, udp(pod(1), pod(2), 1), DropReason::Unroutable);
    rig.drops(Side::Wire, udp(peer(53), stranger, 1), DropReason::BadDestination);
    rig.drops(Side::Wire, udp(pod(53), pod(1000), 1), DropReason::BadSource);
    for nobody in [
        "127.0.0.1:5",
        "224.0.0.251:5353",
        "255.255.255.255:67",
        "0.0.0.0:5",
    ] {
        let nobody = nobody.parse().unwrap();
        rig.drops(Side::Pod, udp(pod(1000), nobody, 1), DropReason::Unroutable);
        rig.drops(Side::Wire, udp(nobody, pod(1000), 1), DropReason::BadSource);
    }
    rig.forwarder.set_addresses(vec![stranger.ip()]);
    rig.drops(Side::Pod, udp(pod(1), peer(53), 1), DropReason::BadSource);
    rig.admit(Side::Pod, &udp(stranger, peer(53), 1));
}

#[test]
fn source_routed_packets_are_dropped_and_other_options_pass() {
    let mut rig = rig();
    let with_options = |options: &[u8; 8]| {
        let mut packet = udp(pod(1000), peer(2000), 4);
        packet.splice(20..20, *options);
        edit_v4(&mut packet, |header| {
            header[0] = 0x47;
            header[3] += 8;
        });
        packet
    };
    for routed in [
        [131, 7, 4, 10, 0, 0, 9, 0],
        [1, 137, 7, 4, 10, 0, 0, 9],
        [7, 9, 4, 0, 0, 0, 0, 0],
        [7, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 7],
    ] {
        rig.drops(Side::Pod, with_options(&routed), DropReason::Unroutable);
    }
    rig.admit(Side::Pod, &with_options(&[148, 4, 0, 0, 0, 131, 0, 0]));
}

#[test]
fn protocols_without_ports_are_flows_between_addresses() {
    let mut rig = rig();
    let flow = rig.new_flow(Side::Wire, &raw(peer(0).ip(), pod(0).ip(), 47, &[1, 2, 3]));
    assert_eq!(flow.key.protocol, Protocol::Other(47));
    rig.admit(Side::Wire, &raw(peer(0).ip(), pod(0).ip(), 47, &[1, 2, 3]));
    rig.passes(Side::Pod, raw(pod(0).ip(), peer(0).ip(), 47, &[]));
}

#[test]
fn sctp_begins_with_an_init_or_was_open_before() {
    let mut rig = rig();
    let chunk = |kind| {
        let mut payload = vec![0; 16];
        put16(&mut payload, 0, 1000);
        put16(&mut payload, 2, 3868);
        payload[12] = kind;
        raw(pod(0).ip(), peer(0).ip(), ip::SCTP, &payload)
    };
    assert!(rig.new_flow(Side::Pod, &chunk(0)).established);
    assert!(!rig.new_flow(Side::Pod, &chunk(1)).established);
    rig.admit(Side::Pod, &chunk(1));
    rig.passes(Side::Pod, chunk(10));
    rig.drops(
        Side::Pod,
        raw(pod(0).ip(), peer(0).ip(), ip::SCTP, &[0; 12]),
        DropReason::Truncated,
    );
}

#[test]
fn pings_are_told_apart_by_who_asks() {
    let mut rig = rig();
    for (pod, peer) in [(pod(0).ip(), peer(0).ip()), (pod6(0).ip(), peer6(0).ip())] {
        for ident in [0, 5] {
            rig.drops(Side::Wire, ping(peer, pod, ident, true), DropReason::NoFlow);
            let ours = rig.admit(Side::Pod, &ping(pod, peer, ident, false));
            let reply = rig.handle(Side::Wire, ping(peer, pod, ident, true));
            assert_eq!(reply, Passage::Forward(ours));
            let theirs = rig.admit(Side::Wire, &ping(peer, pod, ident, false));
            assert_ne!(ours, theirs);
            let reply = rig.handle(Side::Pod, ping(pod, peer, ident, true));
            assert_eq!(reply, Passage::Forward(theirs));
        }
    }
    let wrong = raw(pod(0).ip(), peer(0).ip(), ip::ICMPV6, &[128, 0, 0, 0, 0, 0, 0, 0]);
    rig.drops(Side::Pod, wrong, DropReason::UnsupportedProtocol);
    let redirect = raw(peer(0).ip(), pod(0).ip(), ip::ICMP, &[5, 0, 0, 0, 0, 0, 0, 0]);
    rig.drops(Side::Wire, redirect, DropReason::UnsupportedProtocol);
}

#[test]
fn a_denied_flow_costs_no_verdict_until_the_refusal_is_forgotten() {
    let mut rig = rig();
    let syn = || seg(pod(1000), peer(80), SYN, 5, 0, 0);
    let flow = rig.deny(Side::Pod, &syn(), Refusal::Silent);
    rig.drops(Side::Pod, syn(), DropReason::Denied);
    assert_eq!(rig.forwarder.find(&flow.key), None);
    rig.wait(Duration::from_secs(6));
    rig.deny(Side::Pod, &syn(), Refusal::Silent);
    rig.forwarder.forget_refusals();
    rig.admit(Side::Pod, &syn());
    rig.forwarder.deny(rig.now, &flow, Refusal::Silent);
    rig.passes(Side::Pod, syn());
    assert_eq!(rig.ends(), []);
}

#[test]
fn a_refusal_says_what_it_was_told_to() {
    let mut rig = rig();
    let syn = seg(pod(1000), peer(80), SYN, 5, 0, 0);
    rig.deny(Side::Pod, &syn, Refusal::Reset);
    assert_eq!(rig.handle(Side::Pod, syn), Passage::Answer(DropReason::Denied));
    let answer = segment(rig.forwarder.answer());
    assert_eq!((answer.src_port, answer.ack, answer.flags), (80, 6, RST | ACK));
    rig.drops(
        Side::Pod,
        seg(pod(1000), peer(80), RST, 5, 0, 0),
        DropReason::Denied,
    );

    for (refusal, expected) in [
        (Refusal::Reset, [3, 3]),
        (Refusal::Unreachable(crate::Unreachable::AdminProhibited), [3, 13]),
    ] {
        let datagram = udp(peer(53), pod(1000), 900);
        rig.deny(Side::Wire, &datagram, refusal);
        assert_eq!(
            rig.handle(Side::Wire, datagram),
            Passage::Answer(DropReason::Denied)
        );
        let answer = ip::IpPacket::parse(rig.forwarder.answer()).unwrap();
        assert_eq!((answer.src, answer.dst), (pod(0).ip(), peer(0).ip()));
        assert_eq!(
            (&answer.payload()[..2], answer.bytes().len()),
            (&expected[..], 576)
        );
        rig.forwarder.forget_refusals();
    }
}

#[test]
fn refusals_are_bounded_and_the_oldest_goes() {
    let mut rig = rig_with(ForwardConfig {
        max_refused: 3,
        ..ForwardConfig::default()
    });
    for port in 1..=5 {
        rig.deny(Side::Pod, &udp(pod(port), peer(53), 1), Refusal::Silent);
    }
    assert_eq!(
        (
            rig.forwarder.flow_count(),
            rig.forwarder.counters().refusals_evicted
        ),
        (3, 2)
    );
    rig.new_flow(Side::Pod, &udp(pod(2), peer(53), 1));
    rig.drops(Side::Pod, udp(pod(3), peer(53), 1), DropReason::Denied);
}

#[test]
fn a_full_table_forgets_what_matters_least() {
    let mut rig = rig_with(ForwardConfig {
        max_flows: 4,
        ..ForwardConfig::default()
    });
    connections::open(&mut rig, 1000);
    rig.admit(Side::Pod, &udp(pod(1), peer(53), 1));
    rig.wait(Duration::from_secs(1));
    rig.admit(Side::Pod, &udp(pod(2), peer(53), 1));
    rig.deny(Side::Pod, &udp(pod(3), peer(53), 1), Refusal::Silent);
    // The refusal, then the longest idle.
    rig.admit(Side::Pod, &udp(pod(4), peer(53), 1));
    assert_eq!(rig.ends(), []);
    connections::open(&mut rig, 1001);
    assert_eq!(rig.ends(), [(CloseReason::Evicted, None)]);
    rig.new_flow(Side::Pod, &udp(pod(1), peer(53), 1));
    rig.passes(Side::Pod, udp(pod(2), peer(53), 1));
    // Established connections never.
    for port in [1002, 1003] {
        connections::open(&mut rig, port);
    }
    rig.ends();
    let flow = rig.new_flow(Side::Pod, &seg(pod(1004), peer(80), SYN, 5, 0, 0));
    let full = rig.forwarder.admit(rig.now, &flow).unwrap_err();
    assert_eq!(
        full.to_string(),
        "admitting 10.0.0.1:1004 -> 10.9.9.9:80: all 4 forwarded flows of the pod are in use"
    );
    assert_eq!((rig.forwarder.counters().table_full, rig.ends()), (1, vec![]));
}

#[test]
fn ends_that_nobody_asks_for_are_bounded() {
    let mut rig = rig_with(ForwardConfig {
        max_flows: 2,
        ..ForwardConfig::default()
    });
    for port in 1..=5 {
        rig.admit(Side::Pod, &udp(pod(port), peer(53), 1));
    }
    assert_eq!((rig.ends().len(), rig.forwarder.counters().ends_lost), (2, 1));
}
