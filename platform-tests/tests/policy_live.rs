//! Policy files that are saved while the mesh runs, and what becomes of flows that live then.

use std::time::Duration;

use adit_flow::{CloseReason, Direction, VerdictKind};
use adit_platform_tests::{Mesh, MeshSpec, Sandbox, Workload, wait_until};

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(30);

/// The server hears only from `keeps`.
const ONLY_KEEPS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-keeps, namespace: test}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: keeps}}}]
";

fn spec(sandbox: &Sandbox) -> MeshSpec {
    MeshSpec::new("live")
        .workload(Workload::load_server(sandbox, "server", PORT))
        .workload(Workload::shell(sandbox, "loses"))
        .workload(Workload::shell(sandbox, "keeps"))
        .policies(sandbox.folder("policies"))
}

/// Whether a new connection from `workload` to the server comes about.
fn connects(mesh: &Mesh<'_>, workload: &str) -> bool {
    let probe = ["nc", "-z", "-w", "2", "server", "7000"];
    mesh.run_in(workload, probe).code() == 0
}

#[test]
fn a_saved_policy_cuts_the_stream_that_it_denies_and_no_other() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    mesh.wait_ready();
    let loses = mesh.stream_in("loses", "server:7000");
    let keeps = mesh.stream_in("keeps", "server:7000");
    sandbox.file("policies/only-keeps.yaml", ONLY_KEEPS);
    let lost = loses.finish(LIMIT);
    assert_ne!(
        lost.code(),
        0,
        "the stream that lost its permission ended well: {lost}\n{}",
        mesh.logs()
    );
    assert!(lost.stderr().contains("reset"), "expected a reset: {lost}");
    let record = mesh.wait_flow("of the stream that was cut", |flow| {
        flow.direction == Direction::Inbound && flow.verdict == VerdictKind::Deny
    });
    assert_eq!(record.close, CloseReason::PolicyChanged, "{record}");
    assert!(
        record.to_string().contains("only-keeps"),
        "the policy isn't named: {record}"
    );
    assert_eq!(
        keeps.finish(LIMIT).code(),
        0,
        "a stream that is allowed was touched"
    );
    // New ones are judged by the same policy, whatever tunnel there is.
    assert!(connects(&mesh, "keeps"));
    assert!(
        !connects(&mesh, "loses"),
        "a new connection was not judged by the new policy"
    );
}

#[test]
fn a_file_that_is_wrong_leaves_the_last_good_policy_in_force_and_says_so() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    mesh.wait_ready();
    let says = |what: &str| {
        wait_until(
            what,
            LIMIT,
            || mesh.output().contains(what).then_some(()),
            || mesh.output(),
        );
    };
    sandbox.file("policies/only-keeps.yaml", ONLY_KEEPS);
    says("took effect");
    sandbox.file("policies/only-keeps.yaml", "kind: [");
    says("goes on with the policies that it had");
    assert!(connects(&mesh, "keeps"));
    assert!(!connects(&mesh, "loses"), "a file that is wrong ended the policy");
    std::fs::remove_file(sandbox.dir().join("policies/only-keeps.yaml")).unwrap();
    wait_until(
        "the policy to be gone",
        LIMIT,
        || connects(&mesh, "loses").then_some(()),
        || mesh.output(),
    );
}
