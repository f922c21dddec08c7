//! Pods and the nodes that they run on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::WorkloadName;

use super::intern::Interner;
use crate::kubernetes::object::{Capability, Key, Labels, Node, Pod};
use crate::kubernetes::state::WantedPod;
use crate::snapshot::{Location, Reach, Workload};

/// The pods that have addresses.
pub(super) struct Pods {
    own_node: Arc<str>,
    entries: BTreeMap<WorkloadName, Entry>,
    /// Who has an address. Where two pods say that they have it, since one is on its way out, the other.
    owners: HashMap<IpAddr, WorkloadName>,
    /// Addresses that two pods have said to have: whoever owns one may have an heir.
    contested: BTreeSet<IpAddr>,
    nodes: BTreeMap<Arc<str>, NodeEntry>,
    local: BTreeSet<WorkloadName>,
    captured: BTreeSet<Arc<str>>,
    labels: Interner<Labels>,
    names: Interner<str>,
}

struct Entry {
    uid: Arc<str>,
    node: Arc<str>,
    capability: Capability,
    is_leaving: bool,
    has_sidecar: bool,
    at: Place,
}

enum Place {
    /// On its node's network: no workload.
    Host,
    /// On the pods' network.
    Own(Arc<Workload>),
}

struct NodeEntry {
    node: Node,
    /// Of all of its addresses those that are no pod's.
    addresses: Arc<[IpAddr]>,
}

/// What a change of a pod touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Touched {
    Nothing,
    /// The pod itself.
    Pod,
    /// Which addresses are whose, too.
    Addresses,
}

/// Whose an address or a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose<'a> {
    /// A workload's.
    Workload(&'a WorkloadName),
    /// A host's, or somebody's who isn't in the cluster.
    Outside,
    /// A pod's that isn't known yet, or isn't any more.
    Unknown,
}

impl Pods {
    pub(super) fn new(node: &str) -> Self {
        let mut names = Interner::new();
        Self {
            own_node: names.share(node),
            entries: BTreeMap::new(),
            owners: HashMap::new(),
            contested: BTreeSet::new(),
            nodes: BTreeMap::new(),
            local: BTreeSet::new(),
            captured: BTreeSet::new(),
            labels: Interner::new(),
            names,
        }
    }

    pub(super) fn keys(&self) -> BTreeSet<Key> {
        self.entries.keys().cloned().collect()
    }

    pub(super) fn node_keys(&self) -> BTreeSet<Key> {
        self.nodes.keys().map(|name| Key::new("", &**name)).collect()
    }

