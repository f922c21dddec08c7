//! The engine's rings, which grow with use, and the budget for them. See [`splice`](crate::splice).

use super::Netstack;
use crate::clock::Tick;
use crate::flow::{Flow, Stage};
use crate::live::{Live, Rings, grown};
use crate::splice::Ends;

impl Netstack {
    pub(super) fn free_rings(&mut self, rings: Rings) {
        self.ring_bytes -= rings.total();
    }

    /// The send ring is full and there's more to write. If the pod has room for more than the ring holds, the ring is what
    /// limits the flow, and it should grow: writing stops until it's empty, which is a round trip on a local link, as the
    /// engine's socket can only be replaced then.
    pub(super) fn want_send_room(&mut self, slot: u32) {
        let max = self.config.send_buffer.max;
        let Some(Flow {
            stage: Stage::Live(live),
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        let ring = live.rings.send;
        let is_limit = live.peer_window_bytes() >= ring;
        if ring >= max || !is_limit || !live.is_spliceable() || live.ahead_until.is_some() {
            return;
        }
        if self.ring_bytes + grown(ring, max) - ring > self.config.buffer_budget {
            self.counters.growth_refused += 1;
            return;
        }
        live.wants_send_room = true;
    }

    /// The send ring that was to grow is empty.
    pub(super) fn grow_send(&mut self, now: Tick, slot: u32) {
        let max = self.config.send_buffer.max;
        let Some(Flow {
            stage: Stage::Live(live),
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        live.wants_send_room = false;
        let rings = Rings {
            send: grown(live.rings.send, max),
            ..live.rings
        };
        self.replace_rings(now, slot, rings);
    }

    /// Everything was read. If the pod had filled half the receive ring, it's faster than the reader's turns: a larger one
    /// lets more happen in each.
    pub(super) fn consider_receive_growth(&mut self, now: Tick, slot: u32) {
        let max = self.config.receive_buffer.max;
        let Some(Flow {
            stage: Stage::Live(live),
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        let was_used = live.unread_peak >= live.rings.receive / 2;
        if live.rings.receive < max && was_used && live.is_quiescent() && !live.has_peer_fin() {
            live.unread_peak = 0;
            let rings = Rings {
                receive: grown(live.rings.receive, max),
                ..live.rings
            };
            self.replace_rings(now, slot, rings);
        }
    }

    /// Builds the flow's socket anew with larger rings, if the budget and the flow's state allow.
    fn replace_rings(&mut self, now: Tick, slot: u32, rings: Rings) {
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        let ends = Ends {
            remote: flow.remote(),
            pod: flow.pod(),
        };
        let Stage::Live(live) = &mut flow.stage else {
            return;
        };
        if self.ring_bytes + rings.total() - live.rings.total() > self.config.buffer_budget {
            self.counters.growth_refused += 1;
            return;
        }
        if !live.is_spliceable() || !live.is_sent_out() || live.ahead_until.is_some() {
            return;
        }
        let queued = live.socket().recv_queue();
        self.unread.resize(queued, 0);
        let copied = live.socket_mut().peek_slice(&mut self.unread).unwrap_or(0);
        debug_assert_eq!(copied, queued);
        let engine = (&mut self.engine, &self.config);
        let built = live
            .splice()
            .build(now, ends, (rings, &self.unread), engine, &mut self.scratch);
        let Some(mut new) = built else {
            self.counters.rebuilds_failed += 1;
            return;
        };
        new.inherit(live);
        self.ring_bytes += rings.total() - live.rings.total();
        let announces = rings.receive > live.rings.receive;
        **live = new;
        self.counters.rings_grown += 1;
        if announces {
            self.answer_from_engine(now, slot);
        }
    }
}

impl Live {
    /// Takes over from the socket it replaces what isn't part of the connection.
    fn inherit(&mut self, old: &Self) {
        self.last_activity = old.last_activity;
        self.write_blocked = old.write_blocked;
        self.first_fin = old.first_fin;
        self.fin_reported = old.fin_reported;
    }
}
