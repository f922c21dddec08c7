//! Pods by exact address: the first thing that a verdict looks up, twice.

use std::sync::Arc;

use super::chunked::Chunked;
use super::members::Member;

/// An open-addressed table. What most verdicts need of a pod lies in the slot itself, so that a look-up touches one
/// cache line whatever the number of pods; the pod lies beside it, under the same index. Copies share what they have in
/// common.
#[derive(Clone, Debug)]
pub(super) struct AddressMap<K> {
    slots: Chunked<Slot<K>>,
    pods: Chunked<Option<Arc<Member>>>,
    /// A power of two, or 0 as long as nothing was inserted.
    capacity: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot<K> {
    key: K,
    /// The pod's class plus one; 0 where the slot is free.
    class: u32,
    node_filter: u32,
    ports: u32,
}

/// What most verdicts need of the pod at an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    /// The class that the pod's labels put it in.
    pub(crate) class: u32,
    /// See [`Member::node_filter`].
    pub(crate) node_filter: u32,
    /// See [`Member::ports`].
    pub(crate) ports: u32,
    pub(super) index: u32,
}

/// An address without its version.
pub(super) trait Key: Copy + Default + Eq {
    /// Its bits, folded to 64.
    fn folded(self) -> u64;
}

impl Key for u32 {
    fn folded(self) -> u64 {
        self.into()
    }
}

impl Key for u128 {
    fn folded(self) -> u64 {
        (self as u64) ^ (self >> 64) as u64
    }
}

impl<K> Default for AddressMap<K> {
    fn default() -> Self {
        Self {
            slots: Chunked::default(),
            pods: Chunked::default(),
            capacity: 0,
            len: 0,
        }
    }
}

const FIRST_CAPACITY: u32 = 64;

impl<K: Key> AddressMap<K> {
    #[inline]
    pub(super) fn get(&self, key: K) -> Option<Resident> {
        if self.capacity == 0 {
            return None;
        }
        let mut index = self.home(key);
        // A third of the slots at least is free, so the walk ends.
        loop {
            let slot = self.slots.get(index)?;
            let class = slot.class.checked_sub(1)?;
            if slot.key == key {
                return Some(Resident {
                    class,
                    node_filter: slot.node_filter,
                    ports: slot.ports,
                    index,
                });
            }
            index = self.after(index);
        }
    }

    pub(super) fn pod(&self, index: u32) -> Option<&Arc<Member>> {
        self.pods.get(index)?.as_ref()
    }

    pub(super) fn insert(&mut self, key: K, pod: Arc<Member>) {
        if let Some(known) = self.get(key) {
            self.put(known.index, key, pod);
            return;
        }
        if self.len >= self.capacity / 3 * 2 {
            self.grow();
        }
        self.put(self.free_for(key), key, pod);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, key: K) {
        let Some(known) = self.get(key) else {
            return;
        };
        self.len -= 1;
        let mut hole = known.index;
        *self.slots.entry(hole) = Slot::default();
        *self.pods.entry(hole) = None;
        // What comes behind is put again, so that no walk ends early at the hole.
        loop {
            hole = self.after(hole);
            let (Some(slot), Some(pod)) = (self.slots.get(hole).copied(), self.pod(hole).cloned()) else {
                return;
            };
            *self.slots.entry(hole) = Slot::default();
            *self.pods.entry(hole) = None;
            self.put(self.free_for(slot.key), slot.key, pod);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &Arc<Member>)> {
        (0..self.capacity).filter_map(|index| Some((self.slots.get(index)?.key, self.pod(index)?)))
    }

    fn put(&mut self, index: u32, key: K, pod: Arc<Member>) {
        *self.slots.entry(index) = Slot {
            key,
            class: pod.class + 1,
            node_filter: pod.node_filter(),
            ports: pod.ports,
        };
        *self.pods.entry(index) = Some(pod);
    }

    /// The first free slot at or after the key's own.
    fn free_for(&self, key: K) -> u32 {
        let mut index = self.home(key);
        while self.pod(index).is_some() {
            index = self.after(index);
        }
        index
    }

    fn grow(&mut self) {
        let mut larger = Self {
            capacity: FIRST_CAPACITY.max(2 * self.capacity),
            len: self.len,
            ..Self::default()
        };
        *larger.slots.entry(larger.capacity - 1) = Slot::default();
        for (key, pod) in self.iter() {
            larger.put(larger.free_for(key), key, Arc::clone(pod));
        }
        *self = larger;
    }

    /// Where the walk for a key starts. Fibonacci hashing: neighbouring addresses, as pods have them, spread evenly.
    #[inline]
    fn home(&self, key: K) -> u32 {
        let hash = key.folded().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as u32 >> (32 - self.capacity.trailing_zeros())
    }

    #[inline]
    fn after(&self, index: u32) -> u32 {
        (index + 1) & (self.capacity - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use adit_flow::WorkloadName;
    use proptest::prelude::*;

    use super::*;

    fn pod(class: u32) -> Arc<Member> {
        Arc::new(Member {
            name: WorkloadName::new("a", "b"),
            class,
            account: "default".into(),
            ports: 0,
            node_addresses: Box::default(),
        })
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(operations in proptest::collection::vec((any::<bool>(), 0u32..200, 0u32..9), 0..500)) {
            let mut map = AddressMap::default();
            let mut model = BTreeMap::new();
            // A multiple of the golden ratio's inverse: keys that start their walks close to one another.
            let key = |small: u32| u128::from(small).wrapping_mul(0xf1de_83e1_9937_733d) & u128::from(u64::MAX);
            for (insert, small, class) in operations {
                let before = map.clone();
                let known = model.clone();
                if insert {
                    map.insert(key(small), pod(class));
                    model.insert(key(small), class);
                } else {
                    map.remove(key(small));
                    model.remove(&key(small));
                }
                for (map, model) in [(&map, &model), (&before, &known)] {
                    prop_assert_eq!(map.iter().map(|(key, pod)| (key, pod.class)).collect::<BTreeMap<_, _>>(), model.clone());
                }
            }
            for small in 0..200 {
                let found = map.get(key(small));
                prop_assert_eq!(found.map(|found| found.class), model.get(&key(small)).copied());
                prop_assert_eq!(found.and_then(|found| map.pod(found.index)).map(|pod| pod.class), model.get(&key(small)).copied());
            }
        }
    }

    #[test]
    fn neighbours_spread_evenly() {
        let mut map = AddressMap::default();
        for low in 0..10_000u32 {
            map.insert(0x0a00_0000 + low, pod(0));
        }
        let strays = (0..10_000).filter(|low| {
            let key = 0x0a00_0000 + low;
            map.get(key).is_some_and(|found| found.index != map.home(key))
        });
        assert!(strays.count() < 5_000);
        assert!(size_of::<Slot<u32>>() <= 16);
    }
}
