//! What policies are about: namespaces, service accounts, pods, network sets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::{Protocol, WorkloadName};
use ipnet::IpNet;

/// Labels of one object.
pub type LabelMap = BTreeMap<String, String>;

/// A namespace and its labels, `kubernetes.io/metadata.name` included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: LabelMap,
}

/// A service account and its labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: LabelMap,
}

/// A pod as far as policies can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Namespace and name.
    pub name: WorkloadName,
    /// Its labels.
    pub labels: LabelMap,
    /// The name of its service account, `default` unless it says otherwise.
    pub account: Arc<str>,
    /// Its own addresses; empty while it has none. Policies can't tell one without an address from the outside.
    pub addresses: Vec<IpAddr>,
    /// The ports that its containers declare.
    pub ports: Vec<ContainerPort>,
    /// Addresses of the node it runs on: traffic from them is always let in (kubelet probes).
    pub node_addresses: Vec<IpAddr>,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// The name by which policies may refer to it.
    pub name: Option<Arc<str>>,
    /// The number.
    pub number: u16,
    /// TCP unless it says otherwise.
    pub protocol: Protocol,
}

/// Calico's NetworkSet, or GlobalNetworkSet where it has no namespace: addresses with labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    /// Its namespace; `None` for the global kind.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: LabelMap,
    /// Its addresses.
    pub nets: Vec<IpNet>,
}

/// All that a selector can see of a pod or network set.
///
/// Pods that share it are of one class: whatever is selected by labels is computed once for the class, and a
/// deployment's replicas cost no more than one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Pod or network set.
    pub kind: EndpointKind,
    /// Its namespace, if it has one.
    pub namespace: Option<Arc<Namespace>>,
    /// Its own labels.
    pub labels: LabelMap,
    /// Its service account; pods only.
    pub account: Option<Arc<Account>>,
}

/// What an [`Endpoint`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointKind {
    /// A pod.
    Pod,
    /// A network set.
    Set,
}

impl Endpoint {
    /// Whether it stands for pods.
    pub fn is_pod(&self) -> bool {
        self.kind == EndpointKind::Pod
    }
}

impl Namespace {
    /// A namespace with the label that every namespace carries without it being written.
    pub fn new(name: &str, mut labels: LabelMap) -> Self {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        Self {
            name: name.into(),
            labels,
        }
    }
}
