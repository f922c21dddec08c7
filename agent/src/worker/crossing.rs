//! Packets that pass through a captured pod's agent as they are, from one device to the other.
//!
//! The netstack's [`Forwarder`] knows the flows and moves the packets; here each is judged, once when it begins and again
//! when the policies change, and recorded when it ends.
//!
//! ```text
//!   pod ◀──▶ Forwarder ◀──▶ wire          unknown flow ──▶ course ──▶ through, with permits
//!                                                                 ├──▶ the netstack, which ends it (HBONE)
//!                                                                 ├──▶ a door (HBONE on the original port)
//!                                                                 └──▶ denied: dropped for a while without asking again
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use adit_flow::{CloseReason, Closer, Direction, DropReason, FourTuple, RefuseReason};
use adit_link::{Checksum, VnetHeader};
use adit_netstack::{Ended, ForwardConfig, ForwardId, Forwarder, NewFlow, Offloads, Passage, Refusal, Side};
use adit_policy::{Decision, Denial, Permit, PolicySet, Trace};

use crate::pipeline::refusal;
use crate::pipeline::relay::Moved;
use crate::telemetry::Recorder;

/// Frames that wait to be written back to the outer namespace's kernel, and answers for either side. More are dropped:
/// their senders repeat them.
const WAITING_LIMIT: usize = 256;

/// What passes through one pod's agent.
pub(crate) struct Crossing {
    forwarder: RefCell<Forwarder>,
    flows: RefCell<HashMap<ForwardId, Crossed>>,
    /// Whole frames, each with its virtio-net header.
    waiting: RefCell<VecDeque<(Side, Vec<u8>)>>,
    overflowed: Cell<u64>,
}

/// A flow that passes through, and the engine's leave for it.
pub(crate) struct Crossed {
    direction: Direction,
    /// What was judged: the flow; or one for each endpoint that a service's address may lead to.
    judged: Vec<adit_policy::Flow>,
    /// One for each of `judged`.
    permits: Vec<Permit>,
    recorder: Recorder,
}

/// Where an unknown flow goes.
pub(crate) enum Course {
    /// Through.
    Across(Box<Crossed>),
    /// Not at all; it is recorded.
    Denied,
    /// To a listener at the pod's own address, which has to be opened first.
    Door,
    /// Nowhere yet, and counted: its sender will ask again.
    Later,
    /// To the netstack.
    Stack,
}

/// What the driver does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write it out on the other side.
    Across,
    /// Write it back to where it came from.
    Back,
    /// Hand it to the door that it asks for.
    Door(FourTuple),
    /// Hand it to the netstack.
    Stack,
    /// Nothing more.
    Done,
}

impl Crossing {
    /// Nothing passes yet.
    pub(super) fn new(addresses: &[IpAddr], wire_mtu: u16, seed: u64) -> Self {
        let config = ForwardConfig {
            addresses: addresses.to_vec(),
            wire_mtu,
            ..ForwardConfig::default()
        };
        Self {
            forwarder: RefCell::new(Forwarder::new(config, seed, Instant::now())),
            flows: RefCell::default(),
            waiting: RefCell::default(),
            overflowed: Cell::new(0),
        }
    }

