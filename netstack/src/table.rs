//! The flow table: slots with generations, and the index from four-tuple to slot.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use hashbrown::HashTable;

use crate::event::FlowId;
use crate::flow::Flow;

/// Flows by id and by the pair of their ends.
pub(crate) struct FlowTable {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    index: HashTable<u32>,
    secret: u64,
    limit: usize,
}

struct Slot {
    /// Counts the flows that were here; an id with another number is stale.
    generation: u32,
    /// Which queues hold this slot. It outlives the flow: so a queue never holds a slot twice.
    queued: [bool; 2],
    flow: Option<Flow>,
}

/// A queue of slots.
#[derive(Clone, Copy)]
pub(crate) enum Queue {
    /// Flows that may have something to send.
    Dirty,
    /// Flows with news.
    Ready,
}

impl FlowTable {
    /// For at most `limit` flows. `secret` keeps a pod from choosing four-tuples that collide.
    pub(crate) fn new(limit: usize, secret: u64) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            index: HashTable::new(),
            secret,
            limit,
        }
    }

    /// Flows in use, those included of which only the news of their end is left.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Puts a flow in a slot and in the index. The table must not be full, nor have one between the same ends.
    pub(crate) fn insert(&mut self, flow: Flow) -> FlowId {
        debug_assert!(!self.is_full() && self.find(flow.pod(), flow.remote()).is_none());
        let hash = hash(self.secret, flow.pod(), flow.remote());
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                queued: [false; 2],
                flow: None,
            });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.flow = Some(flow);
        let id = FlowId {
            index,
            generation: slot.generation,
        };
        let (slots, secret) = (&self.slots, self.secret);
        self.index
            .insert_unique(hash, index, |&other| hash_of_slot(slots, secret, other));
        id
    }

    /// The slot of the flow between these ends.
    pub(crate) fn find(&self, pod: SocketAddr, remote: SocketAddr) -> Option<u32> {
        let is_it = |&slot: &u32| {
            let flow = self.slots[slot as usize].flow.as_ref();
            flow.is_some_and(|flow| flow.pod() == pod && flow.remote() == remote)
        };
        self.index.find(hash(self.secret, pod, remote), is_it).copied()
    }

    /// The slot that `id` names, unless it's stale.
    pub(crate) fn resolve(&self, id: FlowId) -> Option<u32> {
        let slot = self.slots.get(id.index as usize)?;
        (slot.generation == id.generation && slot.flow.is_some()).then_some(id.index)
    }

    pub(crate) fn id(&self, slot: u32) -> FlowId {
        FlowId {
            index: slot,
            generation: self.slots[slot as usize].generation,
        }
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Flow> {
        self.slots.get(slot as usize)?.flow.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Flow> {
        self.slots.get_mut(slot as usize)?.flow.as_mut()
    }

    /// Takes the flow out of the index: from now on another may have its ends.
    pub(crate) fn unlink(&mut self, slot: u32) {
        let Some(flow) = self.get(slot) else { return };
        let hash = hash(self.secret, flow.pod(), flow.remote());
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
    }

    /// Removes a flow; ids of it are stale from now on.
    pub(crate) fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        let entry = &mut self.slots[slot as usize];
        if entry.flow.take().is_some() {
            entry.generation = entry.generation.wrapping_add(1);
            self.vacant.push(slot);
        }
    }

    /// Notes that `slot` is in `queue`; whether it was not before.
    pub(crate) fn enter(&mut self, slot: u32, queue: Queue) -> bool {
        !std::mem::replace(&mut self.slots[slot as usize].queued[queue as usize], true)
    }

    /// Notes that `slot` was taken out of `queue`.
    pub(crate) fn leave(&mut self, slot: u32, queue: Queue) {
        self.slots[slot as usize].queued[queue as usize] = false;
    }

    /// A number that depends on the ends and the secret only (RFC 6528 §3, F).
    pub(crate) fn keyed_hash(&self, pod: SocketAddr, remote: SocketAddr) -> u64 {
        hash(!self.secret, pod, remote)
    }
}

fn hash_of_slot(slots: &[Slot], secret: u64, slot: u32) -> u64 {
    let flow = slots[slot as usize]
        .flow
        .as_ref()
        .expect("an indexed slot has a flow");
    hash(secret, flow.pod(), flow.remote())
}

fn hash(secret: u64, pod: SocketAddr, remote: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    secret.hash(&mut hasher);
    for end in [pod, remote] {
        match end {
            SocketAddr::V4(end) => {
                hasher.write_u64(u64::from(end.ip().to_bits()) << 16 | u64::from(end.port()))
            }
            SocketAddr::V6(end) => {
                hasher.write_u128(end.ip().to_bits());
                hasher.write_u16(end.port());
            }
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use adit_flow::FourTuple;

    use super::*;
    use crate::flow::{Opener, Stage};

    fn flow(port: u16) -> Flow {
        let tuple = FourTuple::new(([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], 80).into());
        Flow::new(tuple, Opener::Pod, Stage::Ended)
    }

    fn ends(port: u16) -> (SocketAddr, SocketAddr) {
        (([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], 80).into())
    }

    #[test]
    fn a_stale_id_names_no_flow() {
        let mut table = FlowTable::new(4, 7);
        let old = table.insert(flow(1));
        table.remove(table.resolve(old).unwrap());
        let new = table.insert(flow(2));
        assert_eq!(new.index, old.index);
        assert!(table.resolve(old).is_none() && table.resolve(new).is_some());
    }

    #[test]
    fn an_unlinked_flow_keeps_its_slot_and_frees_its_ends() {
        let mut table = FlowTable::new(4, 7);
        let first = table.insert(flow(1));
        table.unlink(first.index);
        assert!(table.find(ends(1).0, ends(1).1).is_none() && table.resolve(first).is_some());
        let second = table.insert(flow(1));
        table.remove(first.index);
        assert_eq!(table.find(ends(1).0, ends(1).1), Some(second.index));
    }

    #[test]
    fn finds_each_of_many_and_empties_again() {
        let mut table = FlowTable::new(3000, 7);
        let ids: Vec<_> = (1..=3000).map(|port| table.insert(flow(port))).collect();
        assert!(table.is_full());
        for (port, id) in (1..=3000).zip(&ids) {
            assert_eq!(table.find(ends(port).0, ends(port).1), table.resolve(*id));
        }
        ids.iter().for_each(|id| table.remove(id.index));
        assert_eq!((table.len(), table.index.len()), (0, 0));
    }
}
