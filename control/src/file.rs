//! The mesh file as it is written: its types are the schema, their docs the published documentation.
//!
//! Nothing here is checked beyond shape; [`Mesh`](crate::Mesh) is the checked form. Field names are those
//! of Kubernetes wherever Kubernetes has one, so that a pod spec's lines can be moved over as they stand.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `apiVersion` that this build reads.
pub const API_VERSION: &str = "adit.dev/v1alpha1";

/// A mesh: the namespaces, workloads and services that one `adit up` runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshFile {
    /// The version of this format.
    pub api_version: ApiVersion,
    /// The kind of document.
    pub kind: Kind,
    /// The mesh's name, by which `adit run --mesh NAME` finds it: a DNS label.
    pub name: String,
    /// The trust domain of every identity in the mesh. Default: `cluster.local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// The address ranges. Default: 10.77.0.0/16 and fd77:6164:6974:77::/64 for workloads,
    /// 10.78.0.0/16 and fd77:6164:6974:78::/64 for services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<AddressesFile>,
    /// The hosts that run the mesh together. Leave it out where one host runs all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeFile>,
    /// The namespaces; at least one.
    pub namespaces: Vec<NamespaceFile>,
    /// The workloads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<WorkloadFile>,
    /// The services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceFile>,
    /// Policy files, or folders of them (`*.yaml`, `*.yml`, `*.json`), relative to this file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// The workload that `adit up --once` runs as the test, `NAMESPACE/NAME`: everything else is there for it, and ends
    /// with it. One of several replicas is `NAMESPACE/NAME-0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
}

impl MeshFile {
    /// The file as JSON, which is YAML too.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a value with text keys is JSON")
    }
}

/// The versions of the format that this build reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The first.
    #[serde(rename = "adit.dev/v1alpha1")]
    V1Alpha1,
}

/// The kinds of document that this build reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// The whole mesh in one file.
    Mesh,
}

/// Where addresses come from. Each list holds one range of each IP version at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressesFile {
    /// Ranges for workloads, such as `10.77.0.0/16`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
    /// Ranges for services, such as `10.78.0.0/16`. The tenth address answers DNS queries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// A host that runs some of the workloads (`adit up --node NAME`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeFile {
    /// The node's name: a DNS name.
    pub name: String,
    /// The address and port where the other nodes reach its HBONE listener, such as `192.0.2.7:15008`.
    pub hbone: String,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceFile {
    /// Its name: a DNS label.
    pub name: String,
    /// Labels that policies select by. `kubernetes.io/metadata.name` is always set to the name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A program that runs in a network namespace of its own, with its own address and identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadFile {
    /// Its name: a DNS label.
    pub name: String,
    /// The namespace it belongs to.
    pub namespace: String,
    /// The node that runs it. Required where the mesh has nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// How many to run. With it, the replicas are called `NAME-0`, `NAME-1`, and so on; without it there is
    /// one, called `NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub replicas: Option<u32>,
    /// Labels that services and policies select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whose identity it has: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// The program and its first arguments. Looked up in PATH unless it has a slash.
    pub command: Vec<String>,
    /// Further arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables, besides those that `adit up` was started with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// The folder it starts in, relative to this file. Default: the folder of this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The ports it listens on. A port that isn't listed can be reached all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// When services may send it connections. Without one it is ready as soon as it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<ProbeFile>,
    /// What happens when it ends. Default: `Always`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value. Default: the empty text.
    #[serde(default)]
    pub value: String,
}

/// A port that a workload listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPort {
    /// The name that services, probes and policies may use instead of the number: at most 15 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The number.
    #[schemars(range(min = 1))]
    pub container_port: u16,
    /// The transport. Default: `TCP`.
    #[serde(default)]
    pub protocol: Transport,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// SCTP, between workloads of one node.
    Sctp,
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// What happens when a workload's program ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestartPolicy {
    /// It is started again, with a growing pause.
    #[default]
    Always,
    /// It is started again unless it ended with status 0.
    OnFailure,
    /// It stays ended.
    Never,
}

/// A check that tells whether a workload is ready. Exactly one of `exec`, `httpGet` and `tcpSocket`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeFile {
    /// Ready when this command, run in the workload's network namespace, ends with status 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecFile>,
    /// Ready when an HTTP GET is answered with a status from 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetFile>,
    /// Ready when a TCP connection is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketFile>,
    /// The wait before the first check, in seconds. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 86400))]
    pub initial_delay_seconds: Option<u32>,
    /// The time from check to check, in seconds. Default: 1 (Kubernetes: 10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub period_seconds: Option<u32>,
    /// How long one check may take, in seconds. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<u32>,
    /// How many checks in a row must pass before it is ready. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub success_threshold: Option<u32>,
    /// How many checks in a row must fail before it is not ready. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub failure_threshold: Option<u32>,
}

/// A command as a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecFile {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
}

/// An HTTP request as a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGetFile {
    /// The path, with a leading slash. Default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The port, by number or by the name under the workload's `ports`.
    pub port: PortFile,
}

/// A TCP connection as a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpSocketFile {
    /// The port, by number or by the name under the workload's `ports`.
    pub port: PortFile,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortFile {
    /// By number.
    Number(#[schemars(range(min = 1))] u16),
    /// By the name under a workload's `ports`.
    Name(String),
}

/// A stable name and address for the workloads that its selector matches, in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceFile {
    /// Its name: a DNS label.
    pub name: String,
    /// The namespace it belongs to.
    pub namespace: String,
    /// The labels that a workload must have, all of them; at least one.
    pub selector: BTreeMap<String, String>,
    /// `None` makes it headless: its name resolves to the addresses of its ready workloads.
    #[serde(default, rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<ClusterIp>,
    /// Its ports. A headless service needs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePortFile>,
}

/// The values that `clusterIP` may have: an address of one's own choice is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClusterIp {
    /// A headless service.
    None,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePortFile {
    /// Its name: a DNS label. Required where the service has several ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The number that clients connect to.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The transport. Default: `TCP`.
    #[serde(default)]
    pub protocol: Transport,
    /// The workload's port, by number or by the name under its `ports`. Default: the same number as `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<PortFile>,
}
