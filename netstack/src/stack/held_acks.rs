//! ACKs that wait for a segment to go along with.

use std::collections::VecDeque;

use super::Netstack;
use crate::clock::{Tick, after};
use crate::fast::{Ack, Fast, PROMPT};
use crate::table::Queue;

/// Whose ACK waits.
#[derive(Default)]
pub(super) struct HeldAcks {
    /// Slots of flows whose ACK waits or did, each once, by the time of the first: so it's bounded by the flow table.
    waiting: VecDeque<(u32, Tick)>,
    /// Handshakes that will be completed at once, since holding one's last ACK was in vain: where servers speak first.
    prompt: u8,
}

impl Netstack {
    /// Whether an ACK may be waiting for a segment to go along with.
    pub fn holds_acks(&self) -> bool {
        !self.held_acks.waiting.is_empty()
    }

    /// Has all ACKs sent that wait for a segment to go along with. For an owner that expects none soon: one that is about to
    /// sleep.
    pub fn release_acks(&mut self) {
        while let Some((slot, _)) = self.held_acks.waiting.pop_front() {
            self.table.leave(slot, Queue::Held);
            self.release_ack(slot);
        }
    }

    /// Whether the last ACK of a handshake may be held now.
    pub(super) fn may_hold_opening(&mut self) -> bool {
        let is_prompt = self.held_acks.prompt > 0;
        self.held_acks.prompt = self.held_acks.prompt.saturating_sub(1);
        self.config.ack_hold.is_some() && !is_prompt
    }

    /// Holds the ACK of the flow in `slot`.
    pub(super) fn hold_ack(&mut self, now: Tick, slot: u32) {
        if self.table.enter(slot, Queue::Held) {
            self.held_acks.waiting.push_back((slot, now));
        }
    }

    /// When the first ACK has waited for as long as it may.
    pub(super) fn next_overdue_ack(&self) -> Option<Tick> {
        let (_, since) = self.held_acks.waiting.front()?;
        Some(after(*since, self.config.ack_hold?))
    }

    /// Has those sent that have waited for as long as they may.
    pub(super) fn release_overdue_acks(&mut self, now: Tick) {
        while self.next_overdue_ack().is_some_and(|at| at <= now) {
            let Some((slot, since)) = self.held_acks.waiting.pop_front() else {
                return;
            };
            self.table.leave(slot, Queue::Held);
            match self.fast_mut(slot) {
                // The ACK of then went along with something; this one is of a later segment, and has its time yet.
                Some(fast) if fast.ack.is_held() && fast.last_activity > since => {
                    let since = fast.last_activity;
                    self.hold_ack(since, slot);
                }
                _ => self.release_ack(slot),
            }
        }
    }

    fn release_ack(&mut self, slot: u32) {
        let Some(released) = self.fast_mut(slot).and_then(Fast::release_ack) else {
            return;
        };
        if released == Ack::Opening {
            self.held_acks.prompt = PROMPT;
        }
        self.counters.acks_released += 1;
        self.mark_dirty(slot);
    }
}
