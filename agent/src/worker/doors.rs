//! A captured pod's listeners at its own address: Istio's port from the start, original ports on demand.
//!
//! ```text
//!   SYN of an agent to a port without listener
//!     ── does the application listen? ──no──▶ RST, and nothing is left
//!                     │yes
//!                     ▼
//!     listener in the pod's outer namespace, its port opened there, the SYN handed to that kernel
//! ```
//!
//! The application is asked with a SYN of which its kernel tells it nothing: the answer is reset before it's
//! acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_flow::{DropReason, FourTuple};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{Pod, Worker, tunnels};
use crate::cluster::PodSockets;
use crate::pipeline::course::speaks_hbone;
use crate::pipeline::inbound::{Door, connect_app};
use crate::pipeline::plain;

/// Istio's port for HBONE, which takes streams for every port.
pub(crate) const HBONE_PORT: u16 = 15008;

/// Source ports of agents' sockets begin here: the helper gives each outer namespace this range, and applications'
/// kernels choose lower ones unless they are told otherwise.
pub(crate) const AGENT_PORTS: u16 = 61_440;

/// Original ports that one pod may have open; each is a rule and a listener.
const PORTS_LIMIT: usize = 256;

/// SYNs kept for a port while it's being opened. More are dropped: their kernels repeat them.
const HELD_LIMIT: usize = 64;

/// A port without a connection for this long is closed; the next SYN opens it again.
const IDLE_LIMIT: Duration = Duration::from_secs(600);

/// The listeners of one captured pod. Its owner is the pod.
pub(crate) struct Doors {
    sockets: Arc<PodSockets>,
    ports: RefCell<HashMap<SocketAddr, Port>>,
}

enum Port {
    /// Being opened; these frames wait for it.
    Opening(Vec<Vec<u8>>),
    /// It has a listener.
    Open,
}

/// What becomes of SYNs that waited for a port.
pub(crate) enum Outcome {
    /// A listener is there for them.
    Open,
    /// Nobody listens.
    Refused,
    /// It could not be found out: their kernels will ask again.
    Unknown,
}

impl Doors {
    /// No listener yet.
    pub(crate) fn new(sockets: Arc<PodSockets>) -> Self {
        Self {
            sockets,
            ports: RefCell::default(),
        }
    }

    /// Listens on Istio's port at each of the pod's addresses, as long as the pod is served.
    pub(crate) fn open_hbone(&self, worker: &Rc<Worker>, pod: &Rc<Pod>, addresses: &[IpAddr]) {
        for address in addresses {
            let (worker, pod, sockets) = (Rc::clone(worker), Rc::clone(pod), Arc::clone(&self.sockets));
            let address = SocketAddr::new(*address, HBONE_PORT);
            tokio::task::spawn_local(async move {
                match sockets.listen(address).await {
                    Ok(listener) => {
                        pod.until_gone(accept(&worker, &pod, &listener, Door::Any(HBONE_PORT), None))
                            .await;
                    }
                    Err(error) => {
                        worker.counters.listener_failed();
                        tracing::error!(pod = %pod.name(), %address, %error, "[ADIT-A061] listening for HBONE");
                    }
                }
            });
        }
    }

    /// Takes a SYN of another agent for a port without listener: `frame`, with its virtio-net header. It comes back by
    /// [`Pod::answer_syns`] once it's known what to do with it.
    pub(crate) fn on_syn(&self, worker: &Rc<Worker>, pod: &Rc<Pod>, tuple: FourTuple, frame: &[u8]) {
        let mut ports = self.ports.borrow_mut();
        let full = ports.len() >= PORTS_LIMIT;
        match ports.get_mut(&tuple.dst) {
            Some(Port::Opening(held)) if held.len() < HELD_LIMIT => return held.push(frame.to_owned()),
            // The rule for an open port was made before the SYN was let go, so this one only came early.
            Some(Port::Opening(_) | Port::Open) => return worker.counters.dropped(DropReason::QueueFull),
            None if full => return worker.counters.dropped(DropReason::TableFull),
            None => {}
        }
        ports.insert(tuple.dst, Port::Opening(vec![frame.to_owned()]));
        let (worker, pod, sockets) = (Rc::clone(worker), Rc::clone(pod), Arc::clone(&self.sockets));
        tokio::task::spawn_local(async move { open(&worker, &pod, &sockets, tuple).await });
    }

