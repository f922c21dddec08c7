use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long ago a thread last showed that it works on.
#[derive(Debug)]
pub(crate) struct Pulse {
    epoch: Instant,
    /// Milliseconds after the epoch.
    last: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// Shows that the thread works on.
    pub(crate) fn beat(&self) {
        self.last.store(millis(self.epoch.elapsed()), Ordering::Relaxed);
    }

    /// Since the last beat, or since the start before the first.
    pub(crate) fn silence(&self) -> Duration {
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_millis(millis(self.epoch.elapsed()).saturating_sub(last))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
