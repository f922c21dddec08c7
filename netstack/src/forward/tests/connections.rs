//! TCP: how long records live, what ends them, and what a cut sends.

use super::*;

const CLIENT: u32 = 1000;
const SERVER: u32 = 500_000;

/// A connection from the pod's `port` to the peer's port 80, established: the pod sends `CLIENT + 1` next, the peer `SERVER + 1`.
pub(super) fn open(rig: &mut Rig, port: u16) -> ForwardId {
    let id = rig.admit(Side::Pod, &up(port, SYN, CLIENT, 0, 0));
    rig.passes(Side::Wire, down(port, SYN | ACK, SERVER, CLIENT + 1, 0));
    rig.passes(Side::Pod, up(port, ACK, CLIENT + 1, SERVER + 1, 0));
    id
}

fn up(port: u16, flags: u8, seq: u32, ack: u32, data: usize) -> Vec<u8> {
    seg(pod(port), peer(80), flags, seq, ack, data)
}

fn down(port: u16, flags: u8, seq: u32, ack: u32, data: usize) -> Vec<u8> {
    seg(peer(80), pod(port), flags, seq, ack, data)
}

#[test]
fn two_fins_and_their_acknowledgements_end_a_flow() {
    let mut rig = rig();
    open(&mut rig, 1);
    rig.passes(Side::Pod, up(1, ACK, CLIENT + 1, SERVER + 1, 100));
    rig.passes(Side::Wire, down(1, FIN | ACK, SERVER + 1, CLIENT + 101, 50));
    rig.passes(Side::Pod, up(1, FIN | ACK, CLIENT + 101, SERVER + 52, 0));
    assert_eq!(rig.ends(), []);
    rig.passes(Side::Wire, down(1, ACK, SERVER + 52, CLIENT + 102, 0));
    let ended = rig.forwarder.poll_ended().unwrap();
    assert_eq!((ended.reason, ended.by), (CloseReason::Fin, Some(Side::Wire)));
    assert_eq!((ended.from_pod.bytes, ended.from_wire.bytes), (100, 50));
    // A repeated FIN passes for a while, and keeps nothing alive.
    rig.wait(Duration::from_secs(9));
    rig.passes(Side::Pod, up(1, FIN | ACK, CLIENT + 101, SERVER + 52, 0));
    rig.wait(Duration::from_secs(1));
    assert_eq!((rig.forwarder.flow_count(), rig.ends()), (0, vec![]));
}

#[test]
fn a_half_closed_connection_lives_on() {
    let mut rig = rig();
    open(&mut rig, 1);
    rig.passes(Side::Pod, up(1, FIN | ACK, CLIENT + 1, SERVER + 1, 0));
    rig.passes(Side::Wire, down(1, ACK, SERVER + 1, CLIENT + 2, 0));
    rig.wait(Duration::from_secs(2 * 3600));
    rig.passes(Side::Wire, down(1, ACK, SERVER + 1, CLIENT + 2, 1000));
    assert_eq!(rig.ends(), []);
}

#[test]
fn a_syn_in_the_wake_of_a_connection_is_judged_anew() {
    let mut rig = rig();
    open(&mut rig, 1);
    rig.passes(Side::Pod, up(1, FIN | ACK, CLIENT + 1, SERVER + 1, 0));
    rig.passes(Side::Wire, down(1, FIN | ACK, SERVER + 1, CLIENT + 2, 0));
    rig.passes(Side::Pod, up(1, ACK, CLIENT + 2, SERVER + 2, 0));
    assert_eq!(rig.ends(), [(CloseReason::Fin, Some(Side::Pod))]);
    let flow = rig.new_flow(Side::Wire, &down(1, SYN, SERVER + 90_000, 0, 0));
    assert_eq!((flow.key.from, flow.established), (Side::Wire, false));
}

#[test]
fn a_syn_of_the_other_end_is_not_of_an_open_connection() {
    let mut rig = rig();
    open(&mut rig, 1);
    rig.drops(
        Side::Wire,
        down(1, SYN, SERVER + 90_000, 0, 0),
        DropReason::NoFlow,
    );
    // Its opener may have lost it: the other end's kernel will say so, and the record goes with the reset.
    rig.passes(Side::Pod, up(1, SYN, CLIENT + 90_000, 0, 0));
    rig.passes(Side::Wire, down(1, ACK, SERVER + 1, CLIENT + 1, 0));
    rig.passes(Side::Pod, up(1, RST, CLIENT + 1, 0, 0));
    assert_eq!(rig.ends(), [(CloseReason::Reset, Some(Side::Pod))]);
    rig.admit(Side::Pod, &up(1, SYN, CLIENT + 90_000, 0, 0));
}

