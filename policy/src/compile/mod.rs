//! Objects to published sets, one change at a time.
//!
//! The compiler owns the mutable side: which class each pod is of, which selectors match which class, which policies
//! select which class. A change touches only what hangs on it: a label moves one pod to another class; a policy that
//! comes, goes or changes makes new chains for the classes that it selects. [`Compiler::publish`] makes the chains and
//! hands out a [`PolicySet`] that shares everything else with the last.

pub(crate) mod addresses;
pub(crate) mod chain;
mod chains;
pub(crate) mod chunked;
mod classes;
pub(crate) mod extent;
mod ids;
mod index;
mod lower;
pub(crate) mod members;
mod policies;
mod ports;
pub(crate) mod shared;
mod workloads;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::WorkloadName;

use crate::inventory::{Account, Namespace};
use crate::model::{Body, Policy, Tier};
use crate::objects::{Object, ObjectKey};
use crate::set::{PolicySet, Tables};
use chain::Chains;
use chains::{ChainStore, Made, Part};
use classes::Matching;
use extent::Extent;
use ids::IdMap;
use members::SetIndex;
use policies::Policies;
use shared::Sharing;
use workloads::{PodRecord, SetRecord};

/// How rules that layer 4 can't enforce are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum L7WithoutWaypoint {
    /// A flow that such a rule might deny is denied.
    Deny,
    /// As Istio does: an ALLOW rule with HTTP attributes matches nothing, a DENY rule is read without them. The
    /// verdict says so.
    #[default]
    Istio,
}

/// What the mesh's configuration has to say about policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// See [`L7WithoutWaypoint`].
    pub l7_without_waypoint: L7WithoutWaypoint,
}

/// A change of one object.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is gone.
    Remove(ObjectKey),
    /// The object is there, as given.
    Upsert(Object),
}

/// Turns objects into [`PolicySet`]s.
#[derive(Debug, Default)]
pub struct Compiler {
    generation: u64,
    tables: Tables,
    matching: Matching,
    policies: Policies,
    sharing: Sharing,
    namespaces: HashMap<Arc<str>, Arc<Namespace>>,
    accounts: HashMap<(Arc<str>, Arc<str>), Arc<Account>>,
    pods: HashMap<WorkloadName, PodRecord>,
    /// Workloads that claim an address which another one had first.
    waiting: BTreeMap<IpAddr, Vec<WorkloadName>>,
    sets: BTreeMap<(Option<Arc<str>>, Arc<str>), SetRecord>,
    /// For each class of pods the policies that select it, in order.
    selected: IdMap<u32, Vec<u32>>,
    chains: ChainStore,
    /// Classes whose chains must be made anew.
    dirty: Extent,
    sets_changed: bool,
    published: Option<Arc<PolicySet>>,
}

impl Compiler {
    /// A compiler without objects.
    pub fn new(options: Options) -> Self {
        let mut compiler = Self::default();
        compiler.tables.l7_denies = options.l7_without_waypoint == L7WithoutWaypoint::Deny;
        compiler
    }

    /// A set of these objects alone, of generation 1.
    pub fn compile(options: Options, objects: Vec<Object>) -> Arc<PolicySet> {
        let mut compiler = Self::new(options);
        compiler.sync(objects);
        compiler.publish()
    }

