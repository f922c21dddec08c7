//! SYNs held, answered, refused, repeated; flows opened towards the pod.

use super::*;

#[test]
fn a_syn_is_held_until_it_is_accepted() {
    let mut rig = Rig::new(config());
    let flow = rig.syn();
    rig.raw(SYN, POD_ISN, 0, OPTIONS, b"");
    assert_eq!(
        (rig.events(), rig.sent()),
        (vec![], vec![]),
        "a repetition is swallowed"
    );
    assert_eq!(
        (
            rig.stack.held_count(),
            rig.stack.ring_bytes(),
            rig.counters().syns_repeated
        ),
        (1, 0, 1)
    );
    assert_eq!(rig.stack.send(rig.now, flow, b"x"), Err(FlowError::Held { flow }));

    rig.stack.accept(rig.now, flow).unwrap();
    assert!(rig.stack.accept(rig.now, flow).is_err(), "once only");
    let frames = rig.frames();
    let packet = IpPacket::parse(&frames[0]).unwrap();
    let segment = Segment::parse(packet.payload()).unwrap();
    assert_eq!((frames.len(), segment.flags, segment.ack), (1, SYN | ACK, FIRST));
    let options = Options::of(packet.payload());
    assert_eq!(options.mss, Some(65_520 - 40));
    assert_eq!(
        options.window_scale,
        Some(5),
        "that of a ring of 1 MiB, though the first has 16 KiB"
    );
    assert_eq!(segment.window, 16 << 10, "the window of a SYN is not scaled");

    rig.our_isn = segment.seq;
    rig.pod(ACK, 0, 1, b"");
    assert_eq!(rig.events(), [Event::Established { flow }]);
    rig.pod(ACK, 0, 1, b"hello");
    let frames = rig.frames();
    let ack = Segment::parse(IpPacket::parse(&frames[0]).unwrap().payload()).unwrap();
    assert_eq!(
        ack.window,
        ((16 << 10) - 5) >> 5,
        "windows are scaled as announced"
    );
}

#[test]
fn without_window_scaling_windows_are_plain() {
    let mut rig = Rig::new(config());
    rig.raw(
        SYN,
        POD_ISN,
        0,
        Options {
            mss: Some(1460),
            ..Options::default()
        },
        b"",
    );
    let [Event::Syn { flow, .. }] = rig.events()[..] else {
        panic!("a SYN is announced")
    };
    rig.stack.accept(rig.now, flow).unwrap();
    let segment = rig.learn_isn();
    assert_eq!(segment.window, 16 << 10);
    rig.pod(ACK, 0, 1, b"hello");
    let frames = rig.frames();
    let ack = Segment::parse(IpPacket::parse(&frames[0]).unwrap().payload()).unwrap();
    assert_eq!(ack.window, (16 << 10) - 5);
}

#[test]
fn the_window_of_a_syn_ack_is_not_scaled() {
    for in_engine in [false, true] {
        let mut rig = Rig::new(config());
        let flow = rig
            .stack
            .connect(rig.now, FourTuple::new(rig.remote, rig.pod))
            .unwrap();
        rig.learn_isn();
        if in_engine {
            rig.pass(seconds(1));
        }
        rig.raw(SYN | ACK, POD_ISN, rig.our_isn.wrapping_add(1), OPTIONS, b"");
        rig.sent();
        assert_eq!(rig.counters().engaged, u64::from(in_engine));
        rig.write(flow, &[7; 5000]);
        let bytes: usize = rig.sent().iter().map(|segment| segment.data.len()).sum();
        assert_eq!(bytes, 1000 >> 7 << 7, "in whole units of its scale");
    }
}

#[test]
fn a_syn_ack_is_repeated_until_it_is_answered() {
    let mut rig = Rig::new(config());
    let flow = rig.syn();
    rig.stack.accept(rig.now, flow).unwrap();
    rig.learn_isn();
    let repeated = rig.pass(seconds(4));
    assert_eq!(
        repeated,
        vec![sent(SYN | ACK, 0, 0, b""); 3],
        "after 1, 2 and 4 seconds"
    );
    rig.pass(seconds(10));
    let refused = Event::Refused {
        flow,
        reason: RefuseReason::TimedOut,
    };
    assert_eq!(
        rig.events(),
        [refused, closed(flow, CloseReason::TimedOut, ClosedBy::Network)]
    );
    assert_eq!(rig.stack.flow_count(), 0);
}

