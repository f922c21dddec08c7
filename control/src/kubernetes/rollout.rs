//! Whether a DaemonSet has done its work on every node.

use std::time::Duration;

use kube::Client;
use serde::Deserialize;
use tokio::time::sleep;

use super::api::{self, ApiError};

/// How often it's looked.
const PAUSE: Duration = Duration::from_secs(1);

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

/// Waits until every node's pod of a DaemonSet is ready, as long as it takes. `told` hears of each change, and of an API
/// server that doesn't answer.
pub async fn await_daemon_set(
    client: &Client,
    namespace: &str,
    name: &str,
    mut told: impl FnMut(Result<Rollout, String>),
) {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}");
    let mut last = None;
    loop {
        let now = look(client, &path).await.map_err(|error| error.to_string());
        if last.as_ref() != Some(&now) {
            told(now.clone());
        }
        if now.as_ref().is_ok_and(Rollout::is_done) {
            return;
        }
        last = Some(now);
        sleep(PAUSE).await;
    }
}

async fn look(client: &Client, path: &str) -> Result<Rollout, ApiError> {
    let answer: DaemonSet = serde_json::from_slice(&api::get(client, path).await?)?;
    Ok(answer.rollout())
}

#[derive(Deserialize)]
struct DaemonSet {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    generation: i64,
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
        let Self { metadata, status } = self;
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
}
