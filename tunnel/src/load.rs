//! How busy a tunnel is: what the pool decides by.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::TunnelEnd;

/// How busy a tunnel is, and how it ended. Shared by the tunnel's driver, the pool and the streams.
#[derive(Debug)]
pub(crate) struct TunnelLoad {
    created: Instant,
    streams: AtomicUsize,
    /// Streams so far.
    opened: AtomicU64,
    blocked: AtomicUsize,
    /// Directions of streams that carry bulk.
    bulk: AtomicUsize,
    bulk_began: Notify,
    /// Milliseconds after `created` when a stream that was blocked last went on.
    progress: AtomicU64,
    /// Milliseconds after `created` when the last stream ended.
    idle_since: AtomicU64,
    end: OnceLock<TunnelEnd>,
}

/// One stream's place in the count of a tunnel's streams, given back on drop.
#[derive(Debug)]
pub(crate) struct Slot(Arc<TunnelLoad>);

/// One stream's place in the count of those that wait for the peer's window.
#[derive(Debug)]
pub(crate) struct Blocked(Arc<TunnelLoad>);

/// How fast one direction of a stream carries: whether it's bulk.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Since when `carried` is counted.
    since: Instant,
    carried: usize,
    bulk: Option<Bulk>,
}

/// One direction's place in the count of those that carry bulk.
#[derive(Debug)]
struct Bulk(Arc<TunnelLoad>);

/// Blocked streams without progress for this long make a tunnel saturated.
const STALLED: Duration = Duration::from_millis(250);
/// A direction that carries so many bytes within [`BULK_WITHIN`] is bulk, until as many take it longer. The clock is read once for
/// so many bytes, so requests never pay for it.
const BULK: usize = 1 << 20;
const BULK_WITHIN: Duration = Duration::from_secs(1);

impl TunnelLoad {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            created: Instant::now(),
            streams: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            blocked: AtomicUsize::new(0),
            bulk: AtomicUsize::new(0),
            bulk_began: Notify::new(),
            progress: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            end: OnceLock::new(),
        })
    }

    /// Takes one stream's place. The caller has checked that one is free.
    pub(crate) fn slot(self: &Arc<Self>) -> Slot {
        self.streams.fetch_add(1, Ordering::AcqRel);
        self.opened.fetch_add(1, Ordering::AcqRel);
        Slot(Arc::clone(self))
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }

    /// Since when there has been no stream.
    pub(crate) fn idle_since(&self) -> Instant {
        self.created + Duration::from_millis(self.idle_since.load(Ordering::Acquire))
    }

    /// Whether `limit` streams wait for the peer's window and none of them went on lately.
    pub(crate) fn is_saturated(&self, limit: usize) -> bool {
        let progress = Duration::from_millis(self.progress.load(Ordering::Acquire));
        self.blocked.load(Ordering::Acquire) >= limit && self.created.elapsed() > progress + STALLED
    }

    /// How many directions of streams carry bulk. One that has gone quiet counts until it ends, or carries slowly.
    pub(crate) fn bulk(&self) -> usize {
        self.bulk.load(Ordering::Acquire)
    }

    /// Returns when [`bulk`](Self::bulk) has grown since it did last.
    pub(crate) async fn bulk_began(&self) {
        self.bulk_began.notified().await;
    }

    /// Records what ended the tunnel, before its streams hear of it. The first record stays.
    pub(crate) fn set_end(&self, end: TunnelEnd) {
        let _ = self.end.set(end);
    }

    /// Whether there was a stream before.
    pub(crate) fn is_used(&self) -> bool {
        self.opened.load(Ordering::Acquire) > 0
    }

    pub(crate) fn end(&self) -> Option<&TunnelEnd> {
        self.end.get()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Slot {
    pub(crate) fn load(&self) -> Arc<TunnelLoad> {
        Arc::clone(&self.0)
    }

    /// What ended the tunnel.
    pub(crate) fn end(&self) -> Option<&TunnelEnd> {
        self.0.end()
    }

    /// The stream waits for the peer's window until this is dropped.
    pub(crate) fn blocked(&self) -> Blocked {
        Blocked::new(&self.0)
    }
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            carried: 0,
            bulk: None,
        }
    }

    /// So many bytes more were carried, in a stream of the tunnel that `slot` is in.
    pub(crate) fn carry(&mut self, bytes: usize, slot: &Slot) {
        self.carried += bytes;
        if self.carried < BULK {
            return;
        }
        let now = Instant::now();
        let is_bulk = now - self.since <= BULK_WITHIN;
        (self.since, self.carried) = (now, 0);
        if !is_bulk {
            self.bulk = None;
        } else if self.bulk.is_none() {
            self.bulk = Some(Bulk::new(&slot.0));
        }
    }
}

impl Bulk {
    fn new(load: &Arc<TunnelLoad>) -> Self {
        load.bulk.fetch_add(1, Ordering::AcqRel);
        load.bulk_began.notify_one();
        Self(Arc::clone(load))
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.0.bulk.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Blocked {
    fn new(load: &Arc<TunnelLoad>) -> Self {
        // The first to block starts the clock: what went on before says nothing about it.
        if load.blocked.fetch_add(1, Ordering::AcqRel) == 0 {
            load.progress.store(load.now(), Ordering::Release);
        }
        Self(Arc::clone(load))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.progress.store(self.0.now(), Ordering::Release);
        self.0.blocked.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Release);
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}
