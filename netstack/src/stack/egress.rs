//! What goes out to the pod.

use std::time::Instant;

use bytes::Bytes;

use super::Netstack;
use crate::clock::{Tick, after};
use crate::event::{PacketParts, Transmit};
use crate::flow::Stage;
use crate::packet::tcp::{self, RST, Template};
use crate::packet::{ip, put16};
use crate::table::Queue;

impl Netstack {
    /// Puts the next packet to the pod into `buf`, replacing what it holds; keep the buffer from call to call, so that it's
    /// not allocated again. `None` when there's nothing to send.
    ///
    /// Flows take turns, a packet each. What is handed out counts as sent: if the device refuses it, it's a lost packet.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        let now = self.advance(now);
        let transmit = self.next_packet(now, buf, None)?;
        self.counters.frames_out += 1;
        self.counters.bytes_out += buf.len() as u64;
        Some(transmit)
    }

    /// As [`poll_transmit`](Self::poll_transmit), but without copying what was written by reference: the packet is in parts, for
    /// a vectored write.
    pub fn poll_transmit_parts(&mut self, now: Instant, packet: &mut PacketParts) -> Option<Transmit> {
        let now = self.advance(now);
        packet.data.clear();
        let transmit = self.next_packet(now, &mut packet.head, Some(&mut packet.data))?;
        self.counters.frames_out += 1;
        self.counters.bytes_out += packet.slices().map(|part| part.len() as u64).sum::<u64>();
        Some(transmit)
    }

    fn next_packet(
        &mut self,
        now: Tick,
        buf: &mut Vec<u8>,
        mut shared: Option<&mut Vec<Bytes>>,
    ) -> Option<Transmit> {
        if self.answers.pop(buf) {
            return Some(tcp_transmit(buf));
        }
        if let Some(packet) = self.outbound.pop() {
            buf.clear();
            buf.extend_from_slice(&packet.frame);
            return Some(packet.transmit);
        }
        while let Some(slot) = self.dirty.pop_front() {
            self.table.leave(slot, Queue::Dirty);
            if let Some(transmit) = self.flow_egress(now, slot, (buf, shared.as_deref_mut())) {
                if self.fast_mut(slot).is_some_and(|fast| !fast.has_output()) {
                    self.arm(now, slot);
                } else {
                    self.mark_dirty(slot);
                }
                return Some(transmit);
            }
            self.on_drained(now, slot);
        }
        None
    }

    fn flow_egress(
        &mut self,
        now: Tick,
        slot: u32,
        (buf, shared): (&mut Vec<u8>, Option<&mut Vec<Bytes>>),
    ) -> Option<Transmit> {
        let flow = self.table.get_mut(slot)?;
        let live = match &mut flow.stage {
            Stage::Fast(_) => return self.fast_egress(now, slot, (buf, shared)),
            Stage::Live(live) => live,
            Stage::Held(_) | Stage::TimeWait(_) | Stage::Ended => return None,
        };
        if live.is_parked || !self.engine.egress(now, &mut live.sockets, buf) {
            return None;
        }
        let at = header_len(buf);
        let is_new = live.on_egress(now, buf, at);
        (is_new || !live.has_stale_timer()).then(|| finish(buf, at))
    }

    /// The flow has nothing to send for now: settles what that means, and when to look at it again.
    fn on_drained(&mut self, now: Tick, slot: u32) {
        self.finish_time_wait(now, slot);
        self.disengage(slot);
        self.arm(now, slot);
    }

    pub(super) fn arm(&mut self, now: Tick, slot: u32) {
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        let config = &self.config;
        let at = match &mut flow.stage {
            Stage::Held(_) | Stage::Ended => return,
            Stage::TimeWait(record) => Some(record.expires_at),
            Stage::Fast(fast) => {
                let at = fast.deadline(config, flow.is_released);
                if fast
                    .looked_at
                    .is_some_and(|looked_at| at.is_none_or(|at| looked_at <= at))
                {
                    return;
                }
                fast.looked_at = at;
                at
            }
            Stage::Live(live) => {
                let engine_at = if live.is_parked || live.has_stale_timer() {
                    None
                } else {
                    self.engine.poll_at(now, &live.sockets)
                };
                if !live.is_parked {
                    live.on_engine_timer(now, engine_at);
                }
                // It had its turn just now; if it still says "now" it would say so forever.
                let engine_at = engine_at.map(|at| at.max(after(now, LEAST_DELAY)));
                let own = live.deadline(config, flow.is_released);
                engine_at.into_iter().chain(own).min()
            }
        };
        if let Some(at) = at {
            self.deadlines.arm(slot, at);
        }
    }

    /// Queues a segment of the engine that answers one of the pod's at once: it's in `scratch`.
    pub(super) fn answer_from_engine(&mut self, now: Tick, slot: u32) {
        let mut frame = std::mem::take(&mut self.scratch);
        let at = header_len(&frame);
        if let Some(flow) = self.table.get_mut(slot)
            && let Stage::Live(live) = &mut flow.stage
        {
            live.on_egress(now, &mut frame, at);
        }
        if frame.get(at + 13).is_some_and(|flags| flags & RST != 0) {
            self.counters.resets_sent += 1;
        }
        finish(&mut frame, at);
        self.answer(&frame);
        self.scratch = frame;
    }

    pub(super) fn answer_with(&mut self, template: Template) {
        let mut frame = std::mem::take(&mut self.scratch);
        template.emit(&mut frame, b"");
        self.answer(&frame);
        self.scratch = frame;
    }

    pub(super) fn send_reset(&mut self, reset: Template) {
        self.counters.resets_sent += 1;
        self.answer_with(reset);
    }
}

/// Length of the IP header of a packet that the stack or the engine made: neither adds options.
fn header_len(frame: &[u8]) -> usize {
    if frame.first().is_some_and(|first| first >> 4 == 6) {
        ip::V6_HEADER
    } else {
        ip::V4_HEADER
    }
}

/// Fills in the checksum field, as far as that's the stack's part.
fn finish(frame: &mut [u8], at: usize) -> Transmit {
    if let Ok(packet) = ip::IpPacket::parse(frame) {
        let sum = tcp::pseudo_sum(packet.src, packet.dst, frame.len() - at);
        put16(frame, at + tcp::CHECKSUM_AT, sum);
    }
    tcp_transmit(frame)
}

pub(super) fn tcp_transmit(frame: &[u8]) -> Transmit {
    Transmit::NeedsChecksum {
        start: header_len(frame) as u16,
        offset: tcp::CHECKSUM_AT as u16,
    }
}

/// smoltcp counts in milliseconds.
const LEAST_DELAY: std::time::Duration = std::time::Duration::from_millis(1);
