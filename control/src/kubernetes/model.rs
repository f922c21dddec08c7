//! What the objects of the API amount to for one node: a pure function of them, kept up to date change by change.
//!
//! Each pod's workload and each service is made anew only when something that it's made of changed, and shared between one
//! [`State`] and the next. What remains for each state are the indexes over them.

mod intern;
mod pods;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use adit_flow::WorkloadName;
use adit_identity::TrustDomain;

use super::kind::{Kind, Role};
use super::list_watch::{Change, Item, What};
use super::membership;
use super::object::{Key, Labels, Object};
use super::state::{Account, State, WantedPod};
use crate::mesh::PolicyDocument;
use crate::snapshot::{Snapshot, SnapshotParts};
use pods::Pods;
use services::Services;

/// All that is known of the cluster.
pub(super) struct Model {
    trust_domain: TrustDomain,
    generation: u64,
    namespaces: Arc<BTreeMap<String, Labels>>,
    pods: Pods,
    services: Services,
    policies: BTreeMap<(Kind, Key), Arc<PolicyDocument>>,
    accounts: BTreeMap<Key, Arc<Account>>,
}

impl Model {
    /// Nothing known yet, seen from the node called `node`.
    pub(super) fn new(node: &str, trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            generation: 0,
            namespaces: Arc::default(),
            pods: Pods::new(node),
            services: Services::new(node),
            policies: BTreeMap::new(),
            accounts: BTreeMap::new(),
        }
    }

    /// Takes a change. Returns whether the next state differs from the last.
    pub(super) fn apply(&mut self, change: Change<Object>) -> bool {
        let kind = change.kind;
        match change.what {
            What::Changed(item) => self.put(kind, item),
            What::Listed(items) => {
                let mut gone = self.keys(kind);
                for item in &items {
                    gone.remove(&item.key);
                }
                let gone = gone.into_iter().map(|key| Item { key, object: None });
                let mut changed = false;
                for item in gone.chain(items) {
                    changed |= self.put(kind, item);
                }
                changed
            }
        }
    }

    /// A kind is no longer served: none of its objects is there.
    pub(super) fn forget(&mut self, kind: Kind) -> bool {
        let what = What::Listed(Vec::new());
        self.apply(Change { kind, what })
    }

    /// The pods of this node, by uid, whose flows the agent carries.
    pub(super) fn set_captured(&mut self, captured: BTreeSet<Arc<str>>) -> bool {
        self.pods.set_captured(captured)
    }

    /// The state as it is now.
    pub(super) fn state(&mut self) -> State {
        self.generation += 1;
        self.services.refresh(&self.pods);
        let snapshot = Snapshot::new(SnapshotParts {
            generation: self.generation,
            mesh: self.trust_domain.to_string(),
            trust_domain: self.trust_domain.clone(),
            namespaces: Arc::clone(&self.namespaces),
            workloads: self.pods.workloads().map(Arc::clone).collect(),
            services: self.services.all().map(Arc::clone).collect(),
            dns: Vec::new(),
            ranges: None,
        });
        State {
            snapshot: Arc::new(snapshot),
            wanted: self.wanted(),
            policies: self.policies.values().map(Arc::clone).collect(),
            accounts: self.accounts.values().map(Arc::clone).collect(),
        }
    }

    fn wanted(&self) -> Vec<WantedPod> {
        let belongs = |name: &WorkloadName, labels: &Labels| {
            membership::by_labels(labels, self.namespaces.get(&name.namespace))
        };
        self.pods.local(belongs)
    }

    fn keys(&self, kind: Kind) -> BTreeSet<Key> {
        match kind.role {
            Role::Account => self.accounts.keys().cloned().collect(),
            Role::Definition => BTreeSet::new(),
            Role::EndpointSlice => self.services.slice_keys(),
            Role::Namespace => self.namespaces.keys().map(|name| Key::new("", name)).collect(),
            Role::Node => self.pods.node_keys(),
            Role::Pod => self.pods.keys(),
            Role::Policy => {
                let of_kind = self.policies.keys().filter(|(of, _)| *of == kind);
                of_kind.map(|(_, key)| key.clone()).collect()
            }
            Role::Service => self.services.keys(),
        }
    }

    /// The role of an object is that of its kind, which `object::read` sees to; what is gone has no object.
    fn put(&mut self, kind: Kind, item: Item<Object>) -> bool {
        let Item { key, object } = item;
        match (kind.role, object) {
            (_, Some(Object::Account(account))) => replace(&mut self.accounts, key, Some(Arc::new(account))),
            (_, Some(Object::Definition)) => false,
            (_, Some(Object::EndpointSlice(slice))) => self.services.put_slice(key, Some(slice)),
            (_, Some(Object::Namespace(labels))) => self.put_namespace(key, Some(labels)),
            (_, Some(Object::Node(node))) => self.pods.put_node(key, Some(node)),
            (_, Some(Object::Pod(pod))) => self.put_pod(key, Some(pod)),
            (_, Some(Object::Policy(policy))) => {
                replace(&mut self.policies, (kind, key), Some(Arc::new(policy)))
            }
            (_, Some(Object::Service(service))) => self.services.put(key, Some(service)),
            (Role::Account, None) => replace(&mut self.accounts, key, None),
            (Role::Definition, None) => false,
            (Role::EndpointSlice, None) => self.services.put_slice(key, None),
            (Role::Namespace, None) => self.put_namespace(key, None),
            (Role::Node, None) => self.pods.put_node(key, None),
            (Role::Pod, None) => self.put_pod(key, None),
            (Role::Policy, None) => replace(&mut self.policies, (kind, key), None),
            (Role::Service, None) => self.services.put(key, None),
        }
    }

    fn put_namespace(&mut self, key: Key, labels: Option<Labels>) -> bool {
        if self.namespaces.get(&key.name) == labels.as_ref() {
            return false;
        }
        replace(Arc::make_mut(&mut self.namespaces), key.name, labels)
    }

    fn put_pod(&mut self, key: Key, pod: Option<super::object::Pod>) -> bool {
        let touched = self.pods.put(key.clone(), pod);
        if touched == pods::Touched::Addresses {
            self.services.pod_moved(&key);
        }
        touched != pods::Touched::Nothing
    }
}

/// Returns whether anything changed.
fn replace<K: Ord, V: PartialEq>(table: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        Some(value) if table.get(&key) == Some(&value) => false,
        Some(value) => {
            table.insert(key, value);
            true
        }
        None => table.remove(&key).is_some(),
    }
}

#[cfg(test)]
mod tests;
