//! Watches the frame headers that pass between h2 and TLS, for what h2 doesn't tell its user.
//!
//! h2 answers a malformed or oversized request head by itself, and keeps a peer's GOAWAY to itself until streams
//! fail. Both must be known here: the first is counted, the second makes the pool choose another tunnel.
//! Nine bytes a frame are looked at; nothing is copied or changed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client learns from the frames it reads.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    settings: AtomicBool,
    go_away: AtomicBool,
}

/// What a server learns from the frames that h2 writes.
#[derive(Debug, Default)]
pub(crate) struct Told {
    malformed: AtomicU64,
    oversized: AtomicU64,
}

impl Heard {
    /// Whether the peer's SETTINGS came.
    pub(crate) fn settings(&self) -> bool {
        self.settings.load(Ordering::Acquire)
    }

    /// Whether the peer wants no more streams.
    pub(crate) fn go_away(&self) -> bool {
        self.go_away.load(Ordering::Acquire)
    }
}

impl Told {
    /// Streams reset with PROTOCOL_ERROR since the last call: only h2 does that, for what makes no sense.
    pub(crate) fn take_malformed(&self) -> u64 {
        self.malformed.swap(0, Ordering::AcqRel)
    }

    /// Requests answered by h2 with 431 since the last call.
    pub(crate) fn take_oversized(&self) -> u64 {
        self.oversized.swap(0, Ordering::AcqRel)
    }
}

/// Which direction is watched, and who is told.
enum Watch {
    Read(Arc<Heard>),
    Write { told: Arc<Told>, answered: u32 },
}

/// An IO object whose frames are watched in one direction.
pub(crate) struct Observed<Io> {
    io: Io,
    watch: Watch,
    frames: Frames,
}

impl<Io> Observed<Io> {
    pub(crate) fn client(io: Io) -> (Self, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        let watch = Watch::Read(Arc::clone(&heard));
        (
            Self {
                io,
                watch,
                frames: Frames::default(),
            },
            heard,
        )
    }

    pub(crate) fn server(io: Io) -> (Self, Arc<Told>) {
        let told = Arc::new(Told::default());
        let watch = Watch::Write {
            told: Arc::clone(&told),
            answered: 0,
        };
        (
            Self {
                io,
                watch,
                frames: Frames::default(),
            },
            told,
        )
    }

    fn on_read(&mut self, bytes: &[u8]) {
        if let Watch::Read(heard) = &self.watch {
            self.frames.feed(bytes, |frame| match frame.kind {
                Frame::GOAWAY => heard.go_away.store(true, Ordering::Release),
                Frame::SETTINGS => heard.settings.store(true, Ordering::Release),
                _ => {}
            });
        }
    }

    fn on_written(&mut self, bytes: &[u8]) {
        if let Watch::Write { told, answered } = &mut self.watch {
            self.frames.feed(bytes, |frame| match frame.kind {
                Frame::HEADERS => *answered = frame.stream,
                // After an answer on the same stream it was the 431 of h2, which resets what it answered.
                Frame::RST_STREAM if frame.code == PROTOCOL_ERROR => {
                    let counter = if *answered == frame.stream {
                        &told.oversized
                    } else {
                        &told.malformed
                    };
                    counter.fetch_add(1, Ordering::AcqRel);
                }
                // A head far over the limit costs the sender the whole tunnel.
                Frame::GOAWAY if frame.is_about_a_head() => {
                    told.oversized.fetch_add(1, Ordering::AcqRel);
                }
                _ => {}
            });
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Observed<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.on_read(&buffer.filled()[before..]);
        outcome
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Observed<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = outcome {
            self.on_written(&bytes[..written]);
        }
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(mut written)) = outcome {
            for slice in slices {
                let part = written.min(slice.len());
                self.on_written(&slice[..part]);
                written -= part;
            }
        }
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// One frame's header (RFC 9113 §4.1), the error code where it is an RST_STREAM, and the beginning of the debug data
/// where it is a GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    stream: u32,
    code: u32,
    debug: [u8; DEBUG],
}

impl Frame {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;

    /// h2 gives its reason in the debug data, and nowhere else.
    fn is_about_a_head(&self) -> bool {
        [b"header_list_", b"too_many_con"].contains(&&self.debug)
    }
}

const PROTOCOL_ERROR: u32 = 1;
const HEADER: usize = 9;
/// Where the debug data of a GOAWAY begins, and how much of it is looked at.
const DEBUG_AT: usize = HEADER + 8;
const DEBUG: usize = 12;

/// Finds the frames in a stream of bytes that comes in pieces of any size.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; DEBUG_AT + DEBUG],
    have: usize,
    skip: usize,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let part = self.skip.min(bytes.len());
                self.skip -= part;
                bytes = &bytes[part..];
                continue;
            }
            let part = (self.wanted() - self.have).min(bytes.len());
            self.head[self.have..self.have + part].copy_from_slice(&bytes[..part]);
            self.have += part;
            bytes = &bytes[part..];
            if self.have == self.wanted() {
                on_frame(self.frame());
                self.skip = self.payload() - (self.have - HEADER);
                self.have = 0;
            }
        }
    }

    /// The header, and of two kinds what is looked at besides.
    fn wanted(&self) -> usize {
        let more = match self.head[3] {
            _ if self.have < HEADER => 0,
            Frame::RST_STREAM => 4,
            Frame::GOAWAY => DEBUG_AT + DEBUG - HEADER,
            _ => 0,
        };
        HEADER + if more <= self.payload() { more } else { 0 }
    }

    fn payload(&self) -> usize {
        u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize
    }

    fn frame(&self) -> Frame {
        let word = |at: usize| {
            u32::from_be_bytes([
                self.head[at],
                self.head[at + 1],
                self.head[at + 2],
                self.head[at + 3],
            ])
        };
        Frame {
            kind: self.head[3],
            stream: word(5) & 0x7fff_ffff,
            code: if self.head[3] == Frame::RST_STREAM && self.have > HEADER {
                word(HEADER)
            } else {
                0
            },
            debug: match self.head[DEBUG_AT..].try_into() {
                Ok(debug) if self.have == self.head.len() => debug,
                _ => [0; DEBUG],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    proptest! {
        #[test]
        fn frames_are_found_however_the_bytes_are_cut(
            frames in prop::collection::vec((0_u8..12, 0_u32..1 << 31, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            cuts in prop::collection::vec(1_usize..30, 1..50),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, stream, payload)| encode(*kind, *stream, payload)).collect();
            let mut found = Vec::new();
            let (mut watcher, mut rest) = (Frames::default(), bytes.as_slice());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                watcher.feed(now, |frame| found.push(frame));
                rest = later;
            }
            let expected: Vec<Frame> = frames
                .iter()
                .map(|(kind, stream, payload)| Frame {
                    kind: *kind,
                    stream: *stream,
                    code: match payload[..] {
                        [a, b, c, d, ..] if *kind == Frame::RST_STREAM => u32::from_be_bytes([a, b, c, d]),
                        _ => 0,
                    },
                    debug: match payload.get(8..8 + DEBUG) {
                        Some(debug) if *kind == Frame::GOAWAY => debug.try_into().unwrap(),
                        _ => [0; DEBUG],
                    },
                })
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
