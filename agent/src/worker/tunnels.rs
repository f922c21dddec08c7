//! The tunnels of a worker: those that its pods open, and those that it serves.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use adit_control::{Location, Reach, Workload};
use adit_flow::{Closer, RefuseReason, WorkloadName};
use adit_identity::{PeerIdentity, SpiffeId};
use adit_tunnel::{
    Connect, Credentials, Destination, Dial, Drain, Drainer, Endpoint, Handler, HeadError, Incoming,
    OpenError, Pool, PoolConfig, PoolStats, Refusal, TunnelConfig, serve,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};

use super::counted::Counted;
use super::doors::HBONE_PORT;
use super::server_name::{pod_address, server_name};
use super::{Command, Pod, Shared, TunnelEnd, Worker};
use crate::pipeline::Refused;
use crate::pipeline::inbound::{Arrived, Door};
use crate::telemetry::Counters;

/// Bytes of TLS on their way through an in-memory tunnel, each direction: some records, so that one side can
/// encrypt while the other decrypts.
const PIPE_CAPACITY: usize = 256 * 1024;

/// The tunnels that pods of a worker open, and the drain of those it serves.
pub(crate) struct Tunnels {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    pool: Pool<Dialer>,
    /// What those that are served watch.
    drain: RefCell<(Drainer, Drain)>,
    serving: Rc<Cell<usize>>,
}

/// A stream to a workload.
pub(crate) struct Opened {
    /// The far end.
    pub(crate) end: TunnelEnd,
    /// Who this side proved to be.
    pub(crate) source: SpiffeId,
    /// The port on the wire; `None` in memory.
    pub(crate) wire_port: Option<u16>,
}

impl Tunnels {
    /// No tunnel yet.
    pub(crate) fn new(shared: Arc<Shared>, counters: Arc<Counters>) -> Self {
        let pool = Pool::new(
            PoolConfig::default(),
            Dialer {
                shared: Arc::clone(&shared),
            },
        );
        Self {
            shared,
            counters,
            pool,
            drain: RefCell::new(Drainer::new()),
            serving: Rc::default(),
        }
    }

    /// Opens a stream to `address` of `workload` for a flow that `client`, of `source`, opened.
    pub(crate) async fn open(
        &self,
        source: &WorkloadName,
        workload: &Workload,
        address: SocketAddr,
        client: SocketAddr,
    ) -> Result<Opened, Refused> {
        let credentials = self.credentials_of(source)?;
        let (target, server_name) = match &workload.location {
            Location::Local => (Endpoint::InProcess(SocketAddr::new(address.ip(), 0)), None),
            Location::Remote { reach, .. } => match *reach {
                Reach::Agent(hbone) => (Endpoint::Wire(hbone), Some(server_name(address.ip()).into())),
                Reach::OriginalPort => (Endpoint::WireFrom(client.ip(), address), None),
                Reach::Port15008 => {
                    let listener = SocketAddr::new(address.ip(), HBONE_PORT);
                    (Endpoint::WireFrom(client.ip(), listener), None)
                }
                Reach::Plain => return Err(Refused::by_agent(RefuseReason::Unreachable)),
            },
        };
        let source = credentials.id().clone();
        let destination = Destination {
            source: source.clone(),
            expected: workload.identity.clone(),
            target,
            server_name,
        };
        let opened = self
            .pool
            .open(&destination, &credentials, &Connect::new(address, client))
            .await;
        let stream = opened.map_err(|error| self.refused(&error))?;
        let wire_port = target.is_wire().then(|| target.addr().port());
        Ok(Opened {
            end: TunnelEnd::new(stream),
            source,
            wire_port,
        })
    }

    /// Takes no new stream; tunnels say so to their peers, and end after their last.
    pub(super) fn drain(&self) {
        self.pool.drain();
        self.retire();
    }

    /// Ends the tunnels that are served, after the streams that they carry: peers are told, and open others. Those are
    /// served.
    pub(super) fn retire(&self) {
        const NO_DEADLINE: Duration = Duration::from_secs(24 * 3600); // the worker resets what is left in time
        let (drainer, _) = self.drain.replace(Drainer::new());
        drainer.start(Instant::now() + NO_DEADLINE);
    }

    /// How many tunnels are being served.
    pub(super) fn serving(&self) -> usize {
        self.serving.get()
    }

    /// What the pool of those that pods open holds and did.
    pub(super) fn stats(&self) -> PoolStats {
        self.pool.stats()
    }

    fn refused(&self, error: &OpenError) -> Refused {
        if let OpenError::Connect { source, .. } = error {
            self.counters.tunnel_failed(source.label());
        }
        Refused {
            reason: error.refuse_reason(),
            by: refused_by(error),
            detail: Some(with_causes(error)),
        }
    }

    fn credentials_of(&self, workload: &WorkloadName) -> Result<Arc<Credentials>, Refused> {
        let snapshot = self.shared.snapshot.load();
        let known = snapshot.workloads.get(workload);
        known
            .and_then(|workload| self.shared.identities.credentials(&workload.identity))
            .ok_or_else(|| Refused {
                reason: RefuseReason::TunnelFailed,
                by: Closer::Agent,
                detail: Some(format!("no SVID could be issued for {workload} yet")),
            })
    }
}

/// Who is behind a stream that could not be opened.
fn refused_by(error: &OpenError) -> Closer {
    match error {
        OpenError::Refused { .. } => Closer::Destination,
        OpenError::Connect { .. } | OpenError::NoAnswer { .. } | OpenError::Stream { .. } => Closer::Network,
        _ => Closer::Agent,
    }
}

