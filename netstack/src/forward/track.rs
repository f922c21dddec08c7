//! How far a TCP connection is, as far as it can be told by looking on.
//!
//! The two kernels at its ends decide what's so; this only says how long the record may live without a packet, and what
//! sequence numbers a reset of ours must have. It holds no window and checks no segment: what doesn't fit passes unnoticed.
//!
//! ```text
//!   SYN, or picked up ─▶ Opening ─ both ends acknowledged ─▶ Open ─ both FINs acknowledged ─▶ ended
//!                           │ ▲                              │ ▲
//!                           │ └─ its receiver goes on ───────┼─┘
//!                           └──────── RST in flight ─────────┴──▶ Reset ─ timer ─▶ ended
//!                           └──────── RST, nothing in flight ┴──────────────────▶ ended
//! ```

use adit_flow::CloseReason;

use super::types::Side;
use crate::packet::tcp::{self, ACK, FIN, RST, Segment};

/// What was seen of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Track {
    pub(super) phase: Phase,
    /// It began with a SYN of the end that opened it; otherwise it was open before.
    pub(super) by_syn: bool,
    /// Whose FIN came first.
    first_fin: Option<Side>,
    halves: [Half; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not both ends have acknowledged anything.
    #[default]
    Opening,
    Open,
    /// This side's end sent a plausible reset.
    Reset(Side),
}

/// What one end sent. Each number counts only with its flag.
#[derive(Clone, Copy, Debug, Default)]
struct Half {
    /// The number after the last that it sent.
    end: u32,
    /// The last number that it acknowledged.
    ack: u32,
    /// The number after its FIN.
    fin_end: u32,
    has_sent: bool,
    has_acked: bool,
    has_fin: bool,
}

/// What a segment does to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The connection is over; this segment passes, and repetitions will.
    End { reason: CloseReason, by: Side },
    /// It passes.
    Pass,
    /// It can't be of this connection.
    Refuse,
    /// It begins another connection between the same ends.
    Renew,
    /// It passes, and the record lives shorter from now on.
    Shorten,
}

/// The numbers of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResetNumbers {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
}

impl Track {
    pub(super) fn new(by_syn: bool) -> Self {
        Self {
            by_syn,
            ..Self::default()
        }
    }

    /// Whether both ends have sent a FIN.
    pub(super) fn is_closing(&self) -> bool {
        self.halves.iter().all(|half| half.has_fin)
    }

    /// Takes note of a segment from `from` of a connection that `opener` opened.
    pub(super) fn on_segment(&mut self, opener: Side, from: Side, segment: &Segment) -> Step {
        if segment.opens() {
            return self.on_syn(opener, from, segment);
        }
        if segment.is(RST) {
            return self.on_reset(from, segment);
        }
        self.note(from, segment);
        match self.phase {
            Phase::Reset(by) if by == from => return Step::Pass,
            _ if self.halves.iter().all(|half| half.has_acked) => self.phase = Phase::Open,
            _ => self.phase = Phase::Opening,
        }
        match self.first_fin {
            Some(by) if self.is_fin_acked(Side::Pod) && self.is_fin_acked(Side::Wire) => Step::End {
                reason: CloseReason::Fin,
                by,
            },
            Some(_) if self.is_closing() => Step::Shorten,
            _ => Step::Pass,
        }
    }

    /// A bare SYN. On an open connection only its opener's passes, and changes nothing: that end has lost the connection, and
    /// will learn from the other's answer what to reset (RFC 9293 §3.5.1). The other end's would be a connection that
    /// nobody has judged.
    fn on_syn(&mut self, opener: Side, from: Side, segment: &Segment) -> Step {
        match self.phase {
            Phase::Reset(_) => Step::Renew,
            Phase::Opening if !self.by_syn => Step::Renew,
            Phase::Opening => {
                // A repetition, another attempt, which makes what was answered to the last one void, or a simultaneous open
                // (RFC 9293 §3.5).
                let end = segment.end();
                if from == opener && self.halves[from as usize].end != end {
                    self.halves = [Half::default(); 2];
                }
                let half = &mut self.halves[from as usize];
                half.end = end;
                half.has_sent = true;
                Step::Pass
            }
            Phase::Open if self.by_syn && from == opener => Step::Pass,
            Phase::Open => Step::Refuse,
        }
    }

