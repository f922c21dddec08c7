//! The stack itself: what it's made of, and the calls that aren't about one flow.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use adit_flow::DropReason;
use bytes::Bytes;

use crate::buffers::Pool;
use crate::clock::{Clock, Tick};
use crate::config::Config;
use crate::counters::Counters;
use crate::deadline::DeadlineQueue;
use crate::ends::{Ends, Secret};
use crate::engine::Engine;
use crate::event::{Event, FlowId, RxChecksum};
use crate::flow::{Flow, Stage};
use crate::packet::address::Address;
use crate::packet::ip::{self, IpPacket};
use crate::queue::{Answers, PacketQueue};
use crate::table::{Queue, Table};

mod commands;
mod datagrams;
mod egress;
mod fast;
mod handover;
mod held_acks;
mod ingress;
mod lifecycle;
mod resize;
#[cfg(test)]
mod tests;

pub use datagrams::Datagram;
use egress::tcp_transmit;
use held_acks::HeldAcks;

/// The TCP/IP stack behind one pod's device. See the [crate] for the order of calls.
pub struct Netstack {
    config: Config,
    clock: Clock,
    /// The latest time that was given; time never runs backwards here.
    now: Tick,
    engine: Engine,
    table: Table<Flow>,
    deadlines: DeadlineQueue,
    /// Slots that may have something to send.
    dirty: VecDeque<u32>,
    /// Slots with news.
    ready: VecDeque<u32>,
    held_acks: HeldAcks,
    answers: Answers,
    inbound: PacketQueue<Event>,
    outbound: PacketQueue<Outbound>,
    /// TIME-WAIT records by age, some of them gone since.
    time_waits: VecDeque<FlowId>,
    held: usize,
    ring_bytes: usize,
    pool: Pool,
    counters: Counters,
    /// The caller's latest time, to save the translation of the same one.
    latest: Instant,
    /// A packet being made.
    scratch: Vec<u8>,
    /// Bytes that nobody has read, moved to another ring.
    unread: Vec<u8>,
}

/// A packet to the pod that belongs to no flow.
struct Outbound {
    frame: Vec<u8>,
    transmit: crate::event::Transmit,
}

impl Netstack {
    /// A stack without flows. `seed` should be hard to guess: initial sequence numbers and the order of the flow table
    /// depend on it. `epoch` is any time not later than the first `now`.
    pub fn new(config: Config, seed: u64, epoch: Instant) -> Self {
        let config = config.sanitised();
        Self {
            clock: Clock::new(epoch),
            now: Tick::ZERO,
            latest: epoch,
            engine: Engine::new(config.mtu),
            table: Table::new(config.max_flows, Secret::new(seed)),
            deadlines: DeadlineQueue::default(),
            dirty: VecDeque::new(),
            ready: VecDeque::new(),
            held_acks: HeldAcks::default(),
            answers: Answers::default(),
            inbound: PacketQueue::new(config.datagram_queue),
            outbound: PacketQueue::new(config.datagram_queue),
            time_waits: VecDeque::new(),
            held: 0,
            ring_bytes: 0,
            pool: Pool::default(),
            counters: Counters::default(),
            scratch: Vec::new(),
            unread: Vec::new(),
            config,
        }
    }

