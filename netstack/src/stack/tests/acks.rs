//! ACKs that wait for a segment to go along with.

use super::*;

const HOLD: Duration = Duration::from_micros(500);

fn open() -> (Rig, FlowId) {
    Rig::open(Config {
        ack_hold: Some(HOLD),
        ..config()
    })
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
