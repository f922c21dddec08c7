//! What the fast path sends, and the window that it announces.

use super::{Ack, Fast, Phase};
use crate::clock::Tick;
use crate::config::MINIMUM_RING;
use crate::packet::tcp::{self, ACK, FIN, Options, PSH, SYN};

/// A segment to be sent: its numbers, and which of the bytes written it carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) seq: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Options,
    /// From the first byte that is not acknowledged.
    pub(crate) offset: usize,
    pub(crate) count: usize,
}

impl Fast {
    /// The window that the pod may still use, in bytes.
    pub(crate) fn promised(&self) -> usize {
        // A FIN may lie one beyond it.
        (self.window_edge.wrapping_sub(self.receive_next) as i32).max(0) as usize
    }

    /// What the window field has to say, rounded down.
    pub(crate) fn window_field(&self) -> u16 {
        u16::try_from(self.promised() >> self.announced_scale).unwrap_or(u16::MAX)
    }

    /// Moves the window's edge as far as `budget`, the bytes that all flows together may still take, allows. It never moves back.
    fn extend_window(&mut self, budget: usize) {
        let edge = self.receive_next.wrapping_add(self.window(budget) as u32);
        if tcp::before(self.window_edge, edge) {
            self.window_edge = edge;
        }
    }

    /// How large a window there's room for, in whole units of its scale.
    fn window(&self, budget: usize) -> usize {
        let unread = self.unread();
        let room = self.limits.receive.saturating_sub(unread);
        let least = MINIMUM_RING.saturating_sub(unread);
        let allowed = room.min(budget.max(least));
        let largest = usize::from(u16::MAX) << self.announced_scale;
        allowed.min(largest) >> self.announced_scale << self.announced_scale
    }

    /// Whether the window has grown enough to be worth a segment of its own (RFC 9293 §3.8.6.2.2).
    pub(crate) fn has_window_to_tell(&self, budget: usize) -> bool {
        let window = self.window(budget);
        self.is_open() && !self.peer_fin && window > 0 && window / 2 >= self.promised()
    }

    /// The next segment to be sent, if there is one, which counts as sent then. `mss` is what the device takes.
    pub(crate) fn next_segment(&mut self, now: Tick, mss: usize, budget: usize) -> Option<Outgoing> {
        if !self.is_open() {
            return self.next_syn(now, mss);
        }
        let unsent = self.unsent();
        let room = self.peer_window_bytes().saturating_sub(self.in_flight() as usize);
        let peer_mss = usize::from(self.peer.mss.unwrap_or(DEFAULT_MSS)).max(LEAST_MSS);
        let count = unsent.min(room).min(mss.min(peer_mss));
        let fin = self.shutdown && !self.fin_sent && count == unsent;
        if count == 0 && !fin && self.ack != Ack::Due {
            return None;
        }
        self.extend_window(budget);
        let is_last = count > 0 && count == unsent;
        let outgoing = Outgoing {
            seq: self.send_next,
            flags: ACK | if is_last { PSH } else { 0 } | if fin { FIN } else { 0 },
            window: self.window_field(),
            options: Options::default(),
            offset: self.unsettled() - unsent,
            count,
        };
        self.fin_sent |= fin;
        self.on_sent(now, count as u32 + u32::from(fin));
        Some(outgoing)
    }

    fn next_syn(&mut self, now: Tick, mss: usize) -> Option<Outgoing> {
        if self.in_flight() > 0 {
            return None;
        }
        let is_answer = self.phase == Phase::SynReceived;
        let scales = !is_answer || self.peer.window_scale.is_some();
        let window = u16::try_from(self.limits.receive).unwrap_or(u16::MAX);
        if is_answer {
            self.window_edge = self.receive_next.wrapping_add(u32::from(window));
        }
        let outgoing = Outgoing {
            seq: self.send_next,
            flags: SYN | if is_answer { ACK } else { 0 },
            // Not scaled (RFC 7323 §2.2).
            window,
            options: Options {
                mss: u16::try_from(mss).ok(),
                window_scale: scales.then_some(self.announced_scale),
                sack: !is_answer || self.peer.sack,
            },
            offset: 0,
            count: 0,
        };
        self.on_sent(now, 1);
        Some(outgoing)
    }

    fn on_sent(&mut self, now: Tick, length: u32) {
        self.ack = Ack::None;
        self.send_next = self.send_next.wrapping_add(length);
        if length > 0 {
            self.last_activity = now;
            self.unanswered_since.get_or_insert(now);
        }
    }

    /// Notes that there's nothing to send now. If that's for want of window, the pod owes it.
    pub(crate) fn on_drained(&mut self, now: Tick) {
        if self.unsent() > 0 {
            self.unanswered_since.get_or_insert(now);
        }
    }
}

/// RFC 9293 §3.7.1, for a pod that doesn't say.
const DEFAULT_MSS: u16 = 536;

/// As Linux' `TCP_MIN_SND_MSS`: less would be a header for every few bytes.
const LEAST_MSS: usize = 48;
