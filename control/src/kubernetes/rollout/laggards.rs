//! The pods of a DaemonSet that aren't ready, by their nodes. Pure.

use std::fmt;

use serde::Deserialize;

/// A pod that isn't ready.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Laggard {
    /// The node that it's for; empty if it's for none yet.
    pub node: String,
    /// Why it isn't ready, in words.
    pub state: String,
}

impl fmt::Display for Laggard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = match self.node.as_str() {
            "" => "a node to be chosen",
            node => node,
        };
        write!(f, "{node} ({})", self.state)
    }
}

/// What the API says of pods; of each what is looked at.
#[derive(Deserialize)]
pub(super) struct Pods {
    #[serde(default)]
    items: Vec<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    affinity: Affinity,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: NodeAffinity,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Terms,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terms {
    node_selector_terms: Vec<Term>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Term {
    match_fields: Vec<Requirement>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Requirement {
    key: String,
    values: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
    container_statuses: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container {
    state: ContainerState,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Waiting>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: String,
}

impl Pods {
    /// Those that aren't ready, in the order of their nodes' names.
    pub(super) fn laggards(&self) -> Vec<Laggard> {
        let lagging = self.items.iter().filter(|pod| !pod.status.is_ready());
        let mut laggards: Vec<_> = lagging
            .map(|pod| Laggard {
                node: pod.spec.node().to_owned(),
                state: pod.state(),
            })
            .collect();
        laggards.sort();
        laggards
    }
}

impl Pod {
    fn state(&self) -> String {
        let Status {
            phase,
            container_statuses,
            ..
        } = &self.status;
        let waiting = container_statuses
            .iter()
            .find_map(|one| one.state.waiting.as_ref());
        match (waiting, phase.as_str()) {
            (Some(waiting), _) if !waiting.reason.is_empty() => waiting.reason.clone(),
            // The kubelet writes what becomes of its containers as soon as it has heard of a pod.
            (_, "Pending") if !self.spec.node_name.is_empty() && container_statuses.is_empty() => {
                "its kubelet hasn't taken the pod".to_owned()
            }
            (_, "Running") => "its pod runs and isn't ready".to_owned(),
            (_, "") => "its pod has no state".to_owned(),
            (_, phase) => phase.to_owned(),
        }
    }
}

impl Spec {
    /// Its node, or before the scheduler has looked at the pod the one that the DaemonSet's controller made it for.
    fn node(&self) -> &str {
        if !self.node_name.is_empty() {
            return &self.node_name;
        }
        let Terms { node_selector_terms } = &self
            .affinity
            .node_affinity
            .required_during_scheduling_ignored_during_execution;
        let fields = node_selector_terms.iter().flat_map(|term| &term.match_fields);
        let mut names = fields.filter(|field| field.key == "metadata.name");
        let name = names.next().and_then(|field| field.values.first());
        name.map_or("", String::as_str)
    }
}

impl Status {
    fn is_ready(&self) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.any(|condition| condition.r#type == "Ready" && condition.status == "True")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn laggards(pods: &[Value]) -> Vec<String> {
        let pods: Pods = serde_json::from_value(json!({ "items": pods })).unwrap();
        pods.laggards().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pods_that_are_not_ready_say_where_and_why() {
        let unscheduled = json!({
            "spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": ["kn5"]}]}]}}}},
            "status": {"phase": "Pending"},
        });
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let not_ready =
            json!([{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]);
        let waiting = json!([{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
        let running = json!([{"state": {"running": {}}}]);
        assert_eq!(
            laggards(&[
                unscheduled,
                json!({"spec": {"nodeName": "kn4"}, "status": {"phase": "Running", "conditions": ready,
                    "containerStatuses": running}}),
                json!({"spec": {"nodeName": "kn3"}, "status": {"phase": "Running", "conditions": not_ready,
                    "containerStatuses": running}}),
                json!({"spec": {"nodeName": "kn2"}, "status": {"phase": "Pending", "containerStatuses": waiting}}),
                json!({"spec": {"nodeName": "kn1"}, "status": {"phase": "Pending"}}),
                json!({"status": {"phase": "Failed"}}),
            ]),
            [
                "a node to be chosen (Failed)",
                "kn1 (its kubelet hasn't taken the pod)",
                "kn2 (ImagePullBackOff)",
                "kn3 (its pod runs and isn't ready)",
                "kn5 (Pending)",
            ]
        );
        assert_eq!(laggards(&[]), [""; 0]);
    }
}
