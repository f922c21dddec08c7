//! Flows on the [fast path](crate::fast): segments in and out, bytes read and written, and what that means.

use adit_flow::{CloseReason, DropReason, RefuseReason};
use bytes::Bytes;

use super::{Netstack, tcp_transmit};
use crate::buffers::PIECE;
use crate::clock::{Tick, after};
use crate::config::MINIMUM_RING;
use crate::event::{ClosedBy, Transmit};
use crate::fast::{Ack, Fast, Judgement};
use crate::flow::{Flow, Stage, TimeWait};
use crate::live::grown;
use crate::packet::ip::{self, IpPacket};
use crate::packet::tcp::{ACK, HEADER, Options, Segment};

impl Netstack {
    pub(super) fn on_fast(
        &mut self,
        now: Tick,
        slot: u32,
        packet: &IpPacket<'_>,
        segment: &Segment,
    ) -> Result<(), DropReason> {
        let spare = self.spare();
        let Some(fast) = self.fast_mut(slot) else {
            return Err(DropReason::NoFlow);
        };
        let only_fin = segment.only_fin(fast.receive_next);
        let segment = only_fin.as_ref().unwrap_or(segment);
        let length = segment.data_len as usize;
        // Beyond the budget a flow has the least.
        let is_kept = length <= spare || fast.unread() + length <= MINIMUM_RING;
        match fast.judge(segment) {
            Judgement::Next if is_kept => self.on_next(now, slot, packet, segment),
            Judgement::Next | Judgement::Engine => {
                self.engage(now, slot);
                return self.on_live(now, slot, packet, segment);
            }
            Judgement::SynAck => {
                fast.on_syn_ack(now, segment, Options::of(packet.payload()));
                self.on_established(slot);
                self.settle_fast(now, slot);
                self.mark_dirty(slot);
            }
            Judgement::Answer => {
                fast.peer_window = segment.window;
                fast.last_activity = now;
                fast.unanswered_since = None;
                self.answer_with_numbers(slot);
            }
            Judgement::Reset if fast.is_open() => self.end(slot, CloseReason::Reset, ClosedBy::Pod),
            Judgement::Reset => self.fail_handshake(slot, RefuseReason::Refused),
            Judgement::BeyondFin => return Err(DropReason::Malformed),
            Judgement::Ignore => {}
        }
        Ok(())
    }

