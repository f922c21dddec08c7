//! The path of a packet.

use std::time::Instant;

use adit_flow::{DropReason, Protocol};

use super::flow::{Flow, Stage};
use super::track::Step;
use super::types::{Key, NewFlow, Offloads, Passage, Side};
use super::view::{self, Kind, View};
use super::{ForwardId, Forwarder};
use crate::clock::{Tick, after};
use crate::event::FlowId;
use crate::packet::icmp;
use crate::packet::ip::{self, Fragment, Header};
use crate::packet::tcp::{self, SYN};

/// A packet whose headers were checked.
pub(super) struct Incoming<'a> {
    pub(super) from: Side,
    pub(super) header: Header,
    pub(super) view: View,
    pub(super) bytes: &'a mut [u8],
    pub(super) offloads: Offloads,
}

/// What becomes of a packet: [`Passage`] in two words.
pub(super) enum Outcome {
    Answer(DropReason),
    Drop(DropReason),
    Forward(FlowId),
    ToKernel,
    Unknown,
}

impl Incoming<'_> {
    /// Whether a link with this MTU doesn't take it, and nobody on the way may cut it up.
    fn is_longer_than(&self, mtu: u16) -> bool {
        let length = match self.offloads.segment_size {
            Some(size) => self.header.length.min(self.view.payload_at + usize::from(size)),
            None => self.header.length,
        };
        length > usize::from(mtu) && self.header.dont_fragment
    }

    /// Bytes behind the headers that were read.
    fn payload_len(&self) -> usize {
        self.header.length - self.view.payload_at
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
        let (header, view) = match self.read(from, packet) {
            Ok(read) => read,
            Err(reason) => {
                self.counters.on_drop(from, reason);
                return Passage::Drop(reason);
            }
        };
        let mut packet = Incoming {
            from,
            header,
            view,
            bytes: packet,
            offloads,
        };
        match self.judge(now, &mut packet).unwrap_or_else(Outcome::Drop) {
            Outcome::Answer(reason) => {
                self.counters.on_drop(from, reason);
                Passage::Answer(reason)
            }
            Outcome::Drop(reason) => {
                self.counters.on_drop(from, reason);
                Passage::Drop(reason)
            }
            Outcome::Forward(id) => {
                self.counters.on_forwarded(from);
                Passage::Forward(ForwardId(id))
            }
            Outcome::ToKernel => {
                self.counters.to_kernel += 1;
                Passage::ToKernel
            }
            Outcome::Unknown => {
                self.counters.unknown += 1;
                Passage::New(NewFlow {
                    key: Key::of(&packet.view.ends, from),
                    established: !packet.view.opens(),
                })
            }
        }
    }

    #[inline]
    fn read(&self, from: Side, packet: &[u8]) -> Result<(Header, View), DropReason> {
        let header = Header::parse(packet)?;
        view::check_addresses(&self.addresses, from, &header)?;
        if view::is_source_routed(&header, packet) {
            return Err(DropReason::Unroutable);
        }
        let view = View::read(from, &header, packet)?;
        Ok((header, view))
    }

    fn judge(&mut self, now: Tick, packet: &mut Incoming<'_>) -> Result<Outcome, DropReason> {
        match packet.view.kind {
            Kind::Error => return self.on_error(packet),
            Kind::LaterFragment(fragment) => return self.on_later_fragment(now, packet, &fragment),
            Kind::Datagram | Kind::MidStream | Kind::Query | Kind::Reply | Kind::Tcp(_) => {}
        }
        match self.table.find(&packet.view.ends) {
            Some(slot) => self.on_known(now, slot, packet),
            None if matches!(packet.view.kind, Kind::Reply) => Err(DropReason::NoFlow),
            None => Ok(Outcome::Unknown),
        }
    }

    fn on_known(&mut self, now: Tick, slot: u32, packet: &mut Incoming<'_>) -> Result<Outcome, DropReason> {
        let from = packet.from;
        let id = self.table.id(slot);
        let flow = self.table.get_mut(slot).ok_or(DropReason::NoFlow)?;
        match flow.stage {
            Stage::Refused(refusal) => return Ok(self.refuse(now, refusal, packet)),
            Stage::Ended if packet.view.opens() => {
                self.forget(slot);
                return Ok(Outcome::Unknown);
            }
            Stage::Ended | Stage::Admitted => {}
        }
        if from == Side::Pod && packet.is_longer_than(self.config.wire_mtu) {
            return Ok(self.answer_too_big(now, packet));
        }
        if flow.stage == Stage::Admitted {
            let step = match &packet.view.kind {
                Kind::Tcp(segment) => flow.track.on_segment(flow.from, from, segment),
                _ => Step::Pass,
            };
            match step {
                Step::Refuse => return Err(DropReason::NoFlow),
                Step::Renew => {
                    let (reason, by) = flow.expiry();
                    self.end(slot, reason, by);
                    return Ok(Outcome::Unknown);
                }
                Step::End { .. } | Step::Pass | Step::Shorten => {}
            }
            flow.note(now, from, packet.payload_len());
            match step {
                Step::End { reason, by } => self.end_softly(now, slot, reason, by),
                Step::Shorten => self.deadlines.arm(slot, flow.expires_at(&self.config)),
                Step::Pass | Step::Refuse | Step::Renew => {}
            }
        }
        if let Kind::Tcp(segment) = &packet.view.kind
            && segment.is(SYN)
        {
            self.clamp_mss(packet);
        }
        if let Some(fragment) = &packet.header.fragment {
            let expires = after(now, self.config.fragment_timeout);
            self.counters.first_fragments += 1;
            if self.fragments.insert(now, &packet.header, fragment, id, expires) {
                self.counters.fragmented_evicted += 1;
            }
        }
        Ok(Outcome::Forward(id))
    }

    /// Sees to it that a SYN asks for no segments that the wire doesn't take.
    fn clamp_mss(&mut self, packet: &mut Incoming<'_>) {
        let header = &packet.header;
        let headers = if header.is_v6 {
            ip::V6_HEADER
        } else {
            ip::V4_HEADER
        } + tcp::HEADER;
        let transport = &mut packet.bytes[header.payload_at..header.length];
        let limit = self.config.wire_mtu - headers as u16;
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
    ) -> Result<Outcome, DropReason> {
        let first = self.fragments.flow(now, &packet.header, fragment);
        let slot = first
            .and_then(|id| self.table.resolve(id))
            .ok_or(DropReason::Fragment)?;
        let id = self.table.id(slot);
        let flow = self.table.get_mut(slot).ok_or(DropReason::Fragment)?;
        match flow.stage {
            Stage::Admitted => flow.note(now, packet.from, packet.payload_len()),
            Stage::Ended => {}
            Stage::Refused(_) => return Err(DropReason::Denied),
        }
        self.counters.later_fragments += 1;
        Ok(Outcome::Forward(id))
    }

    /// An ICMP error passes if the packet that it quotes was one of a flow that passes, and came from where the error goes.
    fn on_error(&mut self, packet: &Incoming<'_>) -> Result<Outcome, DropReason> {
        let header = &packet.header;
        let quote = &packet.bytes[packet.view.payload_at..header.length];
        let quoted = icmp::Quoted::read(quote).ok_or(DropReason::NoFlow)?;
        if quoted.tuple.src.ip() != header.dst() {
            return Err(DropReason::NoFlow);
        }
        let key = if quoted.is_reply {
            Key {
                protocol: quoted.protocol,
                tuple: quoted.tuple.reversed(),
                from: packet.from,
            }
        } else {
            Key {
                protocol: quoted.protocol,
                tuple: quoted.tuple,
                from: packet.from.other(),
            }
        };
        let Some(slot) = self.table.find(&key.ends()) else {
            let is_kernels = packet.from == Side::Wire && self.is_agents(&key);
            return is_kernels.then_some(Outcome::ToKernel).ok_or(DropReason::NoFlow);
        };
        if self.table.get(slot).is_some_and(Flow::is_refused) {
            return Err(DropReason::Denied);
        }
        self.counters.related += 1;
        Ok(Outcome::Forward(self.table.id(slot)))
    }

    /// Whether a segment from the pod was sent by one of the agent's own sockets: one that dialled, one that was dialled by
    /// another agent's, or one that listens for tunnels.
    fn is_agents(&self, key: &Key) -> bool {
        let ports = &self.config.agent_ports;
        let (src, dst) = (key.tuple.src.port(), key.tuple.dst.port());
        key.protocol == Protocol::Tcp
            && (ports.contains(&src) || ports.contains(&dst) || src == self.config.tunnel_port)
    }
}
