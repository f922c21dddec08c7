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

/// A port that is to have a listener.
#[derive(Clone, Copy)]
struct Wanted {
    port: SocketAddr,
    /// As whom the application is asked whether it listens; not at all for Istio's port, which is ours.
    client: Option<SocketAddr>,
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

impl Wanted {
    fn hbone(address: IpAddr) -> Self {
        Self {
            port: SocketAddr::new(address, HBONE_PORT),
            client: None,
        }
    }

    /// What a SYN asks for.
    fn by(tuple: FourTuple) -> Self {
        Self {
            port: tuple.dst,
            client: (tuple.dst.port() != HBONE_PORT).then_some(tuple.src),
        }
    }
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
            self.start(worker, pod, Wanted::hbone(*address), Vec::new());
        }
    }

    /// Takes a SYN for a port without listener, another agent's or one for Istio's port: `frame`, with its virtio-net header. It comes back by
    /// [`Pod::answer_syns`] once it's known what to do with it.
    pub(crate) fn on_syn(&self, worker: &Rc<Worker>, pod: &Rc<Pod>, tuple: FourTuple, frame: &[u8]) {
        let mut ports = self.ports.borrow_mut();
        let full = ports.len() >= PORTS_LIMIT;
        let wanted = Wanted::by(tuple);
        match ports.get_mut(&wanted.port) {
            Some(Port::Opening(held)) if held.len() < HELD_LIMIT => held.push(frame.to_owned()),
            Some(Port::Opening(_)) => worker.counters.dropped(DropReason::QueueFull),
            // It came early, or the helper has closed the port: it does so when it believes that the agent is gone.
            Some(port @ Port::Open) => {
                *port = Port::Opening(vec![frame.to_owned()]);
                let (pod, sockets) = (Rc::clone(pod), Arc::clone(&self.sockets));
                tokio::task::spawn_local(async move { open_again(&pod, &sockets, wanted.port).await });
            }
            None if full => worker.counters.dropped(DropReason::TableFull),
            None => {
                drop(ports);
                self.start(worker, pod, wanted, vec![frame.to_owned()]);
            }
        }
    }

    fn start(&self, worker: &Rc<Worker>, pod: &Rc<Pod>, wanted: Wanted, held: Vec<Vec<u8>>) {
        self.ports.borrow_mut().insert(wanted.port, Port::Opening(held));
        let (worker, pod, sockets) = (Rc::clone(worker), Rc::clone(pod), Arc::clone(&self.sockets));
        tokio::task::spawn_local(async move { open(&worker, &pod, &sockets, wanted).await });
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

/// Opens a port, and serves it until it's idle or the pod is gone.
async fn open(worker: &Rc<Worker>, pod: &Rc<Pod>, sockets: &PodSockets, wanted: Wanted) {
    let port = wanted.port;
    let listener = match listen(worker, pod, sockets, wanted).await {
        Ok(Some(listener)) => listener,
        Ok(None) => return pod.answer_syns(port, &Outcome::Refused),
        Err(error) => {
            worker.counters.listener_failed();
            tracing::error!(pod = %pod.name(), %port, %error, "[ADIT-A061] opening a port; the next SYN has it tried again");
            return pod.answer_syns(port, &Outcome::Unknown);
        }
    };
    pod.answer_syns(port, &Outcome::Open);
    let (door, idle) = match wanted.client {
        Some(_) => (Door::Original(port.port()), Some(IDLE_LIMIT)),
        None => (Door::Any(port.port()), None),
    };
    pod.until_gone(accept(worker, pod, &listener, door, idle)).await;
    if let Err(error) = sockets.broker().close_port(sockets.uid(), port.port()).await {
        tracing::debug!(pod = %pod.name(), %error, "closing a port");
    }
    // Only now: a SYN in between would find a rule without a listener, and is repeated.
    drop(listener);
    if let Some(outer) = pod.outer() {
        outer.doors.forget(port);
    }
}

/// Has a port that has its listener reached again. If that fails the next SYN tries it again.
async fn open_again(pod: &Rc<Pod>, sockets: &PodSockets, port: SocketAddr) {
    if let Err(error) = sockets.broker().open_port(sockets.uid(), port.port()).await {
        tracing::warn!(pod = %pod.name(), %port, %error, "[ADIT-A061] opening a port again");
    }
    pod.answer_syns(port, &Outcome::Open);
}

/// A listener; `None` where the application doesn't listen.
async fn listen(
    worker: &Rc<Worker>,
    pod: &Rc<Pod>,
    sockets: &PodSockets,
    wanted: Wanted,
) -> std::io::Result<Option<TcpListener>> {
    if let Some(client) = wanted.client {
        let snapshot = worker.shared.snapshot.load_full();
        let tuple = FourTuple::new(client, wanted.port);
        match connect_app(worker, pod, &snapshot, tuple).await {
            // Dropped at once: its SYN-ACK is answered by a reset.
            Ok(app) => drop(app),
            Err(refused) => {
                tracing::debug!(pod = %pod.name(), %tuple, reason = ?refused.reason, "nobody listens");
                return Ok(None);
            }
        }
    }
    let listener = sockets.listen(wanted.port).await?;
    sockets
        .broker()
        .open_port(sockets.uid(), wanted.port.port())
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
        // Connections wait in the kernel meanwhile. If this agent ends they are cut before their first byte, and made again.
        worker.until_answering().await;
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
