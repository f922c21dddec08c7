//! The first thing that a pod does.

use std::time::Duration;

use super::opening::assert_answered;
use crate::cluster::Namespace;
use crate::cluster::objects::{LOAD_PORT, load, load_once, pod};

/// The pod that they connect to, on node 2.
const SERVER: &str = "old";
/// How long each may take, its start included.
const LIMIT: Duration = Duration::from_secs(90);

/// Pods on both nodes that connect to a pod of the mesh as soon as they run, for five seconds, and every connection is answered.
/// In a namespace that is STRICT one that went plain isn't.
///
/// # Panics
/// If a connection was refused or cut, or none was made.
#[track_caller]
pub fn first_connections(namespace: &Namespace<'_>) {
    namespace.up([pod(SERVER, 2, [load()])]);
    namespace.wait_membership(SERVER);
    let target = format!("{}:{LOAD_PORT}", namespace.address(SERVER));
    // Long enough to be seen ready.
    let words = [
        "--limit",
        "60",
        "connect",
        &target,
        "--seconds",
        "5",
        "--rate",
        "50",
    ];
    let pods = [("new-a", 1), ("new-b", 1), ("new-c", 1), ("new-d", 2)];
    namespace.up(pods.map(|(name, node)| load_once(name, node, &words)));
    for (name, _) in pods {
        assert_answered(name, &namespace.finish(name, LIMIT).json());
    }
}
