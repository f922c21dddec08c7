use std::time::{Duration, SystemTime};

/// When one SVID is to be renewed: a state machine without clock or IO.
///
/// ```text
///            poll: Renew                on_success
///   Idle ─────────────────▶ Renewing ─────────────────▶ Idle (next: half life ± jitter)
///     ▲                        │
///     └────────────────────────┘ on_failure (next: backoff)
/// ```
///
/// The driver calls [`poll`](Self::poll): on [`Renew`](RotationStep::Renew) it asks the authority and reports with
/// [`on_success`](Self::on_success) or [`on_failure`](Self::on_failure); on
/// [`WaitUntil`](RotationStep::WaitUntil) it sleeps until then, or less. A failed renewal leaves the SVID that
/// is held in use as long as it is valid. A clock that jumps forward makes a renewal due, never skips one; before a
/// new connection is opened, [`state`](Self::state) says whether the SVID can still serve it.
#[derive(Clone, Debug)]
pub struct Rotation {
    policy: RotationPolicy,
    rng: SplitMix64,
    not_after: Option<SystemTime>,
    next: SystemTime,
    renewing: bool,
    failures: u32,
}

/// How a [`Rotation`] spaces its attempts.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationPolicy {
    /// When to renew, as a fraction of the lifetime that was left when the SVID was obtained. Default 0.5.
    pub renew_at: f64,
    /// How far the renewal may move either way, as a fraction of that lifetime, so that workloads started together
    /// don't renew together. Default 0.1.
    pub jitter: f64,
    /// The pause after the first failure; doubles with each. Default 1 s.
    pub backoff: Duration,
    /// The longest pause. While an SVID is held, a pause is also at most a quarter of what is left of its
    /// life (and never under 100 ms), so that short-lived ones are retried in time. Default 30 s.
    pub backoff_max: Duration,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// A renewal is under way: wait for its outcome.
    InFlight,
    /// Ask the authority now. Given once: the next poll says [`InFlight`](Self::InFlight).
    Renew,
    /// Nothing to do before this time.
    WaitUntil(SystemTime),
}

/// Whether the SVID can be used for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SvidState {
    /// Past its end: renew before use.
    Expired,
    /// Never obtained: obtain before use.
    Missing,
    /// Valid.
    Valid,
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

impl Default for RotationPolicy {
    fn default() -> Self {
        Self {
            renew_at: 0.5,
            jitter: 0.1,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
        }
    }
}

impl Rotation {
    /// A schedule without an SVID: the first renewal is due at once. `seed` decides the jitter.
    pub fn new(policy: RotationPolicy, seed: u64) -> Self {
        Self {
            policy,
            rng: SplitMix64(seed),
            not_after: None,
            next: SystemTime::UNIX_EPOCH,
            renewing: false,
            failures: 0,
        }
    }

    /// What to do at `now`.
    pub fn poll(&mut self, now: SystemTime) -> RotationStep {
        if self.renewing {
            RotationStep::InFlight
        } else if now >= self.next {
            self.renewing = true;
            RotationStep::Renew
        } else {
            RotationStep::WaitUntil(self.next)
        }
    }

    /// An SVID valid until `not_after` was obtained at `now`.
    pub fn on_success(&mut self, now: SystemTime, not_after: SystemTime) {
        let life = not_after.duration_since(now).unwrap_or_default();
        let jitter = self.policy.jitter * (2.0 * self.rng.unit() - 1.0);
        self.not_after = Some(not_after);
        self.failures = 0;
        self.renewing = false;
        // At least a short pause, should the authority hand out what has expired already.
        let fraction = (self.policy.renew_at + jitter).clamp(0.0, 1.0);
        self.next = now + life.mul_f64(fraction).max(SHORTEST_PAUSE);
    }

    /// The renewal failed at `now`.
    pub fn on_failure(&mut self, now: SystemTime) {
        self.renewing = false;
        let doubled = self.policy.backoff.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let left = self.not_after.and_then(|end| end.duration_since(now).ok());
        let cap = left.map_or(self.policy.backoff_max, |left| {
            self.policy.backoff_max.min(left / 4)
        });
        let pause = doubled.min(cap);
        // Between three quarters and all of it: many agents may have lost the same authority.
        let pause = pause.mul_f64(0.75 + 0.25 * self.rng.unit());
        self.next = now + pause.max(SHORTEST_PAUSE);
    }

