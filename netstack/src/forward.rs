//! Packets that pass through unchanged, judged by the flow.
//!
//! A [`Forwarder`] stands between a pod's device ([`Side::Pod`]) and the device in its outer namespace ([`Side::Wire`]), for all
//! that isn't carried in a tunnel. It keeps a record of each flow, says of each packet whether it passes, and touches nothing in
//! it but the MSS of SYNs. The packet stays in the caller's buffer; one that passes costs one look-up and no allocation.
//!
//! # Order of calls
//! Hand each packet to [`handle`](Forwarder::handle) and do what the [`Passage`] says. After a batch drain
//! [`poll_ended`](Forwarder::poll_ended), after a [`cut`](Forwarder::cut) [`poll_answer`](Forwarder::poll_answer); sleep until
//! [`poll_timeout`](Forwarder::poll_timeout) or the next packet.
//!
//! # Rules
//! - **Addresses.** From the pod only with its own source, to the pod only with its own destination; nothing to or from
//!   addresses that nobody can have, and nothing that's source routed.
//! - **Long packets.** What the pod sends must fit the wire: of super-packets each segment. IPv4 without DF is left to the outer
//!   namespace's kernel, which fragments it when it forwards; for the rest the sender gets "fragmentation needed" or "packet too
//!   big" from the packet's own destination. SYNs announce no larger MSS than fits, either way.
//! - **Fragments** follow the first one, which has the ports; one that comes before it is dropped.
//! - **ICMP errors** pass if the packet that they quote belongs to a flow that passes.
//! - **A reset** ends a record at once only if its receiver can't but accept it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use adit_flow::CloseReason;

use crate::clock::{Clock, Tick, after};
use crate::deadline::DeadlineQueue;
use crate::ends::Secret;
use crate::event::{FlowId, Refusal};
use crate::packet::address::Address;
use crate::table::{Queue, Table};

mod answer;
mod config;
mod counters;
mod flow;
mod fragments;
mod limiter;
mod pass;
#[cfg(test)]
mod tests;
mod track;
mod types;
mod view;

pub use config::{ForwardConfig, IdleTimeouts};
pub use counters::ForwardCounters;
pub use types::{Ended, ForwardId, Full, Key, NewFlow, Offloads, Passage, Side, Traffic};

use flow::{Flow, Stage};
use fragments::Fragments;
use limiter::Limiter;

/// Judges packets between one pod and the wire by their flows. See the module's rules and its order of calls.
pub struct Forwarder {
    config: ForwardConfig,
    /// Those of the configuration.
    addresses: Vec<Address>,
    clock: Clock,
    /// The latest time that was given; time never runs backwards here.
    now: Tick,
    /// The caller's latest time, to save the translation of the same one.
    latest: Instant,
    table: Table<Flow>,
    deadlines: DeadlineQueue,
    fragments: Fragments,
    /// Refused flows by age, some of them gone since.
    refused: VecDeque<FlowId>,
    /// Slots that owe resets.
    cut: VecDeque<u32>,
    ended: VecDeque<Ended>,
    /// Where the search for a record that gives way goes on.
    hand: u32,
    /// Of ICMP errors to each side.
    limiters: [Limiter; 2],
    answer: Vec<u8>,
    counters: ForwardCounters,
}

impl Forwarder {
    /// A forwarder that knows no flow. `seed` should be hard to guess: it keeps others from filling one chain of the table.
    /// `epoch` is any time not later than the first `now`.
    pub fn new(config: ForwardConfig, seed: u64, epoch: Instant) -> Self {
        let config = config.sanitised();
        let secret = Secret::new(seed);
        Self {
            addresses: config.addresses.iter().copied().map(Address::from).collect(),
            clock: Clock::new(epoch),
            now: Tick::ZERO,
            latest: epoch,
            table: Table::new(config.max_flows, secret),
            deadlines: DeadlineQueue::default(),
            fragments: Fragments::new(config.max_fragmented, secret),
            refused: VecDeque::new(),
            cut: VecDeque::new(),
            ended: VecDeque::new(),
            hand: 0,
            limiters: [0, 1].map(|_| Limiter::new(config.icmp_errors_per_second)),
            answer: Vec::new(),
            counters: ForwardCounters::default(),
            config,
        }
    }

