//! Bytes between the two ends of an established flow, until both have ended.
//!
//! The rule that everything here serves: **an end is a FIN only if it was a FIN.** A clean end of one side is
//! passed on as a half-close; anything else (a reset, a lost peer, a cut by policy) resets the other side, and
//! the outcome says which end it was.
//!
//! Back-pressure: at most one chunk a direction is held here ([`CHUNK_LIMIT`] bytes). While the receiver
//! takes no more, nothing is read from the sender, whose window then closes.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use adit_flow::CloseReason;
use bytes::Bytes;

/// The most bytes that one read may hand over.
pub(crate) const CHUNK_LIMIT: usize = 64 * 1024;

/// Chunks moved in one direction before the other gets its turn and the task yields: fairness between flows.
const CHUNKS_PER_POLL: usize = 16;

/// One end of a relayed flow: a TCP connection of a pod, a tunnel's stream, or a host socket.
pub(crate) trait End {
    /// The next bytes from this end; `None` once it has sent FIN and everything before it was handed over.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Ended>>;

    /// Takes as much from the front of `data` as fits; ready once at least a byte was taken.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Ended>>;

    /// `count` bytes given by [`End::poll_data`] have reached the other end: this end's window may open by them.
    fn consumed(&mut self, count: usize);

    /// Sends FIN after the bytes already taken.
    fn finish(&mut self) -> Result<(), Ended>;

    /// Ready when this end has ended by itself, for whichever reason; polled after both directions finished.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>>;

    /// Ends both directions at once, seen by the application as a reset.
    fn reset(&mut self);
}

/// Why an end stopped other than by FIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The reason as recorded.
    pub(crate) reason: CloseReason,
    /// Detail for people; empty where the reason says all.
    pub(crate) detail: String,
}

/// One of the two ends, from the relay's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The end that opened the flow.
    Opener,
    /// The end that it was opened to.
    Target,
}

/// How a relayed flow ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// [`CloseReason::Fin`] only if both ends sent FIN.
    pub(crate) reason: CloseReason,
    /// The end that reset, or that sent the first FIN.
    pub(crate) by: Side,
    /// Detail for people; may be empty.
    pub(crate) detail: String,
}

/// Bytes moved so far, for the flow's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// From the opener to the target.
    pub(crate) sent: u64,
    /// From the target to the opener.
    pub(crate) received: u64,
}

/// The relay of one flow.
pub(crate) struct Relay<A, B> {
    opener: A,
    target: B,
    forth: Direction,
    back: Direction,
    first_fin: Option<Side>,
}

/// One direction's progress.
#[derive(Default)]
struct Direction {
    held: Bytes,
    stage: Stage,
    moved: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Moving bytes.
    #[default]
    Open,
    /// The sender's FIN has been passed on.
    Finished,
}

/// Which end of a direction failed.
enum Fault {
    Reader(Ended),
    Writer(Ended),
}

impl<A: End, B: End> Relay<A, B> {
    /// A relay between two established ends.
    pub(crate) fn new(opener: A, target: B) -> Self {
        Self {
            opener,
            target,
            forth: Direction::default(),
            back: Direction::default(),
            first_fin: None,
        }
    }

