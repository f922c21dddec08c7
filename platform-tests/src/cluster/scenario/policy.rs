//! Policies that are applied while a connection lives.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::streams::Ends;
use crate::cluster::Namespace;
use crate::cluster::objects::{LOAD, LOAD_PORT, load, pod};

/// What became of connections from a pod to another when a policy came that denies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// How long after `kubectl apply` a stream that lived was cut, if it was.
    pub stream: Option<Duration>,
    /// Whether a new connection came about after that.
    pub connects: bool,
}

/// A stream between two pods, and a new connection, when a policy comes; waits so long for the stream's end.
///
/// The server's pod has the label `app: server`, the client's `app: client`.
///
/// # Panics
/// If there is no stream before the policy comes, or the policy is refused.
#[track_caller]
pub fn cut_by(namespace: &Namespace<'_>, policy: Value, patience: Duration) -> Cut {
    let ends = Ends::within(namespace);
    ends.server.up([pod("server", 2, [load()])]);
    ends.client.up([pod("client", 1, [load()])]);
    assert!(connects(namespace), "there is no connection without the policy");
    let target = format!("{}:{LOAD_PORT}", namespace.address("server"));
    let mut stream = namespace.start(
        "client",
        LOAD,
        ["/adit-load", "stream", &target, "--seconds", "60", "--rate", "20"],
    );
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        !stream.has_ended(),
        "the stream ended by itself: {}",
        stream.stderr()
    );
    namespace.up([policy]);
    let applied = Instant::now();
    while !stream.has_ended() && applied.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    let cut = stream.has_ended().then(|| applied.elapsed());
    Cut {
        stream: cut,
        connects: connects(namespace),
    }
}

fn connects(namespace: &Namespace<'_>) -> bool {
    let target = format!("{}:{LOAD_PORT}", namespace.address("server"));
    let who = namespace.exec("client", LOAD, ["/adit-load", "--limit", "5", "who", &target]);
    who.code() == 0
}