    /// Whether the SVID held can serve a new connection at `now`.
    pub fn state(&self, now: SystemTime) -> SvidState {
        match self.not_after {
            None => SvidState::Missing,
            Some(not_after) if now > not_after => SvidState::Expired,
            Some(_) => SvidState::Valid,
        }
    }

    /// Failures in a row since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether an attempt is under way.
    pub fn is_renewing(&self) -> bool {
        self.renewing
    }

    /// When the next attempt is due, while none is under way.
    pub fn next_attempt(&self) -> SystemTime {
        self.next
    }
}

/// Sebastiano Vigna's SplitMix64: jitter needs no more.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn held(life: Duration, seed: u64) -> Rotation {
        let mut rotation = Rotation::new(RotationPolicy::default(), seed);
        assert_eq!(rotation.poll(now()), RotationStep::Renew);
        rotation.on_success(now(), now() + life);
        rotation
    }

    #[test]
    fn the_first_svid_is_due_at_once_and_asked_for_once() {
        let mut rotation = Rotation::new(RotationPolicy::default(), 1);
        assert_eq!(rotation.state(now()), SvidState::Missing);
        assert_eq!(rotation.poll(now()), RotationStep::Renew);
        assert_eq!(rotation.poll(now()), RotationStep::InFlight);
    }

    #[test]
    fn a_failed_renewal_backs_off_and_keeps_the_svid() {
        let mut rotation = held(HOUR, 7);
        let due = rotation.next_attempt();
        let mut at = due;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(rotation.poll(at), RotationStep::Renew);
            rotation.on_failure(at);
            pauses.push(rotation.next_attempt().duration_since(at).unwrap());
            at = rotation.next_attempt();
        }
        assert_eq!(rotation.failures(), 8);
        assert_eq!(rotation.state(at), SvidState::Valid);
        assert!(pauses[0] <= Duration::from_secs(1) && pauses[0] >= Duration::from_millis(750));
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(30)));
        assert!(pauses[7] >= Duration::from_secs(22));
    }

    #[test]
    fn an_expired_svid_is_stale_and_still_retried() {
        let mut rotation = held(Duration::from_secs(10), 3);
        let late = now() + HOUR;
        assert_eq!(rotation.state(late), SvidState::Expired);
        assert_eq!(rotation.poll(late), RotationStep::Renew);
        rotation.on_failure(late);
        assert!(matches!(rotation.poll(late), RotationStep::WaitUntil(at) if at > late));
    }

    #[test]
    fn an_authority_that_hands_out_the_past_is_not_asked_in_a_loop() {
        let mut rotation = Rotation::new(RotationPolicy::default(), 1);
        rotation.poll(now());
        rotation.on_success(now(), now() - HOUR);
        assert_eq!(
            rotation.poll(now()),
            RotationStep::WaitUntil(now() + SHORTEST_PAUSE)
        );
    }

    proptest! {
        #[test]
        fn a_renewal_falls_between_four_and_six_tenths_of_the_life(seconds in 5_u64..604_800, seed: u64) {
            let life = Duration::from_secs(seconds);
            let due = held(life, seed).next_attempt().duration_since(now()).unwrap();
            prop_assert!(due >= life.mul_f64(0.399) && due <= life.mul_f64(0.601), "{due:?} of {life:?}");
        }

        #[test]
        fn a_short_life_leaves_several_attempts(seconds in 5_u64..60, seed: u64) {
            let life = Duration::from_secs(seconds);
            let mut rotation = held(life, seed);
            let mut attempts = 0;
            while rotation.next_attempt() <= now() + life && attempts < 100 {
                let at = rotation.next_attempt();
                prop_assert_eq!(rotation.poll(at), RotationStep::Renew);
                rotation.on_failure(at);
                attempts += 1;
            }
            prop_assert!(attempts >= 3, "{attempts} attempts in {life:?}");
        }
    }
}
