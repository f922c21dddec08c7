//! Pods in gVisor's sandboxes and the mesh. Such a pod has a network stack of its own, on the interface that it finds when it
//! starts: the one that the mesh has put there.

use std::time::Duration;

use adit_flow::{Direction, FlowRecord, Mode, MtlsState, VerdictKind};
use adit_platform_tests::cluster::objects::{
    LOAD, LOAD_PORT, SHELL, WEB_PORT, gvisor, load, pod, sandboxed, shell, web,
};
use adit_platform_tests::cluster::scenario::{self, dial};
use adit_platform_tests::cluster::{Adit, Cluster, HELPER, Membership, Namespace};
use adit_platform_tests::load::Stream;
use adit_platform_tests::wait_until;
use serde_json::{Value, json};

/// How long what an agent does may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Bytes of a stream, each way.
const BYTES: &str = "50000000";

/// A pod with everything that a test asks of it.
fn whole(name: &str, node: u8) -> Value {
    pod(name, node, [web(), shell(), load()])
}

/// The cluster, whose nodes have gVisor.
#[track_caller]
fn cluster_with_gvisor() -> Cluster {
    let cluster = Cluster::running();
    let configured = cluster.node(1).run([
        "grep",
        "-c",
        "runtimes.runsc.options",
        "/etc/containerd/config.toml",
    ]);
    assert_eq!(
        configured.raw_stdout(),
        "1\n",
        "these tests need nodes with gVisor, as `just cluster-gvisor-test` makes them"
    );
    cluster.apply(&[gvisor()]);
    cluster
}

/// One request's answer, by way of the web server in `client`.
#[track_caller]
fn ask(client: &Namespace<'_>, name: &str, server: &Namespace<'_>, to: &str) -> String {
    let address = server.address(to).to_string();
    dial(client, name, "http", (&address, WEB_PORT), "hostname", 1).concat()
}

/// A stream's bytes, which all have to be the same at both ends.
#[track_caller]
fn stream(namespace: &Namespace<'_>, client: &str, server: &str, way: &[&str]) -> Stream {
    let target = format!("{}:{LOAD_PORT}", namespace.address(server));
    let words = [
        &[
            "/adit-load",
            "--limit",
            "100",
            "stream",
            &target,
            "--bytes",
            BYTES,
        ],
        way,
    ]
    .concat();
    let found: Stream = namespace.exec(client, LOAD, words).json();
    assert_eq!(found.bytes.to_string(), BYTES, "{found:?}");
    assert_eq!(found.sent_hashes, found.received_hashes, "{found:?}");
    found
}

/// Waits until the first node's agent or helper has refused a pod of the namespace for its sandbox.
#[track_caller]
fn wait_refusal(adit: Adit<'_>, namespace: &Namespace<'_>) {
    let refused = |line: &str| line.contains("ADIT-N048") && line.contains(namespace.name());
    let node = namespace.cluster().node(1);
    wait_until(
        "the refusal in the agent's log",
        LIMIT,
        || adit.logs(node).lines().any(refused).then_some(()),
        || adit.said(),
    );
}

#[track_caller]
fn delete_boxed(namespace: &Namespace<'_>) {
    namespace
        .kubectl(["delete", "pod", "boxed", "--timeout=60s"])
        .stdout();
}

#[test]
#[ignore = "needs the cluster of `just cluster-gvisor-test`"]
fn gvisor_and_runc_pods_speak_mutual_tls_both_ways() {
    let cluster = cluster_with_gvisor();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "gvisor", Membership::Mesh);
    namespace.up([sandboxed(whole("boxed", 1)), whole("plain", 2)]);
    let said = namespace.exec("boxed", SHELL, ["dmesg"]).stdout();
    assert!(said.contains("gVisor"), "the pod is in a sandbox: {said}");
    let own = format!("spiffe://cluster.local/ns/{}/sa/default", namespace.name());
    for (client, server, node) in [("boxed", "plain", 2), ("plain", "boxed", 1)] {
        let wire = scenario::wire_between(&namespace, client, server);
        assert_eq!(wire.fault(WEB_PORT), None, "{client} to {server}");
        // The agent of the server's node has verified the client.
        let address = namespace.address(server);
        let is_of = |flow: &FlowRecord| {
            let named =
                |peer: &adit_flow::Peer, name| peer.workload.as_ref().is_some_and(|own| own.name == name);
            flow.direction == Direction::Inbound
                && flow.original_destination == (address, WEB_PORT).into()
                && named(&flow.source, client)
                && named(&flow.destination, server)
        };
        let flow = wait_until(
            &format!("a record of {client} to {server}"),
            LIMIT,
            || adit.flows(cluster.node(node)).into_iter().find(is_of),
            || adit.said(),
        );
        assert_eq!(
            (flow.mode, flow.mtls, flow.verdict, flow.wire_port),
            (Mode::Hbone, MtlsState::Mutual, VerdictKind::Allow, Some(WEB_PORT)),
            "{flow}"
        );
        assert_eq!(flow.source.identity.as_ref(), Some(&own), "{flow}");
        eprintln!("{flow}");
        for way in [&[][..], &["--reverse"]] {
            let found = stream(&namespace, client, server, way);
            eprintln!(
                "{client} to {server} {way:?}: {} bytes in {:.2} s",
                found.bytes, found.seconds
            );
        }
    }
}

