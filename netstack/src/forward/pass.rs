//! The path of a packet.

use std::net::SocketAddr;
use std::time::Instant;

use adit_flow::{DropReason, Protocol};

use super::flow::{Flow, Stage};
use super::track::Step;
use super::types::{Key, NewFlow, Offloads, Passage, Side};
use super::view::{self, Kind, View};
use super::{ForwardId, Forwarder};
use crate::clock::{Tick, after};
use crate::packet::icmp;
use crate::packet::ip::{self, Fragment, Header};
use crate::packet::tcp::{self, SYN};

/// A packet whose IP header was checked.
pub(super) struct Incoming<'a> {
    pub(super) from: Side,
    pub(super) header: Header,
    pub(super) bytes: &'a mut [u8],
    pub(super) offloads: Offloads,
}

impl Incoming<'_> {
    /// Whether a link with this MTU doesn't take it, and nobody on the way may cut it up.
    fn is_longer_than(&self, mtu: u16, view: &View) -> bool {
        let length = match self.offloads.segment_size {
            Some(size) => self.header.length.min(view.payload_at + usize::from(size)),
            None => self.header.length,
        };
        length > usize::from(mtu) && self.header.dont_fragment
    }
}

impl Forwarder {
    /// Says what is to be done with an IP packet that came from `from`: without its virtio-net header, of which `offloads` has what
    /// matters. A packet that passes may have been changed in place.
    ///
    /// What's wrong with it is counted by reason; nothing that anybody can send makes this fail.
    pub fn handle(&mut self, now: Instant, from: Side, packet: &mut [u8], offloads: Offloads) -> Passage {
        let now = self.advance(now);
        self.counters.on_packet(from, packet.len());
        let passage = match self.check(from, packet) {
            Ok(header) => {
                let packet = Incoming {
                    from,
                    header,
                    bytes: packet,
                    offloads,
                };
                self.pass(now, packet).unwrap_or_else(Passage::Drop)
            }
            Err(reason) => Passage::Drop(reason),
        };
        match passage {
            Passage::Answer(reason) | Passage::Drop(reason) => self.counters.on_drop(from, reason),
            Passage::Forward(_) => self.counters.on_forwarded(from),
            Passage::New(_) => self.counters.unknown += 1,
            Passage::ToKernel => self.counters.to_kernel += 1,
        }
        passage
    }

    fn check(&self, from: Side, packet: &[u8]) -> Result<Header, DropReason> {
        let header = Header::parse(packet)?;
        view::check_addresses(&self.config.addresses, from, &header)?;
        if view::is_source_routed(&header, packet) {
            return Err(DropReason::Unroutable);
        }
        Ok(header)
    }

    fn pass(&mut self, now: Tick, packet: Incoming<'_>) -> Result<Passage, DropReason> {
        let header = &packet.header;
        if let Some(fragment) = header.fragment.filter(|fragment| fragment.offset != 0) {
            return self.on_later_fragment(now, &packet, &fragment);
        }
        let view = View::read(packet.from, header, packet.bytes)?;
        if matches!(view.kind, Kind::Error) {
            return self.on_error(&packet, view.payload_at);
        }
        match self.table.find(&view.ends) {
            Some(slot) => self.on_known(now, slot, packet, &view),
            None => unknown(packet.from, &view),
        }
    }

    fn on_known(
        &mut self,
        now: Tick,
        slot: u32,
        packet: Incoming<'_>,
        view: &View,
    ) -> Result<Passage, DropReason> {
        let Incoming { from, header, .. } = packet;
        let id = self.table.id(slot);
        let flow = self.table.get_mut(slot).ok_or(DropReason::NoFlow)?;
        match flow.stage {
            Stage::Refused(refusal) => return Ok(self.refuse(now, refusal, &packet, view)),
            Stage::Ended if view.opens() => {
                self.forget(slot);
                return unknown(from, view);
            }
            Stage::Ended | Stage::Admitted => {}
        }
        if from == Side::Pod && packet.is_longer_than(self.config.wire_mtu, view) {
            return Ok(self.answer_too_big(now, &packet));
        }
        if flow.stage == Stage::Admitted {
            let step = match &view.kind {
                Kind::Tcp(segment) => flow.track.on_segment(flow.from, from, segment),
                _ => Step::Pass,
            };
            match step {
                Step::Refuse => return Err(DropReason::NoFlow),
                Step::Renew => {
                    let (reason, by) = flow.expiry();
                    self.end(slot, reason, by);
                    return unknown(from, view);
                }
                Step::End { .. } | Step::Pass | Step::Shorten => {}
            }
            flow.note(now, from, header.length - view.payload_at);
            match step {
                Step::End { reason, by } => self.end_softly(now, slot, reason, by),
                Step::Shorten => self.deadlines.arm(slot, flow.expires_at(&self.config)),
                Step::Pass | Step::Refuse | Step::Renew => {}
            }
        }
        if let Kind::Tcp(segment) = &view.kind
            && segment.is(SYN)
        {
            self.clamp_mss(packet);
        }
        if let Some(fragment) = &header.fragment {
            let expires = after(now, self.config.fragment_timeout);
            self.counters.first_fragments += 1;
            if self.fragments.insert(now, &header, fragment, id, expires) {
                self.counters.fragmented_evicted += 1;
            }
        }
        Ok(Passage::Forward(ForwardId(id)))
    }

