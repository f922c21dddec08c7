//! Equal values kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// A set of values that are in use, by which equal ones are shared.
pub(super) struct Interner<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// At this many, those that nobody uses any more are looked for.
    sweep_at: usize,
}

const SMALLEST_SWEEP: usize = 64;

impl<T: Eq + Hash + ?Sized> Interner<T> {
    pub(super) fn new() -> Self {
        Self {
            known: HashSet::new(),
            sweep_at: SMALLEST_SWEEP,
        }
    }

    /// The one value that equals `value`.
    pub(super) fn share(&mut self, value: impl Into<Arc<T>> + std::borrow::Borrow<T>) -> Arc<T> {
        if let Some(known) = self.known.get(value.borrow()) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = SMALLEST_SWEEP.max(self.known.len() * 2);
        }
        let value = value.into();
        self.known.insert(Arc::clone(&value));
        value
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_unused_ones_go() {
        let mut interner: Interner<str> = Interner::new();
        let kept = interner.share("kept");
        assert!(Arc::ptr_eq(&kept, &interner.share("kept".to_owned())));
        for number in 0..10_000 {
            drop(interner.share(format!("{number}")));
        }
        assert!(interner.len() <= 2 * SMALLEST_SWEEP, "{}", interner.len());
        assert!(Arc::ptr_eq(&kept, &interner.share("kept")));
    }
}
