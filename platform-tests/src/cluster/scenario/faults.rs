//! Things that break, and pods that come and go.

use std::time::{Duration, Instant};

use super::traffic::dial;
use crate::cluster::Namespace;
use crate::cluster::objects::{WEB_PORT, pod, shell, web};
use crate::process::wait_until;

/// A client and a server on different nodes, to see whether the one reaches the other.
#[derive(Debug)]
pub struct Reach<'n, 'c> {
    namespace: &'n Namespace<'c>,
}

/// Starts the two.
///
/// # Panics
/// If they don't start.
#[track_caller]
pub fn reach<'n, 'c>(namespace: &'n Namespace<'c>) -> Reach<'n, 'c> {
    namespace.up([pod("client", 1, [web(), shell()]), pod("server", 2, [web()])]);
    let reach = Reach { namespace };
    reach.now();
    reach
}

impl Reach<'_, '_> {
    /// One request.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn now(&self) {
        let server = self.namespace.address("server").to_string();
        let names = dial(
            self.namespace,
            "client",
            "http",
            (&server, WEB_PORT),
            "hostname",
            1,
        );
        assert_eq!(names, ["server"]);
    }

    /// Waits until requests succeed again; how long that took from `since` on.
    ///
    /// # Panics
    /// After two minutes.
    #[track_caller]
    pub fn again(&self, since: Instant) -> Duration {
        wait_until(
            "requests to succeed again",
            Duration::from_secs(120),
            || self.succeeds().then_some(()),
            || self.namespace.kubectl(["get", "pods", "-o", "wide"]).raw_stdout(),
        );
        since.elapsed()
    }

    /// Cuts the power of the server's node, and waits until requests succeed again.
    ///
    /// # Panics
    /// If the node, or the server on it, doesn't come back.
    #[track_caller]
    pub fn after_power_cut(&self) {
        let begun = Instant::now();
        self.namespace.cluster().restart(["node", "2"]);
        self.namespace.wait_ready("server");
        eprintln!("after the power cut: {:?}", self.again(begun));
    }

    fn succeeds(&self) -> bool {
        let server = self.namespace.pod("server", "{.status.podIP}");
        let path = format!("/dial?host={server}&port={WEB_PORT}&protocol=http&request=hostname&tries=1");
        let answer = super::http(self.namespace, "client", "127.0.0.1", WEB_PORT, &path);
        answer.raw_stdout().contains(r#"["server"]"#)
    }
}

/// Pods that are made and deleted in a loop.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    /// How many in all.
    pub pods: u64,
    /// How many at once.
    pub batch: u64,
}

/// Makes and deletes pods on both nodes.
///
/// # Panics
/// If one doesn't become ready, or doesn't go away.
#[track_caller]
pub fn churn(namespace: &Namespace<'_>, churn: Churn) {
    let mut made = 0;
    while made < churn.pods {
        let batch = churn.batch.min(churn.pods - made);
        namespace.up((0..batch).map(|index| {
            let node = if index % 2 == 0 { 1 } else { 2 };
            let mut pod = pod(&format!("pod-{}", made + index), node, [shell()]);
            pod["metadata"]["labels"]["app"] = "churn".into();
            pod
        }));
        namespace
            .kubectl(["delete", "pods", "-l", "app=churn", "--timeout=100s"])
            .stdout();
        made += batch;
    }
}