    /// Sees to it that a SYN asks for no segments that the wire doesn't take.
    fn clamp_mss(&mut self, packet: Incoming<'_>) {
        let Incoming { header, bytes, .. } = packet;
        let limit = self.config.wire_mtu - (ip::header_len(header.src) + tcp::HEADER) as u16;
        let transport = &mut bytes[header.payload_at..header.length];
        if tcp::clamp_mss(transport, limit, packet.offloads.partial_checksum) {
            self.counters.mss_clamped += 1;
        }
    }

    /// It goes where the first one went.
    fn on_later_fragment(
        &mut self,
        now: Tick,
        packet: &Incoming<'_>,
        fragment: &Fragment,
    ) -> Result<Passage, DropReason> {
        let header = &packet.header;
        if view::overlaps_header(fragment) {
            return Err(DropReason::Malformed);
        }
        let id = self
            .fragments
            .flow(now, header, fragment)
            .ok_or(DropReason::Fragment)?;
        let slot = self.table.resolve(id).ok_or(DropReason::Fragment)?;
        let flow = self.table.get_mut(slot).ok_or(DropReason::Fragment)?;
        match flow.stage {
            Stage::Admitted => flow.note(now, packet.from, header.length - header.payload_at),
            Stage::Ended => {}
            Stage::Refused(_) => return Err(DropReason::Denied),
        }
        self.counters.later_fragments += 1;
        Ok(Passage::Forward(ForwardId(id)))
    }

    /// An ICMP error passes if the packet that it quotes was one of a flow that passes, and came from where the error goes.
    fn on_error(&mut self, packet: &Incoming<'_>, quote_at: usize) -> Result<Passage, DropReason> {
        let Incoming { from, header, .. } = packet;
        let quote = &packet.bytes[quote_at..header.length];
        let (protocol, tuple) = icmp::quoted(quote).ok_or(DropReason::NoFlow)?;
        if tuple.src.ip() != header.dst {
            return Err(DropReason::NoFlow);
        }
        let quoted = Key {
            protocol,
            tuple,
            from: from.other(),
        };
        let Some(slot) = self.table.find(&quoted.ends()) else {
            return if *from == Side::Wire && self.is_agents(protocol, tuple.src, tuple.dst) {
                Ok(Passage::ToKernel)
            } else {
                Err(DropReason::NoFlow)
            };
        };
        if self.table.get(slot).is_some_and(Flow::is_refused) {
            return Err(DropReason::Denied);
        }
        self.counters.related += 1;
        Ok(Passage::Forward(ForwardId(self.table.id(slot))))
    }

    /// Whether a segment from `src` to `dst` was sent by one of the agent's own sockets: one that dialled, one that was dialled by
    /// another agent's, or one that listens for tunnels.
    fn is_agents(&self, protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> bool {
        let ports = &self.config.agent_ports;
        protocol == Protocol::Tcp
            && (ports.contains(&src.port())
                || ports.contains(&dst.port())
                || src.port() == self.config.tunnel_port)
    }
}

fn unknown(from: Side, view: &View) -> Result<Passage, DropReason> {
    if matches!(view.kind, Kind::Reply) {
        return Err(DropReason::NoFlow);
    }
    Ok(Passage::New(NewFlow {
        key: Key::of(&view.ends, from),
        established: !view.opens(),
    }))
}
