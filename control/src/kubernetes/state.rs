//! What the source publishes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::WorkloadName;

use super::object::Capability;
use crate::mesh::PolicyDocument;
use crate::snapshot::Snapshot;

/// The cluster at one moment, as one node's agent needs it: immutable, replaced whole.
#[derive(Clone, Debug)]
pub struct State {
    /// Workloads, services and namespaces. Pods on their host's network are no workloads: their addresses are their
    /// node's.
    pub snapshot: Arc<Snapshot>,
    /// The pods of this node that belong in the mesh, by their labels and their namespace's, in order of name.
    pub wanted: Vec<WantedPod>,
    /// Every object that has a bearing on policy, one JSON document each with its `apiVersion` and `kind`, in order of
    /// path. What didn't change is the same `Arc` from state to state. A path such as
    /// `networkpolicies.networking.k8s.io/shop/web` names one in messages.
    pub policies: Vec<Arc<PolicyDocument>>,
    /// The service accounts that have labels, by which Calico's policies select.
    pub accounts: Vec<Arc<Account>>,
}

/// A pod of this node that belongs in the mesh, captured or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPod {
    /// What tells it from an earlier pod of the same name.
    pub uid: Arc<str>,
    /// Namespace and name.
    pub name: WorkloadName,
    /// Its addresses, IPv4 first; one of each IP version at most, never empty.
    pub addresses: Vec<IpAddr>,
    /// Where its peers believe that it takes HBONE, because [`annotate`](super::annotate()) wrote so. An agent that died may have
    /// left that behind.
    pub capability: Capability,
}

/// A service account with labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels; never empty.
    pub labels: BTreeMap<String, String>,
}
