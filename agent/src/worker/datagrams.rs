//! UDP, echo and SCTP: packets without a connection of ours, carried as they are, judged per flow.
//!
//! ```text
//!   pod A ──▶ egress verdict ──▶ (service address → endpoint) ──▶ ingress verdict ──▶ pod B      replies back the same way
//!   pod A ──▶ egress verdict ──▶ host socket ──▶ outside (no SCTP)                                replies by that socket
//!   pod A ──▶ DNS responder
//! ```
//!
//! A flow is known by what its opener sent: protocol, source, destination; an echo's identifier stands for its
//! source port. An SCTP association that uses several addresses is a flow for each pair of them. Each pod's table has at most [`FLOWS_LIMIT`] flows; when it's full a new flow's packet is dropped
//! and counted, as a stateful firewall does. A flow ends after [`IDLE_LIMIT`] without a packet.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use adit_flow::{
    CloseReason, Closer, Direction, DropReason, FourTuple, Protocol, RefuseReason, WorkloadName,
};
use adit_policy::{Decision, Icmp, PolicySet, Trace};

use super::{Pod, Worker};
use crate::dns::Transport;
use crate::pipeline::relay::Moved;
use crate::pipeline::route::{Route, route};
use crate::telemetry::Recorder;

mod host;
mod packet;
#[cfg(test)]
mod tests;

use host::HostFlow;
pub(crate) use packet::{Content, Packet};

/// Datagram flows of one pod.
const FLOWS_LIMIT: usize = 4_096;

/// A flow without a packet for this long has ended (RFC 4787 REQ-5: two minutes or more).
const IDLE_LIMIT: Duration = Duration::from_secs(120);

/// How often idle flows are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// The datagram flows of one pod.
#[derive(Default)]
pub(crate) struct Datagrams {
    flows: RefCell<HashMap<Key, Flow>>,
    /// From (endpoint, pod) back to what the pod dialled, where a service address was translated.
    translated: RefCell<HashMap<Key, Key>>,
}

/// A flow as its opener's packets carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    protocol: Protocol,
    tuple: FourTuple,
}

struct Flow {
    way: Way,
    /// The side that the pod's policies judge.
    side: Direction,
    judged: adit_policy::Flow,
    generation: u64,
    last_packet: Instant,
    moved: Moved,
    /// `None` once the record is written, as it is when a verdict ends the flow.
    recorder: Option<Recorder>,
}

/// Where a flow's packets go.
enum Way {
    /// From another pod to this one.
    Inbound,
    /// To another pod, at this address.
    Mesh { pod: WorkloadName, address: SocketAddr },
    /// To a host outside.
    Host(HostFlow),
    /// Nowhere: a verdict denied it, and its record is written. Kept so that this happens once and not once a packet.
    Denied,
}

impl Key {
    fn of(packet: &Packet) -> Self {
        Self {
            protocol: packet.protocol(),
            tuple: FourTuple::new(packet.src, packet.dst),
        }
    }

    /// The same flow by the packets of its other end.
    fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            tuple: self.tuple.reversed(),
        }
    }
}

/// A packet that a pod of this worker sent.
pub(crate) fn from_pod(worker: &Rc<Worker>, pod: &Rc<Pod>, packet: Packet) {
    let key = Key::of(&packet);
    if packet.is_reply() || pod.datagrams.has(key.reversed()) {
        return reply_from_pod(worker, pod, key, packet);
    }
    if !pod.datagrams.has(key) {
        let Some(flow) = open_outbound(worker, pod, key, &packet) else {
            return;
        };
        pod.datagrams.insert(worker, key, flow);
    }
    let mut flows = pod.datagrams.flows.borrow_mut();
    let Some(flow) = flows.get_mut(&key) else { return };
    flow.last_packet = Instant::now();
    flow.moved.sent += packet.content.len() as u64;
    match &flow.way {
        Way::Mesh { pod: peer, address } => {
            let packet = Packet {
                dst: *address,
                ..packet
            };
            worker.send_packet(peer, packet);
        }
        Way::Host(host) => {
            if let Err(reason) = host.send(&packet) {
                worker.counters.dropped(reason);
            }
        }
        Way::Denied | Way::Inbound => {}
    }
}

