//! Whether a DaemonSet has done its work on every node, and where it hasn't.

mod laggards;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kube::Client;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::api::{self, ApiError};
pub use laggards::Laggard;
use laggards::Pods;

/// How often it's looked.
const PAUSE: Duration = Duration::from_secs(1);

/// Nodes that are named, at most.
const NAMED: usize = 20;

/// How far a DaemonSet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Nodes on which its pod is ready.
    pub ready: u32,
    /// Nodes that are to run it; `None` while its controller hasn't looked at it.
    pub wanted: Option<u32>,
}

impl Rollout {
    /// Whether its pods are ready on all nodes.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.ready >= wanted)
    }
}

/// Not every node's pod became ready in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfinishedError {
    /// The API server doesn't tell.
    #[error("which nodes aren't done can't be told: {reason}")]
    Unknown {
        /// What came of asking it.
        reason: String,
    },
    /// These nodes aren't done, or some that have no pod yet.
    #[error("{} of {} nodes aren't done: {}", .rollout.missing(), .rollout.of(), Named(.laggards))]
    Nodes {
        /// How far it is.
        rollout: Rollout,
        /// Pods that aren't ready, by their nodes' names.
        laggards: Vec<Laggard>,
    },
}

impl Rollout {
    fn missing(&self) -> u32 {
        self.wanted.unwrap_or_default().saturating_sub(self.ready)
    }

    fn of(&self) -> u32 {
        self.wanted.unwrap_or_default()
    }
}

/// The first so many.
struct Named<'a>(&'a [Laggard]);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("they have no pod of it yet");
        }
        for (at, laggard) in self.0.iter().take(NAMED).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{laggard}")?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Waits until every node's pod of a DaemonSet is ready, and at most for `patience`. `told` hears of each change, and of an API
/// server that doesn't answer.
///
/// # Errors
/// [`UnfinishedError`] after that time. Reading the DaemonSet and listing the pods beside it must be allowed.
pub async fn await_daemon_set(
    client: &Client,
    namespace: &str,
    name: &str,
    patience: Duration,
    mut told: impl FnMut(Result<Rollout, String>),
) -> Result<(), UnfinishedError> {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}");
    let deadline = Instant::now() + patience;
    let mut last = None;
    loop {
        let set = look(client, &path).await.map_err(|error| error.to_string());
        let now = set.as_ref().map(DaemonSet::rollout).map_err(Clone::clone);
        if last.as_ref() != Some(&now) {
            told(now.clone());
        }
        if now.as_ref().is_ok_and(Rollout::is_done) {
            return Ok(());
        }
        last = Some(now);
        if Instant::now() >= deadline {
            let unknown = |reason| UnfinishedError::Unknown { reason };
            let set = set.map_err(unknown)?;
            let pods = pods(client, namespace, &set).await;
            return Err(UnfinishedError::Nodes {
                rollout: set.rollout(),
                laggards: pods.map_err(|error| unknown(error.to_string()))?.laggards(),
            });
        }
        sleep(PAUSE.min(deadline - Instant::now())).await;
    }
}

async fn look(client: &Client, path: &str) -> Result<DaemonSet, ApiError> {
    Ok(serde_json::from_slice(&api::get(client, path).await?)?)
}

async fn pods(client: &Client, namespace: &str, set: &DaemonSet) -> Result<Pods, ApiError> {
    // Keys and values of labels have no character that would have to be escaped in a query.
    let labels = set.spec.selector.match_labels.iter();
    let labels: Vec<_> = labels.map(|(key, value)| format!("{key}%3D{value}")).collect();
    let path = format!(
        "/api/v1/namespaces/{namespace}/pods?labelSelector={}",
        labels.join("%2C")
    );
    Ok(serde_json::from_slice(&api::get(client, &path).await?)?)
}

#[derive(Deserialize)]
struct DaemonSet {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    generation: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    selector: Selector,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
    desired_number_scheduled: u32,
    number_ready: u32,
    updated_number_scheduled: u32,
}

impl DaemonSet {
    fn rollout(&self) -> Rollout {
        let Self { metadata, status, .. } = self;
        Rollout {
            // Pods of an older template may be ready for something else.
            ready: status.number_ready.min(status.updated_number_scheduled),
            wanted: (status.observed_generation >= metadata.generation)
                .then_some(status.desired_number_scheduled),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rollout(status: serde_json::Value) -> Rollout {
        let text = json!({"metadata": {"generation": 2}, "status": status});
        serde_json::from_value::<DaemonSet>(text).unwrap().rollout()
    }

    #[test]
    fn it_is_done_when_all_nodes_of_the_newest_template_are_ready() {
        let status = |observed, wanted, updated, ready| {
            rollout(json!({
                "observedGeneration": observed, "desiredNumberScheduled": wanted,
                "updatedNumberScheduled": updated, "numberReady": ready,
            }))
        };
        assert!(status(2, 3, 3, 3).is_done());
        assert!(status(2, 0, 0, 0).is_done(), "there is no node");
        assert!(!status(2, 3, 3, 2).is_done());
        assert!(!status(2, 3, 1, 3).is_done(), "two are of an older template");
        assert!(
            !status(1, 3, 3, 3).is_done(),
            "not looked at since it was changed"
        );
        assert!(!rollout(json!({})).is_done(), "just made");
    }

    #[test]
    fn nodes_are_named_as_far_as_a_line_takes_them() {
        let said = |count: u32| {
            let laggard = |number| Laggard {
                node: format!("kn{number}"),
                state: "Pending".into(),
            };
            let error = UnfinishedError::Nodes {
                rollout: Rollout {
                    ready: 2,
                    wanted: Some(2 + count),
                },
                laggards: (1..=count).map(laggard).collect(),
            };
            error.to_string()
        };
        assert_eq!(said(0), "0 of 2 nodes aren't done: they have no pod of it yet");
        assert_eq!(said(2), "2 of 4 nodes aren't done: kn1 (Pending), kn2 (Pending)");
        let many = said(23);
        assert!(
            many.starts_with("23 of 25 nodes") && many.ends_with("kn20 (Pending) and 3 more"),
            "{many}"
        );
    }
}
