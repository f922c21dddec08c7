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
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use adit_flow::{FourTuple, WorkloadName};
use tokio::net::{TcpListener, TcpStream};

use super::counted::Counted;
use super::{Admission, Pod, Worker, tunnels};
use crate::cluster::PodSockets;
use crate::pipeline::course::{may_come_to_speak_hbone, speaks_hbone};
use crate::pipeline::inbound::{Door, connect_app};
use crate::pipeline::plain;
use ports::{Ports, Step};

mod ports;

/// Istio's port for HBONE, which takes streams for every port.
pub(crate) const HBONE_PORT: u16 = 15008;

/// Source ports of agents' sockets begin here: the helper gives each outer namespace this range, and applications'
/// kernels choose lower ones unless they are told otherwise.
pub(crate) const AGENT_PORTS: u16 = 61_440;

/// A port without a connection for this long is closed; the next SYN opens it again.
const IDLE_LIMIT: Duration = Duration::from_secs(600);

/// The listeners of one captured pod. Its owner is the pod.
pub(crate) struct Doors {
    sockets: Arc<PodSockets>,
    /// The pod's: a port is opened at all of them at once, for the helper's rules don't tell them apart.
    addresses: Vec<IpAddr>,
    ports: RefCell<Ports>,
}

/// A port that is to have a listener.
#[derive(Clone, Copy)]
struct Wanted {
    port: u16,
    /// The flow as which the application is asked whether it listens; not at all for Istio's port, which is ours.
    flow: Option<FourTuple>,
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
    const HBONE: Self = Self {
        port: HBONE_PORT,
        flow: None,
    };

    /// What a SYN asks for.
    fn by(tuple: FourTuple) -> Self {
        match tuple.dst.port() {
            HBONE_PORT => Self::HBONE,
            port => Self {
                port,
                flow: Some(tuple),
            },
        }
    }
}

impl Doors {
    /// No listener yet.
    pub(crate) fn new(sockets: Arc<PodSockets>, addresses: &[IpAddr]) -> Self {
        Self {
            sockets,
            addresses: addresses.to_vec(),
            ports: RefCell::default(),
        }
    }

    /// Listens on Istio's port, as long as the pod is served.
    pub(crate) fn open_hbone(&self, worker: &Rc<Worker>, pod: &Rc<Pod>) {
        self.ports.borrow_mut().open(HBONE_PORT);
        self.start(worker, pod, Wanted::HBONE);
    }

    /// Takes a SYN for a port without listener, another agent's or one for Istio's port: `frame`, with its virtio-net
    /// header. It comes back by [`Pod::answer_syns`] once it's known what to do with it.
    pub(crate) fn on_syn(&self, worker: &Rc<Worker>, pod: &Rc<Pod>, tuple: FourTuple, frame: &[u8]) {
        let wanted = Wanted::by(tuple);
        let step = self.ports.borrow_mut().take(wanted.port, frame);
        match step {
            Step::Open => self.start(worker, pod, wanted),
            Step::OpenAgain => {
                let (pod, sockets) = (Rc::clone(pod), Arc::clone(&self.sockets));
                tokio::task::spawn_local(async move { open_again(&pod, &sockets, wanted.port).await });
            }
            Step::Wait => {}
            Step::Drop(reason) => worker.counters.dropped(reason),
        }
    }

    fn start(&self, worker: &Rc<Worker>, pod: &Rc<Pod>, wanted: Wanted) {
        let place = Place {
            worker: Rc::clone(worker),
            pod: Rc::clone(pod),
            sockets: Arc::clone(&self.sockets),
            addresses: self.addresses.clone(),
        };
        tokio::task::spawn_local(async move { place.open(wanted).await });
    }

    /// The SYNs that waited; the port is open from now on, or forgotten.
    pub(super) fn settle(&self, port: u16, outcome: &Outcome) -> Vec<Vec<u8>> {
        let is_open = matches!(outcome, Outcome::Open);
        self.ports.borrow_mut().settle(port, is_open)
    }

    fn forget(&self, port: u16) {
        self.ports.borrow_mut().forget(port);
    }
}

/// Where a port is opened.
struct Place {
    worker: Rc<Worker>,
    pod: Rc<Pod>,
    sockets: Arc<PodSockets>,
    addresses: Vec<IpAddr>,
}

impl Place {
    /// Opens a port, and serves it until it's idle or the pod is gone.
    async fn open(&self, wanted: Wanted) {
        let (pod, port) = (&self.pod, wanted.port);
        let listeners = match self.listen(wanted).await {
            Ok(Some(listeners)) => listeners,
            Ok(None) => return pod.answer_syns(port, &Outcome::Refused),
            Err(error) => {
                self.worker.counters.listener_failed();
                tracing::error!(pod = %pod.name(), %port, %error, "[ADIT-A061] opening a port; the next SYN has it tried again");
                return pod.answer_syns(port, &Outcome::Unknown);
            }
        };
        pod.answer_syns(port, &Outcome::Open);
        let (door, idle) = match wanted.flow {
            Some(_) => (Door::Original(port), Some(IDLE_LIMIT)),
            None => (Door::Any(port), None),
        };
        pod.until_gone(accept(&self.worker, pod, &listeners, door, idle))
            .await;
        let broker = self.sockets.broker();
        if let Err(error) = broker.close_port(self.sockets.uid(), port).await {
            tracing::debug!(pod = %pod.name(), %error, "closing a port");
        }
        // Only now: a SYN in between would find a rule without a listener, and is repeated.
        drop(listeners);
        if let Some(outer) = pod.outer() {
            outer.doors.forget(port);
        }
    }

