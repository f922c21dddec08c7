//! The first thing that a pod does.

use std::time::Duration;

use crate::cluster::Namespace;
use crate::cluster::objects::{LOAD, LOAD_PORT, container, load, pod};
use crate::load::Connect;
use crate::process::wait_until;

/// The pod that they connect to, on node 2.
const SERVER: &str = "old";

/// Pods on both nodes that connect to a pod of the mesh as soon as they run, for a second, and every connection is answered.
/// In a namespace that is STRICT one that went plain isn't.
///
/// # Panics
/// If a connection was refused or cut, or none was made.
#[track_caller]
pub fn first_connections(namespace: &Namespace<'_>) {
    namespace.up([pod(SERVER, 2, [load()])]);
    namespace.wait_membership(SERVER);
    let target = format!("{}:{LOAD_PORT}", namespace.address(SERVER));
    let words = [
        "/adit-load",
        "--limit",
        "60",
        "connect",
        &target,
        "--seconds",
        "1",
    ];
    let pods = [("new-a", 1), ("new-b", 1), ("new-c", 1), ("new-d", 2)];
    namespace.up(pods.map(|(name, node)| {
        let mut pod = pod(name, node, [container(LOAD, "localhost/adit-load:1", &words)]);
        pod["spec"]["restartPolicy"] = "Never".into();
        pod
    }));
    for (name, node) in pods {
        let logs = || namespace.kubectl(["logs", name]);
        wait_until(
            &format!("{name} on node {node} to have connected"),
            Duration::from_secs(90),
            || {
                ["Succeeded", "Failed"]
                    .contains(&namespace.pod(name, "{.status.phase}").as_str())
                    .then_some(())
            },
            || logs().to_string(),
        );
        let found: Connect = logs().json();
        assert_eq!(
            (found.failed, &found.first_failure),
            (0, &None),
            "{name} on node {node}: {found:?}"
        );
        assert!(found.count > 0, "{name} on node {node}: {found:?}");
        eprintln!(
            "{name}: {} connections, the slowest answered after {:.1} s",
            found.count,
            found.first_byte.max_ns as f64 / 1e9
        );
    }
}