#[test]
fn a_refused_syn_gets_what_was_said() {
    let mut rig = Rig::new(config());
    let flow = rig.syn();
    rig.stack.refuse(rig.now, flow, Refusal::Reset);
    assert_eq!(rig.sent(), [sent(RST | ACK, 0, 0, b"")]);
    let flow = rig.syn();
    rig.stack.refuse(rig.now, flow, Refusal::Silent);
    assert_eq!(rig.sent(), []);
    let flow = rig.syn();
    rig.stack
        .refuse(rig.now, flow, Refusal::Unreachable(Unreachable::Host));
    let frames = rig.frames();
    let packet = IpPacket::parse(&frames[0]).unwrap();
    assert_eq!(
        (packet.protocol, &packet.payload()[..2], packet.src),
        (ip::ICMP, &[3, 1][..], rig.remote.ip())
    );
    let quoted = &packet.payload()[8..];
    assert_eq!(
        &quoted[24..28],
        &POD_ISN.to_be_bytes(),
        "the number that the pod's kernel looks for"
    );
    assert_eq!(rig.counters().syns_refused, 3);
    assert_eq!(
        (
            rig.stack.flow_count(),
            rig.stack.held_count(),
            rig.stack.poll_timeout()
        ),
        (0, 0, None)
    );
}

#[test]
fn held_syns_are_bounded_and_time_out() {
    let mut rig = Rig::new(Config {
        max_half_open: 2,
        ..config()
    });
    for port in 1..=4 {
        rig.pod.set_port(port);
        rig.raw(SYN, POD_ISN, 0, OPTIONS, b"");
    }
    assert_eq!(rig.events().len(), 2);
    assert_eq!(rig.sent(), [], "the rest is dropped in silence");
    assert_eq!(
        (
            rig.counters().syns_over_limit,
            rig.counters().dropped(DropReason::TableFull)
        ),
        (2, 2)
    );
    assert_eq!(rig.pass(seconds(31)), []);
    let events = rig.events();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| matches!(
        event,
        Event::Closed {
            reason: CloseReason::TimedOut,
            ..
        }
    )));
    assert_eq!((rig.stack.flow_count(), rig.counters().syns_timed_out), (0, 2));
}

#[test]
fn a_held_syn_is_withdrawn_by_reset_and_replaced_by_another() {
    let mut rig = Rig::new(config());
    let flow = rig.syn();
    rig.raw(RST, POD_ISN.wrapping_add(77), 0, Options::default(), b"");
    assert_eq!(rig.events(), [], "not its number");
    rig.raw(SYN, POD_ISN.wrapping_add(500), 0, OPTIONS, b"");
    assert_eq!(
        (rig.events(), rig.counters().syns_replaced),
        (vec![], 1),
        "the same flow, of another attempt"
    );
    rig.raw(RST, POD_ISN.wrapping_add(501), 0, Options::default(), b"");
    assert_eq!(rig.events(), [closed(flow, CloseReason::Reset, ClosedBy::Pod)]);
    assert!(rig.stack.accept(rig.now, flow).is_err());
    // If nobody has heard of it yet, nobody does.
    rig.raw(SYN, POD_ISN, 0, OPTIONS, b"");
    rig.raw(RST, POD_ISN, 0, Options::default(), b"");
    assert_eq!(rig.events(), []);
    assert_eq!(
        (
            rig.stack.flow_count(),
            rig.stack.held_count(),
            rig.counters().syns_withdrawn
        ),
        (0, 0, 2)
    );
}

#[test]
fn a_full_table_refuses_at_once() {
    let mut rig = Rig::new(Config {
        max_flows: 1,
        ..config()
    });
    let flow = rig.syn();
    rig.pod.set_port(2);
    rig.raw(SYN, POD_ISN, 0, OPTIONS, b"");
    assert_eq!(rig.sent(), [sent(RST | ACK, 0, 0, b"")]);
    assert_eq!(rig.counters().table_full_resets, 1);
    let tuple = FourTuple::new(rig.remote, rig.pod);
    assert_eq!(
        rig.stack.connect(rig.now, tuple),
        Err(ConnectError::TableFull { tuple, limit: 1 })
    );
    rig.stack.refuse(rig.now, flow, Refusal::Silent);
    rig.syn();
}

#[test]
fn what_belongs_to_no_flow_is_reset() {
    let mut rig = Rig::new(config());
    rig.pod(ACK, 5, 7, b"abc");
    assert_eq!(rig.sent(), [sent(RST, 7, 0, b"")]);
    rig.pod(FIN, 5, 0, b"abc");
    assert_eq!(rig.sent(), [sent(RST | ACK, 0, 9, b"")]);
    rig.pod(RST, 5, 0, b"");
    assert_eq!(rig.sent(), [], "never a reset for a reset");
    assert_eq!(
        (rig.counters().dropped(DropReason::NoFlow), rig.stack.flow_count()),
        (3, 0)
    );
    assert_eq!(rig.counters().resets_sent, 2);
}

