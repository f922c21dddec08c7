//! Bytes on their way out: plaintext in, records out, in one buffer.

use std::io::IoSlice;

use rustls::AlertDescription;

use super::record::{Content, HEADER, MAX_CONTENT, OVERHEAD, Sealer};

/// Records that wait for the transport, and one that is being filled.
///
/// ```text
///   0        start             end
///   │ written │ sealed records │ header │ content so far │ room…
/// ```
/// Short pieces are gathered: their record is sealed when it's full, when [`close_record`](Self::close_record) says so, or
/// when a long piece follows. A long piece is encrypted from where it lies into records of its own, without a copy: a frame
/// of HTTP/2 costs a record of nine bytes, its header, and shifts nothing over the records' ends, at the peer neither.
pub(super) struct Output {
    sealer: Sealer,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of content in the record that is being filled.
    open: usize,
    /// Bytes taken since there was nothing to write.
    burst: usize,
    /// Bursts in a row that a small buffer could have taken.
    small_bursts: u8,
}

/// Bytes of records that may wait for the transport.
pub(super) const LIMIT: usize = 256 << 10;
/// A piece of at least this size is a long one.
const LONG: usize = 4 << 10;
/// A buffer of at least this size is given back when what went through it lately would have done with less.
const LARGE: usize = 64 << 10;
/// Bursts of less than half of that, one after the other, until it's given back: a stream's frames alternate with window
/// updates and the end of other streams.
const SMALL_BURSTS: u8 = 16;

