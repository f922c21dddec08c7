//! A stream that arrives for a pod.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use adit_control::Snapshot;
use adit_flow::{Closer, Direction, FourTuple, Protocol, RefuseReason};
use adit_identity::SpiffeId;
use adit_netstack::ConnectError;
use adit_policy::{Decision, Trace};
use adit_tunnel::{Incoming, Refusal};

use super::Refused;
use super::live::Permitted;
use super::relay::{Ended, Relay};
use crate::telemetry::Recorder;
use crate::worker::{FlowEnd, Pod, TunnelEnd, Worker};

/// How long the pod's application may take to answer. Its kernel answers at once; a full accept queue makes it
/// silent until a place is free.
const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A CONNECT for a pod, and how it came in.
pub(crate) struct Arrived {
    /// The stream, not answered yet.
    pub(crate) incoming: Incoming,
    /// Where its tunnel came in.
    pub(crate) door: Door,
}

/// Where a tunnel comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// By a pipe, from a pod of this agent.
    Memory,
    /// By a listener for all ports: a node's, or a pod's on Istio's port.
    Any(u16),
    /// By a listener for one port of a pod, the original one.
    Original(u16),
}

impl Door {
    /// The port on the wire; `None` in memory.
    pub(crate) fn wire_port(self) -> Option<u16> {
        match self {
            Self::Memory => None,
            Self::Any(port) | Self::Original(port) => Some(port),
        }
    }
}

/// Serves one CONNECT that reached `pod`, from its verification to its record.
pub(crate) async fn inbound(worker: Rc<Worker>, pod: Rc<Pod>, arrived: Arrived) {
    let Arrived { mut incoming, door } = arrived;
    let snapshot = worker.shared.snapshot.load_full();
    let peer = incoming.peer().id().clone();
    let authority = incoming.connect().authority;
    let client = incoming.connect().client;
    let seen = FourTuple::new(client.unwrap_or_else(|| unnamed_client(authority)), authority);
    let mut recorder = worker.recorder(Direction::Inbound, Protocol::Tcp, seen, &snapshot);
    if let Some(workload) = snapshot.workloads.get(pod.name()) {
        recorder.hbone(&peer, &workload.identity, door.wire_port());
    }
    let request = Request {
        peer: &peer,
        authority,
        client,
        door,
    };
    let connected = tokio::select! {
        connected = connect(&worker, &pod, &snapshot, request, &mut recorder) => connected,
        gone = incoming.gone() => {
            let detail = Some(format!("the client gave up while connecting: {gone}"));
            Err(Refused { reason: RefuseReason::TimedOut, by: Closer::Source, detail })
        }
    };
    let (app, permitted) = match connected {
        Ok(connected) => connected,
        Err(refused) => {
            incoming.refuse(answer(refused.reason));
            return recorder.refused(refused.reason, refused.by, refused.detail);
        }
    };
    let live = worker.watch(Direction::Inbound, permitted);
    // 200 only now: the peer's application must not see a connection that this one hasn't accepted.
    match incoming.accept() {
        Ok(stream) => {
            live.relay(Relay::new(TunnelEnd::new(stream), app), recorder)
                .await
        }
        Err(error) => {
            let Ended { reason, detail } = error.into();
            recorder.closed(reason, Closer::Source, Some(detail));
        }
    }
}

/// What a CONNECT asks for, and who proved to ask.
#[derive(Clone, Copy)]
struct Request<'a> {
    peer: &'a SpiffeId,
    authority: SocketAddr,
    client: Option<SocketAddr>,
    door: Door,
}

/// Is it for this pod, is it from whom it says, is it allowed, does the application answer: in this order.
async fn connect(
    worker: &Worker,
    pod: &Rc<Pod>,
    snapshot: &Snapshot,
    request: Request<'_>,
    recorder: &mut Recorder,
) -> Result<(FlowEnd, Permitted), Refused> {
    let authority = request.authority;
    if worker.is_refusing() {
        return Err(Refused::by_agent(RefuseReason::Draining));
    }
    verify_address(pod, snapshot, authority)?;
    verify_port(request.door, authority)?;
    let client = verify_client(snapshot, request)?;
    let tuple = FourTuple::new(client, authority);
    let flow = adit_policy::Flow {
        source_identity: Some(request.peer.clone()),
        ..adit_policy::Flow::plain(tuple, Protocol::Tcp)
    };
    let permitted = admit(worker, flow, recorder)?;
    let app = connect_app(worker, pod, snapshot, tuple).await?;
    Ok((app, permitted))
}

/// The engine's leave for a flow to enter; its verdict is in the record either way.
pub(super) fn admit(
    worker: &Worker,
    flow: adit_policy::Flow,
    recorder: &mut Recorder,
) -> Result<Permitted, Refused> {
    let decision = worker.shared.policy.load().ingress(&flow, Trace::Off);
    recorder.verdict(decision.verdict());
    match decision {
        Decision::Allowed(permit) => Ok(Permitted { flow, permit }),
        Decision::Denied(_) => Err(Refused::by_agent(RefuseReason::Denied)),
    }
}

/// A flow for an address that the pod doesn't have is somebody's mistake, or trick.
pub(super) fn verify_address(pod: &Pod, snapshot: &Snapshot, authority: SocketAddr) -> Result<(), Refused> {
    let owner = snapshot.workload_at(authority.ip());
    if owner.is_some_and(|workload| workload.name == *pod.name()) {
        return Ok(());
    }
    let detail = format!(
        "{authority} was asked for at {}, which doesn't have that address",
        pod.name()
    );
    Err(Refused {
        reason: RefuseReason::Unreachable,
        by: Closer::Agent,
        detail: Some(detail),
    })
}

