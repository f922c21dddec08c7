//! Which classes a selector matches.

use std::sync::Arc;

/// A set of class ids. Small ones are lists, large ones bits; a copy shares them until it is changed.
#[derive(Clone, Debug)]
pub(crate) enum Extent {
    /// Sorted ids.
    Few(Arc<Vec<u32>>),
    /// A bit per id.
    Many(Arc<Vec<u64>>),
}

/// Above this a list becomes bits. There is no way back: a selector that once matched many may do so again.
const FEW: usize = 48;

impl Default for Extent {
    fn default() -> Self {
        Self::from_sorted(Vec::new())
    }
}

impl Extent {
    /// From ids in ascending order.
    pub(crate) fn from_sorted(ids: Vec<u32>) -> Self {
        if ids.len() <= FEW {
            return Self::Few(Arc::new(ids));
        }
        let mut words = Vec::new();
        for id in ids {
            set_bit(&mut words, id);
        }
        Self::Many(Arc::new(words))
    }

    #[inline]
    pub(crate) fn contains(&self, id: u32) -> bool {
        match self {
            Self::Few(ids) => ids.binary_search(&id).is_ok(),
            Self::Many(words) => words
                .get(id as usize / 64)
                .is_some_and(|word| word >> (id % 64) & 1 == 1),
        }
    }

    pub(crate) fn insert(&mut self, id: u32) {
        match self {
            Self::Few(ids) => {
                let Err(at) = ids.binary_search(&id) else {
                    return;
                };
                let ids = Arc::make_mut(ids);
                ids.insert(at, id);
                if ids.len() > FEW {
                    *self = Self::from_sorted(std::mem::take(ids));
                }
            }
            Self::Many(words) => set_bit(Arc::make_mut(words), id),
        }
    }

    pub(crate) fn remove(&mut self, id: u32) {
        match self {
            Self::Few(ids) => {
                if let Ok(at) = ids.binary_search(&id) {
                    Arc::make_mut(ids).remove(at);
                }
            }
            Self::Many(words) => {
                if let Some(word) = Arc::make_mut(words).get_mut(id as usize / 64) {
                    *word &= !(1 << (id % 64));
                }
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
