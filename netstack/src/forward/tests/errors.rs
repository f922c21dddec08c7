//! ICMP errors pass with the flow that they're about, and no others do.

use super::*;
use crate::packet::icmp::Problem;

/// An error from `by` about `packet`.
fn error(by: SocketAddr, packet: &[u8], problem: Problem) -> Vec<u8> {
    let mut header = Header::parse(packet).expect("a packet");
    header.dst = by.ip().into();
    let mut out = Vec::new();
    icmp::write_error(&mut out, &header, packet, problem);
    out
}

const TOO_BIG: Problem = Problem::TooBig { mtu: 1300 };
const PORT: Problem = Problem::Unreachable(crate::Unreachable::Port);

#[test]
fn an_error_about_a_flow_passes_both_ways() {
    let mut rig = rig();
    let router = SocketAddr::from(([10, 3, 3, 3], 0));
    let router6 = SocketAddr::new("fd00::3".parse().unwrap(), 0);
    for (pod, peer, router) in [(pod(1), peer(9000), router), (pod6(1), peer6(9000), router6)] {
        let (up, down) = (udp(pod, peer, 1400), udp(peer, pod, 10));
        rig.drops(Side::Wire, error(router, &up, TOO_BIG), DropReason::NoFlow);
        let id = rig.admit(Side::Pod, &up);
        assert_eq!(
            rig.handle(Side::Wire, error(router, &up, TOO_BIG)),
            Passage::Forward(id)
        );
        assert_eq!(
            rig.handle(Side::Pod, error(pod, &down, PORT)),
            Passage::Forward(id)
        );
        // About a packet that the error's receiver didn't send.
        rig.drops(Side::Wire, error(router, &down, PORT), DropReason::BadDestination);
    }
    assert_eq!(rig.forwarder.counters().related, 4);
    let time_exceeded = |mut packet: Vec<u8>| {
        packet[20] = 11;
        packet
    };
    rig.passes(
        Side::Wire,
        time_exceeded(error(router, &udp(pod(1), peer(9000), 1), PORT)),
    );
}

#[test]
fn an_error_about_a_ping_is_told_by_its_identifier() {
    let mut rig = rig();
    for (pod, peer) in [(pod(0), peer(0)), (pod6(0), peer6(0))] {
        let request = ping(pod.ip(), peer.ip(), 5, false);
        rig.admit(Side::Pod, &request);
        rig.passes(Side::Wire, error(peer, &request, PORT));
        let other = ping(pod.ip(), peer.ip(), 6, false);
        rig.drops(Side::Wire, error(peer, &other, PORT), DropReason::NoFlow);
        rig.drops(
            Side::Wire,
            error(peer, &ping(pod.ip(), peer.ip(), 5, true), PORT),
            DropReason::NoFlow,
        );
    }
}

#[test]
fn an_error_to_somebody_else_than_the_quoted_sender_is_dropped() {
    let mut rig = rig();
    rig.admit(Side::Pod, &udp(pod(1), peer(9000), 10));
    let mut forged = error(peer(0), &udp(peer(9000), pod(1), 10), PORT);
    edit_v4(&mut forged, |header| {
        header[12..16].copy_from_slice(&[10, 3, 3, 3]);
        header[16..20].copy_from_slice(&[10, 0, 0, 1]);
    });
    rig.drops(Side::Wire, forged, DropReason::NoFlow);
}

#[test]
fn an_error_about_the_agents_own_sockets_is_for_the_kernel() {
    let mut rig = rig();
    let about = |src, dst| error(peer(0), &seg(src, dst, ACK, 1, 1, 0), TOO_BIG);
    for (src, dst) in [(61_440, 80), (8080, 61_440), (15_008, 2000)] {
        let error = about(pod(src), peer(dst));
        assert_eq!(rig.handle(Side::Wire, error), Passage::ToKernel, "{src} {dst}");
    }
    rig.drops(Side::Wire, about(pod(61_439), peer(80)), DropReason::NoFlow);
    let datagram = error(peer(0), &udp(pod(61_440), peer(80), 10), TOO_BIG);
    rig.drops(Side::Wire, datagram, DropReason::NoFlow);
    // From the pod there are no such errors.
    let from_pod = error(pod(0), &seg(peer(61_440), pod(80), ACK, 1, 1, 0), TOO_BIG);
    rig.drops(Side::Pod, from_pod, DropReason::NoFlow);
    // What is forwarded has the first claim.
    rig.admit(Side::Pod, &seg(pod(61_440), peer(80), ACK, 1, 1, 0));
    rig.passes(Side::Wire, about(pod(61_440), peer(80)));
    assert_eq!(rig.forwarder.counters().to_kernel, 3);
}

#[test]
fn an_error_about_a_refused_flow_is_dropped() {
    let mut rig = rig();
    let datagram = udp(pod(1), peer(9000), 10);
    rig.deny(Side::Pod, &datagram, Refusal::Silent);
    rig.drops(Side::Wire, error(peer(0), &datagram, PORT), DropReason::Denied);
}

#[test]
fn a_quote_that_is_cut_short_is_about_nothing() {
    let mut rig = rig();
    let datagram = udp(pod(1), peer(9000), 10);
    rig.admit(Side::Pod, &datagram);
    for length in [0, 1, 19, 20, 27] {
        let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&datagram[..length]);
        let packet = raw(peer(0).ip(), pod(0).ip(), ip::ICMP, &message);
        rig.drops(Side::Wire, packet, DropReason::NoFlow);
    }
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&datagram[..28]);
    rig.passes(Side::Wire, raw(peer(0).ip(), pod(0).ip(), ip::ICMP, &message));
}