    /// Replaces the pod's addresses. Packets of flows with addresses that are no longer the pod's are dropped from now on.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses.iter().copied().map(Address::from).collect();
        self.config.addresses = addresses;
    }

    /// Replaces [`ForwardConfig::wire_mtu`].
    pub fn set_wire_mtu(&mut self, mtu: u16) {
        self.config.wire_mtu = config::sane_mtu(mtu);
    }

    /// Lets the packets of a flow pass, both ways. One that is admitted already stays as it is; one that is refused passes from now on.
    pub fn admit(&mut self, now: Instant, flow: &NewFlow) -> Result<ForwardId, Full> {
        let now = self.advance(now);
        let ends = flow.key.ends();
        if let Some(slot) = self.table.find(&ends) {
            if self
                .table
                .get(slot)
                .is_some_and(|known| known.stage == Stage::Admitted)
            {
                return Ok(ForwardId(self.table.id(slot)));
            }
            self.forget(slot);
        }
        let record = Flow::new(now, ends, flow.key.from, Stage::Admitted, !flow.established);
        let id = self.insert(record).ok_or(Full {
            tuple: flow.key.tuple,
            limit: self.config.max_flows,
        })?;
        self.counters.admitted += 1;
        self.counters.picked_up += u64::from(flow.established);
        Ok(ForwardId(id))
    }

    /// Drops the packets of a flow for [`refusal_timeout`](ForwardConfig::refusal_timeout), each in the way of `refusal`; then
    /// its next packet is judged anew. `Reset` for another protocol than TCP is as `Unreachable(Port)`. An admitted flow isn't
    /// touched: [`cut`](Self::cut) that.
    pub fn deny(&mut self, now: Instant, flow: &NewFlow, refusal: Refusal) {
        let now = self.advance(now);
        let ends = flow.key.ends();
        if let Some(slot) = self.table.find(&ends) {
            if self
                .table
                .get(slot)
                .is_some_and(|known| known.stage == Stage::Admitted)
            {
                return;
            }
            self.forget(slot);
        }
        let record = Flow::new(
            now,
            ends,
            flow.key.from,
            Stage::Refused(refusal),
            !flow.established,
        );
        self.counters.refused += 1;
        if let Some(id) = self.insert(record) {
            self.remember_refusal(id);
        }
    }

    /// Ends an admitted flow for `reason`: its packets are dropped for a while, and judged anew after that. For TCP resets that
    /// both kernels accept come out of [`poll_answer`](Self::poll_answer), and each later segment is answered with one.
    /// Whether there was such a flow.
    pub fn cut(&mut self, now: Instant, id: ForwardId, reason: CloseReason) -> bool {
        let now = self.advance(now);
        let Some(slot) = self.table.resolve(id.0) else {
            return false;
        };
        let Some(flow) = self.table.get(slot).filter(|flow| flow.stage == Stage::Admitted) else {
            return false;
        };
        let is_tcp = flow.is_tcp();
        self.announce(slot, reason, None);
        self.counters.cut += 1;
        if let Some(flow) = self.table.get_mut(slot) {
            flow.stage = Stage::Refused(if is_tcp { Refusal::Reset } else { Refusal::Silent });
            flow.owes_reset = [is_tcp; 2];
            flow.last = now;
            self.deadlines.arm(slot, flow.expires_at(&self.config));
        }
        if is_tcp && self.table.enter(slot, Queue::Dirty) {
            self.cut.push_back(slot);
        }
        self.remember_refusal(id.0);
        true
    }

    /// Forgets every refusal, cut flows included, so that the next packets of those flows are judged by a policy that has changed.
    pub fn forget_refusals(&mut self) {
        while let Some(id) = self.refused.pop_front() {
            self.forget_refusal(id);
        }
    }

    /// The admitted flow that `key` names, whichever side's packet it's made from.
    pub fn find(&self, key: &Key) -> Option<ForwardId> {
        let slot = self.table.find(&key.ends())?;
        let flow = self.table.get(slot)?;
        (flow.stage == Stage::Admitted).then(|| ForwardId(self.table.id(slot)))
    }

    /// All admitted flows, to be judged again. Walks the whole table.
    pub fn flows(&self) -> impl Iterator<Item = (ForwardId, Key)> {
        (0..self.table.slot_count()).filter_map(|slot| {
            let flow = self.table.get(slot)?;
            (flow.stage == Stage::Admitted).then(|| (ForwardId(self.table.id(slot)), flow.key()))
        })
    }

    /// The next end of an admitted flow. `None` when there's nothing to tell. At most
    /// [`max_flows`](ForwardConfig::max_flows) wait; when more do the oldest is lost, and counted.
    pub fn poll_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) should be called next: in the past if it's due. It may turn out that
    /// there was nothing to do. `None` if there is no flow.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next().map(|at| self.clock.instant(at))
    }

    /// Forgets what has been idle too long. Looks at a bounded number of flows; if more are due,
    /// [`poll_timeout`](Self::poll_timeout) stays in the past and another call does the next.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.advance(now);
        for _ in 0..TIMEOUTS_PER_CALL {
            let Some(slot) = self.deadlines.pop_due(now) else {
                return;
            };
            let Some(flow) = self.table.get(slot) else {
                continue;
            };
            let expires_at = flow.expires_at(&self.config);
            if now < expires_at {
                self.deadlines.arm(slot, expires_at);
                continue;
            }
            let (reason, by) = flow.expiry();
            self.end(slot, reason, by);
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> &ForwardCounters {
        &self.counters
    }

    /// Records in the table: flows that pass, those refused, and those that ended a moment ago.
    pub fn flow_count(&self) -> usize {
        self.table.len()
    }

    fn advance(&mut self, now: Instant) -> Tick {
        if now != self.latest {
            self.latest = now;
            self.now = self.now.max(self.clock.tick(now));
        }
        self.now
    }

    /// Puts a record in the table, if there's room or some can be made.
    fn insert(&mut self, flow: Flow) -> Option<FlowId> {
        if self.table.is_full() && !self.make_room() {
            self.counters.table_full += 1;
            return None;
        }
        let expires_at = flow.expires_at(&self.config);
        let id = self.table.insert(flow);
        self.deadlines.arm(id.index, expires_at);
        Some(id)
    }

    /// Removes the record that gives way most readily of some in a row; whether there was one.
    fn make_room(&mut self) -> bool {
        let count = self.table.slot_count();
        let mut least = None;
        for _ in 0..count.min(LOOKED_AT) {
            self.hand = (self.hand + 1) % count;
            let Some(rank) = self.table.get(self.hand).and_then(Flow::rank) else {
                continue;
            };
            if least.is_none_or(|(found, _)| rank < found) {
                least = Some((rank, self.hand));
            }
        }
        let Some((_, slot)) = least else { return false };
        self.end(slot, CloseReason::Evicted, None);
        true
    }

    fn remember_refusal(&mut self, id: FlowId) {
        if self.refused.len() >= self.config.max_refused
            && let Some(oldest) = self.refused.pop_front()
            && self.forget_refusal(oldest)
        {
            self.counters.refusals_evicted += 1;
        }
        self.refused.push_back(id);
    }

    fn forget_refusal(&mut self, id: FlowId) -> bool {
        let slot = self.table.resolve(id);
        let Some(slot) = slot.filter(|&slot| self.table.get(slot).is_some_and(Flow::is_refused)) else {
            return false;
        };
        self.forget(slot);
        true
    }

    /// Removes a record. If it's that of an admitted flow, its end is told.
    fn end(&mut self, slot: u32, reason: CloseReason, by: Option<Side>) {
        if self
            .table
            .get(slot)
            .is_some_and(|flow| flow.stage == Stage::Admitted)
        {
            self.announce(slot, reason, by);
        }
        self.forget(slot);
    }

    fn forget(&mut self, slot: u32) {
        self.deadlines.disarm(slot);
        self.table.remove(slot);
    }

    /// Queues the news of a flow's end.
    fn announce(&mut self, slot: u32, reason: CloseReason, by: Option<Side>) {
        let Some(flow) = self.table.get(slot) else { return };
        let [from_pod, from_wire] = flow.traffic;
        let ended = Ended {
            id: ForwardId(self.table.id(slot)),
            key: flow.key(),
            reason,
            by,
            opened: self.clock.instant(flow.opened),
            last_packet: self.clock.instant(flow.last),
            from_pod,
            from_wire,
        };
        if self.ended.len() >= self.config.max_flows {
            self.ended.pop_front();
            self.counters.ends_lost += 1;
        }
        self.ended.push_back(ended);
        self.counters.on_ended(reason);
    }

    /// Tells the end of a flow whose repetitions still pass for a while.
    fn end_softly(&mut self, now: Tick, slot: u32, reason: CloseReason, by: Side) {
        self.announce(slot, reason, Some(by));
        if let Some(flow) = self.table.get_mut(slot) {
            flow.stage = Stage::Ended;
            flow.last = now;
            self.deadlines.arm(slot, after(now, self.config.idle.tcp_closed));
        }
    }
}

/// Each is some ten nanoseconds of work, and a cache miss.
const TIMEOUTS_PER_CALL: usize = 256;

/// Records looked at for one that gives way: enough to find one if there are some, few enough for every new flow.
const LOOKED_AT: u32 = 64;
