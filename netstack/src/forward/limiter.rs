//! A token bucket.

use crate::clock::Tick;

/// So many events a second, and as many at once.
pub(super) struct Limiter {
    per_second: u32,
    /// Millionths of an event.
    tokens: u64,
    filled_at: Tick,
}

impl Limiter {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            tokens: u64::from(per_second) * WHOLE,
            filled_at: Tick::ZERO,
        }
    }

    /// Whether one more is within the limit; then it's taken.
    pub(super) fn take(&mut self, now: Tick) -> bool {
        let micros = (now - self.filled_at).total_micros();
        let full = u64::from(self.per_second) * WHOLE;
        let gained = micros.saturating_mul(self.per_second.into());
        self.tokens = self.tokens.saturating_add(gained).min(full);
        self.filled_at = now;
        let has_one = self.tokens >= WHOLE;
        if has_one {
            self.tokens -= WHOLE;
        }
        has_one
    }
}

const WHOLE: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_bounded_and_the_rate_is_kept() {
        let mut limiter = Limiter::new(10);
        let mut taken = |at| (0..100).filter(|_| limiter.take(Tick::from_millis(at))).count();
        assert_eq!(
            [taken(5), taken(5), taken(205), taken(5000), taken(5099)],
            [10, 0, 2, 10, 0]
        );
    }
}