#[test]
fn a_simultaneous_open_is_one_connection() {
    let mut rig = rig();
    let id = rig.admit(Side::Pod, &up(1, SYN, CLIENT, 0, 0));
    assert_eq!(
        rig.handle(Side::Wire, down(1, SYN, SERVER, 0, 0)),
        Passage::Forward(id)
    );
    rig.passes(Side::Pod, up(1, SYN | ACK, CLIENT, SERVER + 1, 0));
    rig.passes(Side::Wire, down(1, SYN | ACK, SERVER, CLIENT + 1, 0));
    rig.wait(Duration::from_secs(2 * 3600));
    let key = Key {
        protocol: Protocol::Tcp,
        tuple: FourTuple::new(peer(80), pod(1)),
        from: Side::Wire,
    };
    assert_eq!(rig.forwarder.find(&key), Some(id));
}

#[test]
fn a_refused_connection_ends_at_once() {
    let mut rig = rig();
    rig.admit(Side::Pod, &up(1, SYN, CLIENT, 0, 0));
    rig.passes(Side::Wire, down(1, RST | ACK, 0, CLIENT + 2, 0));
    assert_eq!(rig.ends(), [], "it acknowledges what was never sent");
    rig.passes(Side::Wire, down(1, RST | ACK, 0, CLIENT + 1, 0));
    assert_eq!(rig.ends(), [(CloseReason::Refused, Some(Side::Wire))]);
}

#[test]
fn a_connection_that_nobody_answers_times_out() {
    let mut rig = rig();
    rig.admit(Side::Pod, &up(1, SYN, CLIENT, 0, 0));
    rig.wait(Duration::from_secs(239));
    assert_eq!(rig.ends(), []);
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.ends(), [(CloseReason::TimedOut, None)]);
}

#[test]
fn an_idle_connection_lives_for_two_hours_and_four_minutes() {
    let mut rig = rig();
    open(&mut rig, 1);
    rig.wait(Duration::from_secs(7400));
    rig.passes(Side::Pod, up(1, ACK, CLIENT, SERVER + 1, 0));
    rig.wait(Duration::from_secs(7439));
    assert_eq!(rig.ends(), []);
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.ends(), [(CloseReason::Idle, None)]);
}

#[test]
fn an_off_path_reset_ends_nothing() {
    let mut rig = rig();
    open(&mut rig, 1);
    for seq in [SERVER, SERVER + 2, SERVER + 90_000, 0, CLIENT + 1] {
        rig.passes(Side::Wire, down(1, RST, seq, 0, 0));
    }
    rig.wait(Duration::from_secs(3600));
    assert_eq!(rig.ends(), []);
    rig.passes(Side::Wire, down(1, RST, SERVER + 1, 0, 0));
    assert_eq!(rig.ends(), [(CloseReason::Reset, Some(Side::Wire))]);
}

#[test]
fn a_reset_that_its_receiver_may_not_take_shortens_the_time() {
    let mut rig = rig();
    open(&mut rig, 1);
    // 100 bytes are under way to the pod.
    rig.passes(Side::Wire, down(1, ACK, SERVER + 1, CLIENT + 1, 100));
    rig.passes(Side::Wire, down(1, RST, SERVER + 101, 0, 0));
    assert_eq!(rig.ends(), []);
    // The pod's kernel lives on.
    rig.passes(Side::Pod, up(1, ACK, CLIENT + 1, SERVER + 51, 0));
    rig.wait(Duration::from_secs(60));
    assert_eq!(rig.ends(), []);
    rig.passes(Side::Wire, down(1, RST, SERVER + 101, 0, 0));
    rig.wait(Duration::from_secs(3));
    assert_eq!(rig.ends(), [(CloseReason::Reset, Some(Side::Wire))]);
}

#[test]
fn a_connection_older_than_the_record_is_picked_up() {
    let mut rig = rig();
    let flow = rig.new_flow(Side::Wire, &down(1, ACK, SERVER, CLIENT, 1000));
    assert!(flow.established);
    rig.admit(Side::Wire, &down(1, ACK, SERVER, CLIENT, 1000));
    rig.passes(Side::Pod, up(1, ACK, CLIENT, SERVER + 1000, 0));
    rig.wait(Duration::from_secs(7000));
    assert_eq!(rig.ends(), []);
    rig.passes(Side::Pod, up(1, RST | ACK, CLIENT, SERVER + 1000, 0));
    assert_eq!(rig.ends(), [(CloseReason::Reset, Some(Side::Pod))]);
    // Heard of one way only it's soon forgotten, and a reset that nothing is known of soon passes too.
    rig.admit(Side::Wire, &down(2, ACK, SERVER, CLIENT, 1000));
    rig.admit(Side::Wire, &down(3, RST, SERVER, 0, 0));
    rig.wait(Duration::from_secs(3));
    assert_eq!(rig.ends(), [(CloseReason::Reset, Some(Side::Wire))]);
    rig.wait(Duration::from_secs(237));
    assert_eq!(rig.ends(), [(CloseReason::Idle, None)]);
}

