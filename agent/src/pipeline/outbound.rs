//! A flow that a pod opens.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_control::{Snapshot, Workload};
use adit_flow::{Closer, Direction, FourTuple, Protocol, RefuseReason};
use adit_netstack::FlowId;
use adit_policy::{Decision, Trace};
use tokio::net::TcpStream;

use super::course::takes_hbone;
use super::live::Permitted;
use super::relay::{End, Relay};
use super::route::{Route, route};
use super::{Refused, plain, refusal};
use crate::telemetry::Recorder;
use crate::worker::{DnsEnd, FlowEnd, HostEnd, PlainEnd, Pod, TunnelEnd, Worker};

/// How long a host outside the mesh may take to answer. The application's own limit is usually shorter.
const HOST_CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves a flow whose SYN is held, from routing to its record.
pub(crate) async fn outbound(worker: Rc<Worker>, pod: Rc<Pod>, flow: FlowId, tuple: FourTuple) {
    let mut flow = FlowEnd::held(Rc::clone(&pod), flow);
    let snapshot = worker.shared.snapshot.load_full();
    let mut recorder = worker.recorder(Direction::Outbound, Protocol::Tcp, tuple, &snapshot);
    let connected = tokio::select! {
        connected = connect(&worker, &pod, &snapshot, tuple, &mut recorder) => connected,
        // While its SYN is held a flow can only end: the application gave up, or the pod is gone.
        ended = poll_fn(|cx| flow.poll_established(cx)) => {
            let detail = ended.err().map(|ended| format!("the application gave up while connecting: {ended}"));
            Err(Refused { reason: RefuseReason::TimedOut, by: Closer::Source, detail })
        }
    };
    match connected {
        Ok(Connected {
            permitted,
            target: Target::Host(end),
        }) => {
            relay(&worker, flow, end, permitted, recorder).await;
        }
        Ok(Connected {
            permitted,
            target: Target::Plain(end),
        }) => {
            relay(&worker, flow, end, permitted, recorder).await;
        }
        Ok(Connected {
            permitted,
            target: Target::Tunnel(end),
        }) => {
            relay(&worker, flow, end, permitted, recorder).await;
        }
        Ok(Connected {
            permitted,
            target: Target::Dns(end),
        }) => {
            relay(&worker, flow, end, permitted, recorder).await;
        }
        Err(refused) => {
            flow.refuse(refusal(refused.reason));
            recorder.refused(refused.reason, refused.by, refused.detail);
        }
    }
}

/// The far end of a flow, ready to take bytes, and the permit for it.
struct Connected {
    permitted: Permitted,
    target: Target,
}

enum Target {
    Dns(DnsEnd),
    Host(HostEnd),
    Plain(PlainEnd),
    Tunnel(TunnelEnd),
}

/// Route, verdict, connection: in this order, so that nothing is dialled that policy denies.
async fn connect(
    worker: &Rc<Worker>,
    pod: &Pod,
    snapshot: &Snapshot,
    tuple: FourTuple,
    recorder: &mut Recorder,
) -> Result<Connected, Refused> {
    let route = route(snapshot, Protocol::Tcp, tuple.dst, worker.draw());
    let destination = match &route {
        Route::Workload {
            workload,
            address,
            service,
        } => {
            recorder.destination(workload, *address, service.clone());
            *address
        }
        Route::Refused(reason) => return Err(Refused::by_agent(*reason)),
        Route::Dns | Route::Outside(_) => tuple.dst,
    };
    let flow = adit_policy::Flow::plain(FourTuple::new(tuple.src, destination), Protocol::Tcp);
    let decision = worker.shared.policy.load().egress(&flow, Trace::Off);
    recorder.verdict(decision.verdict());
    let permit = match decision {
        Decision::Allowed(permit) => permit,
        Decision::Denied(_) => return Err(Refused::by_agent(RefuseReason::Denied)),
    };
    let target = match route {
        Route::Dns => Target::Dns(DnsEnd::new(Rc::clone(worker), pod)),
        Route::Workload {
            workload, address, ..
        } if pod.is_captured() && !takes_hbone(&workload, |name| worker.shared.serves(name)) => {
            Target::Host(dial_plain(worker, tuple.src.ip(), address).await?)
        }
        Route::Workload {
            workload, address, ..
        } if plain::is_plain(snapshot, pod, &workload) => {
            plain::note(snapshot, pod, recorder);
            Target::Plain(plain::dial(worker, &workload, FourTuple::new(tuple.src, address)).await?)
        }
        Route::Workload {
            workload, address, ..
        } => Target::Tunnel(dial_workload(worker, pod, &workload, address, tuple.src, recorder).await?),
        Route::Outside(address) => Target::Host(dial_host(address).await?),
        Route::Refused(reason) => return Err(Refused::by_agent(reason)),
    };
    Ok(Connected {
        permitted: Permitted { flow, permit },
        target,
    })
}

/// A stream to `address` of a workload, through a tunnel as this pod.
async fn dial_workload(
    worker: &Worker,
    pod: &Pod,
    workload: &Arc<Workload>,
    address: SocketAddr,
    client: SocketAddr,
    recorder: &mut Recorder,
) -> Result<TunnelEnd, Refused> {
    let opened = worker.tunnels.open(pod.name(), workload, address, client).await?;
    recorder.hbone(&opened.source, &workload.identity, opened.wire_port);
    Ok(opened.end)
}

/// A connection through the user's own network.
async fn dial_host(address: SocketAddr) -> Result<HostEnd, Refused> {
    connected(address, TcpStream::connect(address)).await
}

/// A plain connection of a captured pod to the endpoint that was chosen for it.
async fn dial_plain(worker: &Worker, from: IpAddr, address: SocketAddr) -> Result<HostEnd, Refused> {
    connected(address, worker.shared.outer.connect(from, address)).await
}

async fn connected(
    address: SocketAddr,
    connecting: impl Future<Output = io::Result<TcpStream>>,
) -> Result<HostEnd, Refused> {
    let connecting = tokio::time::timeout(HOST_CONNECT_TIMEOUT, connecting).await;
    let socket = connecting
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::ConnectionRefused => RefuseReason::Refused,
                io::ErrorKind::TimedOut => RefuseReason::TimedOut,
                io::ErrorKind::AddrNotAvailable => RefuseReason::OverLimit,
                _ if error.raw_os_error() == Some(libc::EMFILE) => RefuseReason::OverLimit,
                _ => RefuseReason::Unreachable,
            };
            let by = if reason == RefuseReason::OverLimit {
                Closer::Agent
            } else {
                Closer::Destination
            };
            Refused {
                reason,
                by,
                detail: Some(format!("connecting to {address}: {error}")),
            }
        })?;
    // The application decides what goes out together; holding its segments back would only add delay.
    let _ = socket.set_nodelay(true);
    Ok(HostEnd::new(socket))
}

/// Lets the application's `connect` succeed and moves bytes until both ends have ended.
async fn relay(worker: &Worker, flow: FlowEnd, target: impl End, permitted: Permitted, recorder: Recorder) {
    let live = worker.watch(Direction::Outbound, permitted);
    match flow.accept() {
        Ok(()) => live.relay(Relay::new(flow, target), recorder).await,
        Err(ended) => recorder.closed(ended.reason, Closer::Source, Some(ended.detail)),
    }
}
