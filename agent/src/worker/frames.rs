//! Memory for frames that are handed on where they lie, used again once whoever had the bytes is done with them.
//!
//! Given back to the allocator each time, what is more than it keeps (`adit_node::memory`) would go back to the kernel, since
//! these are the largest pieces that a worker has; then each frame costs sixteen page faults, and the kernel a page's zeroes
//! for each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Pieces that are kept: what a stream or two have under way, some 2 MiB. More are freed.
const KEPT: usize = 32;

/// A worker's pieces of memory that no frame is in.
///
/// A lock, since bytes may be dropped on any thread; nobody else asks for it in practice.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames(Arc<Mutex<Vec<Vec<u8>>>>);

impl Frames {
    /// A piece to read the next frame into; one that has no memory yet if none is left.
    pub(super) fn lend(&self) -> Vec<u8> {
        self.free().pop().unwrap_or_default()
    }

    /// A frame as bytes to hand on, whose memory comes back with the last of them.
    pub(super) fn hand_on(&self, frame: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent {
            frame,
            home: self.clone(),
        })
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // The list is whole whatever panicked elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lent {
    frame: Vec<u8>,
    home: Frames,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = self.home.free();
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_with_the_last_of_its_bytes() {
        let frames = Frames::default();
        let piece = b"a frame".to_vec();
        let memory = piece.as_ptr();
        let whole = frames.hand_on(piece);
        let part = whole.slice(2..);
        drop(whole);
        assert_eq!(frames.lend().capacity(), 0);
        assert_eq!(part, b"frame"[..]);
        drop(part);
        let again = frames.lend();
        assert_eq!(again.as_ptr(), memory);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let frames = Frames::default();
        let lent: Vec<_> = (0..2 * KEPT).map(|_| frames.hand_on(vec![0; 8])).collect();
        drop(lent);
        assert_eq!(frames.free().len(), KEPT);
    }
}
