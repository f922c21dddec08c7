//! TCP segments from the pod: RFC 9293 §3.10.7 down to the point where the engine takes over.

use std::net::SocketAddr;

use adit_flow::{CloseReason, DropReason, FourTuple, RefuseReason};
use smoltcp::socket::tcp::State;

use super::Netstack;
use crate::clock::{Tick, after};
use crate::ends::Ends;
use crate::event::ClosedBy;
use crate::flow::{Flow, HeldSyn, Opener, Stage, TimeWait};
use crate::packet::ip::{self, IpPacket};
use crate::packet::tcp::{self, ACK, FIN, Options, RST, Segment, Template};

impl Netstack {
    pub(super) fn on_tcp(&mut self, packet: &IpPacket<'_>, verify: bool) -> Result<(), DropReason> {
        let transport = packet.payload();
        let segment = Segment::parse(transport)?;
        if verify && !packet.has_valid_checksum() {
            return Err(DropReason::BadChecksum);
        }
        let pod = SocketAddr::new(packet.src, segment.src_port);
        let remote = SocketAddr::new(packet.dst, segment.dst_port);
        let now = self.now;
        let Some(slot) = self.table.find(&Ends::tcp(pod, remote)) else {
            return self.on_unknown(now, pod, remote, &segment, transport);
        };
        match &mut self.table.get_mut(slot).ok_or(DropReason::NoFlow)?.stage {
            Stage::Held(_) => self.on_held(slot, &segment, transport),
            Stage::Live(_) => self.on_live(now, slot, packet, &segment),
            Stage::Fast(_) => self.on_fast(now, slot, packet, &segment),
            Stage::TimeWait(record) => {
                let record = *record;
                self.on_time_wait(now, slot, record, &segment, transport)
            }
            Stage::Ended => Err(DropReason::NoFlow),
        }
    }

    /// Nobody has this four-tuple (RFC 9293 §3.10.7.1 and .2).
    fn on_unknown(
        &mut self,
        now: Tick,
        pod: SocketAddr,
        remote: SocketAddr,
        segment: &Segment,
        transport: &[u8],
    ) -> Result<(), DropReason> {
        if !segment.opens() {
            if !segment.is(RST) {
                self.send_reset(Template::reset(remote, pod, segment));
            }
            return Err(DropReason::NoFlow);
        }
        if self.held >= self.config.max_half_open {
            self.counters.syns_over_limit += 1;
            return Err(DropReason::TableFull);
        }
        if self.table.is_full() && !self.evict_time_wait() {
            self.counters.table_full_resets += 1;
            self.send_reset(Template::reset(remote, pod, segment));
            return Err(DropReason::TableFull);
        }
        let mut flow = Flow::new(
            FourTuple::new(pod, remote),
            Opener::Pod,
            Stage::Held(held(segment, transport)),
        );
        flow.news.syn = true;
        let slot = self.table.insert(flow).index;
        self.held += 1;
        self.counters.syns_held += 1;
        self.deadlines.arm(slot, after(now, self.config.syn_hold_timeout));
        self.mark_ready(slot);
        Ok(())
    }

    fn on_held(&mut self, slot: u32, segment: &Segment, transport: &[u8]) -> Result<(), DropReason> {
        let Some(flow) = self.table.get_mut(slot) else {
            return Err(DropReason::NoFlow);
        };
        let Stage::Held(syn) = &mut flow.stage else {
            return Err(DropReason::NoFlow);
        };
        if segment.opens() {
            if segment.seq == syn.seq {
                self.counters.syns_repeated += 1;
            } else {
                // The app gave up and another attempt got the same port: the verdict will be about that one.
                *syn = held(segment, transport);
                self.counters.syns_replaced += 1;
            }
            return Ok(());
        }
        if segment.is(RST) {
            // There's no window yet: the number must be that of the SYN or the one behind it.
            if segment.seq.wrapping_sub(syn.seq) > 1 {
                return Err(DropReason::NoFlow);
            }
            self.counters.syns_withdrawn += 1;
            self.withdraw_held(slot, CloseReason::Reset, ClosedBy::Pod);
            return Ok(());
        }
        // As in LISTEN (RFC 9293 §3.10.7.2): nothing was sent that could be acknowledged.
        let reset = Template::reset(flow.remote(), flow.pod(), segment);
        self.send_reset(reset);
        Err(DropReason::NoFlow)
    }