#[test]
fn a_syn_on_what_was_picked_up_is_judged() {
    let mut rig = rig();
    rig.admit(Side::Wire, &down(1, ACK, SERVER, CLIENT, 0));
    let flow = rig.new_flow(Side::Pod, &up(1, SYN, CLIENT, 0, 0));
    assert_eq!((flow.key.from, flow.established), (Side::Pod, false));
    assert_eq!(rig.ends(), [(CloseReason::Idle, None)]);
}

#[test]
fn a_cut_resets_both_ends_with_what_they_expect() {
    let mut rig = rig();
    let id = open(&mut rig, 1);
    let offloads = Offloads {
        segment_size: Some(1400),
        partial_checksum: true,
    };
    let mut long = up(1, ACK, CLIENT + 1, SERVER + 1, 60_000);
    assert_eq!(
        rig.handle_mut(Side::Pod, &mut long, offloads),
        Passage::Forward(id)
    );
    rig.passes(Side::Wire, down(1, ACK, SERVER + 1, CLIENT + 30_001, 70));
    assert!(rig.forwarder.cut(rig.now, id, CloseReason::PolicyChanged));
    assert!(
        !rig.forwarder.cut(rig.now, id, CloseReason::PolicyChanged),
        "only once"
    );
    assert_eq!(rig.ends(), [(CloseReason::PolicyChanged, None)]);
    let resets: Vec<_> = rig
        .answers()
        .into_iter()
        .map(|(side, packet)| {
            let reset = segment(&packet);
            (side, reset.src_port, reset.seq, reset.ack, reset.flags)
        })
        .collect();
    assert_eq!(
        resets,
        [
            (Side::Pod, 80, SERVER + 71, CLIENT + 60_001, RST | ACK),
            (Side::Wire, 1, CLIENT + 60_001, SERVER + 71, RST | ACK),
        ]
    );
    // An end that had not got all says what it expects, and that is what it gets.
    let challenge = down(1, ACK, SERVER + 71, CLIENT + 40_001, 0);
    assert_eq!(
        rig.handle(Side::Wire, challenge),
        Passage::Answer(DropReason::Denied)
    );
    let reset = segment(rig.forwarder.answer());
    assert_eq!(
        (reset.src_port, reset.seq, reset.flags),
        (1, CLIENT + 40_001, RST)
    );
    rig.wait(Duration::from_secs(5));
    assert!(
        rig.new_flow(Side::Pod, &up(1, ACK, CLIENT + 60_001, SERVER + 71, 0))
            .established
    );
    assert_eq!((rig.ends(), rig.forwarder.counters().resets_sent), (vec![], 3));
}

#[test]
fn a_cut_in_the_handshake_is_one_that_the_pod_accepts() {
    let mut rig = rig();
    let id = rig.admit(Side::Pod, &up(1, SYN, CLIENT, 0, 0));
    rig.forwarder.cut(rig.now, id, CloseReason::PolicyChanged);
    let answers = rig.answers();
    let (to_pod, to_wire) = (segment(&answers[0].1), segment(&answers[1].1));
    assert_eq!((to_pod.ack, to_pod.flags), (CLIENT + 1, RST | ACK));
    assert_eq!((to_wire.seq, to_wire.flags), (CLIENT + 1, RST));
}

#[test]
fn a_cut_datagram_flow_falls_silent() {
    let mut rig = rig();
    let id = rig.admit(Side::Pod, &udp(pod(1), peer(53), 1));
    assert!(rig.forwarder.cut(rig.now, id, CloseReason::PolicyChanged));
    rig.drops(Side::Wire, udp(peer(53), pod(1), 1), DropReason::Denied);
    assert_eq!((rig.answers(), rig.forwarder.counters().cut), (vec![], 1));
}

#[test]
fn a_refusal_that_is_forgotten_takes_its_resets_with_it() {
    let mut rig = rig();
    let id = open(&mut rig, 1);
    rig.forwarder.cut(rig.now, id, CloseReason::PolicyChanged);
    rig.forwarder.forget_refusals();
    let second = open(&mut rig, 1);
    assert_eq!(rig.answers(), []);
    rig.forwarder.cut(rig.now, second, CloseReason::PolicyChanged);
    assert_eq!(rig.answers().len(), 2);
}
