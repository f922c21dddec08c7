//! FINs and resets, either way and in any order.

use super::*;

#[test]
fn the_pod_closes_first() {
    let (mut rig, flow) = Rig::open(config());
    rig.pod(FIN | ACK, 0, 1, b"bye");
    assert_eq!(
        rig.events(),
        [Event::Readable { flow }],
        "no FIN before the bytes"
    );
    assert_eq!(rig.sent(), [sent(ACK, 1, 4, b"")]);
    assert_eq!(rig.read_all(flow), b"bye");
    assert_eq!(rig.events(), [Event::RemoteFin { flow }]);
    rig.write(flow, b"answer");
    assert_eq!(
        rig.sent(),
        [sent(ACK, 1, 4, b"answer")],
        "half-closed: the other way goes on"
    );
    rig.pod(ACK, 4, 7, b"");
    rig.shutdown(flow);
    assert_eq!(rig.sent(), [sent(FIN | ACK, 7, 4, b"")]);
    assert_eq!(rig.events(), [], "our FIN may still be lost");
    rig.pod(ACK, 4, 8, b"");
    assert_eq!(rig.events(), [closed(flow, CloseReason::Fin, ClosedBy::Pod)]);
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
fn the_agent_closes_first_and_the_end_is_remembered() {
    let (mut rig, flow) = Rig::open(config());
    rig.write(flow, b"request");
    rig.shutdown(flow);
    assert_eq!(
        rig.stack.send(rig.now, flow, b"more"),
        Err(FlowError::Shutdown { flow })
    );
    assert_eq!(rig.sent(), [sent(FIN | ACK, 1, 0, b"request")]);
    rig.pod(ACK, 0, 9, b"");
    rig.pod(ACK, 0, 9, b"answer");
    assert_eq!(
        rig.read_all(flow),
        b"answer",
        "half-closed: the other way goes on"
    );
    rig.pod(FIN | ACK, 6, 9, b"");
    let expected = [
        Event::Readable { flow },
        Event::RemoteFin { flow },
        closed(flow, CloseReason::Fin, ClosedBy::Agent),
    ];
    assert_eq!(
        rig.events(),
        expected,
        "nobody has to wait for the answer to be sent"
    );
    assert_eq!(rig.sent(), [sent(ACK, 9, 7, b"")]);
    // TIME-WAIT: no socket, but repeated FINs are answered and resets change nothing.
    assert_eq!((rig.stack.flow_count(), rig.stack.ring_bytes()), (1, 0));
    rig.pod(FIN | ACK, 6, 9, b"");
    rig.pod(RST | ACK, 7, 9, b"");
    rig.pod(ACK, 7, 9, b"");
    assert_eq!(rig.sent(), [sent(ACK, 9, 7, b"")]);
    assert_eq!(rig.pass(seconds(11)), []);
    assert_eq!((rig.stack.flow_count(), rig.stack.poll_timeout()), (0, None));
}

#[test]
fn a_four_tuple_in_time_wait_is_reused() {
    let (mut rig, flow) = Rig::open(config());
    rig.shutdown(flow);
    rig.sent();
    rig.pod(FIN | ACK, 0, 2, b"");
    rig.sent();
    rig.events();
    rig.raw(SYN, POD_ISN, 0, OPTIONS, b"");
    assert_eq!(
        (rig.sent(), rig.events()),
        (vec![sent(ACK, 2, 1, b"")], vec![]),
        "an old SYN opens nothing"
    );
    rig.raw(SYN, POD_ISN.wrapping_add(1000), 0, OPTIONS, b"");
    assert!(matches!(rig.events()[..], [Event::Syn { .. }]));
    assert_eq!((rig.counters().time_waits_reused, rig.stack.flow_count()), (1, 1));
}

#[test]
fn time_wait_gives_way_when_the_table_is_full() {
    let (mut rig, flow) = Rig::open(Config {
        max_flows: 1,
        ..config()
    });
    rig.shutdown(flow);
    rig.sent();
    rig.pod(FIN | ACK, 0, 2, b"");
    rig.sent();
    rig.events();
    rig.pod.set_port(2);
    rig.syn();
    assert_eq!(rig.counters().time_waits_evicted, 1);
}

#[test]
fn both_close_at_once() {
    let (mut rig, flow) = Rig::open(config());
    rig.shutdown(flow);
    assert_eq!(rig.sent(), [sent(FIN | ACK, 1, 0, b"")]);
    rig.pod(FIN | ACK, 0, 1, b"");
    assert_eq!(rig.sent(), [sent(ACK, 2, 1, b"")]);
    rig.pod(ACK, 1, 2, b"");
    assert_eq!(rig.sent(), []);
    assert_eq!(
        rig.events(),
        [
            Event::RemoteFin { flow },
            closed(flow, CloseReason::Fin, ClosedBy::Agent)
        ]
    );
    rig.pass(seconds(11));
    assert_eq!(rig.stack.flow_count(), 0);
}

#[test]
fn an_end_waits_for_its_reader() {
    for pod_first in [false, true] {
        let (mut rig, flow) = Rig::open(config());
        if pod_first {
            rig.pod(FIN | ACK, 0, 1, b"late");
            rig.shutdown(flow);
            rig.sent();
            rig.pod(ACK, 5, 2, b"");
        } else {
            rig.shutdown(flow);
            rig.sent();
            rig.pod(FIN | ACK, 0, 2, b"late");
        }
        rig.sent();
        rig.pass(seconds(300));
        assert_eq!(
            rig.events(),
            [Event::Readable { flow }],
            "nothing of an end before the last byte was read"
        );
        assert_eq!(rig.read_all(flow), b"late");
        rig.sent();
        let by = if pod_first { ClosedBy::Pod } else { ClosedBy::Agent };
        assert_eq!(
            rig.events(),
            [Event::RemoteFin { flow }, closed(flow, CloseReason::Fin, by)]
        );
    }
}

/// smoltcp's timer for probes of the window is due for ever then.
#[test]
fn a_window_that_closes_with_the_last_ack_makes_no_output_without_end() {
    let (mut rig, flow) = Rig::open(config());
    rig.write(flow, b"all");
    rig.shutdown(flow);
    rig.sent();
    rig.pod(ACK, -1, 5, b""); // not the next in order
    rig.sent();
    assert_eq!(rig.counters().engaged, 1);
    rig.window = 0;
    rig.pod(ACK, 1, 3, b"");
    rig.pod(ACK, 0, 5, b"");
    assert!(rig.pass(seconds(30)).len() < 10);
    rig.pod(FIN | ACK, 0, 5, b"");
    assert_eq!(
        rig.events().last(),
        Some(&closed(flow, CloseReason::Fin, ClosedBy::Agent))
    );
}

/// smoltcp takes such a segment for an old one.
#[test]
fn a_fin_counts_behind_data_that_is_old() {
    for in_engine in [false, true] {
        let (mut rig, flow) = Rig::open(config());
        rig.pod(ACK, 0, 1, b"old");
        if in_engine {
            rig.pod(ACK, 20, 1, b"ahead");
        }
        rig.pod(FIN | ACK, 0, 1, b"old");
        assert_eq!(rig.read_all(flow), b"old");
        assert_eq!(rig.sent().last(), Some(&sent(ACK, 1, 4, b"")));
        assert!(rig.events().contains(&Event::RemoteFin { flow }));
        assert_eq!(rig.counters().engaged, u64::from(in_engine));
    }
}

#[test]
fn a_reset_of_the_pod_is_no_clean_end() {
    let (mut rig, flow) = Rig::open(config());
    rig.pod(ACK, 0, 1, b"half of it");
    rig.sent();
    rig.events();
    rig.pod(RST, 100_000, 0, b"");
    assert_eq!(rig.events(), [], "outside the window: not the pod's");
    rig.pod(RST | ACK, 10, 1, b"");
    assert_eq!(rig.events(), [closed(flow, CloseReason::Reset, ClosedBy::Pod)]);
    assert_eq!(
        rig.stack.recv(rig.now, flow, &mut [0; 10]),
        Err(FlowError::Ended { flow })
    );
    assert_eq!(
        (rig.sent(), rig.stack.flow_count(), rig.stack.ring_bytes()),
        (vec![], 0, 0)
    );
}

#[test]
fn a_reset_after_a_fin_is_no_clean_end() {
    let (mut rig, flow) = Rig::open(config());
    rig.pod(FIN | ACK, 0, 1, b"");
    assert_eq!(rig.events(), [Event::RemoteFin { flow }]);
    rig.sent();
    rig.write(flow, b"answer");
    rig.sent();
    rig.pod(RST, 1, 0, b"");
    assert_eq!(rig.events(), [closed(flow, CloseReason::Reset, ClosedBy::Pod)]);
}

#[test]
fn the_agent_resets() {
    let (mut rig, flow) = Rig::open(config());
    rig.write(flow, b"half of it");
    rig.sent();
    rig.stack.abort(rig.now, flow);
    assert_eq!(rig.sent(), [sent(RST | ACK, 11, 0, b"")]);
    assert_eq!(rig.events(), [closed(flow, CloseReason::Reset, ClosedBy::Agent)]);
    rig.pod(ACK, 0, 11, b"");
    assert_eq!(
        rig.sent(),
        [sent(RST, 11, 0, b"")],
        "whoever missed it gets it again"
    );
}

#[test]
fn a_released_flow_ends_by_itself() {
    // Nothing unread: FIN, and the rest happens without anybody.
    let (mut rig, flow) = Rig::open(config());
    rig.write(flow, b"last");
    rig.stack.release(flow);
    assert_eq!(rig.sent(), [sent(FIN | ACK, 1, 0, b"last")]);
    rig.pod(FIN | ACK, 0, 6, b"");
    rig.sent();
    rig.pass(seconds(11));
    assert_eq!((rig.events(), rig.stack.flow_count()), (vec![], 0));
    // Unread bytes are lost, which the pod must know.
    let (mut rig, flow) = Rig::open(config());
    rig.pod(ACK, 0, 1, b"unread");
    rig.stack.release(flow);
    assert_eq!(rig.sent(), [sent(RST | ACK, 1, 6, b"")]);
    assert_eq!((rig.events(), rig.stack.flow_count()), (vec![], 0));
    // So are bytes that come later.
    let (mut rig, flow) = Rig::open(config());
    rig.stack.release(flow);
    rig.sent();
    rig.pod(ACK, 0, 2, b"too late");
    assert_eq!(rig.sent(), [sent(RST | ACK, 2, 8, b"")]);
    assert_eq!(rig.stack.flow_count(), 0);
    // A pod that never closes is not waited for forever.
    let (mut rig, flow) = Rig::open(config());
    rig.stack.release(flow);
    rig.sent();
    rig.pod(ACK, 0, 2, b"");
    assert_eq!(rig.pass(seconds(61)), [sent(RST | ACK, 2, 0, b"")]);
    assert_eq!(rig.stack.flow_count(), 0);
}

#[test]
fn a_pod_that_does_not_answer_is_given_up() {
    let (mut rig, flow) = Rig::open(config());
    rig.write(flow, b"anyone?");
    assert_eq!(rig.sent().len(), 1);
    let repeated = rig.pass(seconds(61));
    assert_eq!(repeated.last(), Some(&sent(RST | ACK, 8, 0, b"")));
    assert_eq!(
        repeated.len(),
        7,
        "after 1, 2, 4, 8, 16 and 32 seconds, and the reset"
    );
    assert_eq!(
        rig.events(),
        [closed(flow, CloseReason::TimedOut, ClosedBy::Network)]
    );
    assert_eq!(rig.stack.flow_count(), 0);
}

#[test]
fn an_idle_flow_is_closed_if_so_configured() {
    let config = Config {
        idle_timeout: Some(seconds(30)),
        ..config()
    };
    let (mut rig, flow) = Rig::open(config);
    rig.pass(seconds(20));
    rig.pod(ACK, 0, 1, b"x");
    rig.sent();
    rig.read_all(flow);
    rig.events();
    assert_eq!(rig.pass(seconds(29)), []);
    assert_eq!(rig.pass(seconds(2)), [sent(RST | ACK, 1, 1, b"")]);
    assert_eq!(rig.events(), [closed(flow, CloseReason::Idle, ClosedBy::Agent)]);
}

/// smoltcp counts them towards a fast retransmission, for which it stops the timer; with no byte in flight it then sends
/// nothing.
#[test]
fn a_lost_fin_is_sent_again_after_three_equal_acks() {
    let (mut rig, flow) = Rig::open(config());
    rig.write(flow, b"all");
    rig.shutdown(flow);
    assert_eq!(rig.sent(), [sent(FIN | ACK, 1, 0, b"all")]);
    let fin = sent(FIN | ACK, 4, 0, b"");
    // The pod's kernel has room for the bytes and none for the FIN.
    for equal in 0..8 {
        rig.pod(ACK, 0, 4, b"");
        let expected = if equal == 3 { vec![fin.clone()] } else { vec![] };
        assert_eq!(rig.sent(), expected, "after {equal} equal ACKs");
    }
    let again = rig.pass(seconds(3));
    assert!(
        !again.is_empty() && again.iter().all(|segment| *segment == fin),
        "{again:?}"
    );
    rig.pod(ACK, 0, 5, b"");
    assert_eq!(rig.sent(), []);
    assert_eq!(rig.pass(seconds(3)), []);
    rig.pod(FIN | ACK, 0, 5, b"");
    assert_eq!(rig.sent(), [sent(ACK, 5, 1, b"")]);
    assert!(
        rig.events()
            .contains(&closed(flow, CloseReason::Fin, ClosedBy::Agent))
    );
}
