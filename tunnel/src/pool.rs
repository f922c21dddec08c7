use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use adit_identity::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Instrument;

use crate::connect::{Attempt, Driver, Lease, Tunnel, establish, idle_deadline};
use crate::stream::TunnelLoad;
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

#[derive(Default)]
struct State {
    places: HashMap<Destination, Place>,
    draining: bool,
    next_id: u64,
    stats: PoolStats,
}

/// The tunnels to one destination.
#[derive(Default)]
struct Place {
    tunnels: Vec<Tunnel>,
    connecting: Vec<Connecting>,
}

/// A tunnel being set up, and how many openers wait for it.
struct Connecting {
    id: u64,
    generation: u64,
    waiting: usize,
    outcome: watch::Receiver<Option<Outcome>>,
}

type Outcome = Result<(), Arc<ConnectError>>;

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
/// The least time between two looks at whether a tunnel is idle.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

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
        let state = self.inner.lock();
        let places = || state.places.values();
        PoolStats {
            tunnels: places().map(|place| place.tunnels.len()).sum(),
            connecting: places().map(|place| place.connecting.len()).sum(),
            streams: places()
                .flat_map(|place| &place.tunnels)
                .map(|tunnel| tunnel.load.streams())
                .sum(),
            ..state.stats
        }
    }

    /// A place for a stream, waiting for a tunnel where none has room.
    async fn lease(
        &self,
        destination: &Destination,
        credentials: &Arc<Credentials>,
    ) -> Result<Lease, OpenError> {
        loop {
            let step = self.step(destination, credentials);
            let mut outcome = match step {
                Step::Ready(lease) => return Ok(lease),
                Step::Refused(error) => return Err(error),
                Step::Wait(outcome) => outcome,
            };
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
        Step::Wait(self.start(state, destination, credentials))
    }

    /// Sets a tunnel up in a task of its own, so that an opener who gives up doesn't take it from the others.
    fn start(
        &self,
        state: &mut State,
        destination: &Destination,
        credentials: &Arc<Credentials>,
    ) -> watch::Receiver<Option<Outcome>> {
        let id = state.next_id;
        state.next_id += 1;
        let (sender, outcome) = watch::channel(None);
        state
            .places
            .entry(destination.clone())
            .or_default()
            .connecting
            .push(Connecting {
                id,
                generation: credentials.generation(),
                waiting: 1,
                outcome: outcome.clone(),
            });
        let span = tracing::debug_span!("tunnel", id, expected = %destination.expected, target = %destination.target.addr());
        let setup = Setup {
            inner: Arc::downgrade(&self.inner),
            destination: destination.clone(),
            credentials: Arc::clone(credentials),
            id,
        };
        let inner = Arc::clone(&self.inner);
        tokio::spawn(setup.run(inner, sender).instrument(span));
        outcome
    }
}

/// The task of one tunnel: sets it up, then drives it.
struct Setup<D> {
    inner: Weak<Inner<D>>,
    destination: Destination,
    credentials: Arc<Credentials>,
    id: u64,
}

impl<D: Dial> Setup<D> {
    async fn run(self, inner: Arc<Inner<D>>, sender: watch::Sender<Option<Outcome>>) {
        // Should this task be dropped, nobody else removes the entry.
        let mut guard = ConnectingGuard {
            setup: &self,
            done: false,
        };
        let within = inner.config.connect_timeout;
        let attempt = establish(
            &inner.dialer,
            &self.destination,
            &self.credentials,
            &inner.config.tunnel,
            self.id,
        );
        let outcome = match timeout(within, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError::TimedOut { within }),
        };
        guard.done = true;
        let idle_close = inner.config.idle_close;
        let driver = {
            let mut state = inner.lock();
            state.on_connected(&self.destination, self.id, outcome)
        };
        // The driver must not keep the pool alive: dropping the last handle retires its tunnels.
        drop(inner);
        match driver {
            Ok((load, driver)) => {
                sender.send_replace(Some(Ok(())));
                self.drive(driver, load, idle_close).await;
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "tunnel not set up");
                sender.send_replace(Some(Err(Arc::new(error))));
            }
        }
    }

    async fn drive(&self, driver: Driver<D::Io>, load: Arc<TunnelLoad>, idle_close: Duration) {
        let mut driver = pin!(driver.run());
        loop {
            // While it has streams, this only looks again later.
            let next_look = Instant::now() + (idle_close / 8).max(SHORTEST_LOOK);
            tokio::select! {
                () = &mut driver => break,
                () = sleep_until(next_look.max(idle_deadline(&load, idle_close))) => {
                    self.retire_if_idle(&load, idle_close);
                }
            }
        }
        if let Some(inner) = self.inner.upgrade() {
            inner.lock().retire(&self.destination, self.id);
        }
    }

    fn retire_if_idle(&self, load: &TunnelLoad, idle_close: Duration) {
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        // Under the lock, so that no opener takes a place in between.
        let mut state = inner.lock();
        if load.streams() == 0 && idle_deadline(load, idle_close) <= Instant::now() {
            state.retire(&self.destination, self.id);
        }
    }
}

