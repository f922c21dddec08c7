//! Fragments follow their first one.

use super::*;

/// The fragments of a datagram, IPv4 or IPv6, each with at most 600 bytes.
fn fragments(src: SocketAddr, dst: SocketAddr, protocol: u8, ident: u16) -> Vec<Vec<u8>> {
    let whole = if protocol == ip::UDP {
        udp(src, dst, 1400)
    } else {
        seg(src, dst, ACK, 1, 1, 1400)
    };
    let payload = &whole[ip::header_len(src.ip())..];
    let parts: Vec<_> = payload.chunks(600).collect();
    let last = parts.len() - 1;
    let fragment = |(index, part): (usize, &&[u8])| {
        let (offset, more) = (index * 600, index != last);
        if src.is_ipv4() {
            let mut packet = raw(src.ip(), dst.ip(), protocol, part);
            edit_v4(&mut packet, |header| {
                put16(header, 4, ident);
                put16(header, 6, (offset / 8) as u16 | u16::from(more) << 13);
            });
            packet
        } else {
            let mut body = vec![protocol, 0, 0, 0, 0, 0, 0, 0];
            put16(&mut body, 2, offset as u16 | u16::from(more));
            put16(&mut body, 6, ident);
            body.extend_from_slice(part);
            raw(src.ip(), dst.ip(), 44, &body)
        }
    };
    parts.iter().enumerate().map(fragment).collect()
}

#[test]
fn later_fragments_go_where_the_first_one_went() {
    let mut rig = rig();
    for (pod, peer) in [(pod(1), peer(9000)), (pod6(1), peer6(9000))] {
        let parts = fragments(pod, peer, ip::UDP, 7);
        rig.drops(Side::Pod, parts[1].clone(), DropReason::Fragment);
        let id = rig.admit(Side::Pod, &parts[0]);
        for part in &parts[1..] {
            assert_eq!(rig.handle(Side::Pod, part.clone()), Passage::Forward(id));
        }
        // Another packet, and another way.
        let other = fragments(pod, peer, ip::UDP, 8);
        rig.drops(Side::Pod, other[1].clone(), DropReason::Fragment);
        let back = fragments(peer, pod, ip::UDP, 7);
        rig.drops(Side::Wire, back[1].clone(), DropReason::Fragment);
        rig.passes(Side::Wire, back[0].clone());
        rig.passes(Side::Wire, back[2].clone());
    }
    let counters = rig.forwarder.counters();
    assert_eq!((counters.first_fragments, counters.later_fragments), (4, 6));
    rig.wait(Duration::from_secs(61));
    let late = fragments(pod(1), peer(9000), ip::UDP, 7);
    rig.drops(Side::Pod, late[1].clone(), DropReason::Fragment);
    rig.wait(Duration::from_secs(300));
    let ended = rig.forwarder.poll_ended().unwrap();
    assert_eq!((ended.from_pod.packets, ended.from_pod.bytes), (3, 1400));
}

#[test]
fn fragments_of_a_refused_or_cut_flow_are_dropped() {
    let mut rig = rig();
    let parts = fragments(pod(1), peer(9000), ip::UDP, 7);
    rig.deny(Side::Pod, &parts[0], Refusal::Silent);
    rig.drops(Side::Pod, parts[0].clone(), DropReason::Denied);
    rig.drops(Side::Pod, parts[1].clone(), DropReason::Fragment);
    rig.forwarder.forget_refusals();
    let id = rig.admit(Side::Pod, &parts[0]);
    rig.forwarder.cut(rig.now, id, CloseReason::PolicyChanged);
    rig.drops(Side::Pod, parts[1].clone(), DropReason::Denied);
    rig.forwarder.forget_refusals();
    rig.drops(Side::Pod, parts[1].clone(), DropReason::Fragment);
}

#[test]
fn a_fragment_must_not_reach_into_a_tcp_header() {
    let mut rig = rig();
    let parts = fragments(pod(1), peer(80), ip::TCP, 7);
    rig.admit(Side::Pod, &parts[0]);
    rig.passes(Side::Pod, parts[1].clone());
    for (offset, passes) in [(1, false), (2, false), (3, true)] {
        let mut part = parts[1].clone();
        edit_v4(&mut part, |header| put16(header, 6, offset));
        if passes {
            rig.passes(Side::Pod, part);
        } else {
            rig.drops(Side::Pod, part, DropReason::Malformed);
        }
    }
    // Nor may the first one be without all of it.
    let mut first = raw(pod(2).ip(), peer(80).ip(), ip::TCP, &parts[0][20..36]);
    edit_v4(&mut first, |header| header[6] = 0x20);
    rig.drops(Side::Pod, first, DropReason::Truncated);
}

#[test]
fn fragmented_packets_are_bounded_and_the_oldest_goes() {
    let mut rig = rig_with(ForwardConfig {
        max_fragmented: 2,
        ..ForwardConfig::default()
    });
    let parts: Vec<_> = (1..=3)
        .map(|ident| fragments(pod(1), peer(9000), ip::UDP, ident))
        .collect();
    rig.admit(Side::Pod, &parts[0][0]);
    // Again: the same packet.
    for parts in [&parts[0], &parts[1], &parts[2]] {
        rig.passes(Side::Pod, parts[0].clone());
    }
    assert_eq!(rig.forwarder.counters().fragmented_evicted, 1);
    rig.drops(Side::Pod, parts[0][1].clone(), DropReason::Fragment);
    rig.passes(Side::Pod, parts[1][1].clone());
    rig.passes(Side::Pod, parts[2][1].clone());
}