impl Output {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self {
            sealer,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            open: 0,
            burst: 0,
            small_bursts: 0,
        }
    }

    /// Takes content from the front of `slices` until [`LIMIT`] is reached: how many bytes.
    pub(super) fn take(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let mut taken = 0;
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                if self.sealed().len() >= LIMIT {
                    return taken;
                }
                let count = self.take_piece(rest);
                rest = &rest[count..];
                taken += count;
                self.burst += count;
            }
        }
        taken
    }

    fn take_piece(&mut self, piece: &[u8]) -> usize {
        if piece.len() >= LONG {
            let count = piece.len().min(MAX_CONTENT);
            self.seal_by_itself(Content::ApplicationData, &piece[..count]);
            return count;
        }
        self.make_room();
        let count = piece.len().min(MAX_CONTENT - self.open);
        let at = self.end + HEADER + self.open;
        self.buffer[at..at + count].copy_from_slice(&piece[..count]);
        self.open += count;
        if self.open == MAX_CONTENT {
            self.close_record();
        }
        count
    }

    /// Seals what there is, so that it can be written.
    pub(super) fn close_record(&mut self) {
        if self.open > 0 {
            let length = self.open + OVERHEAD;
            let record = &mut self.buffer[self.end..self.end + length];
            self.sealer.seal_in_place(Content::ApplicationData, record);
            self.end += length;
            self.open = 0;
        }
    }

    /// Ends our direction, or the connection with an error (RFC 8446 §6).
    pub(super) fn alert(&mut self, alert: AlertDescription) {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        let level = if alert == AlertDescription::CloseNotify {
            WARNING
        } else {
            FATAL
        };
        self.seal_by_itself(Content::Alert, &[level, alert.into()]);
    }

    /// Announces that records from now on are sealed with the keys of `sealer` (RFC 8446 §4.6.3).
    pub(super) fn update_key(&mut self, sealer: Sealer) {
        self.seal_by_itself(Content::Handshake, &KEY_UPDATE);
        self.sealer = sealer;
    }

    /// Records sealed with the key in use.
    pub(super) fn sealed_with_key(&self) -> u64 {
        self.sealer.sealed()
    }

    /// Seals `content`, at most [`MAX_CONTENT`] bytes, into a record of its own, after what is there.
    fn seal_by_itself(&mut self, kind: Content, content: &[u8]) {
        self.close_record();
        self.make_room();
        let length = content.len() + OVERHEAD;
        self.sealer
            .seal(kind, content, &mut self.buffer[self.end..self.end + length]);
        self.end += length;
    }

    /// What can be written.
    pub(super) fn sealed(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// `count` bytes of [`sealed`](Self::sealed) were written.
    pub(super) fn written(&mut self, count: usize) {
        self.start += count;
        if self.start < self.end || self.open > 0 {
            return;
        }
        self.start = 0;
        self.end = 0;
        if self.burst < LARGE / 2 {
            self.small_bursts = self.small_bursts.saturating_add(1);
        } else {
            self.small_bursts = 0;
        }
        self.burst = 0;
        if self.buffer.len() >= LARGE && self.small_bursts >= SMALL_BURSTS {
            self.buffer = Vec::new();
        }
    }

    /// Makes room for a whole record where the open one is.
    fn make_room(&mut self) {
        const RECORD: usize = MAX_CONTENT + OVERHEAD;
        if self.buffer.len() - self.end >= RECORD {
            return;
        }
        let used = self.end + if self.open > 0 { HEADER + self.open } else { 0 };
        if self.start > 0 {
            self.buffer.copy_within(self.start..used, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < RECORD {
            // What waits is below the limit and one record, so this doesn't grow beyond it and two.
            let doubled = (self.buffer.len() * 2).min(LIMIT + 2 * RECORD);
            self.buffer.resize(doubled.max(self.end + RECORD), 0);
        }
    }
}

/// A KeyUpdate that asks for none in return.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::ConnectionTrafficSecrets;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::super::record::Opener;
    use super::*;

    fn secrets() -> (u64, ConnectionTrafficSecrets) {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; 12]));
        (0, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
    }

    fn output() -> Output {
        Output::new(Sealer::new(secrets()).unwrap())
    }

    /// The content of all records in `bytes`, and how many there are.
    fn open(bytes: &[u8]) -> (Vec<u8>, usize) {
        let mut opener = Opener::new(secrets()).unwrap();
        let (mut content, mut count, mut rest) = (Vec::new(), 0, bytes);
        while let Some(length) = Opener::record_length(rest).unwrap() {
            let mut room = vec![0; Opener::room_for(length)];
            let (_, opened) = opener.open_into(&rest[..length], &mut room).unwrap();
            content.extend_from_slice(&room[..opened]);
            rest = &rest[length..];
            count += 1;
        }
        assert!(rest.is_empty(), "half a record");
        (content, count)
    }

    proptest! {
        #[test]
        fn what_is_taken_comes_out_in_order_and_within_bounds(
            steps in prop::collection::vec((0_usize..200_000, 0_usize..200_000, any::<bool>()), 1..30),
        ) {
            let mut output = output();
            let (mut sent, mut written) = (Vec::new(), Vec::new());
            for (length, drain, close) in steps {
                let piece: Vec<u8> = (0..length).map(|at| (at + sent.len()) as u8).collect();
                let (front, back) = piece.split_at(length.min(9));
                let taken = output.take(&[IoSlice::new(front), IoSlice::new(back)]);
                sent.extend_from_slice(&piece[..taken]);
                if close {
                    output.close_record();
                }
                prop_assert!(output.sealed().len() < LIMIT + 2 * (MAX_CONTENT + OVERHEAD));
                prop_assert!(output.buffer.len() <= LIMIT + 2 * (MAX_CONTENT + OVERHEAD));
                let count = drain.min(output.sealed().len());
                written.extend_from_slice(&output.sealed()[..count]);
                output.written(count);
            }
            output.close_record();
            written.extend_from_slice(output.sealed());
            let (content, _) = open(&written);
            prop_assert!(content == sent, "the content differs");
        }
    }

    #[test]
    fn short_pieces_share_a_record() {
        let mut output = output();
        for _ in 0..LONG {
            assert_eq!(
                output.take(&[IoSlice::new(b"a short piece"), IoSlice::new(b"!")]),
                14
            );
        }
        output.close_record();
        let (content, records) = open(output.sealed());
        assert_eq!(content.len(), 14 * LONG);
        assert_eq!(records, content.len().div_ceil(MAX_CONTENT));
    }

    #[test]
    fn a_long_piece_begins_and_ends_with_a_record() {
        let mut output = output();
        let frame = [0; 9 + 3 * MAX_CONTENT + LONG];
        for _ in 0..3 {
            let taken = output.take(&[IoSlice::new(&frame[..9]), IoSlice::new(&frame[9..])]);
            assert_eq!(taken, frame.len());
            assert_eq!(output.open, 0);
        }
        let (content, records) = open(output.sealed());
        assert_eq!((content.len(), records), (3 * frame.len(), 3 * 5));
    }

    #[test]
    fn a_large_buffer_is_given_back_after_small_bursts() {
        fn burst(output: &mut Output, bytes: &[u8]) {
            output.take(&[IoSlice::new(bytes)]);
            output.close_record();
            output.written(output.sealed().len());
        }
        let mut output = output();
        for _ in 0..3 {
            burst(&mut output, &[0; LIMIT]);
            for _ in 1..SMALL_BURSTS {
                burst(&mut output, b"a window update");
            }
            assert!(output.buffer.len() >= LIMIT, "more is likely to come");
        }
        burst(&mut output, b"a ping");
        assert_eq!(output.buffer.len(), 0);
    }
}
