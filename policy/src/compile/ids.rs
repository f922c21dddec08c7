//! Small ids, and a hasher for what is made of them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Hands out small ids and takes them back.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    next: u32,
    free: Vec<u32>,
}

impl Ids {
    /// The lowest id never used, or one that was given back.
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub(super) fn give_back(&mut self, id: u32) {
        self.free.push(id);
    }
}

/// A map keyed by ids that the compiler gave out, or by lists of them.
pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Multiplies and rotates. Nobody outside chooses the ids, so nobody can make them collide, and a policy that selects
/// every pod has thousands of lists of them hashed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl IdHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.add((*byte).into());
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.add(id.into());
    }

    fn write_usize(&mut self, length: usize) {
        self.add(length as u64);
    }

    // The product's high bits depend on all of the word, its low bits on the low ones alone; the table wants both.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, Hash};

    use super::*;

    #[test]
    fn lists_that_differ_a_little_hash_apart() {
        let hasher = BuildHasherDefault::<IdHasher>::default();
        let (mut hashes, mut low, mut high) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut add = |list: &dyn Fn(&mut IdHasher)| {
            let mut state = hasher.build_hasher();
            list(&mut state);
            hashes.insert(state.finish());
            low.insert(state.finish() % 4096);
            high.insert(state.finish() >> 57);
        };
        for first in 0..32u32 {
            for second in 0..32u32 {
                add(&|state| [first, second].hash(state));
                add(&|state| [first, 7, second].hash(state));
            }
        }
        assert_eq!(hashes.len(), 2_048);
        // Of 2,048 at random some 1,600 would be.
        assert!(low.len() > 1_300, "{}", low.len());
        assert_eq!(high.len(), 128);
    }
}
