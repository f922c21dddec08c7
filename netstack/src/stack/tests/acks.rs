//! ACKs that wait for a segment to go along with.

use super::*;

const HOLD: Duration = Duration::from_micros(500);

fn holding() -> Config {
    Config {
        ack_hold: Some(HOLD),
        ..config()
    }
}

fn open() -> (Rig, FlowId) {
    Rig::open(holding())
}

/// A flow to the pod, just established: its `port` tells it from others.
fn opened(rig: &mut Rig, port: u16) -> FlowId {
    rig.remote.set_port(port);
    let tuple = FourTuple::new(rig.remote, rig.pod);
    let flow = rig.stack.connect(rig.now, tuple).unwrap();
    rig.learn_isn();
    rig.raw(SYN | ACK, POD_ISN, rig.our_isn.wrapping_add(1), OPTIONS, b"");
    assert_eq!(rig.events(), [Event::Established { flow }]);
    flow
}

#[test]
fn a_requests_ack_goes_along_with_the_answer() {
    let (mut rig, flow) = open();
    for turn in 0..3_u32 {
        let (asked, answered) = (3 * turn, 1 + 4 * turn);
        rig.pod(ACK, asked.into(), answered, b"ask");
        assert_eq!(rig.read_all(flow), b"ask");
        assert_eq!(rig.sent(), []);
        assert!(rig.stack.holds_acks());
        rig.write(flow, b"told");
        assert_eq!(rig.sent(), [sent(ACK, answered, asked + 3, b"told")]);
    }
    rig.pod(ACK, 9, 13, b"");
    assert_eq!(rig.pass(seconds(1)), []);
    assert_eq!(rig.counters().acks_released, 0);
}

#[test]
fn a_second_segment_is_acknowledged_at_once() {
    let (mut rig, _flow) = open();
    rig.pod(ACK, 0, 1, b"one");
    assert_eq!(rig.sent(), []);
    rig.pod(ACK, 3, 1, b"two");
    assert_eq!(rig.sent(), [sent(ACK, 1, 6, b"")]);
    assert_eq!(rig.pass(seconds(1)), []);
}

#[test]
fn a_long_segment_is_acknowledged_at_once() {
    let (mut rig, _flow) = open();
    rig.pod(ACK, 0, 1, &[7; 4097]);
    assert_eq!(rig.sent(), [sent(ACK, 1, 4097, b"")]);
}

#[test]
fn an_ack_waits_no_longer_than_it_may() {
    let (mut rig, _flow) = open();
    let begun = rig.now;
    rig.pod(ACK, 0, 1, b"one");
    assert_eq!(rig.stack.poll_timeout(), Some(begun + HOLD));
    assert_eq!(rig.pass(HOLD - Duration::from_micros(1)), []);
    assert_eq!(rig.pass(Duration::from_micros(1)), [sent(ACK, 1, 3, b"")]);
    assert_eq!(rig.counters().acks_released, 1);
}

#[test]
fn an_ack_that_went_along_does_not_hurry_the_next() {
    let (mut rig, flow) = open();
    rig.pod(ACK, 0, 1, b"one");
    rig.write(flow, b"1");
    assert_eq!(rig.sent(), [sent(ACK, 1, 3, b"1")]);
    assert_eq!(rig.pass(HOLD / 2), []);
    rig.pod(ACK, 3, 2, b"two");
    assert_eq!(rig.pass(HOLD - Duration::from_micros(1)), []);
    assert_eq!(rig.pass(Duration::from_micros(1)), [sent(ACK, 2, 6, b"")]);
}

#[test]
fn waiting_in_vain_makes_the_next_acks_prompt() {
    let (mut rig, _flow) = open();
    rig.pod(ACK, 0, 1, b"x");
    assert_eq!(rig.sent(), []);
    rig.stack.release_acks();
    assert_eq!(rig.sent(), [sent(ACK, 1, 1, b"")]);
    assert!(!rig.stack.holds_acks());
    for prompt in 1..=16 {
        rig.pod(ACK, prompt.into(), 1, b"x");
        assert_eq!(rig.sent(), [sent(ACK, 1, prompt + 1, b"")]);
    }
    rig.pod(ACK, 17, 1, b"x");
    assert_eq!(rig.sent(), [], "another try");
}

#[test]
fn a_fins_ack_goes_along_with_ours() {
    let (mut rig, flow) = open();
    rig.pod(ACK | FIN, 0, 1, b"");
    assert_eq!(rig.events(), [Event::RemoteFin { flow }]);
    assert_eq!(rig.sent(), []);
    rig.shutdown(flow);
    assert_eq!(rig.sent(), [sent(ACK | FIN, 1, 1, b"")]);
    rig.pod(ACK, 1, 2, b"");
    assert_eq!(rig.events(), [closed(flow, CloseReason::Fin, ClosedBy::Pod)]);
}