    fn on_next(&mut self, now: Tick, slot: u32, packet: &IpPacket<'_>, segment: &Segment) {
        let Some(Flow {
            stage: Stage::Fast(fast),
            news,
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        let was_open = fast.is_open();
        let acknowledged = fast.on_next(now, segment, self.config.ack_hold.is_some());
        let length = segment.data_len as usize;
        if acknowledged > 0
            && let Some(buffers) = &mut fast.buffers
        {
            buffers.written.consume(acknowledged, &mut self.pool);
        }
        if length > 0 {
            let buffers = fast.buffers.get_or_insert_with(|| self.pool.buffers());
            match packet.keep(length).filter(|_| length > PIECE) {
                Some(data) => buffers.received.push_shared(data),
                None => {
                    let payload = packet.payload();
                    let data = &payload[payload.len() - length..];
                    buffers.received.push(data, &mut self.pool);
                }
            }
            fast.was_filled |= buffers.received.len() >= fast.limits.receive / 2;
            news.readable = true;
        }
        self.ring_bytes = self.ring_bytes + length - acknowledged;
        self.rest(slot);
        if !was_open {
            self.on_established(slot);
        }
        self.settle_fast(now, slot);
        let Some(fast) = self.fast_mut(slot) else {
            return;
        };
        let is_held = fast.ack == Ack::Held;
        if fast.has_output() {
            self.mark_dirty(slot);
        } else {
            self.arm(now, slot);
        }
        if is_held {
            self.hold_ack(now, slot);
        }
    }

    fn on_established(&mut self, slot: u32) {
        self.counters.established += 1;
        if let Some(flow) = self.table.get_mut(slot) {
            flow.news.established = true;
        }
    }

    /// Gives the flow's buffers back if nothing is in them.
    fn rest(&mut self, slot: u32) {
        if let Some(Flow {
            stage: Stage::Fast(fast),
            ..
        }) = self.table.get_mut(slot)
            && fast.buffers.as_ref().is_some_and(|buffers| buffers.len() == 0)
            && let Some(buffers) = fast.buffers.take()
        {
            self.pool.give_back_buffers(buffers);
        }
    }

    /// Sends an ACK with the flow's numbers as they are.
    pub(super) fn answer_with_numbers(&mut self, slot: u32) {
        let Some(flow) = self.table.get(slot) else { return };
        let Stage::Fast(fast) = &flow.stage else { return };
        let ack = flow.template(fast.send_next, fast.receive_next, ACK, fast.window_field());
        self.answer_with(ack);
    }

    /// Tells the owner what the flow's state now means.
    pub(super) fn settle_fast(&mut self, now: Tick, slot: u32) {
        let spare = self.spare();
        let Some(Flow {
            stage: Stage::Fast(fast),
            news,
            is_released,
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        if fast.write_blocked && fast.is_open() && room(fast, spare) > 0 {
            fast.write_blocked = false;
            news.writable = true;
        }
        let is_read_out = fast.unread() == 0;
        if *is_released && !is_read_out {
            return self.reset(slot, CloseReason::Reset, ClosedBy::Agent);
        }
        if fast.peer_fin && is_read_out && !fast.fin_reported {
            fast.fin_reported = true;
            news.remote_fin = true;
        }
        let by = fast.first_fin.unwrap_or(ClosedBy::Pod);
        let is_over = fast.is_over() && is_read_out;
        if *is_released {
            *news = crate::flow::News::default();
        } else if !news.is_empty() {
            self.mark_ready(slot);
        }
        match by {
            _ if !is_over => {}
            ClosedBy::Agent => self.close_into_time_wait(now, slot),
            ClosedBy::Pod | ClosedBy::Network => self.end(slot, CloseReason::Fin, by),
        }
    }

    /// Both FINs were acknowledged but for the answer to the pod's, and ours was first.
    fn close_into_time_wait(&mut self, now: Tick, slot: u32) {
        let expires_at = after(now, self.config.time_wait);
        let Some(fast) = self.fast_mut(slot) else {
            return;
        };
        let record = TimeWait {
            send_next: fast.send_next,
            receive_next: fast.receive_next,
            window: fast.window_field(),
            expires_at,
        };
        if fast.ack != Ack::None {
            self.answer_with_numbers(slot);
        }
        self.counters.on_closed(CloseReason::Fin);
        if let Some(flow) = self.table.get_mut(slot)
            && !flow.is_released
        {
            flow.news.closed = Some((CloseReason::Fin, ClosedBy::Agent));
            self.mark_ready(slot);
        }
        self.become_time_wait(slot, record);
        self.mark_dirty(slot);
    }

    /// Lets the flow send a segment. Bytes that were written by reference go to `shared`, if that's wanted, once
    /// there are some.
    pub(super) fn fast_egress(
        &mut self,
        now: Tick,
        slot: u32,
        (buf, shared): (&mut Vec<u8>, Option<&mut Vec<Bytes>>),
    ) -> Option<Transmit> {
        let spare = self.spare();
        let flow = self.table.get_mut(slot)?;
        let (remote, pod) = (flow.remote(), flow.pod());
        let Stage::Fast(fast) = &mut flow.stage else {
            return None;
        };
        let mss = self.config.mtu - ip::header_len(pod.ip()) - HEADER;
        let Some(outgoing) = fast.next_segment(now, mss, spare) else {
            fast.on_drained(now);
            return None;
        };
        let receive_next = fast.receive_next;
        let template = crate::packet::tcp::Template {
            src: remote,
            dst: pod,
            seq: outgoing.seq,
            ack: if outgoing.flags & ACK != 0 {
                receive_next
            } else {
                0
            },
            flags: outgoing.flags,
            window: outgoing.window,
            options: outgoing.options,
        };
        template.emit_header(buf, outgoing.count);
        if let Some(buffers) = &fast.buffers {
            let written = &buffers.written;
            match shared {
                Some(shared) => written.share_to(outgoing.offset, outgoing.count, buf, shared),
                None => written.copy_to(outgoing.offset, outgoing.count, buf),
            }
        }
        Some(tcp_transmit(buf))
    }

    /// Writes to the flow, at most `wanted` bytes: `push` is told how many.
    fn write_fast(
        &mut self,
        now: Tick,
        slot: u32,
        wanted: usize,
        push: impl FnOnce(&mut crate::buffers::ByteQueue, &mut crate::buffers::Pool, usize),
    ) -> usize {
        self.grow_send_limit(slot, wanted);
        let spare = self.spare();
        let Some(fast) = self.fast_mut(slot) else {
            return 0;
        };
        let count = if fast.is_open() {
            room(fast, spare).min(wanted)
        } else {
            0
        };
        fast.write_blocked |= count < wanted;
        if count == 0 {
            return 0;
        }
        fast.last_activity = now;
        if let Some(Flow {
            stage: Stage::Fast(fast),
            ..
        }) = self.table.get_mut(slot)
        {
            let buffers = fast.buffers.get_or_insert_with(|| self.pool.buffers());
            push(&mut buffers.written, &mut self.pool, count);
        }
        self.ring_bytes += count;
        self.mark_dirty(slot);
        count
    }

    pub(super) fn write_fast_slice(&mut self, now: Tick, slot: u32, data: &[u8]) -> usize {
        self.write_fast(now, slot, data.len(), |queue, pool, count| {
            queue.push(&data[..count], pool);
        })
    }

    pub(super) fn write_fast_bytes(&mut self, now: Tick, slot: u32, data: &mut Bytes) -> usize {
        self.write_fast(now, slot, data.len(), |queue, pool, count| {
            let part = data.split_to(count);
            if count > PIECE {
                queue.push_shared(part);
            } else {
                queue.push(&part, pool);
            }
        })
    }

    /// If what is to be written finds no room, though the pod has some, the flow may have more.
    fn grow_send_limit(&mut self, slot: u32, wanted: usize) {
        let max = self.config.send_buffer.max;
        let budget = self.config.buffer_budget;
        let Some(Flow {
            stage: Stage::Fast(fast),
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        while fast.unsettled() + wanted > fast.limits.send
            && fast.limits.send < max
            && fast.peer_window_bytes() >= fast.limits.send
        {
            let limit = grown(fast.limits.send, max);
            if self.ring_bytes + limit - fast.limits.send > budget {
                self.counters.growth_refused += 1;
                return;
            }
            fast.limits.send = limit;
            self.counters.rings_grown += 1;
        }
    }

    /// Lets `read` take from what was received; it says how many bytes that were.
    pub(super) fn read_fast<R>(
        &mut self,
        now: Tick,
        slot: u32,
        read: impl FnOnce(&mut crate::buffers::ByteQueue, &mut crate::buffers::Pool) -> R,
    ) -> Option<R> {
        let Some(Flow {
            stage: Stage::Fast(fast),
            ..
        }) = self.table.get_mut(slot)
        else {
            return None;
        };
        let buffers = fast.buffers.as_mut()?;
        let before = buffers.received.len();
        let result = read(&mut buffers.received, &mut self.pool);
        let count = before - buffers.received.len();
        if count > 0 {
            fast.last_activity = now;
            self.ring_bytes -= count;
            self.after_fast_read(now, slot);
        }
        Some(result)
    }

    fn after_fast_read(&mut self, now: Tick, slot: u32) {
        self.grow_receive_limit(slot);
        let spare = self.spare();
        let Some(fast) = self.fast_mut(slot) else {
            return;
        };
        let has_meaning = fast.unread() == 0 && fast.peer_fin;
        if fast.has_window_to_tell(spare) {
            fast.ack = Ack::Due;
            self.mark_dirty(slot);
        }
        self.rest(slot);
        if has_meaning {
            self.settle_fast(now, slot);
        }
    }

    /// Everything was read. If half of what may wait did, the pod is faster than the reader's turns: more lets more happen
    /// in each.
    fn grow_receive_limit(&mut self, slot: u32) {
        let max = self.config.receive_buffer.max;
        let budget = self.config.buffer_budget;
        let Some(Flow {
            stage: Stage::Fast(fast),
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        if !fast.was_filled || fast.unread() > 0 {
            return;
        }
        fast.was_filled = false;
        let limit = grown(fast.limits.receive, max);
        if fast.peer_fin || limit == fast.limits.receive {
            return;
        }
        if self.ring_bytes + limit - fast.limits.receive > budget {
            self.counters.growth_refused += 1;
            return;
        }
        fast.limits.receive = limit;
        self.counters.rings_grown += 1;
    }

    /// Bytes that may still be kept for all flows together.
    fn spare(&self) -> usize {
        self.config.buffer_budget.saturating_sub(self.ring_bytes)
    }

    /// The flow's record, if it's on the fast path.
    pub(super) fn fast_mut(&mut self, slot: u32) -> Option<&mut Fast> {
        match &mut self.table.get_mut(slot)?.stage {
            Stage::Fast(fast) => Some(fast),
            _ => None,
        }
    }

    pub(super) fn on_fast_deadline(&mut self, now: Tick, slot: u32) {
        let config = &self.config;
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        let is_released = flow.is_released;
        let Stage::Fast(fast) = &mut flow.stage else {
            return;
        };
        fast.looked_at = None;
        let is_due = |deadline: Option<Tick>| deadline.is_some_and(|at| at <= now);
        if is_due(fast.engine_deadline()) {
            self.engage(now, slot);
            return self.mark_dirty(slot);
        }
        if is_due(fast.answer_deadline(config)) {
            return self.reset(slot, CloseReason::TimedOut, ClosedBy::Network);
        }
        if is_due(fast.idle_deadline(config)) {
            return self.reset(slot, CloseReason::Idle, ClosedBy::Agent);
        }
        if is_due(fast.orphan_deadline(config, is_released)) {
            return self.reset(slot, CloseReason::TimedOut, ClosedBy::Network);
        }
        if is_due(fast.keep_alive_deadline(config)) {
            fast.unanswered_since.get_or_insert(now);
            fast.last_probe = now;
            let seq = fast.send_next.wrapping_sub(1);
            let (ack, window) = (fast.receive_next, fast.window_field());
            let probe = flow.template(seq, ack, ACK, window);
            self.answer_with(probe);
        }
        self.arm(now, slot);
    }
}

/// How many bytes may be written, if all flows together may still take `spare`.
fn room(fast: &Fast, spare: usize) -> usize {
    let unsettled = fast.unsettled();
    let least = MINIMUM_RING.saturating_sub(unsettled);
    fast.limits.send.saturating_sub(unsettled).min(spare.max(least))
}