    /// Applies one change. Nothing is seen of it before [`Compiler::publish`].
    pub fn apply(&mut self, change: Change) {
        self.published = None;
        match change {
            Change::Upsert(Object::Namespace { name, labels }) => {
                self.set_namespace(&name, Some(Namespace::new(&name, labels)));
            }
            Change::Upsert(Object::Policy(policy)) => self.set_policy(policy),
            Change::Upsert(Object::ServiceAccount {
                namespace,
                name,
                labels,
            }) => {
                let account = Account {
                    name: Arc::clone(&name),
                    labels,
                };
                self.set_account(namespace, name, Some(account));
            }
            Change::Upsert(Object::Set(set)) => self.set_network_set(set),
            Change::Upsert(Object::Tier(tier)) => self.set_tier(&Arc::clone(&tier.name), Some(tier)),
            Change::Upsert(Object::Workload(workload)) => self.set_workload(workload),
            Change::Remove(ObjectKey::Namespace(name)) => self.set_namespace(&name, None),
            Change::Remove(ObjectKey::Policy(key)) => {
                if let Some(slot) = self.policies.slot(&key) {
                    self.remove_policy(slot);
                }
            }
            Change::Remove(ObjectKey::ServiceAccount(namespace, name)) => {
                self.set_account(namespace, name, None)
            }
            Change::Remove(ObjectKey::Set(namespace, name)) => self.remove_network_set(&(namespace, name)),
            Change::Remove(ObjectKey::Tier(name)) => self.set_tier(&name, None),
            Change::Remove(ObjectKey::Workload(name)) => self.remove_workload(&name),
        }
    }

    /// Makes the compiler hold exactly `objects`: whatever it has besides is removed, what is unchanged costs a
    /// comparison. Of objects with one key the last counts.
    pub fn sync(&mut self, objects: Vec<Object>) {
        let mut wanted: BTreeMap<(u8, ObjectKey), Object> = BTreeMap::new();
        for object in objects {
            wanted.insert((rank(&object.key()), object.key()), object);
        }
        for key in self.keys() {
            if !wanted.contains_key(&(rank(&key), key.clone())) {
                self.apply(Change::Remove(key));
            }
        }
        for object in wanted.into_values() {
            if !self.holds(&object) {
                self.apply(Change::Upsert(object));
            }
        }
    }

    /// The set as the objects are now. Without a change since the last call it is the same set.
    pub fn publish(&mut self) -> Arc<PolicySet> {
        if let Some(set) = &self.published {
            return Arc::clone(set);
        }
        if std::mem::take(&mut self.sets_changed) {
            let prefixes = self
                .sets
                .values()
                .flat_map(|record| record.set.nets.iter().map(|net| (net, record.class)));
            self.tables.sets = Arc::new(SetIndex::new(prefixes));
        }
        // Many classes may be selected by the same policies, whose list is then looked at once.
        let mut made: IdMap<&[u32], Arc<Made>> = IdMap::default();
        for class in std::mem::take(&mut self.dirty).ids() {
            let slots = self.selected.get(&class).map(Vec::as_slice).unwrap_or_default();
            *self.tables.classes.entry(class) = if slots.is_empty() {
                self.chains.release(class);
                Chains::default()
            } else {
                let made = made
                    .entry(slots)
                    .or_insert_with(|| self.chains.make(&self.policies, slots));
                self.chains.assign(class, made)
            };
        }
        drop(made);
        self.chains.forget_unused();
        self.tables.policy_count = self.policies.len();
        self.generation += 1;
        let set = Arc::new(PolicySet {
            generation: self.generation,
            tables: self.tables.clone(),
        });
        self.published = Some(Arc::clone(&set));
        set
    }

    fn keys(&self) -> Vec<ObjectKey> {
        let policies = self.policies.keys().cloned().map(ObjectKey::Policy);
        let pods = self.pods.keys().cloned().map(ObjectKey::Workload);
        let sets = self
            .sets
            .keys()
            .cloned()
            .map(|(namespace, name)| ObjectKey::Set(namespace, name));
        let accounts = self
            .accounts
            .keys()
            .cloned()
            .map(|(namespace, name)| ObjectKey::ServiceAccount(namespace, name));
        let namespaces = self.namespaces.keys().cloned().map(ObjectKey::Namespace);
        let tiers = self.policies.tier_names().cloned().map(ObjectKey::Tier);
        policies
            .chain(pods)
            .chain(sets)
            .chain(accounts)
            .chain(namespaces)
            .chain(tiers)
            .collect()
    }

