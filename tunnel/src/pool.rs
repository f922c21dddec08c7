mod setup;
mod state;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use adit_identity::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::sleep;

use self::state::{Outcome, State};
use crate::connect::{Attempt, Lease};
use crate::{Connect, ConnectError, Credentials, OpenError, PoolConfig, Stream};

/// Makes the connections that tunnels run over.
pub trait Dial: Send + Sync + 'static {
    /// A connection: a TCP stream, an end of a pipe, or an enum of both.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to `destination.target`. The pool's timeout covers it.
    fn dial(&self, destination: &Destination) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// Where a tunnel leads, for whom, and who must be there.
///
/// Tunnels are shared by all streams with an equal destination and by no others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Who opens: the workload whose credentials are used.
    pub source: SpiffeId,
    /// Who must prove to be there.
    pub expected: SpiffeId,
    /// Where.
    pub target: Endpoint,
    /// The name to ask for by SNI, where one listener serves several workloads. `None` sends no SNI.
    pub server_name: Option<Arc<str>>,
}

/// What a [`Dial`] connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A workload of the same agent, by its own address: reached by a pipe.
    InProcess(SocketAddr),
    /// An address on the network.
    Wire(SocketAddr),
    /// An address on the network that sees the connection come from this other one: the opener's own.
    WireFrom(IpAddr, SocketAddr),
}

/// The tunnels that this side opened. One for each worker; a clone is another handle of the same pool.
///
/// ```text
/// open ─▶ a tunnel with room? ──yes──▶ CONNECT ──200──▶ Stream
///             │no          ▲                │not processed, or a reused tunnel turned out to be dead
///             ▼            │                └──▶ again, in another tunnel (3 attempts)
///      one being set up? ──┘ wait for it; again, should it break off in the handshake
///             │no
///             ▼
///      below the bound? set one up, or close the longest idle; else refuse: over limit
/// ```
///
/// A direction of a stream that carries 1 MiB within a second is *bulk*. Streams of one TCP connection lose, wait and are encrypted
/// in one order, so bulk on the network is spread: while there is some, the pool sets up a tunnel for each bulk direction and
/// one more, up to `spread` and in the background, and a new stream takes the tunnel with the least bulk. Streams that are
/// there stay where they are.
///
/// A tunnel is *retired*, which means that it takes no new stream and ends after its last, when the peer sends
/// GOAWAY, when either certificate expires, when an opener comes with newer credentials, or when it was
/// idle for long. Streams in it are never cut by that.
pub struct Pool<D: Dial> {
    inner: Arc<Inner<D>>,
}

/// What a pool holds now, and what it did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Tunnels that take streams.
    pub tunnels: usize,
    /// Tunnels being set up.
    pub connecting: usize,
    /// Streams in tunnels that take streams.
    pub streams: usize,
    /// Tunnels set up.
    pub connected_total: u64,
    /// Tunnels that couldn't be set up.
    pub connect_failed_total: u64,
    /// Tunnels begun to spread bulk over.
    pub spread_total: u64,
    /// Idle tunnels closed to make room.
    pub evicted_total: u64,
    /// Streams opened again in another tunnel.
    pub retried_total: u64,
    /// Streams refused because of `max_tunnels`.
    pub over_limit_total: u64,
}

struct Inner<D> {
    config: PoolConfig,
    dialer: D,
    state: Mutex<State>,
}

enum Step {
    Ready(Lease),
    Refused(OpenError),
    Wait(watch::Receiver<Option<Outcome>>),
}

/// How often one stream is tried.
const ATTEMPTS: u32 = 3;

/// Before an attempt after one that broke off in the handshake, as often as there were attempts: a peer that ends needs a moment to
/// be replaced, and one that took us for somebody outside the mesh to hear that we aren't.
const PAUSE: Duration = Duration::from_millis(100);

impl Endpoint {
    /// The address.
    pub fn addr(self) -> SocketAddr {
        match self {
            Self::InProcess(addr) | Self::Wire(addr) | Self::WireFrom(_, addr) => addr,
        }
    }

    /// Whether it leads out of this process.
    pub fn is_wire(self) -> bool {
        !matches!(self, Self::InProcess(_))
    }
}

impl<D: Dial> Pool<D> {
    /// An empty pool. The configuration is to be [checked](crate::TunnelConfig::check) by the caller.
    pub fn new(config: PoolConfig, dialer: D) -> Self {
        let state = Mutex::new(State::default());
        Self {
            inner: Arc::new(Inner {
                config,
                dialer,
                state,
            }),
        }
    }