#[test]
#[ignore = "needs the cluster of `just cluster-gvisor-test`"]
fn a_policy_denies_a_gvisor_pod_by_its_identity() {
    let cluster = cluster_with_gvisor();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "gvisor-denied", Membership::Mesh);
    let mut boxed = sandboxed(whole("boxed", 1));
    boxed["spec"]["serviceAccountName"] = "boxed".into();
    namespace.up([json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "boxed"}})]);
    namespace.up([boxed, whole("other", 1), whole("server", 2)]);
    let connects = |client| {
        let target = format!("{}:{LOAD_PORT}", namespace.address("server"));
        let words = ["/adit-load", "--limit", "5", "who", &target];
        namespace.exec(client, LOAD, words).code() == 0
    };
    assert!(connects("boxed") && connects("other"), "without the policy");
    let principal = format!("cluster.local/ns/{}/sa/boxed", namespace.name());
    namespace.up([json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "not-boxed"},
        "spec": {"selector": {"matchLabels": {"app": "server"}}, "action": "DENY",
            "rules": [{"from": [{"source": {"principals": [principal]}}]}]},
    })]);
    wait_until(
        "the gVisor pod to be denied",
        LIMIT,
        || (!connects("boxed")).then_some(()),
        || adit.said(),
    );
    assert!(connects("other"), "another identity of the same node isn't meant");
    let address = namespace.address("boxed");
    let denied = |flow: &FlowRecord| {
        flow.source.addr.ip() == std::net::IpAddr::from(address) && flow.verdict == VerdictKind::Deny
    };
    let flow = wait_until(
        "a record of the denial",
        LIMIT,
        || adit.flows(cluster.node(2)).into_iter().find(denied),
        || adit.said(),
    );
    assert!(flow.policy.decided_by.contains("not-boxed"), "{flow}");
    eprintln!("{flow}");
}

#[test]
#[ignore = "needs the cluster of `just cluster-gvisor-test`"]
fn gvisor_pods_inside_and_outside_the_mesh_reach_each_other() {
    let cluster = cluster_with_gvisor();
    Adit::install(&cluster);
    let inside = Namespace::new(&cluster, "gvisor-inside", Membership::Mesh);
    let outside = Namespace::new(&cluster, "gvisor-outside", Membership::Outside);
    inside.up([sandboxed(whole("boxed", 1)), whole("plain", 2)]);
    outside.up([sandboxed(whole("boxed", 2)), whole("plain", 1)]);
    for (client, server) in [(&outside, &outside), (&outside, &inside), (&inside, &outside)] {
        for (from, to) in [("boxed", "plain"), ("plain", "boxed"), ("boxed", "boxed")] {
            if std::ptr::eq(client, server) && from == to {
                continue;
            }
            let answer = ask(client, from, server, to);
            assert_eq!(answer, to, "from {} to {}", client.name(), server.name());
        }
    }
}

#[test]
#[ignore = "needs the cluster of `just cluster-gvisor-test`"]
fn a_gvisor_pod_that_runs_does_not_join_and_goes_on() {
    let cluster = cluster_with_gvisor();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "gvisor-late", Membership::Outside);
    namespace.up([sandboxed(whole("boxed", 1)), whole("plain", 2)]);
    namespace.set_membership(Membership::Mesh);
    namespace.wait_membership("plain");
    wait_refusal(adit, &namespace);
    assert_eq!(ask(&namespace, "boxed", &namespace, "plain"), "plain");
    assert_eq!(ask(&namespace, "plain", &namespace, "boxed"), "boxed");
    // Made anew it's in the mesh.
    delete_boxed(&namespace);
    namespace.up([sandboxed(whole("boxed", 1))]);
    assert_eq!(
        scenario::wire_between(&namespace, "boxed", "plain").fault(WEB_PORT),
        None
    );
}

#[test]
#[ignore = "needs the cluster of `just cluster-gvisor-test`"]
fn a_gvisor_pod_stays_behind_the_agent_until_it_ends() {
    let cluster = cluster_with_gvisor();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "gvisor-stays", Membership::Mesh);
    namespace.up([sandboxed(whole("boxed", 1)), whole("plain", 2)]);
    let both_ways = |when: &str| {
        assert_eq!(ask(&namespace, "boxed", &namespace, "plain"), "plain", "{when}");
        assert_eq!(ask(&namespace, "plain", &namespace, "boxed"), "boxed", "{when}");
    };
    both_ways("at first");
    cluster.node(1).kill(HELPER);
    adit.wait_whole();
    both_ways("after the helper was killed");
    adit.restart_agents();
    adit.wait_identified(namespace.name());
    both_ways("with another agent");
    // It can't leave: the refusal is in the log, it's still reached, and nothing of it is left when it ends. That it reaches
    // others isn't tried: of its plain connections, those from ports of the agent's fail.
    namespace.set_membership(Membership::Outside);
    namespace.wait_membership("boxed");
    wait_refusal(adit, &namespace);
    for _ in 0..5 {
        assert_eq!(
            ask(&namespace, "plain", &namespace, "boxed"),
            "boxed",
            "it's kept"
        );
    }
    delete_boxed(&namespace);
    let left = cluster.quiet_state();
    eprintln!("{left:?}");
    assert_eq!(left[0].outer_namespaces, 0, "{left:?}");
}
