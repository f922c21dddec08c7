//! A tunnel that is lost in mid-stream: never a clean end, and the record says whose fault it was.

use std::time::Duration;

use adit_flow::{CloseReason, Closer};
use adit_platform_tests::{Mesh, MeshSpec, RecordingRelay, Sandbox, Workload, free_port, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(30);

/// Starts a stream between two agents, has `break_it` end the path between them in its middle, and checks what the
/// reader and the near agent's record say.
fn broken_in_mid_stream(break_it: impl FnOnce(&RecordingRelay, &Mesh<'_>)) {
    let sandbox = Sandbox::new();
    let listen = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}").parse().unwrap());
    let relay = RecordingRelay::start(listen[1], b"");
    let spec = MeshSpec::new("lost")
        .node("a", &listen[0].to_string())
        .node("b", &relay.address.to_string())
        .workload(Workload::load_server(&sandbox, "server", PORT).on("b"))
        .workload(Workload::shell(&sandbox, "client").on("a"));
    let state = sandbox.folder("state");
    let far = sandbox.up_node(&spec, "b", listen[1], &state);
    let near = sandbox.up_node(&spec, "a", listen[0], &state);
    let load = sandbox.load();
    let reading = [
        "stream",
        "server:7000",
        "--seconds",
        "60",
        "--reverse",
        "--unchecked",
    ];
    let client = near.spawn_in("client", [load.as_str()].into_iter().chain(reading));
    wait_until(
        "the stream to begin",
        LIMIT,
        || (relay.seen().bytes > 10 << 20).then_some(()),
        || format!("{:?}\n{}\n{}", relay.seen(), near.logs(), far.logs()),
    );
    break_it(&relay, &far);
    let done = client.finish(LIMIT);
    assert_ne!(
        done.code(),
        0,
        "a truncated stream was taken for a whole one: {done}"
    );
    assert!(done.stderr().contains("reset"), "expected a reset: {done}");
    let record = near.wait_flow("of the broken stream", |flow| {
        flow.destination.addr.port() == PORT
    });
    assert_eq!(
        (record.close, record.closed_by),
        (CloseReason::PeerLost, Closer::Network),
        "{record}"
    );
}

#[test]
fn a_path_that_breaks_is_a_reset() {
    broken_in_mid_stream(|relay, _| relay.cut());
}

#[test]
fn a_killed_far_agent_is_a_reset() {
    broken_in_mid_stream(|_, far| {
        let agent = i32::try_from(far.agent_pid()).unwrap();
        kill_process(Pid::from_raw(agent).unwrap(), Signal::KILL).unwrap();
    });
}