    /// The SYNs that waited; the port is open from now on, or forgotten.
    pub(super) fn settle(&self, port: SocketAddr, outcome: &Outcome) -> Vec<Vec<u8>> {
        let mut ports = self.ports.borrow_mut();
        let held = match ports.remove(&port) {
            Some(Port::Opening(held)) => held,
            Some(Port::Open) | None => Vec::new(),
        };
        if matches!(outcome, Outcome::Open) {
            ports.insert(port, Port::Open);
        }
        held
    }

    fn forget(&self, port: SocketAddr) {
        self.ports.borrow_mut().remove(&port);
    }
}

/// Opens the port that a SYN asks for, and serves it until it's idle or the pod is gone.
async fn open(worker: &Rc<Worker>, pod: &Rc<Pod>, sockets: &PodSockets, tuple: FourTuple) {
    let listener = match listen(worker, pod, sockets, tuple).await {
        Ok(Some(listener)) => listener,
        Ok(None) => return pod.answer_syns(tuple.dst, &Outcome::Refused),
        Err(error) => {
            worker.counters.listener_failed();
            tracing::warn!(pod = %pod.name(), port = tuple.dst.port(), %error, "[ADIT-A061] opening a port");
            return pod.answer_syns(tuple.dst, &Outcome::Unknown);
        }
    };
    pod.answer_syns(tuple.dst, &Outcome::Open);
    let door = Door::Original(tuple.dst.port());
    pod.until_gone(accept(worker, pod, &listener, door, Some(IDLE_LIMIT)))
        .await;
    if let Err(error) = sockets.broker().close_port(sockets.uid(), tuple.dst.port()).await {
        tracing::debug!(pod = %pod.name(), %error, "closing a port");
    }
    // Only now: a SYN in between would find a rule without a listener, and is repeated.
    drop(listener);
    if let Some(outer) = pod.outer() {
        outer.doors.forget(tuple.dst);
    }
}

/// A listener where the application listens too; `None` where it doesn't.
async fn listen(
    worker: &Rc<Worker>,
    pod: &Rc<Pod>,
    sockets: &PodSockets,
    tuple: FourTuple,
) -> std::io::Result<Option<TcpListener>> {
    let snapshot = worker.shared.snapshot.load_full();
    match connect_app(worker, pod, &snapshot, tuple).await {
        // Dropped at once: its SYN-ACK is answered by a reset.
        Ok(app) => drop(app),
        Err(refused) => {
            tracing::debug!(pod = %pod.name(), %tuple, reason = ?refused.reason, "nobody listens");
            return Ok(None);
        }
    }
    let listener = sockets.listen(tuple.dst).await?;
    sockets
        .broker()
        .open_port(sockets.uid(), tuple.dst.port())
        .await?;
    Ok(Some(listener))
}

/// Accepts until nothing has come for `idle` and nothing is connected.
async fn accept(
    worker: &Rc<Worker>,
    pod: &Rc<Pod>,
    listener: &TcpListener,
    door: Door,
    idle: Option<Duration>,
) {
    /// Out of descriptors, mostly: others must end first.
    const PAUSE: Duration = Duration::from_millis(100);
    let connected = Rc::new(Cell::new(0_usize));
    loop {
        let accepted = match idle {
            None => listener.accept().await,
            Some(limit) => match timeout(limit, listener.accept()).await {
                Ok(accepted) => accepted,
                Err(_elapsed) if connected.get() == 0 => return,
                Err(_elapsed) => continue,
            },
        };
        match accepted {
            Ok((socket, peer)) => {
                let _ = socket.set_nodelay(true);
                let counted = Counted::new(&connected);
                let (worker, pod) = (Rc::clone(worker), Rc::clone(pod));
                tokio::task::spawn_local(async move {
                    serve(&worker, &pod, socket, peer, door).await;
                    drop(counted);
                });
            }
            Err(error) => {
                tracing::warn!(pod = %pod.name(), %error, "accepting a connection for a pod");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one connection: a tunnel, if its opener is one that speaks HBONE; else what its bytes are is the
/// application's affair.
async fn serve(worker: &Rc<Worker>, pod: &Rc<Pod>, socket: TcpStream, peer: SocketAddr, door: Door) {
    let expects_hbone = matches!(door, Door::Any(_)) || speaks_hbone(&worker.shared.snapshot.load(), peer);
    if expects_hbone {
        tunnels::serve_at(worker, pod, socket, door).await;
    } else if let Ok(local) = socket.local_addr() {
        plain::from_wire(worker, pod, socket, FourTuple::new(peer, local)).await;
    }
}

/// One connection of those that keep a port open.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
