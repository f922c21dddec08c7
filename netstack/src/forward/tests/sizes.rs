//! What fits the wire: the MSS of SYNs, and answers to packets that are too long.

use super::*;

fn syn(src: SocketAddr, dst: SocketAddr, flags: u8, mss: Option<u16>) -> Vec<u8> {
    let mut packet = Vec::new();
    let options = Options {
        mss,
        window_scale: Some(7),
        sack: true,
    };
    let template = Template {
        src,
        dst,
        seq: 5,
        ack: 0,
        flags,
        window: 500,
        options,
    };
    template.emit_complete(&mut packet);
    packet
}

fn mss(packet: &[u8]) -> Option<u16> {
    let packet = ip::IpPacket::parse(packet).expect("a packet");
    assert!(packet.has_valid_checksum());
    Options::of(packet.payload()).mss
}

#[test]
fn the_mss_of_both_ends_is_lowered_to_what_the_wire_takes() {
    let mut rig = rig_with(ForwardConfig {
        wire_mtu: 1450,
        ..ForwardConfig::default()
    });
    for (pod, peer, limit) in [(pod(1), peer(80), 1410), (pod6(1), peer6(80), 1390)] {
        let mut packet = syn(pod, peer, SYN, Some(65_480));
        rig.admit(Side::Pod, &packet);
        rig.handle_mut(Side::Pod, &mut packet, Offloads::default());
        assert_eq!(mss(&packet), Some(limit));
        for (announced, passes) in [(8960, limit), (limit, limit), (536, 536)] {
            let mut packet = syn(peer, pod, SYN | ACK, Some(announced));
            rig.handle_mut(Side::Wire, &mut packet, Offloads::default());
            assert_eq!(mss(&packet), Some(passes));
        }
        let mut packet = syn(peer, pod, SYN | ACK, None);
        let before = packet.clone();
        rig.handle_mut(Side::Wire, &mut packet, Offloads::default());
        assert_eq!(packet, before, "none means 536 or 1220");
    }
    assert_eq!(rig.forwarder.counters().mss_clamped, 6);
    rig.forwarder.set_wire_mtu(9000);
    let mut packet = syn(peer(80), pod(1), SYN | ACK, Some(8960));
    rig.handle_mut(Side::Wire, &mut packet, Offloads::default());
    assert_eq!(mss(&packet), Some(8960));
}

#[test]
fn a_partial_checksum_covers_no_mss() {
    let mut rig = rig();
    let mut packet = syn(pod(1), peer(80), SYN, Some(65_480));
    rig.admit(Side::Pod, &packet);
    let sum = [0x12, 0x34];
    packet[ip::V4_HEADER + tcp::CHECKSUM_AT..][..2].copy_from_slice(&sum);
    let offloads = Offloads {
        partial_checksum: true,
        ..Offloads::default()
    };
    rig.handle_mut(Side::Pod, &mut packet, offloads);
    assert_eq!(packet[ip::V4_HEADER + tcp::CHECKSUM_AT..][..2], sum);
    assert_eq!(Options::of(&packet[ip::V4_HEADER..]).mss, Some(1460));
}

#[test]
fn what_may_not_be_fragmented_is_answered_with_the_mtu() {
    let mut rig = rig_with(ForwardConfig {
        wire_mtu: 1400,
        ..ForwardConfig::default()
    });
    for (pod, peer, longest, quoted_at) in [(pod(1), peer(9000), 1372, 8), (pod6(1), peer6(9000), 1352, 8)] {
        rig.admit(Side::Pod, &udp(pod, peer, longest));
        let long = udp(pod, peer, longest + 1);
        let passage = rig.handle(Side::Pod, long.clone());
        assert_eq!(passage, Passage::Answer(DropReason::TooBig));
        let answer = ip::IpPacket::parse(rig.forwarder.answer()).unwrap();
        // From an address that the pod's kernel takes for a foreign one, to the sender.
        assert_eq!((answer.src, answer.dst), (peer.ip(), pod.ip()));
        let message = answer.payload();
        let (kind, limit) = if pod.is_ipv4() {
            ([3, 4], 576)
        } else {
            ([2, 0], 1280)
        };
        assert_eq!(
            (&message[..2], &message[4..8]),
            (&kind[..], &1400_u32.to_be_bytes()[..])
        );
        assert_eq!(answer.bytes().len(), limit);
        assert_eq!(message[quoted_at..], long[..message.len() - quoted_at]);
        let sum = if pod.is_ipv4() {
            Sum::default().add(message).is_valid()
        } else {
            answer.has_valid_checksum()
        };
        assert!(sum);
        // The other way the link is long enough.
        rig.passes(Side::Wire, udp(peer, pod, 60_000));
    }
    let counters = rig.forwarder.counters();
    assert_eq!(
        (
            counters.too_big_answered,
            counters.dropped_from(Side::Pod, DropReason::TooBig)
        ),
        (2, 2)
    );
}

#[test]
fn ipv4_without_df_is_left_to_the_kernel() {
    let mut rig = rig();
    rig.admit(Side::Pod, &udp(pod(1), peer(9000), 10));
    let mut long = udp(pod(1), peer(9000), 4000);
    edit_v4(&mut long, |header| header[6] = 0);
    rig.passes(Side::Pod, long);
}

#[test]
fn of_a_super_packet_each_segment_must_fit() {
    let mut rig = rig();
    let port = 1;
    connections::open(&mut rig, port);
    let mut long = seg(pod(port), peer(80), ACK, 1001, 500_001, 60_000);
    for (size, fits) in [(1460, true), (1461, false), (536, true), (u16::MAX, false)] {
        let offloads = Offloads {
            segment_size: Some(size),
            partial_checksum: true,
        };
        let passage = rig.handle_mut(Side::Pod, &mut long, offloads);
        assert_eq!(matches!(passage, Passage::Forward(_)), fits, "{passage:?}");
        assert_eq!(passage == Passage::Answer(DropReason::TooBig), !fits);
    }
    // A segment size that's larger than all there is means nothing.
    let mut short = seg(pod(port), peer(80), ACK, 61_001, 500_001, 100);
    let offloads = Offloads {
        segment_size: Some(9000),
        partial_checksum: true,
    };
    assert!(matches!(
        rig.handle_mut(Side::Pod, &mut short, offloads),
        Passage::Forward(_)
    ));
}

#[test]
fn errors_are_limited_in_rate() {
    let mut rig = rig_with(ForwardConfig {
        icmp_errors_per_second: 2,
        ..ForwardConfig::default()
    });
    rig.admit(Side::Pod, &udp(pod(1), peer(9000), 10));
    let answered = |rig: &mut Rig| {
        let answers = (0..5).map(|_| rig.handle(Side::Pod, udp(pod(1), peer(9000), 4000)));
        answers
            .filter(|passage| matches!(passage, Passage::Answer(_)))
            .count()
    };
    assert_eq!(answered(&mut rig), 2);
    rig.wait(Duration::from_millis(500));
    assert_eq!(answered(&mut rig), 1);
    let counters = rig.forwarder.counters();
    assert_eq!((counters.errors_limited, counters.dropped_total()), (7, 10));
}