    /// A listener at each of the pod's addresses; `None` where the application doesn't listen.
    async fn listen(&self, wanted: Wanted) -> std::io::Result<Option<Vec<TcpListener>>> {
        if let Some(tuple) = wanted.flow {
            let snapshot = self.worker.shared.snapshot.load_full();
            match connect_app(&self.worker, &self.pod, &snapshot, tuple).await {
                // Dropped at once: its SYN-ACK is answered by a reset.
                Ok(app) => drop(app),
                Err(refused) => {
                    tracing::debug!(pod = %self.pod.name(), %tuple, reason = ?refused.reason, "nobody listens");
                    return Ok(None);
                }
            }
        }
        let mut listeners = Vec::new();
        for address in &self.addresses {
            let address = SocketAddr::new(*address, wanted.port);
            listeners.push(self.sockets.listen(address).await?);
        }
        let broker = self.sockets.broker();
        broker.open_port(self.sockets.uid(), wanted.port).await?;
        Ok(Some(listeners))
    }
}

/// Has a port that has its listener reached again. If that fails the next SYN tries it again.
async fn open_again(pod: &Rc<Pod>, sockets: &PodSockets, port: u16) {
    if let Err(error) = sockets.broker().open_port(sockets.uid(), port).await {
        tracing::warn!(pod = %pod.name(), %port, %error, "[ADIT-A061] opening a port again");
    }
    pod.answer_syns(port, &Outcome::Open);
}

/// Accepts until nothing has come for `idle` and nothing is connected.
async fn accept(
    worker: &Rc<Worker>,
    pod: &Rc<Pod>,
    listeners: &[TcpListener],
    door: Door,
    idle: Option<Duration>,
) {
    /// Out of descriptors, mostly: others must end first.
    const PAUSE: Duration = Duration::from_millis(100);
    let connected = Rc::new(Cell::new(0_usize));
    loop {
        // Connections wait in the kernel meanwhile. If this agent ends they are cut before their first byte, and made again.
        worker.until(|admission| admission != Admission::Held).await;
        let accepted = tokio::select! {
            biased;
            () = worker.until(|admission| admission == Admission::Held) => continue,
            accepted = next(listeners) => accepted,
            () = idle_for(idle) => match connected.get() {
                0 => return,
                _ => continue,
            },
        };
        match accepted {
            Ok((socket, peer)) => {
                let _ = socket.set_nodelay(true);
                let counted = Counted::new(&connected);
                let (worker, pod) = (Rc::clone(worker), Rc::clone(pod));
                tokio::task::spawn_local(async move {
                    tokio::select! {
                        () = serve(&worker, &pod, socket, peer, door) => {}
                        () = outlived(&pod) => {}
                    }
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

/// Returns when the pod is gone, and its flows' ends are told. What is connected then has lost its interface: its peers' ends
/// can't come any more.
async fn outlived(pod: &Pod) {
    const LAST_WORDS: Duration = Duration::from_secs(1);
    pod.until_gone(std::future::pending()).await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// Returns after `limit`, or never without one.
async fn idle_for(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// The next connection of any of them.
async fn next(listeners: &[TcpListener]) -> std::io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        let mut accepted = listeners.iter().map(|listener| listener.poll_accept(cx));
        accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// Waits while the opener joins the mesh and word may still come that it's in it.
async fn until_known(worker: &Worker, peer: SocketAddr) {
    const POLL: Duration = Duration::from_millis(10);
    let is_awaited = |name: &WorkloadName| worker.newcomers.await_word(Instant::now(), name);
    while may_come_to_speak_hbone(&worker.shared.snapshot.load(), peer, is_awaited) {
        tokio::time::sleep(POLL).await;
    }
}

/// Serves one connection: a tunnel, if its opener is one that speaks HBONE; else what its bytes are is the
/// application's affair.
async fn serve(worker: &Rc<Worker>, pod: &Rc<Pod>, socket: TcpStream, peer: SocketAddr, door: Door) {
    until_known(worker, peer).await;
    let expects_hbone = matches!(door, Door::Any(_)) || speaks_hbone(&worker.shared.snapshot.load(), peer);
    if expects_hbone {
        tunnels::serve_at(worker, pod, socket, door).await;
    } else if let Ok(local) = socket.local_addr() {
        plain::from_wire(worker, pod, socket, FourTuple::new(peer, local)).await;
    }
}
