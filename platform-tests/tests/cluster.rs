//! The mesh in a real cluster: everything that works outside it works in it, and what only it can meet.
//!
//! `cluster_outside.rs` has the same scenarios without the mesh.

use std::time::{Duration, Instant};

use adit_platform_tests::cluster::objects::{pod, shell};
use adit_platform_tests::cluster::scenario::{self, Churn, Ends, Opening, Streams};
use adit_platform_tests::cluster::{AGENT, Adit, Cluster, Cyclonus, HELPER, Membership, Namespace, WirePort};
use adit_platform_tests::configured;
use serde_json::{Value, json};

const WEB_PORT: u16 = 8080;
const HBONE_PORT: u16 = 15008;

/// Resident KiB of agent and helper on both nodes.
fn resident(cluster: &Cluster) -> [u64; 4] {
    [(1, AGENT), (1, HELPER), (2, AGENT), (2, HELPER)].map(|(node, program)| {
        let node = cluster.node(node);
        node.resident(node.process(program))
    })
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn the_original_port_is_on_the_wire_and_nobody_can_read_it() {
    let cluster = Cluster::running();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "wire", Membership::Mesh);
    let wire = scenario::wire(&namespace);
    assert_eq!(wire.fault(WEB_PORT), None);
    let identities = adit.agent(cluster.node(1), ["identity"]).stdout();
    let own = format!("spiffe://cluster.local/ns/{}/sa/default", namespace.name());
    assert!(identities.contains(&own), "{identities}");
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn istios_port_is_on_the_wire_where_the_agents_are_told_so() {
    let cluster = Cluster::running();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "hbone", Membership::Mesh);
    // Made with agents that say the original port: those that come after them say otherwise.
    assert_eq!(scenario::wire(&namespace).fault(WEB_PORT), None);
    let hbone = WirePort::set(adit, "15008");
    namespace.wait_hbone_port("server", "");
    adit.wait_identified(namespace.name());
    assert_eq!(scenario::wire(&namespace).fault(HBONE_PORT), None);
    drop(hbone);
    namespace.wait_hbone_port("server", "original");
    adit.wait_identified(namespace.name());
    assert_eq!(scenario::wire(&namespace).fault(WEB_PORT), None);
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn pods_that_run_are_put_into_the_mesh_by_the_label() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "joined", Membership::Outside);
    assert!(
        scenario::wire(&namespace).plain > 0,
        "outside the mesh it is plain"
    );
    namespace.set_membership(Membership::Mesh);
    for pod in ["client", "server"] {
        namespace.wait_membership(pod);
    }
    assert_eq!(scenario::wire(&namespace).fault(WEB_PORT), None);
    namespace.set_membership(Membership::Outside);
    for pod in ["client", "server"] {
        namespace.wait_membership(pod);
    }
    assert!(scenario::wire(&namespace).plain > 0, "it left the mesh");
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn mesh_add_waits_for_pods_that_run_and_remove_takes_them_out() {
    const CAPTURED: &str = r"{.metadata.annotations.ambient\.istio\.io/redirection}";
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "enrolled", Membership::Outside);
    namespace.up([pod("one", 1, [shell()]), pod("two", 2, [shell()])]);
    let name = namespace.name();
    let status = || {
        let text = cluster.adit(["mesh", "status", name, "--json"]).stdout();
        serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let check = |report: &Value, in_mesh: bool| {
        assert_eq!(report["in_mesh"], in_mesh, "{report:#}");
        let pods = report["pods"].as_array().expect("pods are a list");
        for (pod, (name, node)) in pods.iter().zip([("one", "kn1"), ("two", "kn2")]) {
            assert_eq!((&pod["pod"], &pod["node"]), (&json!(name), &json!(node)));
            assert_eq!(pod["has_agent"], true, "{report:#}");
            let outside = if in_mesh { Value::Null } else { json!("not_asked") };
            assert_eq!(pod["outside"], outside, "{report:#}");
            let captured = &pod["captured"];
            assert_eq!(captured.is_object(), in_mesh, "{report:#}");
            assert_eq!(captured["since"].is_string(), in_mesh, "{report:#}");
            let expected = if in_mesh { "enabled" } else { "" };
            assert_eq!(namespace.pod(name, CAPTURED), expected);
        }
        assert_eq!(pods.len(), 2, "{report:#}");
    };
    check(&status(), false);
    let added = cluster.adit(["mesh", "add", name, "--wait=100s", "--json"]);
    check(&serde_json::from_str(&added.stdout()).unwrap(), true);
    check(&status(), true);
    assert_eq!(status()["pods"][0]["captured"]["wire_port"], "original");
    let removed = cluster.adit(["mesh", "remove", name, "--wait=100s"]).stdout();
    assert!(removed.contains("is outside the mesh by its label"), "{removed}");
    check(&status(), false);
    let missing = cluster.adit(["mesh", "add", "no-such-namespace"]);
    assert_eq!(missing.code(), 2, "{missing}");
    assert!(missing.stderr().contains("ADIT-A072"), "{missing}");
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn exec_logs_and_port_forward_work() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    scenario::access(&Namespace::new(&cluster, "access", Membership::Mesh));
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn probes_stay_green_while_a_pod_joins_and_leaves() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "probes", Membership::Mesh);
    scenario::probes(&namespace).stay_green(Duration::from_secs(5));
    for membership in [Membership::Outside, Membership::Mesh] {
        namespace.set_membership(membership);
        namespace.wait_membership("probed");
        scenario::probes(&namespace).stay_green(Duration::from_secs(5));
    }
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn every_way_to_a_server_works() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    scenario::services(&Namespace::new(&cluster, "services", Membership::Mesh));
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_database_keeps_what_was_written() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    scenario::database(&Namespace::new(&cluster, "database", Membership::Mesh));
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn streams_lose_nothing_while_their_pods_join_and_leave() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "joining", Membership::Outside);
    let ends = |namespace| Ends::within(namespace);
    for membership in [Membership::Mesh, Membership::Outside] {
        let streams = Streams::start(ends(&namespace), 20);
        namespace.set_membership(membership);
        for pod in Streams::CLIENTS.into_iter().chain([Streams::SERVER]) {
            namespace.wait_membership(pod);
        }
        streams.whole();
    }
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn streams_to_pods_outside_the_mesh_lose_nothing() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let inside = Namespace::new(&cluster, "inside", Membership::Mesh);
    let outside = Namespace::new(&cluster, "outside", Membership::Outside);
    let streams = Streams::start(
        Ends {
            client: &inside,
            server: &outside,
        },
        20,
    );
    for membership in [Membership::Outside, Membership::Mesh] {
        inside.set_membership(membership);
        for pod in Streams::CLIENTS {
            inside.wait_membership(pod);
        }
    }
    streams.whole();
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_pod_with_net_admin_speaks_as_itself_alone() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let escape = scenario::escape(&Namespace::new(&cluster, "escape", Membership::Mesh));
    assert_eq!((escape.as_another, escape.as_nobody), (0, 0), "{escape:?}");
    assert_eq!(escape.interfaces, [("eth0".to_owned(), 65534)]);
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn the_agent_has_no_privilege() {
    let cluster = Cluster::running();
    let adit = Adit::install(&cluster);
    for node in [cluster.node(1), cluster.node(2)] {
        assert_eq!(adit.agent_privileges(node).fault(), None, "on {}", node.name());
    }
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn the_agent_may_say_how_pods_of_its_own_node_are_reached_and_change_nothing_else() {
    let cluster = Cluster::running();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "rights", Membership::Outside);
    namespace.up([pod("target", 1, [shell()])]);
    let path = format!("/api/v1/namespaces/{}/pods/target", namespace.name());
    let status = format!("{path}/status");
    let annotated = |key: &str, value: Value| json!({"metadata": {"annotations": {key: value}}});
    let annotation = annotated("adit.dev/hbone-port", json!("original"));
    let finalizer = json!({"metadata": {"finalizers": ["example.com/keeps"]}});
    let label = json!({"metadata": {"labels": {"app": "other"}}});
    let address = json!({"status": {"podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}]}});
    let image = json!({"spec": {"containers": [{"name": "shell", "image": "localhost/pause:1"}]}});
    let of = |node, path: &str, patch| adit.patch_as_agent(cluster.node(node), path, patch);
    assert_eq!(of(1, &status, &annotation), 200, "an annotation");
    assert_eq!(of(2, &status, &annotation), 422, "of another node's pod");
    let others = annotated("example.com/owner", json!("somebody"));
    assert_eq!(of(1, &status, &others), 422, "another's annotation");
    namespace
        .kubectl(["annotate", "pod", "target", "example.com/owner=us"])
        .stdout();
    assert_eq!(of(1, &status, &others), 422, "another's, changed");
    let gone = annotated("example.com/owner", Value::Null);
    assert_eq!(of(1, &status, &gone), 422, "another's, taken away");
    assert_eq!(of(1, &status, &finalizer), 422, "a finalizer");
    assert_eq!(of(1, &status, &label), 422, "a label");
    assert_eq!(of(1, &status, &address), 422, "an address");
    assert_eq!(of(1, &path, &image), 403, "an image");
    let template = r"{.metadata.annotations.adit\.dev/hbone-port}";
    assert_eq!(namespace.pod("target", template), "original");
    let own = annotated("adit.dev/hbone-port", Value::Null);
    assert_eq!(of(1, &status, &own), 200, "its own, taken back");
}

/// Lets `policy` come while a stream lives.
#[track_caller]
fn cuts(topic: &str, policy: Value) {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, topic, Membership::Mesh);
    let cut = scenario::cut_by(&namespace, policy, Duration::from_secs(20));
    eprintln!("{cut:?}");
    assert!(cut.stream.is_some() && !cut.connects, "{cut:?}");
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_network_policy_cuts_a_live_stream_and_new_connections() {
    cuts(
        "kubernetes",
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "nobody"},
            "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]},
        }),
    );
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_calico_policy_cuts_a_live_stream_and_new_connections() {
    cuts(
        "calico",
        json!({
            "apiVersion": "crd.projectcalico.org/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "default.nobody"},
            "spec": {"tier": "default", "selector": "app == 'server'", "types": ["Ingress"], "ingress": [{"action": "Deny"}]},
        }),
    );
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn an_authorization_policy_cuts_a_live_stream_and_new_connections() {
    cuts(
        "istio",
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "nobody"},
            "spec": {"selector": {"matchLabels": {"app": "server"}}, "action": "DENY", "rules": [{"to": [{"operation": {"ports": ["7000"]}}]}]},
        }),
    );
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn every_network_policy_case_passes() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let report = Cyclonus {
        include: &std::env::var("ADIT_TEST_CYCLONUS").unwrap_or_else(|_| "deny-all".to_owned()),
        membership: Membership::Mesh,
        quick: false,
        limit: Duration::from_secs(4 * 3600),
    }
    .run(&cluster);
    eprintln!("{} passed, {} failed", report.passed.len(), report.failed.len());
    assert!(report.failed.is_empty(), "failed: {:#?}", report.failed);
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn the_first_connection_of_a_pod_is_in_the_mesh() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "newborn", Membership::Mesh);
    namespace.up([strict()]);
    scenario::first_connections(&namespace);
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn an_upgrade_of_the_agents_cuts_no_stream_and_refuses_no_connection() {
    let cluster = Cluster::running();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "upgrade", Membership::Mesh);
    // What went plain, while an agent comes or goes, would be refused.
    namespace.up([strict()]);
    let opening = Opening::start(&namespace, 60);
    // Shorter than the time that an agent has to drain.
    let ends = Ends::within(&namespace);
    let streams = Streams::start(ends, 12);
    adit.restart_agents();
    streams.whole();
    opening.all_answered();
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn adit_stays_ready_while_the_api_server_is_away() {
    let cluster = Cluster::running();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "outage", Membership::Mesh);
    let reach = scenario::reach(&namespace);
    let before = adit.ready_since();
    cluster.restart(["apiserver", "20"]);
    reach.now();
    assert_eq!(adit.ready_since(), before);
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn adit_is_taken_off_under_streams_and_leaves_nothing() {
    let cluster = Cluster::running();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "off", Membership::Mesh);
    // Shorter than the time that they have to finish.
    let ends = Ends::within(&namespace);
    let streams = Streams::start(ends, 12);
    adit.take_off();
    streams.whole();
    let outside = Namespace::new(&cluster, "after", Membership::Outside);
    let reach = scenario::reach(&outside);
    adit.delete();
    reach.now();
    for node in [1, 2].map(|number| cluster.node(number)) {
        assert_eq!(adit.remains(node), "", "on {}", node.name());
    }
    outside.up([pod("later", 1, [shell()])]);
    // For the tests to come. The pods of the first namespace are in the mesh again.
    Adit::install(&cluster);
    namespace.wait_membership(Streams::SERVER);
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn kills_heal() {
    let cluster = Cluster::running();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "kills", Membership::Mesh);
    let reach = scenario::reach(&namespace);
    let node = cluster.node(2);
    for programs in [
        &[AGENT][..],
        &[HELPER],
        &["containerd --config"],
        &[AGENT, HELPER, "containerd --config"],
    ] {
        for program in programs {
            node.kill(program);
        }
        let begun = Instant::now();
        eprintln!("after kill -9 of {programs:?}: {:?}", reach.again(begun));
        adit.wait_whole();
    }
    // Of these no connection may notice anything.
    let streams = Streams::start(Ends::within(&namespace), 30);
    node.kill(HELPER);
    node.kill("containerd --config");
    cluster.restart(["apiserver", "5"]);
    streams.whole();
    reach.now();
    adit.wait_whole();
    reach.after_power_cut();
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn pods_that_come_and_go_leave_nothing() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let pods = configured("ADIT_TEST_PODS", 200);
    // The first pods make the agent's heap what it stays.
    churned(&cluster, pods.min(20));
    let before = (cluster.quiet_state(), resident(&cluster));
    churned(&cluster, pods);
    let after = (cluster.quiet_state(), resident(&cluster));
    assert_eq!(after.0, before.0);
    eprintln!("resident KiB: {:?}, then {:?}", before.1, after.1);
    let grown = before
        .1
        .iter()
        .zip(after.1)
        .any(|(before, after)| after > before + 8 * 1024);
    assert!(
        !grown,
        "an agent or a helper grew by more than 8 MiB over {pods} pods: {before:?}, {after:?}"
    );
}

fn churned(cluster: &Cluster, pods: u64) {
    let namespace = Namespace::new(cluster, "churn", Membership::Mesh);
    scenario::churn(&namespace, Churn { pods, batch: 20 });
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_scan_leaves_no_listener_and_no_rule() {
    let cluster = Cluster::running();
    let adit = Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "scan", Membership::Mesh);
    // The open port has its listener from the first connection on, however many ports are tried beside it.
    assert_eq!(scenario::ports(&namespace, 7000..=7000).open, [7000]);
    let uid = namespace.pod("server", "{.metadata.uid}");
    let before = adit.outer_state(cluster.node(2), &uid);
    let found = scenario::ports(&namespace, 1..=u16::MAX);
    assert_eq!(
        (found.open.as_slice(), found.refused),
        ([7000].as_slice(), 65_534),
        "{found:?}"
    );
    let [alone, scanned] = scenario::scan_under_load(&namespace);
    eprintln!(
        "alone {:?}, with 1000 closed ports a second {:?}",
        alone.latency, scanned.latency
    );
    adit.wait_outer_state(cluster.node(2), &uid, &before);
}

/// What goes plain is refused.
fn strict() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "strict"}, "spec": {"mtls": {"mode": "STRICT"}},
    })
}
