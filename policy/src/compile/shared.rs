//! What many policies or pods have in common, each once: a table whose entries are small ids elsewhere.
//!
//! A verdict that reads what is shared reads the same few cache lines whichever of ten thousand policies it's about.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::chunked::Chunked;
use super::ids::Ids;
use crate::gate::{Gate, GatePeers, Parts};
use crate::inventory::ContainerPort;
use crate::model::Rule;

/// What a set's chains and pods refer to by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    rests: Chunked<Option<Arc<Rule<u32>>>>,
    peers: Chunked<Option<Arc<[u32]>>>,
    ports: Chunked<Option<Arc<[ContainerPort]>>>,
}

impl Shared {
    /// What a rule asks beside its gate.
    #[inline]
    pub(crate) fn rest(&self, id: u32) -> &Rule<u32> {
        entry(&self.rests, id)
    }

    /// A list of selectors.
    #[inline]
    pub(crate) fn peers(&self, id: u32) -> &[u32] {
        entry(&self.peers, id)
    }

    /// The ports that a pod declares.
    pub(crate) fn ports(&self, id: u32) -> &[ContainerPort] {
        entry(&self.ports, id)
    }
}

#[inline]
fn entry<T: ?Sized>(table: &Chunked<Option<Arc<T>>>, id: u32) -> &T {
    table
        .get(id)
        .and_then(Option::as_deref)
        .expect("what refers to an entry holds a count of it")
}

/// Gives what is shared its ids, and counts who refers to it.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    rests: Interner<Rule<u32>>,
    peers: Interner<[u32]>,
    ports: Interner<[ContainerPort]>,
}

impl Sharing {
    /// The gate of a rule. What it refers to is there until [`Sharing::release_gate`].
    pub(super) fn gate(&mut self, rule: &Rule<u32>, shared: &mut Shared) -> Gate {
        let mut parts = Parts::of(rule);
        let rest = parts
            .rest
            .take()
            .map(|rest| self.rests.refer(Arc::new(rest), &mut shared.rests));
        let peers =
            (parts.peers.len() > 1).then(|| self.peers.refer(parts.peers[..].into(), &mut shared.peers));
        parts.gate(peers, rest)
    }

    pub(super) fn release_gate(&mut self, gate: &Gate, shared: &mut Shared) {
        if let Some(rest) = gate.rest() {
            self.rests.release(rest, &mut shared.rests);
        }
        if let Some((_, GatePeers::Several(list))) = gate.peers() {
            self.peers.release(list, &mut shared.peers);
        }
    }

    /// The id of a pod's ports. They are there until [`Sharing::release_ports`].
    pub(super) fn ports(&mut self, ports: &[ContainerPort], shared: &mut Shared) -> u32 {
        self.ports.refer(ports.into(), &mut shared.ports)
    }

    pub(super) fn release_ports(&mut self, id: u32, shared: &mut Shared) {
        self.ports.release(id, &mut shared.ports);
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.rests.ids.len() + self.peers.ids.len() + self.ports.ids.len()
    }
}

/// The compiler's side of one table.
#[derive(Debug)]
struct Interner<T: ?Sized> {
    ids: HashMap<Arc<T>, u32>,
    references: Vec<u32>,
    free: Ids,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self {
            ids: HashMap::new(),
            references: Vec::new(),
            free: Ids::default(),
        }
    }
}

impl<T: ?Sized + Eq + Hash> Interner<T> {
    /// Counts one more reference to the entry that equals `value`, and makes it if there is none.
    fn refer(&mut self, value: Arc<T>, table: &mut Chunked<Option<Arc<T>>>) -> u32 {
        if let Some(id) = self.ids.get(&value).copied() {
            self.references[id as usize] += 1;
            return id;
        }
        let id = self.free.take();
        if self.references.len() <= id as usize {
            self.references.resize(id as usize + 1, 0);
        }
        self.references[id as usize] = 1;
        *table.entry(id) = Some(Arc::clone(&value));
        self.ids.insert(value, id);
        id
    }

    /// Counts one reference less; an entry that nobody refers to is forgotten, and its id is free.
    fn release(&mut self, id: u32, table: &mut Chunked<Option<Arc<T>>>) {
        self.references[id as usize] -= 1;
        if self.references[id as usize] > 0 {
            return;
        }
        if let Some(value) = table.entry(id).take() {
            self.ids.remove(&value);
        }
        self.free.give_back(id);
    }
}