    /// Says what to do with a frame that came from one side. `course` is asked where an unknown flow goes.
    pub(super) fn take(
        &self,
        now: Instant,
        from: Side,
        header: &VnetHeader,
        frame: &mut [u8],
        course: impl FnOnce(&NewFlow) -> Course,
    ) -> Next {
        let offloads = offloads(header);
        let packet = &mut frame[VnetHeader::LEN..];
        let mut forwarder = self.forwarder.borrow_mut();
        let mut passage = forwarder.handle(now, from, packet, offloads);
        if let Passage::New(new) = passage {
            match course(&new) {
                Course::Stack => return Next::Stack,
                Course::Door => return Next::Door(new.key.tuple),
                Course::Later => return Next::Done,
                // Ends that are connected already would wait for each other for hours.
                Course::Denied if new.established => forwarder.deny(now, &new, Refusal::Reset),
                Course::Denied => forwarder.deny(now, &new, refusal(RefuseReason::Denied)),
                Course::Across(crossed) => match forwarder.admit(now, &new) {
                    Ok(id) => {
                        self.flows.borrow_mut().insert(id, *crossed);
                    }
                    Err(full) => {
                        let detail = Some(full.to_string());
                        crossed
                            .recorder
                            .refused(RefuseReason::OverLimit, Closer::Agent, detail);
                        return Next::Done;
                    }
                },
            }
            passage = forwarder.handle(now, from, packet, offloads);
        }
        match passage {
            Passage::Forward(_) => Next::Across,
            Passage::ToKernel => Next::Back,
            Passage::Answer(_) => {
                self.wait(from, complete(forwarder.answer()));
                Next::Done
            }
            // A flow that was admitted or denied just now is known.
            Passage::Drop(_) | Passage::New(_) => Next::Done,
        }
    }

    /// Has a frame, with its virtio-net header, written to the outer namespace's kernel.
    pub(super) fn to_kernel(&self, frame: Vec<u8>) {
        self.wait(Side::Wire, frame);
    }

    /// Answers a SYN that came from the wire as a host on which nobody listens.
    pub(super) fn refuse(&self, frame: &mut [u8]) {
        let now = Instant::now();
        let packet = &mut frame[VnetHeader::LEN..];
        let mut forwarder = self.forwarder.borrow_mut();
        if let Passage::New(new) = forwarder.handle(now, Side::Wire, packet, Offloads::default()) {
            forwarder.deny(now, &new, Refusal::Reset);
        }
        if let Passage::Answer(_) = forwarder.handle(now, Side::Wire, packet, Offloads::default()) {
            self.wait(Side::Wire, complete(forwarder.answer()));
        }
    }

    /// The next frame to write, and the side to write it on.
    pub(super) fn poll_write(&self) -> Option<(Side, Vec<u8>)> {
        if let Some(waiting) = self.waiting.borrow_mut().pop_front() {
            return Some(waiting);
        }
        let mut packet = Vec::new();
        let side = self.forwarder.borrow_mut().poll_answer(&mut packet)?;
        Some((side, complete(&packet)))
    }

    /// Records what has ended.
    pub(super) fn expire(&self, now: Instant) {
        let mut forwarder = self.forwarder.borrow_mut();
        forwarder.handle_timeout(now);
        while let Some(ended) = forwarder.poll_ended() {
            if let Some(crossed) = self.flows.borrow_mut().remove(&ended.id) {
                crossed.end(&ended);
            }
        }
    }

    /// When to call [`Crossing::expire`] at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.forwarder.borrow().poll_timeout()
    }

    /// Cuts the flows that `policy` no longer allows.
    pub(super) fn judge(&self, policy: &PolicySet) {
        let now = Instant::now();
        let mut forwarder = self.forwarder.borrow_mut();
        for (id, crossed) in self.flows.borrow_mut().iter_mut() {
            if !crossed.judge(policy) {
                forwarder.cut(now, *id, CloseReason::PolicyChanged);
            }
        }
        // What was refused may be allowed by now.
        forwarder.forget_refusals();
    }

    /// Adds what it holds and what it counted, under the names that metrics use.
    pub(super) fn collect(&self, into: &mut BTreeMap<String, u64>) {
        let mut add = |name: &str, count: u64| *into.entry(name.to_owned()).or_default() += count;
        add("flows_passing", self.flows.borrow().len() as u64);
        add("passing_frames_overflowed_total", self.overflowed.get());
        let forwarder = self.forwarder.borrow();
        let counters = forwarder.counters();
        for (side, label) in [(Side::Pod, "pod"), (Side::Wire, "wire")] {
            add(
                &format!("passed_packets_total{{from={label}}}"),
                counters.forwarded_from(side),
            );
            add(
                &format!("passing_bytes_total{{from={label}}}"),
                counters.bytes_from(side),
            );
            for reason in DropReason::ALL {
                add(
                    &format!("passing_dropped_total{{from={label},reason={reason}}}"),
                    counters.dropped_from(side, *reason),
                );
            }
        }
    }

    fn wait(&self, side: Side, frame: Vec<u8>) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() < WAITING_LIMIT {
            waiting.push_back((side, frame));
        } else {
            self.overflowed.set(self.overflowed.get() + 1);
        }
    }
}

