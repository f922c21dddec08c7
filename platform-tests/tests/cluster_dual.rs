//! The mesh in a cluster whose pods have addresses of both IP versions.

use std::time::Duration;

use adit_platform_tests::cluster::objects::{LOAD, LOAD_PORT, WEB_PORT, load, pod, shell, web};
use adit_platform_tests::cluster::scenario::{self, dial};
use adit_platform_tests::cluster::{Adit, Cluster, Membership, Namespace};
use adit_platform_tests::load::Stream;

#[test]
#[ignore = "needs the cluster of `just cluster-dual-test`"]
fn the_original_port_is_on_the_wire_of_both_ip_versions() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "dual-wire", Membership::Mesh);
    assert_eq!(scenario::wire(&namespace).fault(WEB_PORT), None, "IPv4");
    assert_eq!(scenario::wire6(&namespace).fault(WEB_PORT), None, "IPv6");
}

#[test]
#[ignore = "needs the cluster of `just cluster-dual-test`"]
fn pods_inside_and_outside_reach_each_other_by_ipv6() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let inside = Namespace::new(&cluster, "dual-inside", Membership::Mesh);
    let outside = Namespace::new(&cluster, "dual-outside", Membership::Outside);
    for namespace in [&inside, &outside] {
        namespace.up([pod("client", 1, [web(), shell()]), pod("server", 2, [web()])]);
    }
    for (client, server) in [(&inside, &outside), (&outside, &inside)] {
        let address = server.address6("server").to_string();
        for protocol in ["http", "udp"] {
            let names = dial(client, "client", protocol, (&address, WEB_PORT), "hostname", 3);
            assert_eq!(
                names,
                ["server"; 3],
                "{protocol} from {} to {address}",
                client.name()
            );
            let seen = dial(client, "client", protocol, (&address, WEB_PORT), "clientip", 1);
            let own = client.address6("client");
            assert!(
                seen[0].starts_with(&format!("[{own}]:")),
                "the server saw {seen:?}, not {own}"
            );
        }
    }
}

#[test]
#[ignore = "needs the cluster of `just cluster-dual-test`"]
fn a_stream_over_ipv6_loses_nothing_while_its_pods_join_and_leave() {
    let cluster = Cluster::running();
    Adit::install(&cluster);
    let namespace = Namespace::new(&cluster, "dual-stream", Membership::Outside);
    namespace.up([pod("client", 1, [load()]), pod("server", 2, [load()])]);
    let target = format!("[{}]:{LOAD_PORT}", namespace.address6("server"));
    let words = [
        "/adit-load",
        "--limit",
        "60",
        "stream",
        &target,
        "--seconds",
        "20",
        "--rate",
        "100",
    ];
    let running = namespace.start("client", LOAD, words);
    for membership in [Membership::Mesh, Membership::Outside] {
        namespace.set_membership(membership);
        for pod in ["client", "server"] {
            namespace.wait_membership(pod);
        }
    }
    let stream: Stream = running.finish(Duration::from_secs(80)).json();
    assert!(stream.bytes > 0, "{stream:?}");
    assert_eq!(stream.sent_hashes, stream.received_hashes, "{stream:?}");
}