    pub(super) fn on_live(
        &mut self,
        now: Tick,
        slot: u32,
        packet: &IpPacket<'_>,
        segment: &Segment,
    ) -> Result<(), DropReason> {
        let Some(flow) = self.table.get_mut(slot) else {
            return Err(DropReason::NoFlow);
        };
        let Stage::Live(live) = &mut flow.stage else {
            return Err(DropReason::NoFlow);
        };
        if live.lies_beyond_fin(segment) {
            return Err(DropReason::Malformed);
        }
        // The engine would take the segment for an old one.
        let only_fin = segment.only_fin(live.receive_next());
        let segment = only_fin.as_ref().unwrap_or(segment);
        let before = live.state();
        live.before_ingress(now, segment);
        let cut = live.would_cut(segment);
        let answered = if packet.extended || cut || only_fin.is_some() {
            // The engine walks no extension headers, and would take the FIN of a segment whose end it cuts off.
            let plain = match &only_fin {
                Some(fin) => bare_copy(packet, fin),
                None => plain_copy(packet, cut),
            };
            self.engine
                .ingress(now, &mut live.sockets, &plain, &mut self.scratch)
        } else {
            self.engine
                .ingress(now, &mut live.sockets, packet.bytes(), &mut self.scratch)
        };
        let state = live.state();
        if before == State::SynSent && !matches!(state, State::SynSent | State::Closed) {
            live.on_peer_syn(segment, Options::of(packet.payload()));
        }
        live.after_ingress();
        let (established, new_bytes) = (live.established, segment.data_len > 0 && live.socket().can_recv());
        if answered {
            self.answer_from_engine(now, slot);
        }
        // A reset in SYN-RECEIVED takes smoltcp back to LISTEN.
        if segment.is(RST) && matches!(state, State::Closed | State::Listen) {
            if established {
                self.end(slot, CloseReason::Reset, ClosedBy::Pod);
            } else {
                self.fail_handshake(slot, RefuseReason::Refused);
            }
            return Ok(());
        }
        self.settle_after_segment(now, slot, new_bytes);
        Ok(())
    }

    /// RFC 9293 §3.10.7.4 for TIME-WAIT, with the reuse that §3.6.1 allows.
    fn on_time_wait(
        &mut self,
        now: Tick,
        slot: u32,
        record: TimeWait,
        segment: &Segment,
        transport: &[u8],
    ) -> Result<(), DropReason> {
        let Some(flow) = self.table.get_mut(slot) else {
            return Err(DropReason::NoFlow);
        };
        let (pod, remote) = (flow.pod(), flow.remote());
        if segment.opens() && tcp::before(record.receive_next, segment.seq) {
            self.counters.time_waits_reused += 1;
            self.forget_time_wait(slot);
            return self.on_unknown(now, pod, remote, segment, transport);
        }
        // A reset must not cut it short (RFC 1337), and a bare ACK asks for nothing.
        if !segment.is(RST) && segment.length() > 0 {
            if segment.is(FIN)
                && let Stage::TimeWait(record) = &mut flow.stage
            {
                record.expires_at = after(now, self.config.time_wait);
            }
            let ack = flow.template(record.send_next, record.receive_next, ACK, record.window);
            self.answer_with(ack);
        }
        Ok(())
    }
}

/// The packet with its segment behind a plain IP header, and without FIN if that's to be left for a repetition.
fn plain_copy(packet: &IpPacket<'_>, without_fin: bool) -> Vec<u8> {
    let segment = packet.payload();
    let mut plain = Vec::with_capacity(ip::V6_HEADER + segment.len());
    ip::push_header(&mut plain, packet.src, packet.dst, ip::TCP, segment.len());
    let at = plain.len();
    plain.extend_from_slice(segment);
    if without_fin {
        plain[at + tcp::FLAGS_AT] &= !FIN;
    }
    plain
}

/// The packet with nothing but the numbers of `segment`.
fn bare_copy(packet: &IpPacket<'_>, segment: &Segment) -> Vec<u8> {
    let mut bare = Vec::with_capacity(ip::V6_HEADER + tcp::HEADER);
    let template = Template {
        src: SocketAddr::new(packet.src, segment.src_port),
        dst: SocketAddr::new(packet.dst, segment.dst_port),
        seq: segment.seq,
        ack: segment.ack,
        flags: segment.flags,
        window: segment.window,
        options: Options::default(),
    };
    template.emit(&mut bare, b"");
    bare
}

fn held(segment: &Segment, transport: &[u8]) -> HeldSyn {
    HeldSyn {
        seq: segment.seq,
        window: segment.window,
        options: Options::of(transport),
    }
}
