//! Bytes under way on a flow, and the pool that they come from.
//!
//! A flow at rest holds no buffer. What one gives back is what the next gets, last in first out: thousands of flows with
//! little under way each share the few buffers that are in the caches.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

/// What a flow holds while it isn't at rest.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Received in order, and not read.
    pub(crate) received: ByteQueue,
    /// Written, and not acknowledged.
    pub(crate) written: ByteQueue,
}

impl Buffers {
    pub(crate) fn len(&self) -> usize {
        self.received.len + self.written.len
    }
}

/// Bytes in order, in pieces.
#[derive(Default)]
pub(crate) struct ByteQueue {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are used up.
    head: usize,
    len: usize,
}

enum Piece {
    /// Short appends, in a piece of the pool.
    Owned(Vec<u8>),
    /// What is too long for that, or was given by reference.
    Shared(Bytes),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl ByteQueue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends a copy of `data`. Short appends share a piece, so that the queue takes little more than its bytes.
    pub(crate) fn push(&mut self, mut data: &[u8], pool: &mut Pool) {
        self.len += data.len();
        if let Some(Piece::Owned(last)) = self.pieces.back_mut() {
            let fits = (last.capacity() - last.len()).min(data.len());
            last.extend_from_slice(&data[..fits]);
            data = &data[fits..];
        }
        if data.is_empty() {
            return;
        }
        self.pieces.push_back(if data.len() > PIECE {
            Piece::Shared(Bytes::copy_from_slice(data))
        } else {
            let mut piece = pool.piece();
            piece.extend_from_slice(data);
            Piece::Owned(piece)
        });
    }

    /// Appends `data` without copying it. It stays referenced until it's used up.
    pub(crate) fn push_shared(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.len += data.len();
            self.pieces.push_back(Piece::Shared(data));
        }
    }

    /// The first bytes, as far as they lie in one piece.
    pub(crate) fn front(&self) -> &[u8] {
        self.pieces
            .front()
            .map_or(&[], |piece| &piece.bytes()[self.head..])
    }

    /// Drops the first `count` bytes, at most all.
    pub(crate) fn consume(&mut self, count: usize, pool: &mut Pool) {
        let mut count = count.min(self.len);
        self.len -= count;
        while let Some(first) = self.pieces.front() {
            let left = first.bytes().len() - self.head;
            if count < left {
                self.head += count;
                return;
            }
            count -= left;
            self.head = 0;
            if let Some(Piece::Owned(piece)) = self.pieces.pop_front() {
                pool.give_back(piece);
            }
        }
    }

    /// Takes out the first bytes, at most `limit`, as far as they lie in one piece. Only few are copied.
    pub(crate) fn take(&mut self, limit: usize, pool: &mut Pool) -> Bytes {
        let front = self.front();
        let count = front.len().min(limit);
        if front.len() <= PIECE {
            let taken = Bytes::copy_from_slice(&front[..count]);
            self.consume(count, pool);
            return taken;
        }
        let Some(Piece::Shared(bytes)) = self.pieces.front() else {
            debug_assert!(false, "only shared pieces are longer");
            return Bytes::new();
        };
        let taken = bytes.slice(self.head..self.head + count);
        self.consume(count, pool);
        taken
    }

    /// All bytes, piece by piece.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let skips = std::iter::once(self.head).chain(std::iter::repeat(0));
        self.pieces
            .iter()
            .zip(skips)
            .map(|(piece, skip)| &piece.bytes()[skip..])
    }

    /// Appends `count` bytes from `offset` on to `out`; there must be as many.
    pub(crate) fn copy_to(&self, offset: usize, count: usize, out: &mut Vec<u8>) {
        for (piece, range) in self.range(offset, count) {
            out.extend_from_slice(&piece.bytes()[range]);
        }
    }

    /// The same, but what follows once there's a shared piece goes to `shared`, and such a piece isn't copied.
    pub(crate) fn share_to(&self, offset: usize, count: usize, out: &mut Vec<u8>, shared: &mut Vec<Bytes>) {
        for (piece, range) in self.range(offset, count) {
            match piece {
                Piece::Shared(bytes) => shared.push(bytes.slice(range)),
                Piece::Owned(bytes) if shared.is_empty() => out.extend_from_slice(&bytes[range]),
                Piece::Owned(bytes) => shared.push(Bytes::copy_from_slice(&bytes[range])),
            }
        }
    }

    /// The pieces that hold `count` bytes from `offset` on, and which part of each.
    fn range(&self, offset: usize, count: usize) -> impl Iterator<Item = (&Piece, Range<usize>)> {
        debug_assert!(offset + count <= self.len);
        let (mut skip, mut left) = (self.head + offset, count);
        self.pieces.iter().filter_map(move |piece| {
            let length = piece.bytes().len();
            if left == 0 || skip >= length {
                skip -= length.min(skip);
                return None;
            }
            let range = skip..length.min(skip + left);
            left -= range.len();
            skip = 0;
            Some((piece, range))
        })
    }
}

