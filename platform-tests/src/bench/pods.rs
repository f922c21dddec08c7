//! The node path: from a pod of one node of the cluster to a pod of the other.

use std::process::Command;
use std::time::Duration;

use super::path::{BenchPath, PORTS};
use crate::cluster::objects::{LOAD, LOAD_PORT, load, pod};
use crate::cluster::{AGENT, Cluster, Membership, Namespace};
use crate::process::Finished;

/// Pods in the mesh and outside it, two of each.
#[derive(Debug)]
pub struct Pods<'c> {
    outside: Namespace<'c>,
    mesh: Namespace<'c>,
}

impl<'c> Pods<'c> {
    /// Makes them, and waits until those in the mesh are captured.
    ///
    /// # Panics
    /// If they don't become ready.
    #[track_caller]
    pub fn up(cluster: &'c Cluster) -> Self {
        let namespace = |topic, membership| {
            let namespace = Namespace::new(cluster, topic, membership);
            let mut server = load();
            server["command"]
                .as_array_mut()
                .expect("a container has a command")
                .extend(["--ports".into(), PORTS.to_string().into()]);
            namespace.up([pod("server", 2, [server]), pod("client", 1, [load()])]);
            namespace
        };
        Self {
            outside: namespace("bench-outside", Membership::Outside),
            mesh: namespace("bench-mesh", Membership::Mesh),
        }
    }

    /// The direct path, the two on which one agent forwards plain packets, and mutual TLS between two agents.
    pub(super) fn paths(&self) -> Vec<BenchPath<'_>> {
        let (outside, mesh) = (&self.outside, &self.mesh);
        vec![
            path("direct", outside, outside),
            path("forwarded-in", outside, mesh),
            path("forwarded-out", mesh, outside),
            path("hbone", mesh, mesh),
        ]
    }
}

fn path<'a>(name: &str, client: &'a Namespace<'_>, server: &Namespace<'_>) -> BenchPath<'a> {
    let carriers = if name == "direct" { Vec::new() } else { agents() };
    let client = move || {
        let namespace = ["kubectl", "-n", client.name(), "exec", "-i", "client", "-c", LOAD];
        let words = namespace.into_iter().chain(["--", "/adit-load"]);
        client.cluster().command(words)
    };
    let target = format!("{}:{LOAD_PORT}", server.address("server"));
    BenchPath::new(name, target, carriers, client)
}

/// The agents of all nodes, which are processes of this machine.
fn agents() -> Vec<u32> {
    let mut pgrep = Command::new("pgrep");
    pgrep.args(["-f", &format!("^{AGENT}")]);
    let found = Finished::of(pgrep, Duration::from_secs(10)).stdout();
    found.lines().filter_map(|line| line.parse().ok()).collect()
}
