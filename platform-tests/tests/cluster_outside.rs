//! The cluster without the mesh: what has to work in the mesh works here, so that a failure there is the mesh's; and what
//! only the mesh can meet fails here, so that those checks are known to be able to.

use std::time::{Duration, Instant};

use adit_platform_tests::cluster::scenario::{self, Churn, Ends, Streams};
use adit_platform_tests::cluster::{Cluster, Cyclonus, Membership, Namespace};
use serde_json::json;

const WEB_PORT: u16 = 8080;

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn exec_logs_and_port_forward_work() {
    let cluster = Cluster::running();
    scenario::access(&Namespace::new(&cluster, "access", Membership::Outside));
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn probes_are_green() {
    let cluster = Cluster::running();
    let namespace = Namespace::new(&cluster, "probes", Membership::Outside);
    scenario::probes(&namespace).stay_green(Duration::from_secs(5));
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn every_way_to_a_server_works() {
    let cluster = Cluster::running();
    scenario::services(&Namespace::new(&cluster, "services", Membership::Outside));
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_database_keeps_what_was_written() {
    let cluster = Cluster::running();
    scenario::database(&Namespace::new(&cluster, "database", Membership::Outside));
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn streams_are_whole() {
    let cluster = Cluster::running();
    let namespace = Namespace::new(&cluster, "streams", Membership::Outside);
    let ends = Ends::within(&namespace);
    Streams::start(ends, 5).whole();
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_capture_shows_plain_traffic_as_plain() {
    let cluster = Cluster::running();
    let wire = scenario::wire(&Namespace::new(&cluster, "wire", Membership::Outside));
    assert!(wire.plain >= 5 && wire.others.contains_key(&WEB_PORT), "{wire:?}");
    assert!(wire.fault(WEB_PORT).is_some());
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_policy_cuts_nothing() {
    let cluster = Cluster::running();
    let namespace = Namespace::new(&cluster, "policy", Membership::Outside);
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "nobody"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]},
    });
    let cut = scenario::cut_by(&namespace, policy, Duration::from_secs(3));
    assert!(cut.stream.is_none() && cut.connects, "{cut:?}");
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_pod_with_net_admin_speaks_as_another() {
    let cluster = Cluster::running();
    let escape = scenario::escape(&Namespace::new(&cluster, "escape", Membership::Outside));
    assert!(escape.as_another > 0 && escape.as_nobody > 0, "{escape:?}");
    assert_eq!(escape.interfaces, [("eth0".to_owned(), 1)]);
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_scan_finds_the_open_port_alone() {
    let cluster = Cluster::running();
    let namespace = Namespace::new(&cluster, "scan", Membership::Outside);
    let found = scenario::ports(&namespace, 1..=u16::MAX);
    assert_eq!(
        (found.open.as_slice(), found.refused),
        ([7000].as_slice(), 65_534)
    );
    let [alone, scanned] = scenario::scan_under_load(&namespace);
    eprintln!(
        "alone {:?}, with 1000 closed ports a second {:?}",
        alone.latency, scanned.latency
    );
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn faults_heal_and_pods_that_come_and_go_leave_nothing() {
    let cluster = Cluster::running();
    let before = cluster.quiet_state();
    {
        let namespace = Namespace::new(&cluster, "faults", Membership::Outside);
        let reach = scenario::reach(&namespace);
        for program in ["containerd --config", ".*/kubelet --config", ".*/kube-proxy "] {
            cluster.node(2).kill(program);
            let begun = Instant::now();
            eprintln!("after kill -9 of {program}: {:?}", reach.again(begun));
        }
        // Of these no connection may notice anything.
        let streams = Streams::start(Ends::within(&namespace), 20);
        cluster.node(2).kill("containerd --config");
        cluster.restart(["apiserver", "2"]);
        streams.whole();
        reach.now();
        scenario::churn(&namespace, Churn { pods: 20, batch: 10 });
    }
    assert_eq!(cluster.quiet_state(), before);
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn a_node_comes_back_after_a_power_cut() {
    let cluster = Cluster::running();
    let namespace = Namespace::new(&cluster, "power", Membership::Outside);
    let reach = scenario::reach(&namespace);
    reach.after_power_cut();
}

#[test]
#[ignore = "needs the cluster of `just cluster-up`"]
fn network_policy_cases_fail_without_an_enforcer() {
    let cluster = Cluster::running();
    let report = Cyclonus {
        include: "deny-all",
        membership: Membership::Outside,
        quick: true,
        limit: Duration::from_secs(900),
    }
    .run(&cluster);
    assert!(!report.failed.is_empty(), "{report:?}");
}