    /// Opens a stream: in a tunnel that is there, or in a new one. Returns once the far application has accepted.
    ///
    /// `credentials` are those of `destination.source`, the newest the caller has. Must be called within a tokio
    /// runtime, on which the tunnels then run. Dropping the future gives the stream up.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        &self,
        destination: &Destination,
        credentials: &Arc<Credentials>,
        connect: &Connect,
    ) -> Result<Stream, OpenError> {
        if credentials.id() != &destination.source {
            return Err(OpenError::WrongCredentials {
                expected: destination.source.clone(),
                got: credentials.id().clone(),
            });
        }
        let patience = self.inner.config.answer_timeout;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let lease = match self.lease(destination, credentials).await {
                Ok(lease) => lease,
                Err(OpenError::Connect { source, .. }) if source.broke_off() && attempts < ATTEMPTS => {
                    self.inner.lock().stats.retried_total += 1;
                    sleep(PAUSE * attempts).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (tunnel, reused) = (lease.tunnel, lease.reused);
            let (error, again) = match lease.open(connect, patience).await {
                Ok(stream) => return Ok(stream),
                Err(Attempt::Failed(error)) => (error, false),
                Err(Attempt::Unprocessed(error)) => (error, true),
                // A peer that restarted leaves tunnels whose end shows at the next use. No byte of the application
                // has gone out yet, so asking once more does no harm. A fresh tunnel that ends is another matter.
                Err(Attempt::TunnelEnded(error)) => (error, reused),
            };
            if !again || attempts == ATTEMPTS {
                return Err(error);
            }
            let mut state = self.inner.lock();
            state.retire(destination, tunnel);
            state.stats.retried_total += 1;
        }
    }

    /// Takes no new stream from now on; idle tunnels close, the others after their last stream.
    pub fn drain(&self) {
        let mut state = self.inner.lock();
        state.draining = true;
        state.places.clear();
    }

    /// What it holds and did.
    pub fn stats(&self) -> PoolStats {
        self.inner.lock().stats()
    }

    /// A place for a stream, waiting for a tunnel where none has room.
    async fn lease(
        &self,
        destination: &Destination,
        credentials: &Arc<Credentials>,
    ) -> Result<Lease, OpenError> {
        let mut waited = false;
        loop {
            let step = self.step(destination, credentials);
            let mut outcome = match step {
                // One that was there may have died unseen, used or not.
                Step::Ready(mut lease) => {
                    lease.reused |= !waited;
                    return Ok(lease);
                }
                Step::Refused(error) => return Err(error),
                Step::Wait(outcome) => outcome,
            };
            waited = true;
            let outcome = match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => Some(Err(Arc::new(ConnectError::Aborted))),
            };
            if let Some(Err(source)) = outcome {
                let (expected, target) = (destination.expected.clone(), destination.target.addr());
                return Err(OpenError::Connect {
                    expected,
                    target,
                    source,
                });
            }
        }
    }

    fn step(&self, destination: &Destination, credentials: &Arc<Credentials>) -> Step {
        let config = &self.inner.config;
        let mut state = self.inner.lock();
        let state = &mut *state;
        if state.draining {
            return Step::Refused(OpenError::Draining);
        }
        if let Some(place) = state.places.get_mut(destination) {
            let (generation, now) = (credentials.generation(), SystemTime::now());
            place.tunnels.retain(|tunnel| !tunnel.is_retired(generation, now));
            if let Some(lease) = place.lease(config) {
                return Step::Ready(lease);
            }
            if let Some(outcome) = place.join(config, generation) {
                return Step::Wait(outcome);
            }
        }
        if !state.make_room(config.max_tunnels) {
            // Better a stalled tunnel than none.
            let crowded = state
                .places
                .get(destination)
                .and_then(|place| place.lease_any(config));
            return crowded.map_or_else(
                || {
                    state.stats.over_limit_total += 1;
                    Step::Refused(OpenError::OverLimit {
                        limit: config.max_tunnels,
                    })
                },
                Step::Ready,
            );
        }
        Step::Wait(setup::start(&self.inner, state, destination, credentials, 1))
    }
}

impl<D> Inner<D> {
    /// Held for table look-ups only, never across an await. The pool is one worker's, so nobody else waits.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Dial> Clone for Pool<D> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<D: Dial> fmt::Debug for Pool<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
