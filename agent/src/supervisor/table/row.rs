//! One workload: where it is in its life, and whether services may send it flows.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_control::Joined;
use adit_flow::WorkloadName;
use adit_link::LinkKind;

use crate::admin::WorkloadState;

/// One pod, apart from others that have its name at other times: somebody may leave and join again before the agent
/// was told of either.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::supervisor) struct Pod {
    pub(in crate::supervisor) name: WorkloadName,
    /// The generation of the table in which its workload appeared.
    pub(in crate::supervisor) born: u64,
}

/// What happened to a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Change {
    /// Its program ended.
    Exited {
        /// In words.
        how: String,
        succeeded: bool,
        /// The pause before it is started again, if it is.
        retry_in: Option<Duration>,
    },
    /// The helper made its pod.
    PodMade {
        pod: Pod,
        /// What its packets go through.
        link: LinkKind,
    },
    /// A readiness check changed its state.
    Ready(bool),
    /// Its program was started.
    Started { pid: u32 },
    /// It was told to stop.
    Stopping,
}

/// A workload.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: WorkloadName,
    pub(super) addresses: Vec<IpAddr>,
    /// Readiness follows a probe; without one, running is being ready.
    pub(super) probed: bool,
    pub(super) life: Life,
    pub(super) since: Instant,
    pub(super) born: u64,
    pub(super) pod_link: Option<LinkKind>,
    pub(super) ready: bool,
    pub(super) starts: u32,
    pub(super) last_exit: Option<String>,
    pub(super) joined: Option<Joined>,
    pub(super) service_account: String,
}

/// Where it is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Completed,
    CrashLoop { until: Instant },
    Elsewhere { node: String },
    Failed,
    Joined,
    Pending,
    Running { pid: u32 },
    Stopping,
}

impl Row {
    /// Takes a change in. Whether the agent has to know.
    pub(super) fn on_change(&mut self, change: Change, now: Instant) -> bool {
        let before = (self.ready, self.pod_link);
        match change {
            Change::Exited {
                how,
                succeeded,
                retry_in,
            } => {
                self.ready = false;
                self.last_exit = Some(how);
                self.enter(
                    match retry_in {
                        Some(pause) => Life::CrashLoop { until: now + pause },
                        None if succeeded => Life::Completed,
                        None => Life::Failed,
                    },
                    now,
                );
            }
            Change::PodMade { pod, link } => {
                if pod.born == self.born {
                    self.pod_link = Some(link);
                }
                // Its program is another's to start: with its pod it is as ready as we can tell.
                self.ready |= self.pod_link.is_some() && self.joined.is_some();
            }
            Change::Ready(ready) => self.ready = ready && matches!(self.life, Life::Running { .. }),
            Change::Started { pid } => {
                self.ready = !self.probed;
                self.starts += 1;
                self.enter(Life::Running { pid }, now);
            }
            Change::Stopping => {
                self.ready = false;
                self.enter(Life::Stopping, now);
            }
        }
        before != (self.ready, self.pod_link)
    }

    pub(super) fn pod(&self) -> Pod {
        Pod {
            name: self.name.clone(),
            born: self.born,
        }
    }

    fn enter(&mut self, life: Life, now: Instant) {
        self.life = life;
        self.since = now;
    }
}

impl Life {
    pub(super) fn state(&self, now: Instant) -> WorkloadState {
        match self {
            Self::Completed => WorkloadState::Completed,
            Self::CrashLoop { until } => WorkloadState::CrashLoop {
                retry_in_seconds: until.saturating_duration_since(now).as_secs(),
            },
            Self::Elsewhere { node } => WorkloadState::Elsewhere { node: node.clone() },
            Self::Failed => WorkloadState::Failed,
            Self::Joined => WorkloadState::Joined,
            Self::Pending => WorkloadState::Pending,
            Self::Running { pid } => WorkloadState::Running { pid: *pid },
            Self::Stopping => WorkloadState::Stopping,
        }
    }
}
