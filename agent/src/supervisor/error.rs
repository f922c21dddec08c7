//! Why a mesh could not be run.

use std::io;

use adit_flow::WorkloadName;

use super::artifacts::ArtifactsError;
use crate::rundir::RunDirError;

/// Why everything ended, or never began.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpError {
    /// The agent doesn't start, or doesn't stay.
    #[error("[ADIT-A006] {reason}")]
    Agent {
        /// What happened.
        reason: String,
    },
    /// What is to be kept of the run can't be.
    #[error(transparent)]
    Artifacts(#[from] ArtifactsError),
    /// A workload that the test needs has ended for good before the test began.
    #[error("[ADIT-A081] workload {name} ended with {how} and isn't started again: the test can't begin")]
    BeforeTest {
        /// The workload.
        name: WorkloadName,
        /// How it ended.
        how: String,
    },
    /// The helper is gone, and the pods with it.
    #[error("[ADIT-A005] the node helper ended with {how}: every pod is gone")]
    HelperDied {
        /// How it ended.
        how: String,
    },
    /// The helper doesn't start.
    #[error("[ADIT-A004] the node helper did not start: {detail}")]
    HelperNotStarted {
        /// What it said.
        detail: String,
    },
    /// A workload's pod can't be made or served.
    #[error("[ADIT-A015] workload {name}: {reason}")]
    Pod {
        /// Which.
        name: WorkloadName,
        /// Why.
        reason: String,
    },
    /// No run directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Somebody stopped the mesh under the test.
    #[error("[ADIT-A082] the mesh was stopped with `adit down` before the test {test} ended")]
    Stopped {
        /// The test.
        test: WorkloadName,
    },
    /// The system is out of something.
    #[error("[ADIT-A014] {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `--once` names no workload of this node.
    #[error("[ADIT-A016] --once: no workload {wanted} runs here; those that do: {known}")]
    UnknownOnce {
        /// What was asked for.
        wanted: WorkloadName,
        /// What there is.
        known: String,
    },
}
