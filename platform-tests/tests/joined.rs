//! A workload that joined on one of two nodes: what the other makes of it. See "Known limits" in ARCHITECTURE.md.

use std::net::SocketAddr;
use std::time::Duration;

use adit_flow::{CloseReason, Direction, RefuseReason};
use adit_platform_tests::load::{End, Ended, Rr};
use adit_platform_tests::{MeshSpec, Sandbox, Workload, free_port};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn who_joined_on_one_node_is_refused_by_the_other_and_never_looked_for_outside() {
    let sandbox = Sandbox::new();
    let listen = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let spec = MeshSpec::new("joined")
        .node("a", &listen[0].to_string())
        .node("b", &listen[1].to_string())
        .workload(Workload::load_server(&sandbox, "here", 7000).on("a"))
        .workload(Workload::load_server(&sandbox, "there", 8000).on("b"))
        .workload(Workload::shell(&sandbox, "shell").on("b"));
    let state = sandbox.folder("state");
    let far = sandbox.up_node(&spec, "b", listen[1], &state);
    let near = sandbox.up_node(&spec, "a", listen[0], &state);
    let load = sandbox.load();
    let mut joined = near.spawn_as("test/joined", [&load, "serve", "--port", "9000"]);
    joined.wait_for("listening", LIMIT);
    let address = near.address("test/joined");

    // On its own node it is a workload as any other.
    let found: Rr = near
        .run_as("test/another", [&load, "rr", "here:7000", "--count", "10"])
        .json();
    assert_eq!(found.count, 10);

    // The other node has no way to know whose address that is: refused, with a reason of its own at both.
    let refused: Ended = near
        .run_as("test/another", [&load, "end", "there:8000", "--server", "echo"])
        .json();
    assert_eq!(refused.end, End::ConnectRefused, "{refused:?}");
    for mesh in [&near, &far] {
        let record = mesh.wait_flow("refused", |flow| flow.close == CloseReason::Refused);
        assert_eq!(record.refused, Some(RefuseReason::BadIdentity), "{record}");
    }
    let record = far.wait_flow("refused", |flow| flow.close == CloseReason::Refused);
    let detail = record.detail.unwrap_or_default();
    assert!(detail.contains("known there alone"), "{detail}");

    // From there it can't be reached either, and its address isn't tried in that host's own network.
    let target = format!("{address}:9000");
    let unreachable: Ended = far
        .run_in("shell", [&load, "end", &target, "--server", "echo"])
        .json();
    assert_eq!(unreachable.end, End::ConnectUnreachable, "{unreachable:?}");
    let record = far.wait_flow("to who joined elsewhere", |flow| {
        flow.direction == Direction::Outbound && flow.destination.addr.ip() == address
    });
    assert_eq!(record.refused, Some(RefuseReason::Unreachable), "{record}");
    assert!(!joined.has_ended());
}
