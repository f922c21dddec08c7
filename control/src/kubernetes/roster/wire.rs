//! Pods and namespaces in the API's JSON, as far as a roster looks at them.

use serde::Deserialize;
use serde_json::Value;

use super::super::object::Labels;

#[derive(Deserialize)]
pub(in crate::kubernetes) struct List {
    /// `null` for an empty one, as Go writes it.
    pub(in crate::kubernetes) items: Option<Vec<Item>>,
}

/// A pod or a namespace.
#[derive(Deserialize)]
pub(in crate::kubernetes) struct Item {
    pub(in crate::kubernetes) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: Spec,
    #[serde(default)]
    pub(super) status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::kubernetes) struct Metadata {
    pub(super) name: String,
    #[serde(default)]
    pub(in crate::kubernetes) labels: Labels,
    #[serde(default)]
    pub(super) annotations: Labels,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    managed_fields: Vec<Managed>,
}

/// Which fields somebody has written, and when last.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Managed {
    time: Option<String>,
    #[serde(default)]
    fields_v1: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) node_name: Option<String>,
    #[serde(default)]
    pub(super) host_network: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(default)]
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Metadata {
    pub(super) fn is_leaving(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// When whoever owns this annotation last wrote something.
    pub(super) fn annotated_at(&self, annotation: &str) -> Option<String> {
        let field = format!("f:{annotation}");
        let owns = |managed: &&Managed| !managed.fields_v1["f:metadata"]["f:annotations"][&field].is_null();
        self.managed_fields.iter().find(owns)?.time.clone()
    }
}

impl Status {
    /// Whether the pod has addresses and hasn't ended; containers may still be starting.
    pub(super) fn has_network(&self) -> bool {
        let has_ended = matches!(self.phase.as_str(), "Failed" | "Succeeded");
        !has_ended && self.pod_ip.as_ref().is_some_and(|address| !address.is_empty())
    }
}

impl Item {
    pub(super) fn is_ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter();
        conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
}