/// A pod answers a flow that was opened to it.
fn reply_from_pod(worker: &Rc<Worker>, pod: &Pod, key: Key, packet: Packet) {
    let mut flows = pod.datagrams.flows.borrow_mut();
    let Some(flow) = flows
        .get_mut(&key.reversed())
        .filter(|flow| matches!(flow.way, Way::Inbound))
    else {
        return worker.counters.dropped(DropReason::NoFlow);
    };
    flow.last_packet = Instant::now();
    flow.moved.received += packet.content.len() as u64;
    let snapshot = worker.shared.snapshot.load();
    match snapshot.workload_at(packet.dst.ip()) {
        Some(peer) => worker.send_packet(&peer.name, packet),
        None => worker.counters.dropped(DropReason::Unroutable),
    }
}

/// A packet from another pod for one of this worker.
pub(crate) fn to_pod(worker: &Rc<Worker>, pod: &Rc<Pod>, packet: Packet) {
    let key = Key::of(&packet);
    let answered = pod.datagrams.answered(key);
    if let Some((opened, dialled)) = answered {
        let mut flows = pod.datagrams.flows.borrow_mut();
        if let Some(flow) = flows.get_mut(&opened) {
            match flow.way {
                Way::Mesh { .. } => {
                    flow.last_packet = Instant::now();
                    flow.moved.received += packet.content.len() as u64;
                    return pod.deliver(Packet {
                        src: dialled,
                        ..packet
                    });
                }
                // What still answers a flow that was cut opens none of its own, by which the opener could go on.
                Way::Denied => {
                    flow.last_packet = Instant::now();
                    return worker.counters.dropped(DropReason::NoFlow);
                }
                Way::Host(_) | Way::Inbound => {}
            }
        }
    }
    if packet.is_reply() {
        return worker.counters.dropped(DropReason::NoFlow);
    }
    if !pod.datagrams.has(key) {
        let flow = open_inbound(worker, key, &packet);
        pod.datagrams.insert(worker, key, flow);
    }
    let mut flows = pod.datagrams.flows.borrow_mut();
    let Some(flow) = flows.get_mut(&key) else { return };
    flow.last_packet = Instant::now();
    flow.moved.sent += packet.content.len() as u64;
    if matches!(flow.way, Way::Inbound) {
        pod.deliver(packet);
    }
}

/// Routes and judges the first packet of a flow from a pod. `None` where the packet was answered on the spot.
fn open_outbound(worker: &Rc<Worker>, pod: &Rc<Pod>, key: Key, packet: &Packet) -> Option<Flow> {
    let snapshot = worker.shared.snapshot.load_full();
    let route = route(&snapshot, key.protocol, key.tuple.dst, worker.draw());
    if matches!(route, Route::Dns) && is_answered(worker, pod, key, packet) {
        return None;
    }
    let mut recorder = worker.recorder(Direction::Outbound, key.protocol, key.tuple, &snapshot);
    let mut judged_dst = key.tuple.dst;
    if let Route::Workload {
        workload,
        address,
        service,
    } = &route
    {
        recorder.destination(workload, *address, service.clone());
        judged_dst = *address;
    }
    if let Route::Refused(reason) = route {
        recorder.refused(reason, Closer::Agent, None);
        pod.unreachable(packet);
        return None;
    }
    let judged = judged(FourTuple::new(key.tuple.src, judged_dst), packet);
    let policy = worker.shared.policy.load();
    let decision = policy.egress(&judged, Trace::Off);
    recorder.verdict(decision.verdict());
    let way = match (decision, route) {
        (Decision::Denied(_), _) => Way::Denied,
        (
            Decision::Allowed(_),
            Route::Workload {
                workload, address, ..
            },
        ) => {
            if address != key.tuple.dst {
                pod.datagrams.translate(key, address);
            }
            Way::Mesh {
                pod: workload.name.clone(),
                address,
            }
        }
        (Decision::Allowed(_), Route::Outside(_)) => match HostFlow::open(pod, packet) {
            Ok(host) => Way::Host(host),
            Err(error) => {
                if error.kind() == io::ErrorKind::Unsupported {
                    worker.counters.dropped(DropReason::UnsupportedProtocol);
                }
                recorder.refused(RefuseReason::Unreachable, Closer::Agent, error.to_string());
                pod.unreachable(packet);
                return None;
            }
        },
        (Decision::Allowed(_), Route::Dns | Route::Refused(_)) => Way::Denied,
    };
    Some(Flow::new(
        way,
        Direction::Outbound,
        judged,
        policy.generation(),
        recorder,
    ))
}

