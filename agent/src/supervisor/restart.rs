//! Whether a program that ended is started again, and when. Pure.

use std::time::Duration;

use adit_control::RestartPolicy;

/// The pauses between one start and the next: 1 s, doubled up to 60 s, and back to 1 s after a run that lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { next: FIRST }
    }

    /// The pause after a run of length `ran`.
    pub(super) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= LASTED {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

/// Whether `policy` starts a program again that ended well or not (`succeeded`).
pub(super) fn starts_again(policy: RestartPolicy, succeeded: bool) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => !succeeded,
        RestartPolicy::Never => false,
    }
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A run of this length counts as a success for the pause before the next.
const LASTED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_minute_and_a_long_run_resets_them() {
        let mut backoff = Backoff::new();
        let quick = Duration::from_millis(5);
        let pauses: Vec<_> = (0..8).map(|_| backoff.after(quick).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.after(LASTED), FIRST);
        assert_eq!(backoff.after(quick).as_secs(), 2);
    }

    #[test]
    fn policies_are_those_of_kubernetes() {
        for (policy, after_success, after_failure) in [
            (RestartPolicy::Always, true, true),
            (RestartPolicy::OnFailure, false, true),
            (RestartPolicy::Never, false, false),
        ] {
            assert_eq!(
                (starts_again(policy, true), starts_again(policy, false)),
                (after_success, after_failure)
            );
        }
    }
}