/// What came in on one port is for that port: whoever may reach it must not reach another one that way.
fn verify_port(door: Door, authority: SocketAddr) -> Result<(), Refused> {
    match door {
        Door::Original(port) if port != authority.port() => Err(Refused {
            reason: RefuseReason::Unreachable,
            by: Closer::Agent,
            detail: Some(format!(
                "{authority} was asked for on port {port}, which is for that port alone"
            )),
        }),
        Door::Original(_) | Door::Any(_) | Door::Memory => Ok(()),
    }
}

/// The client address that the peer names must belong to the identity that it proved: nobody speaks as another.
fn verify_client(snapshot: &Snapshot, request: Request<'_>) -> Result<SocketAddr, Refused> {
    let bad = |detail| Refused {
        reason: RefuseReason::BadIdentity,
        by: Closer::Agent,
        detail: Some(detail),
    };
    let peer = request.peer;
    let Some(client) = request.client else {
        return Err(bad(format!("{peer} named no client address (header forwarded)")));
    };
    match snapshot.workload_at(client.ip()) {
        Some(workload) if workload.identity == *peer && workload.in_mesh => Ok(client),
        Some(workload) if !workload.in_mesh => Err(bad(format!(
            "{client} belongs to {}, which is outside the mesh and so proves no identity",
            workload.name
        ))),
        Some(workload) => Err(bad(format!(
            "{client} belongs to {}, and the peer is {peer}",
            workload.identity
        ))),
        None => Err(bad(format!(
            "{client} belongs to no workload that this node knows, and the peer is {peer}; one that joined on \
             another node is known there alone"
        ))),
    }
}

/// Opens the flow to the application as the true client.
pub(crate) async fn connect_app(
    worker: &Worker,
    pod: &Rc<Pod>,
    snapshot: &Snapshot,
    tuple: FourTuple,
) -> Result<FlowEnd, Refused> {
    let mut app = open(worker, pod, snapshot, tuple).map_err(|error| {
        let detail = Some(format!("opening {tuple}: {error}"));
        Refused {
            reason: RefuseReason::OverLimit,
            by: Closer::Agent,
            detail,
        }
    })?;
    let established = tokio::time::timeout(APP_CONNECT_TIMEOUT, poll_fn(|cx| app.poll_established(cx))).await;
    let failed = |reason| Refused {
        reason,
        by: Closer::Destination,
        detail: None,
    };
    match established {
        Ok(Ok(())) => Ok(app),
        Ok(Err(_)) => Err(failed(app.refusal())),
        Err(_elapsed) => Err(failed(RefuseReason::TimedOut)),
    }
}

/// Two cases can't keep the client's address and port. A pod that reaches itself through a service: its kernel
/// would answer over its own loopback, so it sees another address (kube-proxy masquerades there too). And
/// a client that uses one port for two destinations which lead here, as its kernel may: another port then.
fn open(
    worker: &Worker,
    pod: &Rc<Pod>,
    snapshot: &Snapshot,
    tuple: FourTuple,
) -> Result<FlowEnd, ConnectError> {
    let mut tuple = tuple;
    if tuple.src.ip() == tuple.dst.ip()
        && let Some(own) = masquerade(pod, snapshot, tuple.dst.ip())
    {
        tuple.src.set_ip(own);
    }
    match FlowEnd::connect(Rc::clone(pod), tuple) {
        Err(ConnectError::InUse { .. }) => {
            let offset = worker.draw() % u64::from(u16::MAX - EPHEMERAL_FLOOR);
            tuple.src.set_port(EPHEMERAL_FLOOR + offset as u16);
            FlowEnd::connect(Rc::clone(pod), tuple)
        }
        other => other,
    }
}

/// The address under which a pod sees itself: the mesh's own on a laptop, its node's in a cluster.
fn masquerade(pod: &Pod, snapshot: &Snapshot, like: IpAddr) -> Option<IpAddr> {
    let node = snapshot.workloads.get(pod.name()).map(|own| &own.node_addresses);
    let of_node = node.into_iter().flat_map(|addresses| addresses.iter());
    let mut all = snapshot.dns.iter().chain(of_node);
    all.find(|address| address.is_ipv4() == like.is_ipv4()).copied()
}

/// Stands in the record for a client that the peer didn't name.
fn unnamed_client(authority: SocketAddr) -> SocketAddr {
    let unspecified: IpAddr = match authority {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(unspecified, 0)
}

/// What the peer is told: a request for another's address is its mistake, everything else has its own status.
fn answer(reason: RefuseReason) -> Refusal {
    match reason {
        RefuseReason::Unreachable => Refusal::BAD_REQUEST,
        other => Refusal::of(other),
    }
}

/// Where Linux's ephemeral ports begin.
const EPHEMERAL_FLOOR: u16 = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_original_port_takes_streams_for_itself_alone() {
        let takes = |door| {
            let authority = SocketAddr::from(([10, 0, 0, 1], 5432));
            verify_port(door, authority).is_ok()
        };
        assert!(takes(Door::Original(5432)) && takes(Door::Any(15008)) && takes(Door::Memory));
        assert!(!takes(Door::Original(8080)));
    }
}
