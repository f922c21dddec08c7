//! The flow table: slots with generations, and the index from a flow's ends to its slot.

use hashbrown::HashTable;

use crate::ends::{Ends, Secret};
use crate::event::FlowId;

/// What a table keeps: something between two ends.
pub(crate) trait Between {
    /// Protocol, addresses and ports. They never change while it's in a table.
    fn ends(&self) -> Ends;
}

/// Flows by id and by their ends.
pub(crate) struct Table<F> {
    slots: Vec<Slot<F>>,
    vacant: Vec<u32>,
    index: HashTable<u32>,
    secret: Secret,
    limit: usize,
}

struct Slot<F> {
    /// Counts the flows that were here; an id with another number is stale.
    generation: u32,
    /// Which queues hold this slot. It outlives the flow: so a queue never holds a slot twice.
    queued: [bool; 3],
    flow: Option<F>,
}

/// A queue of slots.
#[derive(Clone, Copy)]
pub(crate) enum Queue {
    /// Flows that may have something to send.
    Dirty,
    /// Flows with news.
    Ready,
    /// Flows whose ACK waits, or did.
    Held,
}

impl<F: Between> Table<F> {
    /// For at most `limit` flows. `secret` keeps a pod from choosing ends that collide.
    pub(crate) fn new(limit: usize, secret: Secret) -> Self {
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

    /// What its index hashes with.
    pub(crate) fn secret(&self) -> Secret {
        self.secret
    }

    /// Slots, in use or not: their numbers are those below.
    pub(crate) fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Puts a flow in a slot and in the index. The table must not be full, nor have one between the same ends.
    pub(crate) fn insert(&mut self, flow: F) -> FlowId {
        let ends = flow.ends();
        debug_assert!(!self.is_full() && self.find(&ends).is_none());
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                queued: [false; 3],
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
        self.index.insert_unique(ends.hash(secret), index, |&other| {
            hash_of_slot(slots, secret, other)
        });
        id
    }

    /// The slot of the flow between these ends.
    pub(crate) fn find(&self, ends: &Ends) -> Option<u32> {
        let is_it = |&slot: &u32| {
            let flow = self.slots[slot as usize].flow.as_ref();
            flow.is_some_and(|flow| flow.ends() == *ends)
        };
        self.index.find(ends.hash(self.secret), is_it).copied()
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

    pub(crate) fn get(&self, slot: u32) -> Option<&F> {
        self.slots.get(slot as usize)?.flow.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut F> {
        self.slots.get_mut(slot as usize)?.flow.as_mut()
    }

    /// Takes the flow out of the index: from now on another may have its ends.
    pub(crate) fn unlink(&mut self, slot: u32) {
        let Some(flow) = self.get(slot) else { return };
        let hash = flow.ends().hash(self.secret);
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
}

fn hash_of_slot<F: Between>(slots: &[Slot<F>], secret: Secret, slot: u32) -> u64 {
    let flow = slots[slot as usize]
        .flow
        .as_ref()
        .expect("an indexed slot has a flow");
    flow.ends().hash(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Flow(Ends);

    impl Between for Flow {
        fn ends(&self) -> Ends {
            self.0
        }
    }

    fn flow(port: u16) -> Flow {
        Flow(ends(port))
    }

    fn ends(port: u16) -> Ends {
        Ends::tcp(([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], 80).into())
    }

    fn table(limit: usize) -> Table<Flow> {
        Table::new(limit, Secret::new(7))
    }

    #[test]
    fn a_stale_id_names_no_flow() {
        let mut table = table(4);
        let old = table.insert(flow(1));
        table.remove(table.resolve(old).unwrap());
        let new = table.insert(flow(2));
        assert_eq!(new.index, old.index);
        assert!(table.resolve(old).is_none() && table.resolve(new).is_some());
    }

    #[test]
    fn an_unlinked_flow_keeps_its_slot_and_frees_its_ends() {
        let mut table = table(4);
        let first = table.insert(flow(1));
        table.unlink(first.index);
        assert!(table.find(&ends(1)).is_none() && table.resolve(first).is_some());
        let second = table.insert(flow(1));
        table.remove(first.index);
        assert_eq!(table.find(&ends(1)), Some(second.index));
    }

    #[test]
    fn finds_each_of_many_and_empties_again() {
        let mut table = table(3000);
        let ids: Vec<_> = (1..=3000).map(|port| table.insert(flow(port))).collect();
        assert!(table.is_full());
        for (port, id) in (1..=3000).zip(&ids) {
            assert_eq!(table.find(&ends(port)), table.resolve(*id));
        }
        ids.iter().for_each(|id| table.remove(id.index));
        assert_eq!((table.len(), table.index.len()), (0, 0));
    }
}