/// Buffers that no flow holds.
#[derive(Default)]
pub(crate) struct Pool {
    #[expect(
        clippy::vec_box,
        reason = "they move between here and flows, which have them boxed"
    )]
    buffers: Vec<Box<Buffers>>,
    pieces: Vec<Vec<u8>>,
}

impl Pool {
    pub(crate) fn buffers(&mut self) -> Box<Buffers> {
        self.buffers.pop().unwrap_or_default()
    }

    /// Takes back what a flow held; what's still in it is dropped.
    pub(crate) fn give_back_buffers(&mut self, mut buffers: Box<Buffers>) {
        for queue in [&mut buffers.received, &mut buffers.written] {
            queue.consume(queue.len, self);
        }
        if self.buffers.len() < KEPT {
            self.buffers.push(buffers);
        }
    }

    /// An empty piece.
    fn piece(&mut self) -> Vec<u8> {
        self.pieces.pop().unwrap_or_else(|| Vec::with_capacity(PIECE))
    }

    fn give_back(&mut self, mut piece: Vec<u8>) {
        if self.pieces.len() < KEPT {
            piece.clear();
            self.pieces.push(piece);
        }
    }
}

/// Bytes of a piece for short segments: an ordinary one fits.
pub(crate) const PIECE: usize = 2048;

/// Most buffers and pieces kept for reuse: about as many as a turn of the driver touches flows.
const KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        PushShared(usize),
        Consume(usize),
        Take(usize),
        Copy(usize, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        let size = || prop_oneof![0..50_usize, 0..10_000_usize];
        prop_oneof![
            3 => size().prop_map(Op::Push),
            1 => size().prop_map(Op::PushShared),
            2 => size().prop_map(Op::Consume),
            2 => (1..10_000_usize).prop_map(Op::Take),
            1 => (size(), size()).prop_map(|(offset, count)| Op::Copy(offset, count)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_queue_of_bytes(ops in proptest::collection::vec(op(), 0..100)) {
            let mut pool = Pool::default();
            let mut queue = ByteQueue::default();
            let mut model = VecDeque::new();
            let mut next = 0_u8;
            let mut fresh = |count: usize| -> Vec<u8> {
                (0..count).map(|_| { next = next.wrapping_add(1); next }).collect()
            };
            for op in ops {
                match op {
                    Op::Push(count) => {
                        let data = fresh(count);
                        queue.push(&data, &mut pool);
                        model.extend(data);
                    }
                    Op::PushShared(count) => {
                        let data = fresh(count);
                        queue.push_shared(data.clone().into());
                        model.extend(data);
                    }
                    Op::Consume(count) => {
                        queue.consume(count, &mut pool);
                        model.drain(..count.min(model.len()));
                    }
                    Op::Take(limit) => {
                        let taken = queue.take(limit, &mut pool);
                        prop_assert!(taken.len() <= limit && taken.is_empty() == model.is_empty());
                        let expected: Vec<u8> = model.drain(..taken.len()).collect();
                        prop_assert_eq!(&taken[..], &expected[..]);
                    }
                    Op::Copy(offset, count) => {
                        let offset = offset.min(model.len());
                        let count = count.min(model.len() - offset);
                        let mut out = vec![1];
                        queue.copy_to(offset, count, &mut out);
                        let expected: Vec<u8> = model.range(offset..offset + count).copied().collect();
                        prop_assert_eq!(&out[1..], &expected[..]);
                        let mut shared = Vec::new();
                        out.truncate(1);
                        queue.share_to(offset, count, &mut out, &mut shared);
                        shared.iter().for_each(|part| out.extend_from_slice(part));
                        prop_assert_eq!(&out[1..], &expected[..]);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert!(queue.slices().flatten().eq(&model));
                prop_assert!(pool.pieces.len() <= KEPT && pool.pieces.iter().all(Vec::is_empty));
            }
        }
    }

    #[test]
    fn short_appends_share_pieces() {
        let (mut queue, mut pool) = (ByteQueue::default(), Pool::default());
        (0..100_000).for_each(|_| queue.push(&[7], &mut pool));
        assert_eq!(queue.pieces.len(), 100_000_usize.div_ceil(PIECE));
    }

    #[test]
    fn what_was_given_back_last_is_used_first() {
        let mut pool = Pool::default();
        let mut buffers = pool.buffers();
        buffers.received.push(&[7; 10], &mut pool);
        let (place, piece) = (std::ptr::from_ref(&*buffers), buffers.received.front().as_ptr());
        pool.give_back_buffers(buffers);
        let mut again = pool.buffers();
        assert_eq!((std::ptr::from_ref(&*again), again.len()), (place, 0));
        again.written.push(&[8; 10], &mut pool);
        assert_eq!(again.written.front().as_ptr(), piece);
    }
}
