use std::time::{Duration, Instant};

/// A time as the engine counts it: microseconds since the stack's epoch.
pub(crate) type Tick = smoltcp::time::Instant;

/// Translates the caller's time into the engine's and back.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(crate) fn new(epoch: Instant) -> Self {
        Self { epoch }
    }

    /// A time before the epoch counts as the epoch.
    pub(crate) fn tick(&self, now: Instant) -> Tick {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        Tick::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    pub(crate) fn instant(&self, tick: Tick) -> Instant {
        self.epoch + Duration::from_micros(tick.total_micros().max(0) as u64)
    }
}

/// `tick` and `delay` later.
pub(crate) fn after(tick: Tick, delay: Duration) -> Tick {
    let micros = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
    Tick::from_micros(tick.total_micros().saturating_add(micros))
}
