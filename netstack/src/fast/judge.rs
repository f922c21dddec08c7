//! What the fast path may take in, and what is for the engine.

use super::{Fast, Phase};
use crate::packet::tcp::{self, ACK, FIN, RST, SYN, Segment};

/// What a segment is to a flow on the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing new that asks for an ACK: a probe (RFC 9293 §3.8.4), or the last FIN again.
    Answer,
    /// Data behind the pod's FIN, where there can be none (RFC 9293 §3.10.7.4, seventh).
    BeyondFin,
    /// None of these.
    Engine,
    /// Changes nothing.
    Ignore,
    /// The next in order.
    Next,
    /// A reset with just the number that's expected (RFC 5961 §3.2).
    Reset,
    /// The pod's answer to our SYN.
    SynAck,
}

impl Fast {
    /// What `segment` is to this flow.
    pub(crate) fn judge(&self, segment: &Segment) -> Judgement {
        match self.phase {
            Phase::Open => self.judge_open(segment),
            Phase::SynReceived => {
                let answers = segment.ack == self.unacknowledged.wrapping_add(1) && self.in_flight() == 1;
                match segment.flags & (SYN | RST | ACK) {
                    RST | RST_ACK if segment.seq == self.receive_next => Judgement::Reset,
                    ACK if answers => self.judge_data(segment),
                    _ => Judgement::Engine,
                }
            }
            Phase::SynSent => {
                let answers = segment.ack == self.unacknowledged.wrapping_add(1) && self.in_flight() == 1;
                match segment.flags & (SYN | FIN | RST | ACK) {
                    SYN_ACK if answers && segment.data_len == 0 => Judgement::SynAck,
                    RST_ACK if answers => Judgement::Reset,
                    _ => Judgement::Engine,
                }
            }
        }
    }

    fn judge_open(&self, segment: &Segment) -> Judgement {
        if self.is_over() {
            // Only its reader is waited for. A reset must not cut it short (RFC 1337).
            let asks = segment.length() > 0 && !segment.is(RST);
            return if asks {
                Judgement::Answer
            } else {
                Judgement::Ignore
            };
        }
        match segment.flags & (SYN | RST | ACK) {
            RST | RST_ACK if segment.seq == self.receive_next => return Judgement::Reset,
            ACK => {}
            _ => return Judgement::Engine,
        }
        if segment.ack.wrapping_sub(self.unacknowledged) > self.in_flight() {
            return Judgement::Engine;
        }
        let probes = !segment.is(FIN)
            && segment.data_len <= 1
            && segment.seq == self.receive_next.wrapping_sub(1)
            && segment.ack == self.send_next;
        if probes && self.in_flight() == 0 {
            return Judgement::Answer;
        }
        if self.repeats_ack(segment) && self.duplicate_acks + 1 >= FAST_RETRANSMIT {
            return Judgement::Engine;
        }
        self.judge_data(segment)
    }

    fn judge_data(&self, segment: &Segment) -> Judgement {
        if segment.seq != self.receive_next {
            return Judgement::Engine;
        }
        if self.peer_fin && segment.data_len > 0 {
            return Judgement::BeyondFin;
        }
        let data_end = segment.seq.wrapping_add(segment.data_len);
        let fits = segment.data_len == 0 || !tcp::before(self.window_edge, data_end);
        if !fits || (self.peer_fin && segment.is(FIN)) {
            return Judgement::Engine;
        }
        Judgement::Next
    }

    /// RFC 5681 §2, duplicate acknowledgement.
    pub(super) fn repeats_ack(&self, segment: &Segment) -> bool {
        self.in_flight() > 0
            && segment.ack == self.unacknowledged
            && segment.length() == 0
            && segment.window == self.peer_window
    }
}

const SYN_ACK: u8 = SYN | ACK;
const RST_ACK: u8 = RST | ACK;

/// RFC 5681 §3.2: so many equal acknowledgements mean a loss.
const FAST_RETRANSMIT: u8 = 3;
