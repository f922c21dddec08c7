//! Packets without a connection, and packets that are dropped.

use super::*;
use crate::packet::sctp::tests as sctp;
use crate::{SctpPacket, Transmit};

#[test]
fn datagrams_go_both_ways() {
    let mut rig = Rig::new(config());
    let (src, dst) = (rig.pod, rig.remote);
    rig.stack
        .handle_frame(rig.now, &udp::emit(src, dst, b"query"), RxChecksum::Partial);
    assert_eq!(
        rig.events(),
        [Event::Datagram {
            src,
            dst,
            payload: b"query".to_vec()
        }]
    );
    rig.stack
        .send_datagram(
            rig.now,
            Datagram {
                src: dst,
                dst: src,
                payload: b"answer",
            },
        )
        .unwrap();
    let mut frame = Vec::new();
    let transmit = rig.stack.poll_transmit(rig.now, &mut frame);
    assert_eq!(transmit, Some(Transmit::NeedsChecksum { start: 20, offset: 6 }));
    assert_eq!(&frame[28..], b"answer");
    assert_eq!(
        (rig.counters().datagrams_in, rig.counters().datagrams_out),
        (1, 1)
    );
}

#[test]
fn echoes_and_errors_go_both_ways() {
    let mut rig = Rig::new(config());
    let (src, dst) = (rig.pod.ip(), rig.remote.ip());
    let echo = Echo {
        src,
        dst,
        ident: 7,
        sequence: 8,
        payload: b"ping".to_vec(),
    };
    rig.stack
        .handle_frame(rig.now, &icmp::emit_echo(&echo, false), RxChecksum::Verify);
    rig.stack
        .handle_frame(rig.now, &icmp::emit_echo(&echo, true), RxChecksum::Verify);
    assert_eq!(
        rig.events(),
        [Event::EchoRequest(echo.clone()), Event::EchoReply(echo.clone())]
    );
    let back = Echo {
        src: dst,
        dst: src,
        ..echo
    };
    rig.stack.send_echo_reply(rig.now, &back).unwrap();
    rig.stack.send_echo_request(rig.now, &back).unwrap();
    let tuple = FourTuple::new(rig.pod, rig.remote);
    rig.stack
        .send_unreachable(rig.now, tuple, Unreachable::Port)
        .unwrap();
    let kinds: Vec<_> = rig.frames().iter().map(|frame| (frame[20], frame[21])).collect();
    assert_eq!(kinds, [(0, 0), (8, 0), (3, 3)]);

    let about = tuple.reversed();
    let error = icmp::emit_unreachable(about, icmp::Quote::Udp, Unreachable::Port);
    rig.stack.handle_frame(rig.now, &error, RxChecksum::Verify);
    let expected = Event::Unreachable {
        protocol: Protocol::Udp,
        tuple: about,
        what: Unreachable::Port,
    };
    assert_eq!(rig.events(), [expected]);
}