    /// Moves bytes until both ends have ended. The other end of a failed one has been reset when this returns.
    pub(crate) async fn run(&mut self) -> Outcome {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Resets both ends: the agent itself ends the flow.
    pub(crate) fn cut(&mut self) {
        self.opener.reset();
        self.target.reset();
    }

    /// Bytes moved so far.
    pub(crate) fn moved(&self) -> Moved {
        Moved {
            sent: self.forth.moved,
            received: self.back.moved,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let forth = self.forth.poll(cx, &mut self.opener, &mut self.target);
        if let Poll::Ready(Err(fault)) = forth {
            return Poll::Ready(self.fail(fault, Side::Opener));
        }
        self.note_fin(Side::Opener);
        let back = self.back.poll(cx, &mut self.target, &mut self.opener);
        if let Poll::Ready(Err(fault)) = back {
            return Poll::Ready(self.fail(fault, Side::Target));
        }
        self.note_fin(Side::Target);
        // An end whose FIN was passed on can still reset, until it has acknowledged all.
        let opener_closed = if forth.is_ready() {
            self.opener.poll_closed(cx)
        } else {
            Poll::Pending
        };
        if let Poll::Ready(Err(ended)) = opener_closed {
            return Poll::Ready(self.fail(Fault::Reader(ended), Side::Opener));
        }
        let target_closed = if back.is_ready() {
            self.target.poll_closed(cx)
        } else {
            Poll::Pending
        };
        if let Poll::Ready(Err(ended)) = target_closed {
            return Poll::Ready(self.fail(Fault::Reader(ended), Side::Target));
        }
        if opener_closed.is_pending() || target_closed.is_pending() {
            return Poll::Pending;
        }
        let by = self.first_fin.unwrap_or(Side::Opener);
        Poll::Ready(Outcome {
            reason: CloseReason::Fin,
            by,
            detail: String::new(),
        })
    }

    fn note_fin(&mut self, side: Side) {
        let direction = if side == Side::Opener {
            &self.forth
        } else {
            &self.back
        };
        if direction.stage == Stage::Finished && self.first_fin.is_none() {
            self.first_fin = Some(side);
        }
    }

    /// Resets the end that still lives and says which one didn't. `reader` is the side that the failed
    /// direction reads from.
    fn fail(&mut self, fault: Fault, reader: Side) -> Outcome {
        let writer = if reader == Side::Opener {
            Side::Target
        } else {
            Side::Opener
        };
        let (ended, by) = match fault {
            Fault::Reader(ended) => (ended, reader),
            Fault::Writer(ended) => (ended, writer),
        };
        match by {
            Side::Opener => self.target.reset(),
            Side::Target => self.opener.reset(),
        }
        Outcome {
            reason: ended.reason,
            by,
            detail: ended.detail,
        }
    }
}

impl Direction {
    /// Moves what can be moved; ready once the reader's FIN was passed on, or one of the two failed.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl End,
        writer: &mut impl End,
    ) -> Poll<Result<(), Fault>> {
        for _ in 0..CHUNKS_PER_POLL {
            if self.stage == Stage::Finished {
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                match reader.poll_data(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Some(data))) => self.held = data,
                    Poll::Ready(Ok(None)) => {
                        writer.finish().map_err(Fault::Writer)?;
                        self.stage = Stage::Finished;
                        continue;
                    }
                    Poll::Ready(Err(ended)) => return Poll::Ready(Err(Fault::Reader(ended))),
                }
            }
            let before = self.held.len();
            let sent = writer.poll_send(cx, &mut self.held);
            let taken = before - self.held.len();
            self.moved += taken as u64;
            reader.consumed(taken);
            match sent {
                Poll::Pending => return self.watch_stalled_reader(cx, reader),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(ended)) => return Poll::Ready(Err(Fault::Writer(ended))),
            }
        }
        cx.waker().wake_by_ref(); // there is more: come back after the others had their turn
        Poll::Pending
    }

    /// While the writer is full, a reset of the reader must still be seen: nothing else polls it.
    fn watch_stalled_reader(&self, cx: &mut Context<'_>, reader: &mut impl End) -> Poll<Result<(), Fault>> {
        match reader.poll_closed(cx) {
            Poll::Ready(Err(ended)) => Poll::Ready(Err(Fault::Reader(ended))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Ended {
    /// A reset by the application or peer behind this end.
    pub(crate) fn reset() -> Self {
        Self {
            reason: CloseReason::Reset,
            detail: String::new(),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            write!(f, "{}", self.reason)
        } else {
            write!(f, "{}: {}", self.reason, self.detail)
        }
    }
}

#[cfg(test)]
mod tests;
