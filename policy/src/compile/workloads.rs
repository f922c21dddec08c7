//! The compiler's side of namespaces, service accounts, pods and network sets.

use std::sync::Arc;

use adit_flow::WorkloadName;

use super::Compiler;
use super::members::Member;
use crate::inventory::{Account, Endpoint, EndpointKind, LabelMap, Namespace, NetworkSet, Workload};

/// A pod and its class.
#[derive(Debug)]
pub(super) struct PodRecord {
    pub(super) workload: Workload,
    class: u32,
    /// Its ports, by their id among the shared.
    ports: u32,
}

/// A network set and its class.
#[derive(Debug)]
pub(super) struct SetRecord {
    pub(super) set: NetworkSet,
    pub(super) class: u32,
}

/// A pod as a verdict needs it.
fn member(workload: &Workload, class: u32, ports: u32) -> Member {
    Member {
        name: workload.name.clone(),
        class,
        account: Arc::clone(&workload.account),
        ports,
        node_addresses: workload.node_addresses.clone().into(),
    }
}

impl Compiler {
    pub(super) fn set_namespace(&mut self, name: &Arc<str>, namespace: Option<Namespace>) {
        match namespace {
            Some(namespace) => {
                self.namespaces.insert(Arc::clone(name), Arc::new(namespace));
            }
            None => {
                self.namespaces.remove(name);
            }
        }
        self.reclassify(|workload| *workload.name.namespace == **name);
        let sets: Vec<NetworkSet> = self
            .sets
            .values()
            .filter(|record| record.set.namespace.as_ref() == Some(name))
            .map(|record| record.set.clone())
            .collect();
        for set in sets {
            self.set_network_set(set);
        }
    }

    pub(super) fn set_account(&mut self, namespace: Arc<str>, name: Arc<str>, account: Option<Account>) {
        let key = (Arc::clone(&namespace), Arc::clone(&name));
        match account {
            Some(account) => {
                self.accounts.insert(key, Arc::new(account));
            }
            None => {
                self.accounts.remove(&key);
            }
        }
        self.reclassify(|workload| *workload.name.namespace == *namespace && workload.account == name);
    }

    /// Finds the class anew of the pods that `affected` picks: their namespace or service account changed.
    fn reclassify(&mut self, affected: impl Fn(&Workload) -> bool) {
        let workloads: Vec<Workload> = self
            .pods
            .values()
            .map(|record| &record.workload)
            .filter(|workload| affected(workload))
            .cloned()
            .collect();
        for workload in workloads {
            self.set_workload(workload);
        }
    }

    pub(super) fn set_workload(&mut self, workload: Workload) {
        let namespace: Arc<str> = workload.name.namespace.as_str().into();
        let account = self.account(&namespace, &workload.account);
        let endpoint = Endpoint {
            kind: EndpointKind::Pod,
            namespace: Some(self.namespace(&namespace)),
            labels: workload.labels.clone(),
            account: Some(account),
        };
        let class = self.join(endpoint);
        let ports = self.sharing.ports(&workload.ports, &mut self.tables.shared);
        let member = Arc::new(member(&workload, class, ports));
        let name = workload.name.clone();
        let gone = self.pods.get(&name).map(|old| {
            old.workload
                .addresses
                .iter()
                .copied()
                .filter(|address| !workload.addresses.contains(address))
                .collect::<Vec<_>>()
        });
        for address in gone.unwrap_or_default() {
            self.give_up(address, &name);
        }
        for address in &workload.addresses {
            match self.tables.members.get(*address) {
                Some(owner) if owner.name != name => {
                    // The first stays until it goes: an address that is handed on is claimed before it is given up.
                    let waiting = self.waiting.entry(*address).or_default();
                    if !waiting.contains(&name) {
                        waiting.push(name.clone());
                    }
                }
                _ => self.tables.members.insert(*address, Arc::clone(&member)),
            }
        }
        let record = PodRecord {
            workload,
            class,
            ports,
        };
        if let Some(old) = self.pods.insert(name, record) {
            self.sharing.release_ports(old.ports, &mut self.tables.shared);
            self.leave(old.class);
        }
    }

    pub(super) fn remove_workload(&mut self, name: &WorkloadName) {
        let Some(record) = self.pods.remove(name) else {
            return;
        };
        for address in record.workload.addresses {
            self.give_up(address, name);
        }
        self.sharing.release_ports(record.ports, &mut self.tables.shared);
        self.leave(record.class);
    }

    /// Takes an address from a workload and gives it to the next that claims it.
    fn give_up(&mut self, address: std::net::IpAddr, name: &WorkloadName) {
        if let Some(waiting) = self.waiting.get_mut(&address) {
            waiting.retain(|other| other != name);
        }
        if self
            .tables
            .members
            .get(address)
            .is_none_or(|owner| owner.name != *name)
        {
            return;
        }
        self.tables.members.remove(address);
        let next = self
            .waiting
            .get_mut(&address)
            .filter(|waiting| !waiting.is_empty())
            .map(|waiting| waiting.remove(0));
        if self.waiting.get(&address).is_some_and(Vec::is_empty) {
            self.waiting.remove(&address);
        }
        if let Some(record) = next.and_then(|next| self.pods.get(&next)) {
            let member = member(&record.workload, record.class, record.ports);
            self.tables.members.insert(address, Arc::new(member));
        }
    }

    pub(super) fn set_network_set(&mut self, set: NetworkSet) {
        let endpoint = Endpoint {
            kind: EndpointKind::Set,
            namespace: set.namespace.as_ref().map(|name| self.namespace(name)),
            labels: set.labels.clone(),
            account: None,
        };
        let class = self.join(endpoint);
        let key = (set.namespace.clone(), Arc::clone(&set.name));
        if let Some(old) = self.sets.insert(key, SetRecord { set, class }) {
            self.leave(old.class);
        }
        self.sets_changed = true;
    }

    pub(super) fn remove_network_set(&mut self, key: &(Option<Arc<str>>, Arc<str>)) {
        if let Some(record) = self.sets.remove(key) {
            self.leave(record.class);
            self.sets_changed = true;
        }
    }

    fn join(&mut self, endpoint: Endpoint) -> u32 {
        let is_pod = endpoint.is_pod();
        let joined = self.matching.join(endpoint, &mut self.tables.extents);
        if let Some(mut slots) = joined.selected_by {
            slots.sort_by(|left, right| self.policies.compare(*left, *right));
            if is_pod {
                self.selected.insert(joined.class, slots);
            }
            self.dirty.insert(joined.class);
        }
        joined.class
    }

    fn leave(&mut self, class: u32) {
        if self.matching.leave(class, &mut self.tables.extents) {
            self.selected.remove(&class);
            self.dirty.insert(class);
        }
    }

    /// A namespace as it is known; one that isn't has the label that every namespace carries.
    fn namespace(&mut self, name: &Arc<str>) -> Arc<Namespace> {
        match self.namespaces.get(name) {
            Some(namespace) => Arc::clone(namespace),
            None => Arc::new(Namespace::new(name, LabelMap::new())),
        }
    }

    fn account(&mut self, namespace: &Arc<str>, name: &Arc<str>) -> Arc<Account> {
        match self.accounts.get(&(Arc::clone(namespace), Arc::clone(name))) {
            Some(account) => Arc::clone(account),
            None => Arc::new(Account {
                name: Arc::clone(name),
                labels: LabelMap::new(),
            }),
        }
    }
}
