//! Whether what the pod sent is acknowledged at once, or with what is sent next (RFC 9293 §3.8.6.3, RFC 1122 §4.2.3.2).
//!
//! Most requests have an answer soon, and a segment of its own for the ACK costs as much as the answer's. But a pod may also
//! wait for the ACK before it goes on (Nagle's algorithm, a window of few segments), and a tunnel's answer may take its time. So
//! the ACK of one short segment may wait, and a second one, or a long one, has it sent; where it turns out that nothing came
//! to go along with, the next few are sent at once.

use super::Fast;
use crate::packet::tcp::Segment;

/// What is owed to the pod for what it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Nothing.
    None,
    /// An ACK that waits for a segment to go along with.
    Held,
    /// An ACK now, or there's a window to be announced.
    Due,
}

impl Fast {
    /// Owes the pod an ACK of what occupies sequence space in `segment`, which may be held if `may_hold`.
    pub(super) fn owe_ack(&mut self, segment: &Segment, may_hold: bool) {
        if segment.length() == 0 {
            return;
        }
        let is_first = self.ack == Ack::None && segment.length() <= LONGEST;
        self.ack = if may_hold && is_first && self.prompt == 0 {
            Ack::Held
        } else {
            self.prompt = self.prompt.saturating_sub(1);
            Ack::Due
        };
    }

    /// Nothing came for the ACK to go along with. Whether one was held.
    pub(crate) fn release_ack(&mut self) -> bool {
        if self.ack != Ack::Held {
            return false;
        }
        self.ack = Ack::Due;
        self.prompt = PROMPT;
        true
    }
}

/// Sequence space of the longest segment whose ACK may wait: a request, not a piece of a stream.
const LONGEST: u32 = 4096;

/// So many segments are acknowledged at once before another ACK is held: a flow whose answers take their time pays for one
/// in so many.
const PROMPT: u8 = 16;
