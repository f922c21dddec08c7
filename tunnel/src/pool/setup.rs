//! The task of one tunnel.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

use super::state::{Outcome, State};
use super::{Destination, Dial, Inner};
use crate::connect::{Driver, establish, idle_deadline};
use crate::load::TunnelLoad;
use crate::{ConnectError, Credentials};

/// The least time between two looks at whether a tunnel is idle.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// Sets a tunnel up, for which so many openers wait. In a task of its own, so that an opener who gives up doesn't take it from the
/// others.
pub(super) fn start<D: Dial>(
    inner: &Arc<Inner<D>>,
    state: &mut State,
    destination: &Destination,
    credentials: &Arc<Credentials>,
    waiting: usize,
) -> watch::Receiver<Option<Outcome>> {
    let (sender, outcome) = watch::channel(None);
    let id = state.on_connecting(destination, credentials.generation(), waiting, outcome.clone());
    let span = tracing::debug_span!("tunnel", id, expected = %destination.expected, target = %destination.target.addr());
    let setup = Setup {
        inner: Arc::downgrade(inner),
        destination: destination.clone(),
        credentials: Arc::clone(credentials),
        id,
    };
    tokio::spawn(setup.run(Arc::clone(inner), sender).instrument(span));
    outcome
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
                () = load.bulk_began() => self.spread(),
                () = sleep_until(next_look.max(idle_deadline(&load, idle_close))) => {
                    self.retire_if_idle(&load, idle_close);
                }
            }
        }
        if let Some(inner) = self.inner.upgrade() {
            inner.lock().retire(&self.destination, self.id);
        }
    }

    /// Sets up as many tunnels beside this one as its destination's bulk wants.
    fn spread(&self) {
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        let mut state = inner.lock();
        let generation = self.credentials.generation();
        while state.wants_another(&self.destination, self.id, generation, &inner.config) {
            state.stats.spread_total += 1;
            start(&inner, &mut state, &self.destination, &self.credentials, 0);
        }
    }

    fn retire_if_idle(&self, load: &TunnelLoad, idle_close: Duration) {
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        // Under the lock, so that no opener takes a place in between.
        let mut state = inner.lock();
        if load.streams() == 0
            && idle_deadline(load, idle_close) <= Instant::now()
            && !state.wants_all(&self.destination, &inner.config)
        {
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