    /// A reset counts if its receiver may take it: its number is what the receiver expects next (RFC 9293 §3.10.7.4, RFC 5961 §3.2),
    /// which lies between what it acknowledged and what was sent to it; in answer to a SYN it acknowledges that.
    fn on_reset(&mut self, from: Side, segment: &Segment) -> Step {
        let (sender, receiver) = (self.halves[from as usize], self.halves[from.other() as usize]);
        let is_certain = if receiver.has_acked {
            let last = sender.later_of_end_and(receiver.ack);
            if tcp::before(segment.seq, receiver.ack) || tcp::before(last, segment.seq) {
                return Step::Pass;
            }
            last == receiver.ack
        } else if receiver.has_sent {
            if !segment.is(ACK) || segment.ack != receiver.end {
                return Step::Pass;
            }
            true
        } else {
            false
        };
        if is_certain {
            let was_opening = self.phase == Phase::Opening && self.by_syn;
            let reason = if was_opening {
                CloseReason::Refused
            } else {
                CloseReason::Reset
            };
            return Step::End { reason, by: from };
        }
        self.phase = Phase::Reset(from);
        Step::Shorten
    }

    /// Moves the numbers of the sender on, unless that's by more than any window: then it's a stray.
    fn note(&mut self, from: Side, segment: &Segment) {
        let other = self.halves[from.other() as usize];
        let half = &mut self.halves[from as usize];
        let end = segment.end();
        if !half.has_sent || moves_on(half.end, end) {
            half.end = end;
            half.has_sent = true;
        }
        let was_sent = !other.has_sent || !tcp::before(other.end, segment.ack);
        if segment.is(ACK) && was_sent && (!half.has_acked || moves_on(half.ack, segment.ack)) {
            half.ack = segment.ack;
            half.has_acked = true;
        }
        let is_old = other.has_acked && tcp::before(end, other.ack);
        if segment.is(FIN) && !is_old {
            half.fin_end = end;
            half.has_fin = true;
            self.first_fin.get_or_insert(from);
        }
    }

    fn is_fin_acked(&self, side: Side) -> bool {
        let (half, other) = (&self.halves[side as usize], &self.halves[side.other() as usize]);
        half.has_fin && other.has_acked && !tcp::before(other.ack, half.fin_end)
    }

    /// A reset for the end on `side` that its kernel accepts, if it has got all that passed. If it hasn't it answers with what it
    /// expects (RFC 5961 §3.2), which the next reset then has.
    pub(super) fn reset_for(&self, side: Side) -> ResetNumbers {
        let (receiver, sender) = (&self.halves[side as usize], &self.halves[side.other() as usize]);
        let seq = match (sender.has_sent, receiver.has_acked) {
            (_, true) => sender.later_of_end_and(receiver.ack),
            (true, false) => sender.end,
            (false, false) => 0,
        };
        let (ack, flags) = if receiver.has_sent {
            (receiver.end, RST | ACK)
        } else {
            (0, RST)
        };
        ResetNumbers { seq, ack, flags }
    }
}

impl Half {
    fn later_of_end_and(&self, ack: u32) -> u32 {
        if self.has_sent && tcp::before(ack, self.end) {
            self.end
        } else {
            ack
        }
    }
}

/// Whether `to` comes after `from`, by no more than the largest window (RFC 7323 §2.3).
fn moves_on(from: u32, to: u32) -> bool {
    (1..=1 << 30).contains(&to.wrapping_sub(from))
}