    fn holds(&self, object: &Object) -> bool {
        match object {
            Object::Namespace { name, labels } => self
                .namespaces
                .get(name)
                .is_some_and(|known| **known == Namespace::new(name, labels.clone())),
            Object::Policy(policy) => self
                .policies
                .slot(&policy.key)
                .and_then(|slot| self.policies.record(slot))
                .is_some_and(|record| record.policy == *policy),
            Object::ServiceAccount {
                namespace,
                name,
                labels,
            } => self
                .accounts
                .get(&(Arc::clone(namespace), Arc::clone(name)))
                .is_some_and(|known| known.labels == *labels),
            Object::Set(set) => self
                .sets
                .get(&(set.namespace.clone(), Arc::clone(&set.name)))
                .is_some_and(|record| record.set == *set),
            // Setting a tier compares for itself.
            Object::Tier(_) => false,
            Object::Workload(workload) => self
                .pods
                .get(&workload.name)
                .is_some_and(|record| record.workload == *workload),
        }
    }

    fn set_tier(&mut self, name: &Arc<str>, tier: Option<Tier>) {
        if !self.policies.set_tier(name, tier) {
            return;
        }
        // A policy whose tier came or went is compiled differently, and every place may have changed.
        for slot in self.policies.slots() {
            if let Some(policy) = self
                .policies
                .record(slot)
                .map(|record| Arc::clone(&record.policy))
            {
                self.set_policy(policy);
            }
        }
        let policies = &self.policies;
        for slots in self.selected.values_mut() {
            slots.sort_by(|left, right| policies.compare(*left, *right));
        }
        for class in self.selected.keys() {
            self.dirty.insert(*class);
        }
    }

    fn set_policy(&mut self, policy: Arc<Policy>) {
        let tier_is_known = match &policy.body {
            Body::Network(network) => self.policies.knows_tier(&network.tier),
            Body::Authorization(_) | Body::PeerAuthentication(_) => true,
        };
        let mut selectors = Vec::new();
        let (matching, extents) = (&mut self.matching, &mut self.tables.extents);
        let mut refer = |selector: &crate::selector::EndpointSelector| {
            let id = matching.refer(selector, extents);
            selectors.push(id);
            id
        };
        let subject = refer(&policy.subject);
        let compiled = lower::compile(&policy, tier_is_known, refer);
        let old = self.policies.slot(&policy.key);
        let stays = old
            .and_then(|slot| self.policies.record(slot))
            .is_some_and(|record| {
                record.subject == subject && self.policies.keeps_its_place(record, &policy)
            });
        if let Some(slot) = old.filter(|_| !stays) {
            self.deselect(slot);
        }
        let released = old
            .and_then(|slot| self.policies.record(slot))
            .map(|record| record.selectors.clone());
        let slot = self.policies.slot_for(&policy.key);
        let shared = &mut self.tables.shared;
        let gates = chains::gates_of(&compiled, |rule| self.sharing.gate(rule, shared));
        let replaced = self
            .policies
            .insert(slot, policy, &compiled, gates, subject, selectors);
        self.release_gates(replaced);
        *self.tables.policies.entry(slot) = Some(Arc::new(compiled));
        if stays {
            self.mark_selected(subject);
        } else {
            self.select(slot);
        }
        // Only now, so that selectors that old and new have in common were never forgotten.
        for id in released.unwrap_or_default() {
            self.matching.release(id, &mut self.tables.extents);
        }
    }

    fn remove_policy(&mut self, slot: u32) {
        self.deselect(slot);
        *self.tables.policies.entry(slot) = None;
        let Some((record, part)) = self.policies.remove(slot) else {
            return;
        };
        self.release_gates(Some(part));
        for id in record.selectors {
            self.matching.release(id, &mut self.tables.extents);
        }
    }

    /// Gives up what the gates of a part refer to.
    fn release_gates(&mut self, part: Option<Part>) {
        for gate in part.as_ref().map(Part::gates).unwrap_or_default() {
            self.sharing.release_gate(gate, &mut self.tables.shared);
        }
    }

    /// Has the chains made anew of the classes that a selector selects.
    fn mark_selected(&mut self, selector: u32) {
        for class in self.extent(selector) {
            self.dirty.insert(class);
        }
    }

