//! How the source is: readable at any time, for metrics and for people.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::kind::Kind;

/// How many rejected objects are remembered; more are counted.
const MAX_REJECTED: usize = 64;

/// How the source is.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// How long ago the state was last known to be the API server's: zero while every watch is open. `None` before the
    /// first state.
    pub age: Option<Duration>,
    /// Each kind that is watched, by its name as in `networkpolicies.networking.k8s.io`.
    pub kinds: BTreeMap<String, KindHealth>,
    /// The newest objects that could not be understood and are therefore left out, 64 at most.
    pub rejected: Vec<Rejected>,
    /// How many such objects there were since the start.
    pub rejected_total: u64,
    /// Why it isn't known which kinds the API server has, if so.
    pub discovery_error: Option<String>,
}

/// How the watch of one kind is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindHealth {
    /// Whether all of its objects were listed once.
    pub listed: bool,
    /// How long ago it was last known to be current: zero while the watch is open.
    pub age: Duration,
    /// Why the watch isn't open, if it isn't.
    pub error: Option<String>,
    /// Lists since the start: more than one when a watch could not go on where it was.
    pub lists_total: u64,
    /// Requests that failed since the start.
    pub failures_total: u64,
}

/// An object that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Kind, namespace and name: `pods/shop/web-0`.
    pub object: String,
    /// What can't be understood.
    pub reason: String,
}

/// The shared record, written by the tasks of the source.
#[derive(Debug, Default)]
pub(super) struct Record {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kinds: BTreeMap<Kind, Watch>,
    rejected: VecDeque<Rejected>,
    rejected_total: u64,
    discovery_error: Option<String>,
    published: bool,
}

#[derive(Debug, Default)]
struct Watch {
    listed: bool,
    /// When it was last known to be current, if it isn't now.
    stale_since: Option<Instant>,
    error: Option<String>,
    lists: u64,
    failures: u64,
}

impl Record {
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        // Counters and texts: whatever a panic left of them can be read.
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn started(&self, kind: Kind, now: Instant) {
        self.with(|inner| {
            let watch = inner.kinds.entry(kind).or_default();
            watch.stale_since.get_or_insert(now);
        });
    }

    pub(super) fn ended(&self, kind: Kind) {
        self.with(|inner| inner.kinds.remove(&kind));
    }

    pub(super) fn listed(&self, kind: Kind) {
        self.with(|inner| {
            let watch = inner.kinds.entry(kind).or_default();
            watch.listed = true;
            watch.lists += 1;
        });
    }

    /// The watch is open.
    pub(super) fn current(&self, kind: Kind) {
        self.with(|inner| {
            let watch = inner.kinds.entry(kind).or_default();
            (watch.stale_since, watch.error) = (None, None);
        });
    }

    /// A request failed; the kind was last known to be current at `last_heard`.
    pub(super) fn failed(&self, kind: Kind, error: String, last_heard: Instant) {
        self.with(|inner| {
            let watch = inner.kinds.entry(kind).or_default();
            watch.failures += 1;
            watch.error = Some(error);
            watch.stale_since.get_or_insert(last_heard);
        });
    }

    pub(super) fn rejected(&self, object: String, reason: String) {
        tracing::error!(%object, %reason, "an object of the API can't be understood and is left out");
        self.with(|inner| {
            inner.rejected_total += 1;
            inner.rejected.retain(|known| known.object != object);
            if inner.rejected.len() == MAX_REJECTED {
                inner.rejected.pop_front();
            }
            inner.rejected.push_back(Rejected { object, reason });
        });
    }

    /// An object is understood, or gone.
    pub(super) fn mended(&self, object: &str) {
        self.with(|inner| inner.rejected.retain(|known| known.object != object));
    }

    pub(super) fn has_rejected(&self) -> bool {
        self.with(|inner| !inner.rejected.is_empty())
    }

    pub(super) fn discovered(&self, error: Option<String>) {
        self.with(|inner| inner.discovery_error = error);
    }

    pub(super) fn published(&self) {
        self.with(|inner| inner.published = true);
    }

    pub(super) fn at(&self, now: Instant) -> Health {
        self.with(|inner| {
            let age = |watch: &Watch| {
                watch
                    .stale_since
                    .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
            };
            let oldest = inner.kinds.values().map(age).max();
            Health {
                age: oldest.filter(|_| inner.published),
                kinds: inner
                    .kinds
                    .iter()
                    .map(|(kind, watch)| {
                        let health = KindHealth {
                            listed: watch.listed,
                            age: age(watch),
                            error: watch.error.clone(),
                            lists_total: watch.lists,
                            failures_total: watch.failures,
                        };
                        (kind.to_string(), health)
                    })
                    .collect(),
                rejected: inner.rejected.iter().cloned().collect(),
                rejected_total: inner.rejected_total,
                discovery_error: inner.discovery_error.clone(),
            }
        })
    }
}
