//! Bytes that tell where in a stream they belong, and a hash that notices a lost, doubled or moved one.

const LANES: usize = 4;
const BLOCK: usize = LANES * 8;
/// An odd number with well-mixed bits: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The test's byte stream: a function of the seed and of the offset alone.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
}

/// A hash of a byte stream, the same however the stream is cut into chunks.
///
/// Not cryptographic: nobody here has an interest in a collision. Fast enough not to be what is measured.
#[derive(Clone, Debug)]
pub struct Digest {
    lanes: [u64; LANES],
    rest: [u8; BLOCK],
    rest_len: usize,
    len: u64,
}

impl Pattern {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Writes the bytes at `offset`, which must be a multiple of 8.
    ///
    /// # Panics
    /// If it isn't.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        assert!(offset.is_multiple_of(8), "the pattern is made of 8-byte words");
        for (index, chunk) in (offset / 8..).zip(buffer.chunks_mut(8)) {
            chunk.copy_from_slice(&self.word(index).to_le_bytes()[..chunk.len()]);
        }
    }

    /// SplitMix64 of the word's number.
    fn word(self, index: u64) -> u64 {
        let mut word = self.seed.wrapping_add(index.wrapping_mul(MULTIPLIER));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

impl Digest {
    /// The digest of nothing.
    pub fn new() -> Self {
        Self {
            lanes: [1, 2, 3, 4],
            rest: [0; BLOCK],
            rest_len: 0,
            len: 0,
        }
    }

    /// Adds bytes at the end.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        if self.rest_len > 0 {
            let take = bytes.len().min(BLOCK - self.rest_len);
            self.rest[self.rest_len..][..take].copy_from_slice(&bytes[..take]);
            self.rest_len += take;
            bytes = &bytes[take..];
            if self.rest_len < BLOCK {
                return;
            }
            let block = self.rest;
            self.block(&block);
        }
        let mut blocks = bytes.chunks_exact(BLOCK);
        for block in &mut blocks {
            self.block(block);
        }
        let rest = blocks.remainder();
        self.rest[..rest.len()].copy_from_slice(rest);
        self.rest_len = rest.len();
    }

    /// The hash of everything so far.
    pub fn value(&self) -> u64 {
        let mut last = self.clone();
        let mut block = [0; BLOCK];
        block[..self.rest_len].copy_from_slice(&self.rest[..self.rest_len]);
        last.block(&block);
        last.lanes.iter().fold(self.len, |hash, lane| {
            (hash.rotate_left(23) ^ lane).wrapping_mul(MULTIPLIER)
        })
    }

    fn block(&mut self, block: &[u8]) {
        for (lane, word) in self.lanes.iter_mut().zip(block.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("chunks of eight bytes"));
            *lane = (*lane ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
        }
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunking_does_not_matter_and_order_does() {
        let mut bytes = vec![0; 1000];
        Pattern::new(5).fill(0, &mut bytes);
        let of = |chunks: &[&[u8]]| {
            let mut digest = Digest::new();
            chunks.iter().for_each(|chunk| digest.update(chunk));
            digest.value()
        };
        let whole = of(&[&bytes]);
        for cut in [1, 31, 32, 33, 500, 999] {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(of(&[head, tail]), whole, "cut at {cut}");
            assert_ne!(of(&[tail, head]), whole, "swapped at {cut}");
        }
        assert_ne!(of(&[&bytes, &[0]]), whole, "a zero byte more");
    }

    #[test]
    fn the_pattern_depends_on_the_offset_alone() {
        let mut whole = [0; 64];
        Pattern::new(1).fill(0, &mut whole);
        let mut tail = [0; 20];
        Pattern::new(1).fill(40, &mut tail);
        assert_eq!(whole[40..60], tail);
    }
}
