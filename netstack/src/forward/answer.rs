//! Packets of the forwarder's own.

use std::net::SocketAddr;

use adit_flow::DropReason;

use super::pass::{Incoming, Outcome};
use super::types::Side;
use super::view::Kind;
use super::{Flow, Forwarder};
use crate::clock::Tick;
use crate::event::{Refusal, Unreachable};
use crate::packet::icmp::{self, Problem};
use crate::packet::tcp::{Options, RST, Template};
use crate::table::Queue;

impl Forwarder {
    /// What [`Passage::Answer`](crate::Passage::Answer) speaks of: an IP packet with all checksums. The next packet handed in replaces it.
    pub fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// Replaces `out` by the next reset of a flow that was cut, an IP packet with all checksums. The side is the one that it's for.
    /// `None` when there's none; a refusal forgotten meanwhile takes its resets with it.
    pub fn poll_answer(&mut self, out: &mut Vec<u8>) -> Option<Side> {
        while let Some(&slot) = self.cut.front() {
            if let Some(flow) = self.table.get_mut(slot) {
                for side in [Side::Pod, Side::Wire] {
                    if std::mem::take(&mut flow.owes_reset[side as usize]) {
                        reset_for(flow, side).emit_complete(out);
                        self.counters.resets_sent += 1;
                        return Some(side);
                    }
                }
            }
            self.cut.pop_front();
            self.table.leave(slot, Queue::Dirty);
        }
        None
    }

    /// Turns away a packet of a refused flow.
    pub(super) fn refuse(&mut self, now: Tick, refusal: Refusal, packet: &Incoming<'_>) -> Outcome {
        const REASON: DropReason = DropReason::Denied;
        let what = match (refusal, &packet.view.kind) {
            (Refusal::Silent, _) => return Outcome::Drop(REASON),
            (Refusal::Reset, Kind::Tcp(segment)) if segment.is(RST) => return Outcome::Drop(REASON),
            (Refusal::Reset, Kind::Tcp(segment)) => {
                let src = SocketAddr::new(packet.header.dst(), segment.dst_port);
                let dst = SocketAddr::new(packet.header.src(), segment.src_port);
                Template::reset(src, dst, segment).emit_complete(&mut self.answer);
                self.counters.resets_sent += 1;
                return Outcome::Answer(REASON);
            }
            (Refusal::Reset, _) => Unreachable::Port,
            (Refusal::Unreachable(what), _) => what,
        };
        if self.answer_error(now, packet, Problem::Unreachable(what)) {
            Outcome::Answer(REASON)
        } else {
            Outcome::Drop(REASON)
        }
    }

    /// Tells the sender of a packet how long one may be.
    pub(super) fn answer_too_big(&mut self, now: Tick, packet: &Incoming<'_>) -> Outcome {
        let mtu = self.config.wire_mtu;
        if self.answer_error(now, packet, Problem::TooBig { mtu }) {
            self.counters.too_big_answered += 1;
            Outcome::Answer(DropReason::TooBig)
        } else {
            Outcome::Drop(DropReason::TooBig)
        }
    }

    fn answer_error(&mut self, now: Tick, packet: &Incoming<'_>, problem: Problem) -> bool {
        if !self.limiters[packet.from as usize].take(now) {
            self.counters.errors_limited += 1;
            return false;
        }
        let about = &packet.bytes[..packet.header.length];
        icmp::write_error(&mut self.answer, &packet.header, about, problem);
        true
    }
}

fn reset_for(flow: &Flow, side: Side) -> Template {
    let numbers = flow.track.reset_for(side);
    let key = flow.key();
    let tuple = if key.from == side {
        key.tuple.reversed()
    } else {
        key.tuple
    };
    Template {
        src: tuple.src,
        dst: tuple.dst,
        seq: numbers.seq,
        ack: numbers.ack,
        flags: numbers.flags,
        window: 0,
        options: Options::default(),
    }
}