impl Crossed {
    /// A flow that the engine allows, whichever of `judged` it turns out to be; its verdict is in the record either way.
    ///
    /// # Errors
    /// The first denial; the record is written.
    pub(crate) fn judged(
        direction: Direction,
        judged: Vec<adit_policy::Flow>,
        policy: &PolicySet,
        mut recorder: Recorder,
    ) -> Result<Self, Denied> {
        match permits(direction, &judged, policy) {
            Ok(permits) => {
                if let Some(permit) = permits.first() {
                    recorder.verdict(permit.verdict());
                }
                Ok(Self {
                    direction,
                    judged,
                    permits,
                    recorder,
                })
            }
            Err(denial) => {
                recorder.verdict(denial.verdict());
                recorder.refused(RefuseReason::Denied, Closer::Agent, None);
                Err(Denied)
            }
        }
    }

    /// Whether it may go on.
    fn judge(&mut self, policy: &PolicySet) -> bool {
        let generation = policy.generation();
        if self
            .permits
            .iter()
            .all(|permit| permit.verdict().generation() == generation)
        {
            return true;
        }
        match permits(self.direction, &self.judged, policy) {
            Ok(permits) => {
                self.permits = permits;
                true
            }
            Err(denial) => {
                self.recorder.verdict(denial.verdict());
                false
            }
        }
    }

    fn end(mut self, ended: &Ended) {
        let (opener, other) = match ended.key.from {
            Side::Pod => (ended.from_pod, ended.from_wire),
            Side::Wire => (ended.from_wire, ended.from_pod),
        };
        self.recorder.moved(Moved {
            sent: opener.bytes,
            received: other.bytes,
        });
        let by = match ended.by {
            None => Closer::Agent,
            Some(side) if side == ended.key.from => Closer::Source,
            Some(_) => Closer::Destination,
        };
        self.recorder.closed(ended.reason, by, None);
    }
}

/// A flow that isn't allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denied;

fn permits(
    direction: Direction,
    judged: &[adit_policy::Flow],
    policy: &PolicySet,
) -> Result<Vec<Permit>, Denial> {
    let judge = |flow| match direction {
        Direction::Inbound => policy.ingress(flow, Trace::Off),
        Direction::Outbound => policy.egress(flow, Trace::Off),
    };
    let decide = |flow| match judge(flow) {
        Decision::Allowed(permit) => Ok(permit),
        Decision::Denied(denial) => Err(denial),
    };
    judged.iter().map(decide).collect()
}

/// What the forwarder has to know of a frame's header.
fn offloads(header: &VnetHeader) -> Offloads {
    Offloads {
        segment_size: header.gso.map(|gso| gso.segment),
        partial_checksum: matches!(header.checksum, Checksum::Partial { .. }),
    }
}

/// A packet with its checksums as a frame.
fn complete(packet: &[u8]) -> Vec<u8> {
    let mut frame = VnetHeader::default().emit().to_vec();
    frame.extend_from_slice(packet);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NAMES;

    #[test]
    fn every_count_of_what_passes_is_in_the_table_of_metrics() {
        let crossing = Crossing::new(&["10.244.0.2".parse().unwrap()], 1450, 1);
        let mut counts = BTreeMap::new();
        crossing.collect(&mut counts);
        for name in counts.keys() {
            let name = name.split('{').next().unwrap_or_default();
            assert!(NAMES.iter().any(|(known, _)| *known == name), "{name}");
        }
        assert!(
            counts.contains_key("passed_packets_total{from=wire}"),
            "{counts:?}"
        );
    }
}