#[test]
fn a_flow_to_the_pod_is_established_refused_or_times_out() {
    let mut rig = Rig::new(config());
    let tuple = FourTuple::new(rig.remote, rig.pod);
    let flow = rig.stack.connect(rig.now, tuple).unwrap();
    assert_eq!(
        rig.stack.connect(rig.now, tuple),
        Err(ConnectError::InUse { tuple })
    );
    assert_eq!(rig.learn_isn().flags, SYN);
    rig.raw(SYN | ACK, POD_ISN, rig.our_isn.wrapping_add(1), OPTIONS, b"");
    assert_eq!(
        (rig.events(), rig.sent()),
        (vec![Event::Established { flow }], vec![sent(ACK, 1, 0, b"")])
    );
    rig.write(flow, b"hi");
    assert_eq!(rig.sent(), [sent(ACK, 1, 0, b"hi")]);
    rig.stack.abort(rig.now, flow);
    assert_eq!(rig.sent(), [sent(RST | ACK, 3, 0, b"")]);
    assert_eq!(rig.events(), [closed(flow, CloseReason::Reset, ClosedBy::Agent)]);

    let flow = rig.stack.connect(rig.now, tuple).unwrap();
    rig.learn_isn();
    rig.raw(RST | ACK, 0, rig.our_isn.wrapping_add(1), Options::default(), b"");
    let refused = |reason| Event::Refused { flow, reason };
    let expected = [
        refused(RefuseReason::Refused),
        closed(flow, CloseReason::Refused, ClosedBy::Pod),
    ];
    assert_eq!(rig.events(), expected);

    let flow = rig.stack.connect(rig.now, tuple).unwrap();
    rig.learn_isn();
    assert_eq!(
        rig.pass(seconds(11)).len(),
        4,
        "repeated after 1, 2, 4 and 8 seconds"
    );
    let refused = Event::Refused {
        flow,
        reason: RefuseReason::TimedOut,
    };
    assert_eq!(
        rig.events(),
        [refused, closed(flow, CloseReason::TimedOut, ClosedBy::Network)]
    );
    assert_eq!(rig.counters().connects_refused_total(), 2);
    assert_eq!(
        (
            rig.stack.flow_count(),
            rig.stack.ring_bytes(),
            rig.stack.poll_timeout()
        ),
        (0, 0, None)
    );
}

#[test]
fn an_icmp_error_ends_a_handshake_but_no_flow() {
    let mut rig = Rig::new(config());
    let tuple = FourTuple::new(rig.remote, rig.pod);
    for (what, reason) in [
        (Unreachable::Port, RefuseReason::Refused),
        (Unreachable::AdminProhibited, RefuseReason::Unreachable),
    ] {
        let flow = rig.stack.connect(rig.now, tuple).unwrap();
        rig.frames();
        let error = icmp::emit_unreachable(tuple, icmp::Quote::Tcp { seq: 0 }, what);
        rig.stack.handle_frame(rig.now, &error, RxChecksum::Verify);
        let expected = [
            Event::Refused { flow, reason },
            closed(flow, CloseReason::Refused, ClosedBy::Pod),
        ];
        assert_eq!(rig.events(), expected);
    }
    let (mut rig, _) = Rig::open(config());
    let about = FourTuple::new(rig.remote, rig.pod);
    let error = icmp::emit_unreachable(about, icmp::Quote::Tcp { seq: 0 }, Unreachable::Host);
    rig.stack.handle_frame(rig.now, &error, RxChecksum::Verify);
    assert_eq!((rig.events(), rig.counters().icmp_errors_in), (vec![], 1));
}

#[test]
fn impossible_addresses_are_refused() {
    let mut rig = Rig::new(config());
    let tuple = |src: &str, dst: &str| FourTuple::new(src.parse().unwrap(), dst.parse().unwrap());
    for bad in [
        tuple("10.9.9.9:1", "[fd00::1]:1"),
        tuple("10.9.9.9:0", "10.0.0.1:1"),
        tuple("10.9.9.9:1", "10.0.0.1:0"),
        tuple("0.0.0.0:1", "10.0.0.1:1"),
    ] {
        assert_eq!(
            rig.stack.connect(rig.now, bad),
            Err(ConnectError::BadAddress { tuple: bad })
        );
    }
    let other = tuple("10.9.9.9:1", "10.0.0.2:1");
    assert_eq!(
        rig.stack.connect(rig.now, other),
        Err(ConnectError::NotThisPod { tuple: other })
    );
}

#[test]
fn a_stale_id_is_an_error_and_not_another_flow() {
    let (mut rig, old) = Rig::open(config());
    rig.stack.abort(rig.now, old);
    rig.events();
    rig.frames();
    let new = rig.syn();
    assert_ne!(old, new);
    assert_eq!(
        rig.stack.send(rig.now, old, b"x"),
        Err(FlowError::Ended { flow: old })
    );
    assert_eq!(
        rig.stack.recv(rig.now, old, &mut [0]),
        Err(FlowError::Ended { flow: old })
    );
    rig.stack.abort(rig.now, old);
    rig.stack.release(old);
    rig.stack.refuse(rig.now, old, Refusal::Reset);
    assert_eq!((rig.stack.held_count(), rig.sent()), (1, vec![]));
}
