//! A mesh that is run for the sake of one workload, and ends with it: `adit up --once`, and `adit run`.

use std::fmt;
use std::time::Duration;

use adit_flow::WorkloadName;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Artifacts;

/// What everything is run for.
#[derive(Debug)]
pub struct Once {
    /// The workload whose end is the end of everything. Its program starts when everything beside it is ready.
    pub test: WorkloadName,
    /// How long it may take until it has ended, the start of what is beside it included; for ever without one.
    pub timeout: Option<Duration>,
    /// What is kept of the run.
    pub artifacts: Option<Artifacts>,
}

impl Once {
    /// A run that may take as long as it likes, and of which nothing is kept.
    pub fn new(test: WorkloadName) -> Self {
        Self {
            test,
            timeout: None,
            artifacts: None,
        }
    }
}

/// How a run ended, where adit itself didn't fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// `adit down` asked for it.
    Down,
    /// A signal asked for it.
    Signal(u8),
    /// The workload that it was run for has ended.
    Test {
        /// As shells have it.
        code: u8,
        /// The same in words.
        how: String,
    },
    /// The workload that it was run for didn't end in time.
    TimedOut {
        limit: Duration,
        /// What it was still waiting for; empty if it had begun.
        missing: Vec<String>,
    },
}

impl Ended {
    /// What to exit with.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Down => 0,
            Self::Signal(number) => 128 + number,
            Self::Test { code, .. } => *code,
            Self::TimedOut { .. } => TIMED_OUT,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => write!(f, "stopped by `adit down`"),
            Self::Signal(number) => write!(f, "stopped by signal {number}"),
            Self::Test { how, .. } => write!(f, "ended with {how}"),
            Self::TimedOut { limit, missing } => {
                let seconds = limit.as_secs_f32();
                match missing.is_empty() {
                    true => write!(f, "the test didn't end within {seconds} s"),
                    false => write!(
                        f,
                        "the test didn't begin within {seconds} s: not ready is {}",
                        missing.join(", ")
                    ),
                }
            }
        }
    }
}

/// The workload that everything is run for, while it runs.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) name: WorkloadName,
    pub(super) limit: Option<Duration>,
    began: Instant,
    /// The generation of the mesh in which everything beside it is ready.
    gate: watch::Sender<Option<u64>>,
}

impl Test {
    /// Its time begins now.
    pub(super) fn new(once: &Once) -> Self {
        Self {
            name: once.test.clone(),
            limit: once.timeout,
            began: Instant::now(),
            gate: watch::Sender::new(None),
        }
    }

    /// What the replica called `name` waits for before its program starts; `None` if it isn't the test.
    pub(super) fn gate(&self, name: &WorkloadName) -> Option<watch::Receiver<Option<u64>>> {
        (*name == self.name).then(|| self.gate.subscribe())
    }

    pub(super) fn may_begin(&self) -> bool {
        self.gate.borrow().is_some()
    }

    /// Lets it begin once the agent has the mesh of this generation.
    pub(super) fn let_begin(&self, generation: u64) {
        self.gate.send_replace(Some(generation));
    }

    /// When its time is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.began.checked_add(self.limit?)
    }

    /// When to say what it waits for, if it waits.
    pub(super) fn reminder(&self) -> Option<Instant> {
        (!self.may_begin()).then(|| self.began + PATIENCE)
    }
}

/// Completes at a time, or never. Safe to drop.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What to exit with when the time is over, as timeout(1) does.
const TIMED_OUT: u8 = 124;
/// How long a test waits before people are told for what.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_code() {
        let timed_out = |missing: &[&str]| Ended::TimedOut {
            limit: Duration::from_secs(60),
            missing: missing.iter().map(|&name| name.to_owned()).collect(),
        };
        for (ended, code, said) in [
            (Ended::Down, 0, "stopped by `adit down`"),
            (Ended::Signal(2), 130, "stopped by signal 2"),
            (
                Ended::Test {
                    code: 3,
                    how: "status 3".into(),
                },
                3,
                "ended with status 3",
            ),
            (timed_out(&[]), 124, "the test didn't end within 60 s"),
            (
                timed_out(&["shop/db (Pending)", "shop/web (Running)"]),
                124,
                "the test didn't begin within 60 s: not ready is shop/db (Pending), shop/web (Running)",
            ),
        ] {
            assert_eq!((ended.code(), ended.to_string().as_str()), (code, said));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_test_waits_and_only_until_it_may_begin() {
        let name: WorkloadName = "shop/e2e".parse().unwrap();
        let once = Once {
            timeout: Some(Duration::from_secs(5)),
            ..Once::new(name.clone())
        };
        let test = Test::new(&once);
        assert!(test.gate(&"shop/web".parse().unwrap()).is_none());
        let mut gate = test.gate(&name).unwrap();
        assert!(!test.may_begin() && test.reminder().is_some());
        test.let_begin(7);
        assert_eq!(*gate.wait_for(Option::is_some).await.unwrap(), Some(7));
        assert!(test.may_begin() && test.reminder().is_none());
        let before = Instant::now();
        at(test.deadline()).await;
        assert_eq!(before.elapsed(), Duration::from_secs(5));
    }
}
