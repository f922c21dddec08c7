//! A vector whose copies share what they have in common: the table type of published sets.

use std::sync::Arc;

const CHUNK: usize = 64;

/// A table by small index. A clone costs one count per 64 entries; changing an entry of a clone copies 64.
#[derive(Clone, Debug)]
pub(crate) struct Chunked<T> {
    chunks: Vec<Arc<[T; CHUNK]>>,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Chunked<T> {
    /// The entry at `index`, if the table reaches that far.
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.chunks.get(index / CHUNK).map(|chunk| &chunk[index % CHUNK])
    }
}

impl<T: Clone + Default> Chunked<T> {
    /// The entry at `index`, to be changed. The table grows to it.
    pub(crate) fn entry(&mut self, index: u32) -> &mut T {
        let index = index as usize;
        while self.chunks.len() <= index / CHUNK {
            self.chunks.push(Arc::new(std::array::from_fn(|_| T::default())));
        }
        &mut Arc::make_mut(&mut self.chunks[index / CHUNK])[index % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_had() {
        let mut table = Chunked::default();
        *table.entry(200) = 7;
        let old = table.clone();
        *table.entry(200) = 8;
        assert_eq!(
            (old.get(200), table.get(200), table.get(201)),
            (Some(&7), Some(&8), Some(&0))
        );
        assert_eq!(table.get(4_096), None);
        assert!(
            Arc::ptr_eq(&old.chunks[0], &table.chunks[0]),
            "an untouched chunk is shared"
        );
    }
}
