//! Connections that are opened and closed all the time, while something happens to the mesh.

use std::time::Duration;

use crate::cluster::Namespace;
use crate::cluster::objects::{LOAD, LOAD_PORT, load, pod};
use crate::load::Connect;
use crate::process::Running;

/// Connections a second of each client.
const RATE: &str = "50";

/// One client on each node, and its server on the other.
#[derive(Debug)]
pub struct Opening {
    clients: Vec<(&'static str, Running)>,
    limit: Duration,
}

impl Opening {
    /// Opens fifty connections a second from each of two pods to the other, for so long.
    ///
    /// # Panics
    /// If the pods don't start.
    #[track_caller]
    pub fn start(namespace: &Namespace<'_>, seconds: u64) -> Self {
        const PODS: [&str; 2] = ["left", "right"];
        namespace.up([pod(PODS[0], 1, [load()]), pod(PODS[1], 2, [load()])]);
        let clients = [[0, 1], [1, 0]].map(|[client, server]| {
            let target = format!("{}:{LOAD_PORT}", namespace.address(PODS[server]));
            let time = seconds.to_string();
            let limit = (seconds + 60).to_string();
            let words = [
                "/adit-load",
                "--limit",
                &limit,
                "connect",
                &target,
                "--seconds",
                &time,
                "--rate",
                RATE,
            ];
            (PODS[client], namespace.start(PODS[client], LOAD, words))
        });
        Self {
            clients: clients.into(),
            limit: Duration::from_secs(seconds + 60),
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If a connection was refused, cut, or not answered within half a minute.
    #[track_caller]
    pub fn all_answered(self) {
        for (client, running) in self.clients {
            let found: Connect = running.finish(self.limit).json();
            assert_answered(client, &found);
        }
    }
}

/// Panics if one of the connections of `client` was refused, cut or not answered, or none was made.
#[track_caller]
pub(super) fn assert_answered(client: &str, found: &Connect) {
    assert_eq!(
        (found.failed, &found.first_failure),
        (0, &None),
        "{client}: {found:?}"
    );
    assert!(found.count > 0, "{client}: {found:?}");
    eprintln!(
        "{client}: {} connections, the slowest answered after {:.1} s",
        found.count,
        found.first_byte.max_ns as f64 / 1e9
    );
}
