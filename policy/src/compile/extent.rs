//! Which classes a selector matches.

use std::sync::Arc;

/// A set of class ids: in place while it is tiny, as most are, then a list, then bits. A copy shares list and bits.
#[derive(Clone, Debug)]
pub(crate) enum Extent {
    /// Sorted ids.
    Few(Arc<[u32]>),
    /// A bit per id.
    Many(Arc<[u64]>),
    /// The first so many of these, sorted: a look-up stays in the table's own cache line.
    Tiny(u8, [u32; TINY]),
}

const TINY: usize = 7;
/// Above this a list becomes bits.
const FEW: usize = 48;

impl Default for Extent {
    fn default() -> Self {
        Self::Tiny(0, [0; TINY])
    }
}

impl Extent {
    /// From ids in ascending order.
    pub(crate) fn from_sorted(ids: &[u32]) -> Self {
        if ids.len() <= TINY {
            let mut tiny = [0; TINY];
            tiny[..ids.len()].copy_from_slice(ids);
            return Self::Tiny(ids.len() as u8, tiny);
        }
        if ids.len() <= FEW {
            return Self::Few(ids.into());
        }
        let mut words = Vec::new();
        for id in ids {
            set_bit(&mut words, *id);
        }
        Self::Many(words.into())
    }

    #[inline]
    pub(crate) fn contains(&self, id: u32) -> bool {
        match self {
            Self::Few(ids) => ids.binary_search(&id).is_ok(),
            Self::Many(words) => words
                .get(id as usize / 64)
                .is_some_and(|word| word >> (id % 64) & 1 == 1),
            Self::Tiny(length, ids) => ids[..usize::from(*length)].contains(&id),
        }
    }

    pub(crate) fn insert(&mut self, id: u32) {
        match self {
            Self::Many(words) if (id as usize / 64) < words.len() => {
                Arc::make_mut(words)[id as usize / 64] |= 1 << (id % 64);
            }
            Self::Many(words) => {
                let mut grown = words.to_vec();
                set_bit(&mut grown, id);
                *self = Self::Many(grown.into());
            }
            Self::Few(_) | Self::Tiny(..) => {
                let mut ids = self.ids();
                if let Err(at) = ids.binary_search(&id) {
                    ids.insert(at, id);
                    *self = Self::from_sorted(&ids);
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, id: u32) {
        match self {
            Self::Many(words) => {
                // It stays bits: a selector that once matched many may do so again.
                if (id as usize / 64) < words.len() {
                    Arc::make_mut(words)[id as usize / 64] &= !(1 << (id % 64));
                }
            }
            Self::Few(_) | Self::Tiny(..) => {
                let mut ids = self.ids();
                ids.retain(|other| *other != id);
                *self = Self::from_sorted(&ids);
            }
        }
    }

    /// The ids, ascending.
    pub(crate) fn ids(&self) -> Vec<u32> {
        match self {
            Self::Few(ids) => ids.to_vec(),
            Self::Many(words) => {
                let mut ids = Vec::new();
                for (base, word) in (0u32..).step_by(64).zip(words.iter()) {
                    let mut rest = *word;
                    while rest != 0 {
                        ids.push(base + rest.trailing_zeros());
                        rest &= rest - 1;
                    }
                }
                ids
            }
            Self::Tiny(length, ids) => ids[..usize::from(*length)].to_vec(),
        }
    }
}

fn set_bit(words: &mut Vec<u64>, id: u32) {
    let word = id as usize / 64;
    if words.len() <= word {
        words.resize(word + 1, 0);
    }
    words[word] |= 1 << (id % 64);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set(operations in proptest::collection::vec((any::<bool>(), 0u32..300), 0..200)) {
            let mut extent = Extent::default();
            let mut model = BTreeSet::new();
            for (insert, id) in operations {
                if insert {
                    extent.insert(id);
                    model.insert(id);
                } else {
                    extent.remove(id);
                    model.remove(&id);
                }
            }
            prop_assert_eq!(extent.ids(), model.iter().copied().collect::<Vec<_>>());
            for id in 0..310 {
                prop_assert_eq!(extent.contains(id), model.contains(&id));
            }
        }
    }
}
