//! The flow table: slots with generations, and the index from four-tuple to slot.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;

use crate::event::FlowId;
use crate::flow::Flow;

/// Flows by id and by the pair of their ends.
pub(crate) struct FlowTable {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    index: HashTable<u32>,
    secret: u64,
    /// What the index hashes with, from the secret.
    keys: Secret,
    limit: usize,
}

/// Keys of the index' hash.
type Secret = [u64; 2];

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
            keys: [1, 2].map(|number| key(secret, number)),
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
        let hash = hash(self.keys, flow.pod(), flow.remote());
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
        let (slots, keys) = (&self.slots, self.keys);
        self.index
            .insert_unique(hash, index, |&other| hash_of_slot(slots, keys, other));
        id
    }

    /// The slot of the flow between these ends.
    pub(crate) fn find(&self, pod: SocketAddr, remote: SocketAddr) -> Option<u32> {
        let is_it = |&slot: &u32| {
            let flow = self.slots[slot as usize].flow.as_ref();
            flow.is_some_and(|flow| flow.pod() == pod && flow.remote() == remote)
        };
        self.index.find(hash(self.keys, pod, remote), is_it).copied()
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
        let hash = hash(self.keys, flow.pod(), flow.remote());
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
        sip_hash(!self.secret, pod, remote)
    }
}

fn hash_of_slot(slots: &[Slot], keys: Secret, slot: u32) -> u64 {
    let flow = slots[slot as usize]
        .flow
        .as_ref()
        .expect("an indexed slot has a flow");
    hash(keys, flow.pod(), flow.remote())
}

/// The hash of the index. A multiplication of what's mixed with a secret, folded: few cycles, and who doesn't know the
/// secret can't choose four-tuples that collide.
fn hash([first, second]: Secret, pod: SocketAddr, remote: SocketAddr) -> u64 {
    let ports = u64::from(pod.port()) << 16 | u64::from(remote.port());
    match (pod.ip(), remote.ip()) {
        (IpAddr::V4(pod), IpAddr::V4(remote)) => {
            let addresses = u64::from(pod.to_bits()) << 32 | u64::from(remote.to_bits());
            fold(fold(addresses ^ first, ports ^ second), second)
        }
        (pod, remote) => {
            let [pod, remote] = [pod, remote].map(|address| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                IpAddr::V6(address) => address.to_bits(),
            });
            let halves = |bits: u128| ((bits >> 64) as u64, bits as u64);
            let ((pod_high, pod_low), (high, low)) = (halves(pod), halves(remote));
            let state = fold(pod_high ^ first, pod_low ^ second);
            let state = fold(state ^ high ^ first, low ^ second);
            fold(fold(state ^ first, ports ^ second), second)
        }
    }
}

fn key(secret: u64, number: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (secret, number).hash(&mut hasher);
    hasher.finish() | 1
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// RFC 6528 §3, F.
fn sip_hash(secret: u64, pod: SocketAddr, remote: SocketAddr) -> u64 {
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

    /// Ports in a row, addresses in a row, both ends' the same: what a pod and its peers really use.
    #[test]
    fn ends_in_a_row_have_hashes_all_over() {
        let keys = [1, 2].map(|number| key(9, number));
        for v6 in [false, true] {
            let end = |address: u8, port| {
                if v6 {
                    SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(address)], port))
                } else {
                    SocketAddr::from(([10, 0, 0, address], port))
                }
            };
            let mut low = [0; 256];
            let mut high = [0; 128];
            for address in 0..64 {
                for port in 0..1024_u16 {
                    let hash = hash(keys, end(1, 40_000 + port), end(address, 80 + port % 3));
                    low[hash as usize % 256] += 1;
                    high[(hash >> 57) as usize] += 1;
                }
            }
            // 256 and 512 each on average, with deviations of 16 and 23.
            assert!(low.iter().all(|count| (150..370).contains(count)), "{low:?}");
            assert!(high.iter().all(|count| (370..660).contains(count)), "{high:?}");
        }
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