#[test]
fn sctp_packets_go_both_ways() {
    let mut rig = Rig::new(config());
    let (src, dst) = (rig.pod, rig.remote);
    let sent = sctp::frame(src, dst, &[(0, b"data")]);
    rig.stack.handle_frame(rig.now, &sent, RxChecksum::Verify);
    let [
        Event::Sctp {
            src: from,
            dst: to,
            packet,
        },
    ] = &rig.events()[..]
    else {
        panic!("an SCTP packet is announced");
    };
    assert_eq!((*from, *to), (src, dst));
    // As when a service at port 7777 stands for a pod that listens on another.
    let service: SocketAddr = "10.9.9.9:7777".parse().unwrap();
    rig.stack
        .send_sctp(rig.now, service, src, packet.clone())
        .unwrap();
    let mut frame = Vec::new();
    assert_eq!(
        rig.stack.poll_transmit(rig.now, &mut frame),
        Some(Transmit::Complete)
    );
    let read = SctpPacket::parse(&IpPacket::parse(&frame).unwrap(), true).map(|(src, dst, _)| (src, dst));
    assert_eq!(read, Ok((service, src)), "with a right checksum");

    let tuple = FourTuple::new(src, dst);
    rig.stack.abort_sctp(rig.now, tuple, packet).unwrap();
    let aborts = rig.frames();
    let abort = IpPacket::parse(&aborts[0]).unwrap();
    assert_eq!(
        (abort.src, abort.dst, abort.payload()[12]),
        (dst.ip(), src.ip(), 6)
    );
    let (_, _, abort) = SctpPacket::parse(&abort, true).unwrap();
    rig.stack.abort_sctp(rig.now, tuple, &abort).unwrap();
    assert_eq!(rig.frames(), Vec::<Vec<u8>>::new(), "an ABORT isn't answered");
    assert_eq!(
        (rig.counters().datagrams_in, rig.counters().datagrams_out),
        (1, 2)
    );

    let big = sctp::frame(src, dst, &[(0, &[0; 1500])]);
    let big = SctpPacket::parse(&IpPacket::parse(&big).unwrap(), true)
        .unwrap()
        .2;
    let mut narrow = Rig::new(Config {
        mtu: 1500,
        ..config()
    });
    let refused = narrow.stack.send_sctp(narrow.now, dst, src, big);
    assert!(
        matches!(
            refused,
            Err(SendError::TooBig {
                length: 1536,
                mtu: 1500,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(narrow.counters().dropped(DropReason::TooBig), 1);
}

#[test]
fn datagram_queues_are_bounded() {
    let limit = QueueLimit {
        packets: 2,
        bytes: 1000,
    };
    let mut rig = Rig::new(Config {
        datagram_queue: limit,
        mtu: 1500,
        ..config()
    });
    let (src, dst) = (rig.pod, rig.remote);
    for _ in 0..5 {
        rig.stack
            .handle_frame(rig.now, &udp::emit(src, dst, &[0; 300]), RxChecksum::Partial);
    }
    assert_eq!(
        (rig.events().len(), rig.counters().dropped(DropReason::QueueFull)),
        (2, 3)
    );
    let (src, dst) = (dst, src);
    let big = Datagram {
        src,
        dst,
        payload: &[0; 1473],
    };
    let refused = rig.stack.send_datagram(rig.now, big);
    assert_eq!(
        refused,
        Err(SendError::TooBig {
            src: src.ip(),
            dst: dst.ip(),
            length: 1501,
            mtu: 1500
        })
    );
    let mut send = || {
        rig.stack.send_datagram(
            rig.now,
            Datagram {
                src,
                dst,
                payload: &[0; 100],
            },
        )
    };
    assert_eq!((send(), send()), (Ok(()), Ok(())));
    assert_eq!(
        send(),
        Err(SendError::QueueFull {
            src: src.ip(),
            dst: dst.ip()
        })
    );
    let mixed = Datagram {
        src: "[::5]:1".parse().unwrap(),
        dst,
        payload: b"",
    };
    assert!(matches!(
        rig.stack.send_datagram(rig.now, mixed),
        Err(SendError::MixedVersions { .. })
    ));
}

#[test]
fn each_dropped_frame_has_one_reason() {
    let mut rig = Rig::new(config());
    let to = |src: &str, dst: &str| udp::emit(src.parse().unwrap(), dst.parse().unwrap(), b"x");
    let mut fragment = to("10.0.0.1:1", "10.9.9.9:1");
    fragment[6] = 0x20;
    fragment[10..12].copy_from_slice(&[0, 0]);
    let sum = crate::packet::checksum::Sum::default()
        .add(&fragment[..20])
        .finish();
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut gre = Vec::new();
    ip::push_header(&mut gre, rig.pod.ip(), rig.remote.ip(), 47, 0);
    let mut sctp = Vec::new();
    ip::push_header(&mut sctp, rig.pod.ip(), rig.remote.ip(), ip::SCTP, 0);
    let table: [(Vec<u8>, DropReason); 11] = [
        (vec![], DropReason::Truncated),
        (vec![0x45; 10], DropReason::Truncated),
        (vec![0x75; 40], DropReason::Malformed),
        (to("10.0.0.7:1", "10.9.9.9:1"), DropReason::BadSource),
        (to("10.0.0.1:1", "224.0.0.251:5353"), DropReason::Unroutable),
        (to("10.0.0.1:1", "255.255.255.255:67"), DropReason::Unroutable),
        (to("[fe80::1]:1", "[ff02::fb]:5353"), DropReason::Unroutable),
        (to("10.0.0.1:1", "127.0.0.1:53"), DropReason::Unroutable),
        (fragment, DropReason::Fragment),
        (gre, DropReason::UnsupportedProtocol),
        (sctp, DropReason::Truncated),
    ];
    for (frame, reason) in table {
        let before = rig.counters().clone();
        rig.stack.handle_frame(rig.now, &frame, RxChecksum::Partial);
        let after = rig.counters();
        assert_eq!(after.dropped(reason), before.dropped(reason) + 1, "{reason}");
        assert_eq!(after.dropped_total(), before.dropped_total() + 1, "{reason}");
    }
    rig.stack
        .handle_frame(rig.now, &to("10.0.0.1:1", "10.9.9.9:1"), RxChecksum::Verify);
    assert_eq!(
        rig.counters().dropped(DropReason::BadChecksum),
        1,
        "its sum is only a partial one"
    );
    assert_eq!((rig.events(), rig.sent()), (vec![], vec![]));
}