    /// Adds a policy to the classes that it selects.
    fn select(&mut self, slot: u32) {
        let Some(subject) = self.policies.record(slot).map(|record| record.subject) else {
            return;
        };
        self.matching.set_subject(subject, slot);
        for class in self.extent(subject) {
            if !self.matching.is_pod(class) {
                continue;
            }
            let slots = self.selected.entry(class).or_default();
            if let Err(at) = slots.binary_search_by(|other| self.policies.compare(*other, slot)) {
                slots.insert(at, slot);
            }
            self.dirty.insert(class);
        }
        self.mark_twin(slot);
    }

    /// Takes a policy from the classes that it selects.
    fn deselect(&mut self, slot: u32) {
        let Some(subject) = self.policies.record(slot).map(|record| record.subject) else {
            return;
        };
        self.matching.clear_subject(subject, slot);
        for class in self.extent(subject) {
            if let Some(slots) = self.selected.get_mut(&class) {
                slots.retain(|other| *other != slot);
                self.dirty.insert(class);
            }
        }
        self.mark_twin(slot);
    }

    /// A staged policy changes what is pending for whoever its enforced twin selects.
    fn mark_twin(&mut self, slot: u32) {
        let Some(record) = self
            .policies
            .record(slot)
            .filter(|record| record.policy.key.staged)
        else {
            return;
        };
        let twin = self
            .policies
            .twin(&record.policy.key)
            .and_then(|twin| self.policies.record(twin));
        if let Some(subject) = twin.map(|record| record.subject) {
            self.mark_selected(subject);
        }
    }

    fn extent(&self, selector: u32) -> Vec<u32> {
        self.tables
            .extents
            .get(selector)
            .map(Extent::ids)
            .unwrap_or_default()
    }
}

/// The order in which objects are best applied: what others refer to comes first.
fn rank(key: &ObjectKey) -> u8 {
    match key {
        ObjectKey::Namespace(_) => 0,
        ObjectKey::ServiceAccount(..) => 1,
        ObjectKey::Tier(_) => 2,
        ObjectKey::Set(..) => 3,
        ObjectKey::Workload(_) => 4,
        ObjectKey::Policy(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Reader, Reading};

    fn read(values: Vec<serde_json::Value>) -> Vec<Object> {
        let mut reading = Reading::default();
        for value in values {
            Reader::default().read_value("", value, &mut reading);
        }
        assert!(reading.diagnostics.is_empty(), "{:?}", reading.diagnostics);
        reading.objects
    }

    fn pod(name: &str, address: &str) -> serde_json::Value {
        serde_json::json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "a", "labels": {"app": name}},
            "spec": {"containers": []}, "status": {"podIP": address}})
    }

    #[test]
    fn classes_of_the_same_policies_share_chains_and_unused_ones_go() {
        let policy = |port: u16| {
            serde_json::json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": "p", "namespace": "a"},
                "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]}})
        };
        let mut compiler = Compiler::new(Options::default());
        compiler.sync(read(vec![pod("x", "10.0.0.1"), pod("y", "10.0.0.2"), policy(80)]));
        let set = compiler.publish();
        let links = |set: &PolicySet| {
            [0, 1].map(|class| {
                let chains = set.tables.classes.get(class).unwrap();
                chains.enforced.links(crate::Direction::Ingress).as_ptr()
            })
        };
        let before = links(&set);
        assert_eq!(before[0], before[1]);
        for port in 81..90 {
            for object in read(vec![policy(port)]) {
                compiler.apply(Change::Upsert(object));
            }
            let after = links(&compiler.publish());
            assert_eq!(after[0], after[1]);
            assert_ne!(after[0], before[0], "the old set is still there, with its own");
        }
        assert_eq!(compiler.chains.counts(), (1, 2));
        // The pods' ports: none. The gates of these policies say all.
        assert_eq!(compiler.sharing.count(), 1);
        let keys = compiler.keys();
        for key in keys {
            compiler.apply(Change::Remove(key));
        }
        let _ = compiler.publish();
        assert_eq!((compiler.chains.counts(), compiler.sharing.count()), ((0, 0), 0));
    }
}