    /// Those on the pods' network that still have their addresses to themselves, in order of name.
    pub(super) fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        let workloads = self.entries.values().filter_map(Entry::workload);
        workloads.filter(|workload| self.owns_addresses(workload))
    }

    /// The pods of this node that belong in the mesh as `belongs` has it.
    pub(super) fn local(&self, belongs: impl Fn(&WorkloadName, &Labels) -> bool) -> Vec<WantedPod> {
        let entries = self.local.iter().filter_map(|name| self.entries.get(name));
        entries
            .filter(|entry| !entry.has_sidecar)
            .filter_map(|entry| Some((entry, entry.workload()?)))
            .filter(|(_, workload)| {
                self.owns_addresses(workload) && belongs(&workload.name, &workload.labels)
            })
            .map(|(entry, workload)| WantedPod {
                uid: Arc::clone(&entry.uid),
                name: workload.name.clone(),
                addresses: workload.addresses.clone(),
                capability: entry.capability,
            })
            .collect()
    }

    /// Whose the endpoint at `address` is, which may say to be the pod called `name`.
    pub(super) fn whose<'a>(&'a self, address: IpAddr, name: Option<&'a WorkloadName>) -> Whose<'a> {
        let Some(name) = name else {
            return self.owners.get(&address).map_or(Whose::Outside, Whose::Workload);
        };
        match self.entries.get(name).map(|entry| &entry.at) {
            Some(Place::Host) => Whose::Outside,
            Some(Place::Own(_)) if self.owners.get(&address) == Some(name) => Whose::Workload(name),
            Some(Place::Own(_)) | None => Whose::Unknown,
        }
    }

    pub(super) fn set_captured(&mut self, captured: BTreeSet<Arc<str>>) -> bool {
        if self.captured == captured {
            return false;
        }
        self.captured = captured;
        let mut changed = false;
        for name in &self.local {
            let Some(entry) = self.entries.get_mut(name) else {
                continue;
            };
            let in_mesh = self.captured.contains(&entry.uid);
            if let Place::Own(workload) = &mut entry.at
                && workload.in_mesh != in_mesh
            {
                Arc::make_mut(workload).in_mesh = in_mesh;
                changed = true;
            }
        }
        changed
    }

    pub(super) fn put_node(&mut self, key: Key, node: Option<Node>) -> bool {
        let name = self.names.share(key.name);
        let known = self.nodes.get(&name).map(|entry| &entry.node);
        if known == node.as_ref() {
            return false;
        }
        match node {
            Some(node) => {
                // What its pods were told last.
                let before = self.nodes.get(&name);
                let addresses = before.map_or_else(Arc::default, |entry| Arc::clone(&entry.addresses));
                self.nodes
                    .insert(Arc::clone(&name), NodeEntry { node, addresses });
            }
            None => {
                self.nodes.remove(&name);
            }
        }
        self.refresh_node(&name)
    }

    pub(super) fn put(&mut self, name: WorkloadName, pod: Option<Pod>) -> Touched {
        let Some(pod) = pod else {
            return self.remove(&name);
        };
        let (mut entry, addresses) = self.entry(&name, pod);
        let before = self.entries.get(&name);
        if before.is_some_and(|before| before.same(&entry)) {
            return Touched::Nothing;
        }
        let had = before
            .and_then(Entry::workload)
            .map(|workload| &workload.addresses);
        let moved = had.map(Vec::as_slice).unwrap_or_default() != addresses
            || before.is_none_or(|before| before.is_leaving != entry.is_leaving || before.uid != entry.uid);
        if moved {
            self.remove(&name);
            // The node may have an address back that was the pod's.
            let of_node = self.addresses_of(&entry.node);
            if let Place::Own(workload) = &mut entry.at {
                Arc::make_mut(workload).node_addresses = of_node;
            }
        }
        if entry.node == self.own_node {
            self.local.insert(name.clone());
        }
        let is_leaving = entry.is_leaving;
        self.entries.insert(name.clone(), entry);
        if !moved {
            return Touched::Pod;
        }
        for address in addresses {
            let rival = self
                .owners
                .get(&address)
                .and_then(|owner| self.entries.get(owner));
            let wins = !is_leaving || rival.is_none_or(|rival| rival.is_leaving);
            if rival.is_some() {
                self.contested.insert(address);
            }
            if wins {
                self.owners.insert(address, name.clone());
                self.refresh_gateway(address);
            }
        }
        Touched::Addresses
    }

    fn remove(&mut self, name: &WorkloadName) -> Touched {
        let Some(entry) = self.entries.remove(name) else {
            return Touched::Nothing;
        };
        self.local.remove(name);
        let workload = entry.workload();
        for address in workload.iter().flat_map(|workload| &workload.addresses) {
            if self.owners.get(address) != Some(name) {
                continue;
            }
            self.owners.remove(address);
            if self.contested.contains(address) {
                self.inherit(*address);
            }
            self.refresh_gateway(*address);
        }
        Touched::Addresses
    }

    /// Gives an address that has no owner to a pod that says to have it.
    fn inherit(&mut self, address: IpAddr) {
        let claims = |entry: &Entry| {
            entry
                .workload()
                .is_some_and(|pod| pod.addresses.contains(&address))
        };
        let heir = self.entries.iter().find(|(_, entry)| claims(entry));
        match heir.map(|(name, _)| name.clone()) {
            Some(heir) => {
                self.owners.insert(address, heir);
            }
            None => {
                self.contested.remove(&address);
            }
        }
    }

    fn owns_addresses(&self, workload: &Workload) -> bool {
        let mut addresses = workload.addresses.iter();
        addresses.all(|address| self.owners.get(address) == Some(&workload.name))
    }

    fn addresses_of(&self, node: &str) -> Arc<[IpAddr]> {
        let node = self.nodes.get(node);
        node.map_or_else(Arc::default, |node| Arc::clone(&node.addresses))
    }

    /// The entry and the addresses that are its own.
    fn entry(&mut self, name: &WorkloadName, pod: Pod) -> (Entry, Vec<IpAddr>) {
        let node = self.names.share(pod.node);
        let addresses = match pod.host_network {
            true => Vec::new(),
            false => pod.addresses.clone(),
        };
        let is_local = node == self.own_node;
        let at = match pod.host_network {
            true => Place::Host,
            false => Place::Own(Arc::new(Workload {
                name: name.clone(),
                labels: self.labels.share(pod.labels),
                identity: pod.identity,
                addresses: pod.addresses,
                ports: pod.ports,
                location: match is_local {
                    true => Location::Local,
                    false => Location::Remote {
                        node: Arc::clone(&node),
                        reach: reach(pod.capability),
                    },
                },
                ready: pod.ready,
                in_mesh: match is_local {
                    true => self.captured.contains(&pod.uid),
                    false => pod.capability != Capability::None,
                },
                node_addresses: self.addresses_of(&node),
            })),
        };
        let entry = Entry {
            uid: pod.uid,
            node,
            capability: pod.capability,
            is_leaving: pod.is_leaving,
            has_sidecar: pod.has_sidecar,
            at,
        };
        (entry, addresses)
    }

    /// An address was taken or given up: a node may have counted on it.
    fn refresh_gateway(&mut self, address: IpAddr) {
        let counts_on = |entry: &NodeEntry| entry.node.gateways.contains(&address);
        let counting = self.nodes.iter().filter(|(_, entry)| counts_on(entry));
        let counting: Vec<Arc<str>> = counting.map(|(name, _)| Arc::clone(name)).collect();
        for name in counting {
            self.refresh_node(&name);
        }
    }

    /// Works out a node's addresses anew and tells its pods. Returns whether that changed anything.
    fn refresh_node(&mut self, name: &Arc<str>) -> bool {
        let addresses: Arc<[IpAddr]> = match self.nodes.get(name) {
            Some(entry) => {
                // A CNI plugin of other habits may have given the first address to a pod, which must not pass for the node.
                let gateways = entry.node.gateways.iter();
                let free = gateways.filter(|address| !self.owners.contains_key(*address));
                entry.node.addresses.iter().chain(free).copied().collect()
            }
            None => Arc::default(),
        };
        if let Some(entry) = self.nodes.get_mut(name) {
            if entry.addresses == addresses {
                return false;
            }
            entry.addresses = Arc::clone(&addresses);
        }
        let mut changed = false;
        for entry in self.entries.values_mut().filter(|entry| entry.node == *name) {
            if let Place::Own(workload) = &mut entry.at {
                Arc::make_mut(workload).node_addresses = Arc::clone(&addresses);
                changed = true;
            }
        }
        changed
    }
}

impl Entry {
    fn workload(&self) -> Option<&Arc<Workload>> {
        match &self.at {
            Place::Host => None,
            Place::Own(workload) => Some(workload),
        }
    }

    fn same(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.node == other.node
            && self.capability == other.capability
            && self.is_leaving == other.is_leaving
            && self.has_sidecar == other.has_sidecar
            && self.workload() == other.workload()
    }
}

fn reach(capability: Capability) -> Reach {
    match capability {
        Capability::Hbone => Reach::Port15008,
        Capability::HboneOnOriginalPort => Reach::OriginalPort,
        Capability::None => Reach::Plain,
    }
}
