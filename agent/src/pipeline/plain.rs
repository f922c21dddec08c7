//! TCP flows between two pods of which one is outside the mesh: carried plain, judged without an identity.
//!
//! ```text
//!   pod A ──▶ egress verdict ──▶ Call ──▶ ingress verdict (no identity: STRICT refuses) ──▶ pod B answers ──▶ answer
//! ```
//!
//! Both pods are this agent's, so the source address is as true as in a tunnel. Only who uses it isn't proven.

use std::rc::Rc;

use adit_control::{Location, Snapshot, Workload};
use adit_flow::{Closer, Direction, FourTuple, Protocol, RefuseReason};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::Refused;
use super::inbound::{admit, connect_app, verify_address};
use super::live::Permitted;
use super::relay::Relay;
use crate::telemetry::Recorder;
use crate::worker::{Command, FlowEnd, HostEnd, PlainEnd, Pod, Worker};

/// A plain flow on its way to the worker of the pod that it's for.
pub(crate) struct Call {
    tuple: FourTuple,
    end: PlainEnd,
    answer: oneshot::Sender<Result<(), RefuseReason>>,
}

/// Whether a flow from `source` to `destination` travels plain.
pub(super) fn is_plain(snapshot: &Snapshot, source: &Pod, destination: &Workload) -> bool {
    !(is_in_mesh(snapshot, source) && destination.in_mesh)
}

/// Has the record say so if it is this pod that is outside the mesh.
pub(super) fn note(snapshot: &Snapshot, pod: &Pod, recorder: &mut Recorder) {
    if !is_in_mesh(snapshot, pod) {
        recorder.outside_mesh();
    }
}

fn is_in_mesh(snapshot: &Snapshot, pod: &Pod) -> bool {
    let workload = snapshot.workloads.get(pod.name());
    workload.is_some_and(|workload| workload.in_mesh)
}

/// Opens a plain flow to a workload; returns once its application has accepted.
pub(super) async fn dial(
    worker: &Worker,
    workload: &Workload,
    tuple: FourTuple,
) -> Result<PlainEnd, Refused> {
    let unreachable = |detail: String| Refused {
        reason: RefuseReason::Unreachable,
        by: Closer::Agent,
        detail: Some(detail),
    };
    if let Location::Remote { node, .. } = &workload.location {
        return Err(unreachable(format!(
            "{} is on node {node}, and plain flows don't leave their node",
            workload.name
        )));
    }
    let absent = || unreachable(format!("no pod here serves {}", workload.name));
    let mailbox = worker.shared.worker_of(&workload.name).ok_or_else(absent)?;
    let (ours, theirs) = PlainEnd::pair();
    let (answer, answered) = oneshot::channel();
    let call = Call {
        tuple,
        end: theirs,
        answer,
    };
    let command = Command::Plain {
        pod: workload.name.clone(),
        call: Box::new(call),
    };
    mailbox.send(command).await.map_err(|_| absent())?;
    match answered.await {
        Ok(Ok(())) => Ok(ours),
        Ok(Err(reason)) => Err(Refused {
            reason,
            by: Closer::Destination,
            detail: None,
        }),
        // The pod went while the call was on its way.
        Err(_) => Err(absent()),
    }
}

/// Serves a plain flow that reached `pod`, from its verdict to its record.
pub(crate) async fn inbound(worker: Rc<Worker>, pod: Rc<Pod>, call: Call) {
    let Call {
        tuple,
        end,
        mut answer,
    } = call;
    let snapshot = worker.shared.snapshot.load_full();
    let mut recorder = worker.recorder(Direction::Inbound, Protocol::Tcp, tuple, &snapshot);
    note(&snapshot, &pod, &mut recorder);
    let connected = tokio::select! {
        connected = connect(&worker, &pod, &snapshot, tuple, &mut recorder) => connected,
        () = answer.closed() => {
            let detail = Some("the client gave up while connecting".to_owned());
            Err(Refused { reason: RefuseReason::TimedOut, by: Closer::Source, detail })
        }
    };
    match connected {
        Ok((app, permitted)) => {
            let live = worker.watch(Direction::Inbound, permitted);
            // A caller that is gone has dropped its end: the relay sees that as a reset.
            let _ = answer.send(Ok(()));
            live.relay(Relay::new(end, app), recorder).await;
        }
        Err(refused) => {
            let _ = answer.send(Err(refused.reason));
            recorder.refused(refused.reason, refused.by, refused.detail);
        }
    }
}

/// Serves a plain connection that another host made to a captured pod's own address, where the pod's kernel would have
/// taken it: from its verdict to its record.
pub(crate) async fn from_wire(worker: &Rc<Worker>, pod: &Rc<Pod>, socket: TcpStream, tuple: FourTuple) {
    let snapshot = worker.shared.snapshot.load_full();
    let mut recorder = worker.recorder(Direction::Inbound, Protocol::Tcp, tuple, &snapshot);
    // Dropped before both sides have ended, it resets the connection: what a refused one has to see.
    let end = HostEnd::new(socket);
    match connect(worker, pod, &snapshot, tuple, &mut recorder).await {
        Ok((app, permitted)) => {
            let live = worker.watch(Direction::Inbound, permitted);
            live.relay(Relay::new(end, app), recorder).await;
        }
        Err(refused) => recorder.refused(refused.reason, refused.by, refused.detail),
    }
}

/// Is it for this pod, is it allowed, does the application answer: in this order.
async fn connect(
    worker: &Worker,
    pod: &Rc<Pod>,
    snapshot: &Snapshot,
    tuple: FourTuple,
    recorder: &mut Recorder,
) -> Result<(FlowEnd, Permitted), Refused> {
    if worker.is_refusing() {
        return Err(Refused::by_agent(RefuseReason::Draining));
    }
    verify_address(pod, snapshot, tuple.dst)?;
    let permitted = admit(worker, adit_policy::Flow::plain(tuple, Protocol::Tcp), recorder)?;
    let app = connect_app(worker, pod, snapshot, tuple).await?;
    Ok((app, permitted))
}