/// Judges the first packet of a flow to a pod.
fn open_inbound(worker: &Worker, key: Key, packet: &Packet) -> Flow {
    let snapshot = worker.shared.snapshot.load();
    let mut recorder = worker.recorder(Direction::Inbound, key.protocol, key.tuple, &snapshot);
    let judged = judged(key.tuple, packet);
    let policy = worker.shared.policy.load();
    let decision = policy.ingress(&judged, Trace::Off);
    recorder.verdict(decision.verdict());
    let way = if decision.is_allowed() {
        Way::Inbound
    } else {
        Way::Denied
    };
    Flow::new(way, Direction::Inbound, judged, policy.generation(), recorder)
}

fn judged(tuple: FourTuple, packet: &Packet) -> adit_policy::Flow {
    let icmp = packet.echo_type().map(|kind| Icmp { kind, code: 0 });
    let strip = |mut addr: SocketAddr| {
        if icmp.is_some() {
            addr.set_port(0);
        }
        addr
    };
    let tuple = FourTuple::new(strip(tuple.src), strip(tuple.dst));
    adit_policy::Flow {
        icmp,
        ..adit_policy::Flow::plain(tuple, packet.protocol())
    }
}

/// Has a DNS query answered, if it's one and policy allows it. Queries are many and short: no flow is kept and no
/// record written of those that are answered.
fn is_answered(worker: &Rc<Worker>, pod: &Rc<Pod>, key: Key, packet: &Packet) -> bool {
    let Content::Udp(query) = &packet.content else {
        return false;
    };
    let decision = worker
        .shared
        .policy
        .load()
        .egress(&judged(key.tuple, packet), Trace::Off);
    if decision.is_allowed() {
        answer_dns(worker, pod, key.tuple, query.clone());
    }
    decision.is_allowed()
}

fn answer_dns(worker: &Rc<Worker>, pod: &Rc<Pod>, tuple: FourTuple, query: Vec<u8>) {
    let (worker, pod) = (Rc::clone(worker), Rc::clone(pod));
    tokio::task::spawn_local(async move {
        let snapshot = worker.shared.snapshot.load_full();
        let namespace = &pod.name().namespace;
        let answer = worker
            .resolver
            .resolve(&query, &snapshot, namespace, Transport::Udp)
            .await;
        if let Some(answer) = answer {
            pod.deliver(Packet {
                src: tuple.dst,
                dst: tuple.src,
                content: Content::Udp(answer),
            });
        }
    });
}

/// Ends idle flows and judges the others again when the policy has changed; runs as long as the pod.
pub(crate) async fn sweep(worker: Rc<Worker>, pod: Rc<Pod>) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    while !pod.is_gone() {
        interval.tick().await;
        pod.datagrams.expire(Instant::now());
        pod.datagrams.judge(&worker.shared.policy.load());
    }
}

impl Datagrams {
    fn has(&self, key: Key) -> bool {
        self.flows.borrow().contains_key(&key)
    }

