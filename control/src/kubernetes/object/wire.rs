//! The API's JSON, as far as it's read. Lists that are `null` are empty ones, as Go writes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::{Key, Labels};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::kubernetes) struct Meta {
    pub(in crate::kubernetes) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) uid: String,
    pub(super) labels: Option<Labels>,
    annotations: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

impl Meta {
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    pub(super) fn key(self) -> Key {
        Key::new(self.namespace, self.name)
    }
}

/// An object of which only the metadata matter.
#[derive(Deserialize)]
pub(super) struct Named {
    pub(super) metadata: Meta,
}

#[derive(Deserialize)]
pub(super) struct Node {
    pub(super) metadata: Meta,
    #[serde(default)]
    pub(super) spec: NodeSpec,
    #[serde(default)]
    pub(super) status: NodeStatus,
}

#[derive(Default, Deserialize)]
pub(super) struct NodeSpec {
    #[serde(default, rename = "podCIDRs", deserialize_with = "list")]
    pub(super) pod_cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct NodeStatus {
    #[serde(default, deserialize_with = "list")]
    pub(super) addresses: Vec<NodeAddress>,
}

#[derive(Deserialize)]
pub(super) struct NodeAddress {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) address: String,
}

#[derive(Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: Meta,
    pub(super) spec: PodSpec,
    #[serde(default)]
    pub(super) status: PodStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
    pub(super) service_account_name: Option<String>,
    #[serde(default)]
    pub(super) host_network: bool,
    #[serde(default, deserialize_with = "list")]
    pub(super) containers: Vec<Container>,
    #[serde(default, deserialize_with = "list")]
    pub(super) init_containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) restart_policy: Option<String>,
    #[serde(default, deserialize_with = "list")]
    pub(super) ports: Vec<ContainerPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerPort {
    pub(super) name: Option<String>,
    pub(super) container_port: u16,
    pub(super) protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    #[serde(default)]
    pub(super) phase: String,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    #[serde(default, rename = "podIPs", deserialize_with = "list")]
    pub(super) pod_ips: Vec<PodIp>,
    #[serde(default, deserialize_with = "list")]
    pub(super) conditions: Vec<Condition>,
}

#[derive(Deserialize)]
pub(super) struct PodIp {
    pub(super) ip: String,
}

#[derive(Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
}

#[derive(Deserialize)]
pub(super) struct Service {
    pub(super) spec: ServiceSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs", deserialize_with = "list")]
    pub(super) cluster_ips: Vec<String>,
    pub(super) internal_traffic_policy: Option<String>,
    #[serde(default, deserialize_with = "list")]
    pub(super) ports: Vec<Port>,
}

#[derive(Deserialize)]
pub(super) struct Port {
    pub(super) name: Option<String>,
    pub(super) port: u16,
    pub(super) protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    pub(super) metadata: Meta,
    pub(super) address_type: String,
    #[serde(default, deserialize_with = "list")]
    pub(super) endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "list")]
    pub(super) ports: Vec<EndpointPort>,
}

#[derive(Deserialize)]
pub(super) struct EndpointPort {
    pub(super) name: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    #[serde(default, deserialize_with = "list")]
    pub(super) addresses: Vec<String>,
    #[serde(default)]
    pub(super) conditions: EndpointConditions,
    pub(super) node_name: Option<String>,
    pub(super) target_ref: Option<TargetRef>,
}

#[derive(Default, Deserialize)]
pub(super) struct EndpointConditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct TargetRef {
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
}

fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