/// Removes the entry of a tunnel that was being set up when its task was dropped.
struct ConnectingGuard<'a, D: Dial> {
    setup: &'a Setup<D>,
    done: bool,
}

impl<D: Dial> Drop for ConnectingGuard<'_, D> {
    fn drop(&mut self) {
        if !self.done
            && let Some(inner) = self.setup.inner.upgrade()
        {
            inner
                .lock()
                .forget_connecting(&self.setup.destination, self.setup.id);
        }
    }
}

impl<D> Inner<D> {
    /// Held for table look-ups only, never across an await. The pool is one worker's, so nobody else waits.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the tunnel out: it ends after its last stream.
    fn retire(&mut self, destination: &Destination, id: u64) {
        if let Some(place) = self.places.get_mut(destination) {
            place.tunnels.retain(|tunnel| tunnel.id != id);
            self.forget_if_empty(destination);
        }
    }

    fn forget_connecting(&mut self, destination: &Destination, id: u64) {
        if let Some(place) = self.places.get_mut(destination) {
            place.connecting.retain(|connecting| connecting.id != id);
            self.forget_if_empty(destination);
        }
    }

    fn forget_if_empty(&mut self, destination: &Destination) {
        let empty = self
            .places
            .get(destination)
            .is_some_and(|place| place.tunnels.is_empty() && place.connecting.is_empty());
        if empty {
            self.places.remove(destination);
        }
    }

    fn on_connected<Io>(
        &mut self,
        destination: &Destination,
        id: u64,
        outcome: Result<(Tunnel, Driver<Io>), ConnectError>,
    ) -> Result<(Arc<TunnelLoad>, Driver<Io>), ConnectError> {
        self.forget_connecting(destination, id);
        match outcome {
            Ok((tunnel, driver)) => {
                self.stats.connected_total += 1;
                let load = Arc::clone(&tunnel.load);
                if !self.draining {
                    self.places
                        .entry(destination.clone())
                        .or_default()
                        .tunnels
                        .push(tunnel);
                }
                Ok((load, driver))
            }
            Err(error) => {
                self.stats.connect_failed_total += 1;
                Err(error)
            }
        }
    }

    /// Whether there may be another tunnel, after closing the one that was idle longest where that is needed.
    fn make_room(&mut self, limit: usize) -> bool {
        let taken: usize = self
            .places
            .values()
            .map(|place| place.tunnels.len() + place.connecting.len())
            .sum();
        if taken < limit {
            return true;
        }
        let longest_idle = self
            .places
            .iter()
            .flat_map(|(destination, place)| place.tunnels.iter().map(move |tunnel| (destination, tunnel)))
            .filter(|(_, tunnel)| tunnel.load.streams() == 0)
            .min_by_key(|(_, tunnel)| tunnel.load.idle_since())
            .map(|(destination, tunnel)| (destination.clone(), tunnel.id));
        let Some((destination, id)) = longest_idle else {
            return false;
        };
        self.retire(&destination, id);
        self.stats.evicted_total += 1;
        true
    }
}

impl Place {
    /// A place in the first tunnel with room, so that the later ones can fall idle.
    fn lease(&self, config: &PoolConfig) -> Option<Lease> {
        let fits = |tunnel: &&Tunnel| {
            tunnel.has_room(&config.tunnel) && !tunnel.load.is_saturated(config.max_blocked)
        };
        self.tunnels.iter().find(fits).map(Tunnel::lease)
    }

    fn lease_any(&self, config: &PoolConfig) -> Option<Lease> {
        self.tunnels
            .iter()
            .find(|tunnel| tunnel.has_room(&config.tunnel))
            .map(Tunnel::lease)
    }

    /// Waits for a tunnel that is being set up, if it will have room, or if no more may be set up at once.
    fn join(&mut self, config: &PoolConfig, generation: u64) -> Option<watch::Receiver<Option<Outcome>>> {
        let full = self.connecting.len() >= config.max_connecting;
        let room = config.tunnel.max_streams as usize;
        let fitting = self
            .connecting
            .iter_mut()
            .filter(|connecting| connecting.generation >= generation)
            .min_by_key(|connecting| connecting.waiting)?;
        (full || fitting.waiting < room).then(|| {
            fitting.waiting += 1;
            fitting.outcome.clone()
        })
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