    fn insert(&self, worker: &Worker, key: Key, flow: Flow) {
        let mut flows = self.flows.borrow_mut();
        if flows.len() >= FLOWS_LIMIT {
            worker.counters.dropped(DropReason::TableFull);
            if let Some(recorder) = flow.recorder {
                recorder.refused(RefuseReason::OverLimit, Closer::Agent, None);
            }
            return;
        }
        flows.insert(key, flow);
    }

    fn translate(&self, opened: Key, endpoint: SocketAddr) {
        let answers = Key {
            tuple: FourTuple::new(endpoint, opened.tuple.src),
            ..opened
        };
        self.translated.borrow_mut().insert(answers, opened);
    }

    /// The flow that a packet from another pod answers, and the address that the opener dialled.
    fn answered(&self, key: Key) -> Option<(Key, SocketAddr)> {
        if let Some(opened) = self.translated.borrow().get(&key) {
            return Some((*opened, opened.tuple.dst));
        }
        let opened = key.reversed();
        self.has(opened).then_some((opened, key.tuple.src))
    }

    /// Ends every flow that no longer passes `policy`.
    pub(crate) fn judge(&self, policy: &PolicySet) {
        let mut flows = self.flows.borrow_mut();
        // What is no longer denied is forgotten, so that its next packet opens it.
        flows
            .extract_if(|_, flow| {
                matches!(flow.way, Way::Denied)
                    && flow.generation != policy.generation()
                    && flow.decide(policy).is_allowed()
            })
            .for_each(drop);
        for flow in flows.values_mut() {
            flow.judge(policy);
        }
    }

    /// Ends every flow: the pod is gone.
    pub(crate) fn end(&self) {
        for (_, mut flow) in self.flows.borrow_mut().drain() {
            let by = match flow.way {
                Way::Inbound => Closer::Destination,
                Way::Mesh { .. } | Way::Host(_) | Way::Denied => Closer::Source,
            };
            flow.end(CloseReason::PeerLost, by);
        }
        self.translated.borrow_mut().clear();
    }

    fn expire(&self, now: Instant) {
        let mut flows = self.flows.borrow_mut();
        flows
            .extract_if(|_, flow| now.duration_since(flow.last_packet) > IDLE_LIMIT)
            .for_each(|(_, mut flow)| flow.end(CloseReason::Idle, Closer::Agent));
        self.translated
            .borrow_mut()
            .retain(|_, opened| flows.contains_key(opened));
    }
}

impl Flow {
    fn new(
        way: Way,
        side: Direction,
        judged: adit_policy::Flow,
        generation: u64,
        recorder: Recorder,
    ) -> Self {
        let recorder = match way {
            Way::Denied => {
                recorder.refused(RefuseReason::Denied, Closer::Agent, None);
                None
            }
            Way::Host(_) | Way::Inbound | Way::Mesh { .. } => Some(recorder),
        };
        Self {
            way,
            side,
            judged,
            generation,
            last_packet: Instant::now(),
            moved: Moved::default(),
            recorder,
        }
    }

    /// What was allowed may be denied from now on.
    fn judge(&mut self, policy: &PolicySet) {
        if self.generation == policy.generation() {
            return;
        }
        self.generation = policy.generation();
        if matches!(self.way, Way::Denied) {
            return;
        }
        let decision = self.decide(policy);
        if decision.is_allowed() {
            return;
        }
        self.way = Way::Denied;
        if let Some(recorder) = &mut self.recorder {
            recorder.verdict(decision.verdict());
        }
        self.end(CloseReason::PolicyChanged, Closer::Agent);
    }

    fn decide(&self, policy: &PolicySet) -> Decision {
        match self.side {
            Direction::Inbound => policy.ingress(&self.judged, Trace::Off),
            Direction::Outbound => policy.egress(&self.judged, Trace::Off),
        }
    }

    /// Writes the record, unless it is written.
    fn end(&mut self, reason: CloseReason, by: Closer) {
        if let Some(mut recorder) = self.recorder.take() {
            recorder.moved(self.moved);
            recorder.closed(reason, by, None);
        }
    }
}
