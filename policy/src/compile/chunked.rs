//! A vector whose copies share what they have in common: the table type of published sets.

use std::sync::Arc;

const CHUNK: usize = 64;

/// A table by small index. A clone costs one count per 64 entries; changing an entry of a clone copies 64.
#[derive(Clone, Debug)]
pub(crate) struct Chunked<T> {
    chunks: Vec<Arc<Chunk<T>>>,
}

/// Aligned, so that an entry of a cache line or of half of one never lies in two.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Chunk<T>([T; CHUNK]);

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Chunked<T> {
    /// The entry at `index`, if the table reaches that far.
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.chunks
            .get(index / CHUNK)
            .map(|chunk| &chunk.0[index % CHUNK])
    }
}

/// An entry, kept as it is whatever becomes of the table.
///
/// What is counted is its chunk, not the entry: where every verdict keeps one of ten thousand, their counts would be
/// ten thousand cache lines to fetch and to write.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    chunk: Arc<Chunk<T>>,
    at: u8,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self {
            chunk: Arc::clone(&self.chunk),
            at: self.at,
        }
    }
}

impl<T> std::ops::Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.chunk.0[usize::from(self.at)]
    }
}

impl<T> Chunked<T> {
    /// Keeps the entry at `index`, if the table reaches that far.
    #[inline]
    pub(crate) fn keep(&self, index: u32) -> Option<Entry<T>> {
        let chunk = self.chunks.get(index as usize / CHUNK)?;
        Some(Entry {
            chunk: Arc::clone(chunk),
            at: (index as usize % CHUNK) as u8,
        })
    }
}

impl<T: Clone + Default> Chunked<T> {
    /// The entry at `index`, to be changed. The table grows to it.
    pub(crate) fn entry(&mut self, index: u32) -> &mut T {
        let index = index as usize;
        while self.chunks.len() <= index / CHUNK {
            self.chunks
                .push(Arc::new(Chunk(std::array::from_fn(|_| T::default()))));
        }
        &mut Arc::make_mut(&mut self.chunks[index / CHUNK]).0[index % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_had() {
        let mut table = Chunked::default();
        *table.entry(200) = 7;
        let (old, kept) = (table.clone(), table.keep(200).unwrap());
        *table.entry(200) = 8;
        assert_eq!(*kept, 7);
        assert!(table.keep(4_096).is_none());
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
