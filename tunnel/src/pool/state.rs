//! What a pool knows: tables and counts, changed under its lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::{Destination, PoolStats};
use crate::connect::{Driver, Lease, Tunnel};
use crate::load::TunnelLoad;
use crate::{ConnectError, PoolConfig};

/// The tunnels of a pool, by destination.
#[derive(Default)]
pub(super) struct State {
    pub(super) places: HashMap<Destination, Place>,
    pub(super) draining: bool,
    next_id: u64,
    pub(super) stats: PoolStats,
}

/// The tunnels to one destination.
#[derive(Default)]
pub(super) struct Place {
    pub(super) tunnels: Vec<Tunnel>,
    connecting: Vec<Connecting>,
}

/// A tunnel being set up, and how many openers wait for it.
struct Connecting {
    id: u64,
    generation: u64,
    waiting: usize,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// How setting up a tunnel ended, for those who wait for it.
pub(super) type Outcome = Result<(), Arc<ConnectError>>;

impl State {
    /// What the pool holds and did.
    pub(super) fn stats(&self) -> PoolStats {
        let places = || self.places.values();
        PoolStats {
            tunnels: places().map(|place| place.tunnels.len()).sum(),
            connecting: places().map(|place| place.connecting.len()).sum(),
            streams: places()
                .flat_map(|place| &place.tunnels)
                .map(|tunnel| tunnel.load.streams())
                .sum(),
            ..self.stats
        }
    }

    /// A tunnel is being set up, and so many openers wait for it. Returns its id.
    pub(super) fn on_connecting(
        &mut self,
        destination: &Destination,
        generation: u64,
        waiting: usize,
        outcome: watch::Receiver<Option<Outcome>>,
    ) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let place = self.places.entry(destination.clone()).or_default();
        place.connecting.push(Connecting {
            id,
            generation,
            waiting,
            outcome,
        });
        id
    }

    /// Takes the tunnel out: it ends after its last stream.
    pub(super) fn retire(&mut self, destination: &Destination, id: u64) {
        if let Some(place) = self.places.get_mut(destination) {
            place.tunnels.retain(|tunnel| tunnel.id != id);
            self.forget_if_empty(destination);
        }
    }

    pub(super) fn forget_connecting(&mut self, destination: &Destination, id: u64) {
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

    pub(super) fn on_connected<Io>(
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

    /// Whether bulk wants another tunnel beside this one, which newcomers can have. It never takes the room of other
    /// destinations: the upper half of the pool is for those who would go without a tunnel.
    pub(super) fn wants_another(
        &self,
        destination: &Destination,
        id: u64,
        generation: u64,
        config: &PoolConfig,
    ) -> bool {
        let Some(place) = self.places.get(destination) else {
            return false;
        };
        let now = SystemTime::now();
        let takes_streams = |tunnel: &Tunnel| tunnel.id == id && !tunnel.is_retired(generation, now);
        place.tunnels.iter().any(takes_streams)
            && place.taken() < place.wanted(destination, config)
            && place.connecting.len() < config.max_connecting
            && self.taken() < config.max_tunnels / 2
    }

    /// Whether bulk wants all tunnels that there are, those without a stream, too.
    pub(super) fn wants_all(&self, destination: &Destination, config: &PoolConfig) -> bool {
        self.places
            .get(destination)
            .is_some_and(|place| place.tunnels.len() <= place.wanted(destination, config))
    }

    fn taken(&self) -> usize {
        self.places.values().map(Place::taken).sum()
    }

    /// Whether there may be another tunnel, after closing the one that was idle longest where that is needed.
    pub(super) fn make_room(&mut self, limit: usize) -> bool {
        if self.taken() < limit {
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
    /// A place where the least bulk is, then the fewest streams, in one of the first tunnels with room: so that the later ones
    /// can fall idle.
    pub(super) fn lease(&self, config: &PoolConfig) -> Option<Lease> {
        let fits = |tunnel: &&Tunnel| {
            tunnel.has_room(&config.tunnel) && !tunnel.load.is_saturated(config.max_blocked)
        };
        self.tunnels
            .iter()
            .filter(fits)
            .take(config.spread.get())
            .min_by_key(|tunnel| (tunnel.load.bulk(), tunnel.load.streams()))
            .map(Tunnel::lease)
    }

    /// How many tunnels bulk wants: one for each of its streams and one without, for whoever comes next.
    fn wanted(&self, destination: &Destination, config: &PoolConfig) -> usize {
        let bulk: usize = self.tunnels.iter().map(|tunnel| tunnel.load.bulk()).sum();
        // In memory nothing is lost, and no order held up.
        if bulk == 0 || !destination.target.is_wire() {
            return 0;
        }
        (bulk + 1).min(config.spread.get())
    }

    fn taken(&self) -> usize {
        self.tunnels.len() + self.connecting.len()
    }

    pub(super) fn lease_any(&self, config: &PoolConfig) -> Option<Lease> {
        self.tunnels
            .iter()
            .find(|tunnel| tunnel.has_room(&config.tunnel))
            .map(Tunnel::lease)
    }

    /// Waits for a tunnel that is being set up, if it will have room, or if no more may be set up at once.
    pub(super) fn join(
        &mut self,
        config: &PoolConfig,
        generation: u64,
    ) -> Option<watch::Receiver<Option<Outcome>>> {
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