/// An error with what caused it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Makes the connections that tunnels run over.
struct Dialer {
    shared: Arc<Shared>,
}

/// A pipe within the agent, or a connection to another.
enum Wire {
    Pipe(DuplexStream),
    Tcp(TcpStream),
}

impl Dial for Dialer {
    type Io = Wire;

    async fn dial(&self, destination: &Destination) -> io::Result<Wire> {
        match destination.target {
            Endpoint::InProcess(address) => self.pipe_to(address.ip()).await.map(Wire::Pipe),
            Endpoint::Wire(address) => {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                Ok(Wire::Tcp(socket))
            }
            Endpoint::WireFrom(from, address) => {
                self.shared.outer.connect(from, address).await.map(Wire::Tcp)
            }
        }
    }
}

impl Dialer {
    async fn pipe_to(&self, address: IpAddr) -> io::Result<DuplexStream> {
        let absent = || {
            io::Error::new(
                io::ErrorKind::HostUnreachable,
                format!("no pod here has {address}"),
            )
        };
        let pod = self
            .shared
            .snapshot
            .load()
            .workload_at(address)
            .ok_or_else(absent)?
            .name
            .clone();
        let places = self.shared.places.load_full();
        let worker = places
            .get(&pod)
            .and_then(|place| self.shared.workers.get(*place))
            .ok_or_else(absent)?;
        let (ours, theirs) = tokio::io::duplex(PIPE_CAPACITY);
        worker
            .send(Command::Tunnel { pod, io: theirs })
            .await
            .map_err(|_| absent())?;
        Ok(ours)
    }
}

/// Serves the far end of an in-memory tunnel to `pod`.
pub(super) fn serve_pipe(worker: &Rc<Worker>, pod: &Rc<Pod>, io: DuplexStream) {
    let listener = Listener {
        worker: Rc::clone(worker),
        pod: Some(pod.name().clone()),
        door: Door::Memory,
    };
    tokio::task::spawn_local(run(listener, io));
}

/// Serves a connection from another agent; its SNI says which pod it's for.
pub(super) fn serve_socket(worker: &Rc<Worker>, socket: TcpStream, wire_port: u16) {
    let listener = Listener {
        worker: Rc::clone(worker),
        pod: None,
        door: Door::Any(wire_port),
    };
    tokio::task::spawn_local(run(listener, socket));
}

/// Serves a connection that came in at a pod's own address, to its end.
pub(super) async fn serve_at(worker: &Rc<Worker>, pod: &Pod, socket: TcpStream, door: Door) {
    let listener = Listener {
        worker: Rc::clone(worker),
        pod: Some(pod.name().clone()),
        door,
    };
    run(listener, socket).await;
}

async fn run(mut listener: Listener, io: impl AsyncRead + AsyncWrite + Unpin) {
    let worker = Rc::clone(&listener.worker);
    let tunnels = &worker.tunnels;
    let drain = tunnels.drain.borrow().1.clone();
    let _counted = Counted::new(&tunnels.serving);
    match serve(io, &TunnelConfig::default(), drain, &mut listener).await {
        Ok(()) => worker.counters.tunnel_ended("orderly"),
        Err(error) => {
            // A peer's misbehaviour is its own affair: counted by reason, told to who looks.
            worker.counters.tunnel_ended(error.label().as_str());
            tracing::debug!(error = %with_causes(&error), "a tunnel that was served ended");
        }
    }
}

/// The accepting side of one tunnel.
struct Listener {
    worker: Rc<Worker>,
    /// The pod whose certificate was presented: for a socket known from the SNI on.
    pod: Option<WorkloadName>,
    door: Door,
}

impl Handler for Listener {
    fn credentials(&mut self, server_name: Option<&str>) -> Option<Arc<Credentials>> {
        let shared = &self.worker.shared;
        let snapshot = shared.snapshot.load();
        let workload = match &self.pod {
            Some(pod) => snapshot.workloads.get(pod)?,
            None => snapshot.workload_at(pod_address(server_name?)?)?,
        };
        if !workload.is_local() {
            return None;
        }
        self.pod = Some(workload.name.clone());
        shared.identities.credentials(&workload.identity)
    }

    fn on_incoming(&mut self, incoming: Incoming) {
        let Some(pod) = self.pod.clone() else {
            return incoming.refuse(Refusal::BAD_REQUEST);
        };
        let arrived = Arrived {
            incoming,
            door: self.door,
        };
        if let Some(pod) = self.worker.pod(&pod) {
            self.worker.spawn_inbound(&pod, arrived);
        } else if let Some(mailbox) = self.worker.shared.worker_of(&pod) {
            // The listener gave up waiting for the SNI, or the pod has moved since. When the mailbox is full the
            // command is dropped, which resets the stream.
            let _ = mailbox.try_send(Command::Arrived {
                pod,
                arrived: Box::new(arrived),
            });
        } else {
            arrived.incoming.refuse(Refusal::of(RefuseReason::Unreachable));
        }
    }

    fn on_bad_head(&mut self, peer: &PeerIdentity, error: HeadError) {
        self.worker.counters.bad_head(error.label().as_str());
        tracing::debug!(peer = %peer.id(), %error, "a CONNECT was refused");
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Pipe(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Pipe(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Pipe(io) => io.is_write_vectored(),
            Self::Tcp(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(io) => Pin::new(io).poll_flush(cx),
            Self::Tcp(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
