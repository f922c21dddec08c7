//! ACKs that wait for a segment to go along with.

use std::collections::VecDeque;

use super::Netstack;
use crate::clock::{Tick, after};
use crate::fast::Ack;
use crate::table::Queue;

/// Slots of flows whose ACK waits or did, each once, by the time of the first: so it's bounded by the flow table.
#[derive(Default)]
pub(super) struct HeldAcks(VecDeque<(u32, Tick)>);

impl Netstack {
    /// Whether an ACK may be waiting for a segment to go along with.
    pub fn holds_acks(&self) -> bool {
        !self.held_acks.0.is_empty()
    }

    /// Has all ACKs sent that wait for a segment to go along with. For an owner that expects none soon: one that is about to
    /// sleep.
    pub fn release_acks(&mut self) {
        while let Some((slot, _)) = self.held_acks.0.pop_front() {
            self.table.leave(slot, Queue::Held);
            self.release_ack(slot);
        }
    }

    /// Holds the ACK of the flow in `slot`.
    pub(super) fn hold_ack(&mut self, now: Tick, slot: u32) {
        if self.table.enter(slot, Queue::Held) {
            self.held_acks.0.push_back((slot, now));
        }
    }

    /// When the first ACK has waited for as long as it may.
    pub(super) fn next_overdue_ack(&self) -> Option<Tick> {
        let (_, since) = self.held_acks.0.front()?;
        Some(after(*since, self.config.ack_hold?))
    }

    /// Has those sent that have waited for as long as they may.
    pub(super) fn release_overdue_acks(&mut self, now: Tick) {
        while self.next_overdue_ack().is_some_and(|at| at <= now) {
            let Some((slot, since)) = self.held_acks.0.pop_front() else {
                return;
            };
            self.table.leave(slot, Queue::Held);
            match self.fast_mut(slot) {
                // The ACK of then went along with something; this one is of a later segment, and has its time yet.
                Some(fast) if fast.ack == Ack::Held && fast.last_activity > since => {
                    let since = fast.last_activity;
                    self.hold_ack(since, slot);
                }
                _ => self.release_ack(slot),
            }
        }
    }

    fn release_ack(&mut self, slot: u32) {
        if self.fast_mut(slot).is_some_and(|fast| fast.release_ack()) {
            self.counters.acks_released += 1;
            self.mark_dirty(slot);
        }
    }
}