#[test]
fn a_fin_that_ends_the_flow_is_acknowledged_at_once() {
    let (mut rig, flow) = open();
    rig.shutdown(flow);
    assert_eq!(rig.sent(), [sent(ACK | FIN, 1, 0, b"")]);
    rig.pod(ACK | FIN, 0, 2, b"");
    assert_eq!(rig.sent(), [sent(ACK, 2, 1, b"")]);
}

#[test]
fn the_engine_acknowledges_what_waits() {
    let (mut rig, _flow) = open();
    rig.pod(ACK, 0, 1, b"one");
    rig.pod(ACK, 6, 1, b"three");
    assert_eq!(rig.sent().first(), Some(&sent(ACK, 1, 3, b"")));
    assert_eq!(rig.pass(seconds(1)), []);
}

#[test]
fn a_slot_whose_flow_is_gone_is_passed_over() {
    let (mut rig, flow) = open();
    rig.pod(ACK, 0, 1, b"one");
    rig.stack.abort(rig.now, flow);
    rig.sent();
    rig.stack.release_acks();
    assert_eq!(rig.pass(seconds(1)), []);
    assert_eq!(rig.counters().acks_released, 0);
}

#[test]
fn a_handshakes_last_ack_goes_along_with_the_first_bytes() {
    let mut rig = Rig::new(holding());
    let flow = opened(&mut rig, 1);
    assert_eq!(rig.sent(), []);
    rig.write(flow, b"ask");
    assert_eq!(rig.sent(), [sent(ACK, 1, 0, b"ask")]);
    rig.pod(ACK, 0, 4, b"told");
    assert_eq!(rig.read_all(flow), b"told");
    assert_eq!(rig.sent(), [], "an answer's ACK may wait as well");
    rig.shutdown(flow);
    assert_eq!(rig.sent(), [sent(ACK | FIN, 4, 4, b"")]);
    assert_eq!(rig.counters().acks_released, 0);
}

#[test]
fn a_handshakes_last_ack_goes_along_with_a_fin() {
    let mut rig = Rig::new(holding());
    let flow = opened(&mut rig, 1);
    rig.shutdown(flow);
    assert_eq!(rig.sent(), [sent(ACK | FIN, 1, 0, b"")]);
}

#[test]
fn a_handshake_is_completed_in_time_though_nothing_comes() {
    let mut rig = Rig::new(holding());
    let begun = rig.now;
    opened(&mut rig, 1);
    assert_eq!(rig.stack.poll_timeout(), Some(begun + HOLD));
    assert_eq!(rig.pass(HOLD - Duration::from_micros(1)), []);
    assert_eq!(rig.pass(Duration::from_micros(1)), [sent(ACK, 1, 0, b"")]);
    rig.pod(ACK, 0, 1, b"welcome");
    assert_eq!(rig.sent(), [], "of the flow's own ACKs none was in vain");
}

#[test]
fn where_servers_speak_first_one_handshake_in_17_waits() {
    let mut rig = Rig::new(holding());
    for turn in 0..3 {
        opened(&mut rig, 100 * turn + 1);
        assert_eq!(rig.sent(), []);
        rig.stack.release_acks();
        assert_eq!(rig.sent(), [sent(ACK, 1, 0, b"")]);
        for prompt in 1..=16 {
            opened(&mut rig, 100 * turn + 1 + prompt);
            assert_eq!(rig.sent(), [sent(ACK, 1, 0, b"")]);
        }
    }
    assert_eq!(rig.counters().acks_released, 3);
}

#[test]
fn a_syn_ack_that_is_repeated_is_answered_though_the_ack_is_held() {
    let mut rig = Rig::new(holding());
    opened(&mut rig, 1);
    rig.raw(SYN | ACK, POD_ISN, rig.our_isn.wrapping_add(1), OPTIONS, b"");
    assert!(rig.sent().contains(&sent(ACK, 1, 0, b"")));
    assert_eq!(rig.pass(seconds(1)), []);
}

#[test]
fn a_handshake_that_the_pod_takes_back_is_over() {
    let mut rig = Rig::new(holding());
    let flow = opened(&mut rig, 1);
    rig.pod(RST | ACK, 0, 1, b"");
    assert_eq!(rig.events(), [closed(flow, CloseReason::Reset, ClosedBy::Pod)]);
    rig.stack.release_acks();
    assert_eq!(rig.pass(seconds(1)), []);
}