    /// Replaces the pod's addresses. Flows of addresses that are no longer the pod's hear nothing from it any more; it's up to
    /// their owner to abort them.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.config.addresses = addresses;
    }

    /// Takes in one IP packet of the pod, without a virtio-net header. What's wrong with it is counted by reason; nothing
    /// that a pod can send makes this fail.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8], checksum: RxChecksum) {
        self.on_frame(now, frame.len(), IpPacket::parse(frame), checksum);
    }

    /// As [`handle_frame`](Self::handle_frame), but a long segment's bytes aren't copied: they stay in `frame`, which is
    /// referenced until they have been read and dropped. All of the memory behind it is, so it should be little more than the frame.
    /// [`Bytes::try_into_mut`] tells whether the stack kept it.
    pub fn handle_frame_bytes(&mut self, now: Instant, frame: &Bytes, checksum: RxChecksum) {
        self.on_frame(now, frame.len(), IpPacket::parse_bytes(frame), checksum);
    }

    fn on_frame(
        &mut self,
        now: Instant,
        length: usize,
        packet: Result<IpPacket<'_>, DropReason>,
        checksum: RxChecksum,
    ) {
        self.advance(now);
        self.counters.frames_in += 1;
        self.counters.bytes_in += length as u64;
        let taken = packet.and_then(|packet| self.take_in(packet, checksum == RxChecksum::Verify));
        if let Err(reason) = taken {
            self.counters.on_drop(reason);
        }
    }

    fn take_in(&mut self, packet: IpPacket<'_>, verify: bool) -> Result<(), DropReason> {
        if !Address::from(packet.dst).is_routable() {
            return Err(DropReason::Unroutable);
        }
        if !self.config.addresses.contains(&packet.src) {
            return Err(DropReason::BadSource);
        }
        match (packet.protocol, packet.src.is_ipv4()) {
            (ip::TCP, _) => self.on_tcp(&packet, verify),
            (ip::UDP, _) => self.on_udp(&packet, verify),
            (ip::SCTP, _) => self.on_sctp(&packet, verify),
            (ip::ICMP, true) | (ip::ICMPV6, false) => self.on_icmp(&packet, verify),
            _ => Err(DropReason::UnsupportedProtocol),
        }
    }

    /// Does what is due. Looks at a bounded number of flows; if more are due,
    /// [`poll_timeout`](Self::poll_timeout) stays in the past and another call does the next.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.advance(now);
        self.release_overdue_acks(now);
        for _ in 0..TIMEOUTS_PER_CALL {
            let Some(slot) = self.deadlines.pop_due(now) else {
                return;
            };
            self.on_deadline(now, slot);
        }
    }

    /// The next event. `None` when there's nothing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        while let Some(&slot) = self.ready.front() {
            if let Some(event) = self.next_news(slot) {
                return Some(event);
            }
            self.ready.pop_front();
            self.table.leave(slot, Queue::Ready);
        }
        self.inbound.pop()
    }

    fn next_news(&mut self, slot: u32) -> Option<Event> {
        let id = self.table.id(slot);
        let flow = self.table.get_mut(slot)?;
        let event = flow.news.take(id, flow.tuple)?;
        if matches!(event, Event::Closed { .. }) {
            flow.is_released = true;
            if matches!(flow.stage, Stage::Ended) {
                self.table.remove(slot);
            }
        }
        Some(event)
    }

    /// When [`handle_timeout`](Self::handle_timeout) should be called next: in the past if it's due. It may turn out that
    /// there was nothing to do. `None` if only an input can change anything.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = [self.deadlines.next(), self.next_overdue_ack()];
        timers
            .into_iter()
            .flatten()
            .min()
            .map(|at| self.clock.instant(at))
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Flows in the table: held SYNs, open flows, TIME-WAIT records, and those whose end was not read yet.
    pub fn flow_count(&self) -> usize {
        self.table.len()
    }

    /// Whether a TCP flow between these ends is in the table: so its segments can be told from those of flows that are carried
    /// in another way.
    pub fn has_flow(&self, pod: SocketAddr, remote: SocketAddr) -> bool {
        self.table.find(&Ends::tcp(pod, remote)).is_some()
    }

    /// SYNs that wait for a verdict.
    pub fn held_count(&self) -> usize {
        self.held
    }

    /// Bytes that wait in all flows, and rings of those in the engine, to be compared with [`Config::buffer_budget`].
    pub fn ring_bytes(&self) -> usize {
        self.ring_bytes
    }

    fn advance(&mut self, now: Instant) -> Tick {
        if now != self.latest {
            self.latest = now;
            self.now = self.now.max(self.clock.tick(now));
        }
        self.now
    }

    /// The slot that a caller's id names, unless the flow was released.
    fn resolve(&self, id: FlowId) -> Option<u32> {
        let slot = self.table.resolve(id)?;
        self.table
            .get(slot)
            .is_some_and(|flow| !flow.is_released)
            .then_some(slot)
    }

    /// Sees to it that the flow is asked for segments to send.
    fn mark_dirty(&mut self, slot: u32) {
        if self.table.enter(slot, Queue::Dirty) {
            self.dirty.push_back(slot);
        }
    }

    /// Sees to it that the flow's news is read.
    fn mark_ready(&mut self, slot: u32) {
        if self.table.enter(slot, Queue::Ready) {
            self.ready.push_back(slot);
        }
    }

    /// Queues a short segment of the stack's own.
    fn answer(&mut self, frame: &[u8]) {
        if !self.answers.push(frame) {
            self.counters.answers_dropped += 1;
        }
    }
}

/// Each is a few hundred nanoseconds to a few microseconds of work.
const TIMEOUTS_PER_CALL: usize = 256;
