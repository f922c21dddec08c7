//! How flows come to life, settle and end: the only place where a flow's [`Stage`] changes.

use adit_flow::{CloseReason, RefuseReason};
use smoltcp::socket::tcp::State;

use super::Netstack;
use crate::clock::{Tick, after};
use crate::config::Config;
use crate::event::{ClosedBy, FlowId};
use crate::fast::Phase;
use crate::flow::{Flow, Stage, TimeWait};
use crate::live::Live;
use crate::packet::tcp::{ACK, RST, before};

impl Netstack {
    /// After a segment: whatever it changed, and room in the rings.
    pub(super) fn settle_after_segment(&mut self, now: Tick, slot: u32, new_bytes: bool) {
        let Some(Flow {
            stage: Stage::Live(live),
            news,
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        news.readable |= new_bytes;
        if live_is_at_barrier(live) {
            self.grow_send(now, slot);
        }
        self.settle(slot);
        self.mark_dirty(slot);
    }

    /// After bytes were read.
    pub(super) fn after_read(&mut self, now: Tick, slot: u32) {
        self.consider_receive_growth(now, slot);
        self.settle(slot);
        self.mark_dirty(slot);
    }

    /// Tells the owner what the engine's state now means.
    pub(super) fn settle(&mut self, slot: u32) {
        let Some(Flow {
            stage: Stage::Live(live),
            news,
            is_released,
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        let state = live.state();
        let is_synchronised = !matches!(
            state,
            State::Closed | State::Listen | State::SynSent | State::SynReceived
        );
        if !live.established && is_synchronised {
            live.established = true;
            live.unanswered_since = None;
            self.counters.established += 1;
            news.established = true;
            if live.shutdown {
                live.socket_mut().close();
            }
        }
        if live.established && live.write_blocked && !live.wants_send_room && live.socket().can_send() {
            live.write_blocked = false;
            news.writable = true;
        }
        if *is_released && live.socket().can_recv() {
            return self.reset(slot, CloseReason::Reset, ClosedBy::Agent);
        }
        match live.state() {
            State::FinWait1 | State::FinWait2 => {
                live.first_fin.get_or_insert(ClosedBy::Agent);
            }
            State::CloseWait | State::Closing | State::LastAck | State::TimeWait => {
                live.first_fin.get_or_insert(ClosedBy::Pod);
            }
            _ => {}
        }
        let is_closed = live.established && live.state() == State::Closed;
        let is_read_out = !live.socket().can_recv();
        if (live.has_peer_fin() || is_closed) && is_read_out && !live.fin_reported {
            live.fin_reported = true;
            news.remote_fin = true;
        }
        let by = live.first_fin.unwrap_or(ClosedBy::Pod);
        // The answer to the pod's FIN is still to be sent, but it decides nothing that the owner could want to know.
        if live.state() == State::TimeWait && is_read_out && !live.end_reported {
            live.end_reported = true;
            news.closed = Some((CloseReason::Fin, by));
            self.counters.on_closed(CloseReason::Fin);
        }
        let has_news = !news.is_empty();
        if *is_released {
            *news = crate::flow::News::default();
        } else if has_news {
            self.mark_ready(slot);
        }
        // Resets end a flow where they are seen, so this CLOSED comes from LAST-ACK: both FINs were acknowledged.
        if is_closed && is_read_out {
            self.end(slot, CloseReason::Fin, by);
        }
    }

    /// A flow in TIME-WAIT whose owner has read everything and whose last ACK has left becomes a record.
    pub(super) fn finish_time_wait(&mut self, now: Tick, slot: u32) {
        let Some(Flow {
            stage: Stage::Live(live),
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        if live.state() != State::TimeWait {
            return;
        }
        live.is_parked = true;
        if live.socket().can_recv() {
            return;
        }
        let rings = live.rings;
        let window = live.splice().window_field();
        let (send_next, receive_next) = (live.send_next, live.receive_next());
        let expires_at = after(now, self.config.time_wait);
        self.free_rings(rings);
        let record = TimeWait {
            send_next,
            receive_next,
            window,
            expires_at,
        };
        self.become_time_wait(slot, record);
    }

    pub(super) fn become_time_wait(&mut self, slot: u32, record: TimeWait) {
        let id = self.table.id(slot);
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        flow.stage = Stage::TimeWait(record);
        self.remember_time_wait(id);
        self.deadlines.disarm(slot);
    }

    fn remember_time_wait(&mut self, id: FlowId) {
        self.time_waits.push_back(id);
        // Entries of records that were reused stay until they come to the front; here they make room.
        while self.time_waits.len() > self.config.max_flows {
            self.evict_time_wait();
        }
    }

    /// Gives up the oldest TIME-WAIT record; whether there was one.
    pub(super) fn evict_time_wait(&mut self) -> bool {
        while let Some(id) = self.time_waits.pop_front() {
            let slot = self.table.resolve(id);
            if let Some(slot) = slot
                && let Some(Flow {
                    stage: Stage::TimeWait(_),
                    is_released: true,
                    ..
                }) = self.table.get(slot)
            {
                self.counters.time_waits_evicted += 1;
                self.forget_time_wait(slot);
                return true;
            }
        }
        false
    }

    /// Makes room for a new flow between the ends of a closed one: its initial sequence number, which must be beyond those
    /// of the old. `None` if the old one isn't closed.
    pub(super) fn reuse_time_wait(&mut self, slot: u32, isn: u32) -> Option<u32> {
        let Some(Flow {
            stage: Stage::TimeWait(record),
            ..
        }) = self.table.get(slot)
        else {
            return None;
        };
        let beyond = record.send_next.wrapping_add(ISN_STEP);
        let isn = if before(record.send_next, isn) {
            isn
        } else {
            beyond
        };
        self.counters.time_waits_reused += 1;
        self.forget_time_wait(slot);
        Some(isn)
    }

    pub(super) fn forget_time_wait(&mut self, slot: u32) {
        self.deadlines.disarm(slot);
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        if flow.is_released {
            self.table.remove(slot);
        } else {
            flow.stage = Stage::Ended;
            self.table.unlink(slot);
        }
    }

    /// The handshake came to nothing.
    pub(super) fn fail_handshake(&mut self, slot: u32, reason: RefuseReason) {
        self.counters.on_connect_refused(reason);
        let (close, by) = match reason {
            RefuseReason::TimedOut => (CloseReason::TimedOut, ClosedBy::Network),
            _ => (CloseReason::Refused, ClosedBy::Pod),
        };
        if let Some(flow) = self.table.get_mut(slot) {
            flow.news.refused = Some(reason);
        }
        self.end(slot, close, by);
    }

    /// Sends a reset and ends the flow.
    pub(super) fn reset(&mut self, slot: u32, reason: CloseReason, by: ClosedBy) {
        let Some(flow) = self.table.get(slot) else { return };
        let reset = match &flow.stage {
            Stage::Live(live) if live.established || live.state() == State::SynReceived => {
                Some(flow.template(live.send_next, live.receive_next(), RST | ACK, 0))
            }
            // A SYN of ours is on its way, if it was sent at all; its answer will find nobody and get the reset.
            Stage::Fast(fast) if fast.phase == Phase::SynSent => None,
            Stage::Live(_) | Stage::Held(_) | Stage::TimeWait(_) | Stage::Ended => None,
            Stage::Fast(fast) => Some(flow.template(fast.send_next, fast.receive_next, RST | ACK, 0)),
        };
        if let Some(reset) = reset {
            self.send_reset(reset);
        }
        self.end(slot, reason, by);
    }

    /// Ends a flow: frees what it has, and leaves the news of it if somebody wants to hear.
    pub(super) fn end(&mut self, slot: u32, reason: CloseReason, by: ClosedBy) {
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        let (established, held) = match &mut flow.stage {
            Stage::Live(live) => (live.established, live.rings.total()),
            Stage::Fast(fast) => {
                let buffers = fast.buffers.take();
                let held = buffers.as_ref().map_or(0, |buffers| buffers.len());
                if let Some(buffers) = buffers {
                    self.pool.give_back_buffers(buffers);
                }
                (fast.is_open(), held)
            }
            Stage::Held(_) => (false, 0),
            Stage::TimeWait(_) | Stage::Ended => return,
        };
        let is_told = matches!(&flow.stage, Stage::Live(live) if live.end_reported);
        if is_told {
            // It had come to its clean end; this only cuts TIME-WAIT short.
        } else if established {
            self.counters.on_closed(reason);
        } else if flow.news.refused.is_none() {
            self.counters.handshakes_aborted += 1;
        }
        flow.stage = Stage::Ended;
        if !is_told {
            flow.news.closed = Some((reason, by));
        }
        if reason != CloseReason::Fin && !is_told {
            // What was not read is gone, so there's nothing to announce but the end.
            flow.news.readable = false;
            flow.news.writable = false;
            flow.news.remote_fin = false;
        }
        self.ring_bytes -= held;
        self.leave_ended(slot);
    }

    fn leave_ended(&mut self, slot: u32) {
        self.deadlines.disarm(slot);
        if self.table.get(slot).is_some_and(|flow| flow.is_released) {
            self.table.remove(slot);
        } else {
            self.table.unlink(slot);
            self.mark_ready(slot);
        }
    }

    /// Removes a held SYN that its owner has answered.
    pub(super) fn forget_held(&mut self, slot: u32) {
        self.held -= 1;
        self.deadlines.disarm(slot);
        self.table.remove(slot);
    }

    /// Removes a held SYN that its owner, if he knows of it, still thinks about.
    pub(super) fn withdraw_held(&mut self, slot: u32, reason: CloseReason, by: ClosedBy) {
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        if flow.news.syn {
            return self.forget_held(slot);
        }
        self.held -= 1;
        flow.stage = Stage::Ended;
        flow.news.closed = Some((reason, by));
        self.leave_ended(slot);
    }

    /// A flow's deadline has come, or the time at which it was looked at last.
    pub(super) fn on_deadline(&mut self, now: Tick, slot: u32) {
        let Some(flow) = self.table.get(slot) else { return };
        match &flow.stage {
            Stage::Held(_) => {
                self.counters.syns_timed_out += 1;
                self.withdraw_held(slot, CloseReason::TimedOut, ClosedBy::Agent);
            }
            Stage::TimeWait(record) if record.expires_at <= now => self.forget_time_wait(slot),
            Stage::TimeWait(_) => self.arm(now, slot),
            Stage::Fast(_) => self.on_fast_deadline(now, slot),
            Stage::Live(_) => self.on_live_deadline(now, slot),
            Stage::Ended => {}
        }
    }

    fn on_live_deadline(&mut self, now: Tick, slot: u32) {
        let Some(Flow {
            stage: Stage::Live(live),
            is_released,
            ..
        }) = self.table.get(slot)
        else {
            return;
        };
        let config = &self.config;
        let is_due = |deadline: Option<Tick>| deadline.is_some_and(|at| at <= now);
        if is_due(live.answer_deadline(config)) {
            if live.established {
                self.reset(slot, CloseReason::TimedOut, ClosedBy::Network);
            } else {
                self.fail_handshake(slot, RefuseReason::TimedOut);
            }
        } else if is_due(live.idle_deadline(config)) {
            self.reset(slot, CloseReason::Idle, ClosedBy::Agent);
        } else if is_due(live.orphan_deadline(config, *is_released)) {
            self.reset(slot, CloseReason::TimedOut, ClosedBy::Network);
        } else if is_due(live.probe_deadline()) || is_due(live.keep_alive_deadline(config)) {
            self.probe_window(now, slot);
        } else {
            self.mark_dirty(slot);
        }
    }

    fn probe_window(&mut self, now: Tick, slot: u32) {
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        let Stage::Live(live) = &mut flow.stage else {
            return;
        };
        let (seq, ack, flags, window) = live.probe(now);
        let probe = flow.template(seq, ack, flags, window);
        self.answer_with(probe);
        self.arm(now, slot);
    }
}

/// Whether the send ring waits to be made larger and nothing stands in the way any more.
fn live_is_at_barrier(live: &Live) -> bool {
    live.wants_send_room && live.is_sent_out()
}

impl Live {
    /// The earliest of the stack's own timers.
    pub(super) fn deadline(&self, config: &Config, is_released: bool) -> Option<Tick> {
        let timers = [
            self.answer_deadline(config),
            self.idle_deadline(config),
            self.orphan_deadline(config, is_released),
            self.probe_deadline(),
            self.keep_alive_deadline(config),
        ];
        timers.into_iter().flatten().min()
    }

    fn idle_deadline(&self, config: &Config) -> Option<Tick> {
        config
            .idle_timeout
            .map(|timeout| after(self.last_activity, timeout))
    }

    /// In FIN-WAIT-2 nothing but the pod can go on; if nobody would notice, that has a limit.
    fn orphan_deadline(&self, config: &Config, is_released: bool) -> Option<Tick> {
        let waits = is_released && self.state() == State::FinWait2;
        waits.then(|| after(self.last_activity, config.orphan_timeout))
    }
}

/// How far beyond the old connection's last number a new one starts, if the clock has not gone as far.
const ISN_STEP: u32 = 1 << 16;
