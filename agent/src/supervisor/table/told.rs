//! What the agent and people are told of what runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use adit_control::{Mesh, PolicyDocument};
use adit_flow::WorkloadName;

use super::Table;
use super::row::{Life, Pod, Row};
use crate::admin::{FilesStatus, JoinedWorkload, MeshUpdate, PolicyText, PsReport, PsRow, RefusedFiles};

/// What the agent is to know and to serve. The latest is the only one that counts.
#[derive(Clone, Debug)]
pub(in crate::supervisor) struct Desired {
    pub(in crate::supervisor) update: Arc<MeshUpdate>,
    pub(in crate::supervisor) pods: Arc<BTreeSet<Pod>>,
}

/// How far everything beside a test is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Around {
    /// A workload has ended for good, and not well.
    Failed {
        name: WorkloadName,
        /// In words.
        how: String,
    },
    /// All are ready, or have done their work.
    Ready,
    /// These aren't yet, with their state.
    Waiting(Vec<String>),
}

impl Table {
    /// What the agent is to know and to serve.
    pub(in crate::supervisor) fn desired(&self) -> Desired {
        let joined = self.rows.iter().filter_map(|row| {
            let joined = row.joined.as_ref()?;
            Some(JoinedWorkload {
                name: joined.name.clone(),
                labels: joined.labels.clone(),
                service_account: row.service_account.clone(),
                addresses: joined.addresses.clone(),
            })
        });
        let update = MeshUpdate {
            generation: self.generation,
            path: self.source.path.clone(),
            text: self.source.text.clone(),
            policies: policy_texts(&self.source.mesh),
            node: self.source.node.clone(),
            ready: self
                .rows
                .iter()
                .filter(|row| row.ready)
                .map(|row| row.name.clone())
                .collect(),
            joined: joined.collect(),
        };
        let pods = self
            .rows
            .iter()
            .filter(|row| row.pod_link.is_some())
            .map(Row::pod);
        Desired {
            update: Arc::new(update),
            pods: Arc::new(pods.collect()),
        }
    }

    /// How far the workloads of this node are that are there for `test`. Those that joined aren't.
    pub(in crate::supervisor) fn around(&self, test: &WorkloadName, now: Instant) -> Around {
        let mut waiting = Vec::new();
        for row in self
            .rows
            .iter()
            .filter(|row| row.name != *test && row.joined.is_none())
        {
            match &row.life {
                Life::Completed | Life::Elsewhere { .. } => {}
                Life::Failed => {
                    return Around::Failed {
                        name: row.name.clone(),
                        how: row.last_exit.clone().unwrap_or_default(),
                    };
                }
                _ if row.ready => {}
                life => waiting.push(match &row.last_exit {
                    Some(how) => format!("{} ({}, last ended with {how})", row.name, life.state(now)),
                    None => format!("{} ({})", row.name, life.state(now)),
                }),
            }
        }
        match waiting.is_empty() {
            true => Around::Ready,
            false => Around::Waiting(waiting),
        }
    }

    /// What `adit ps` shows, without the processes.
    pub(in crate::supervisor) fn report(&self, now: Instant) -> PsReport {
        let rows = self.rows.iter().map(|row| PsRow {
            name: row.name.clone(),
            addresses: row.addresses.clone(),
            link: row.pod_link.map(|link| link.to_string()),
            state: row.life.state(now),
            ready: row.ready,
            restarts: row.starts.saturating_sub(1),
            last_exit: row.last_exit.clone(),
            seconds_in_state: now.saturating_duration_since(row.since).as_secs(),
        });
        PsReport {
            mesh: self.source.mesh.name.clone(),
            node: self.source.node.clone(),
            supervisor_pid: 0,
            agent_pid: None,
            agent_restarts: 0,
            lines_dropped: 0,
            files: FilesStatus {
                path: self.source.path.clone(),
                generation: self.files.accepted,
                seconds_in_force: now.saturating_duration_since(self.files.since).as_secs(),
                refused: self.files.refused.as_ref().map(|(fault, at)| RefusedFiles {
                    fault: fault.clone(),
                    seconds_ago: now.saturating_duration_since(*at).as_secs(),
                }),
            },
            workloads: rows.collect(),
        }
    }
}

/// The policy files as the agent takes them.
pub(in crate::supervisor) fn policy_texts(mesh: &Mesh) -> Vec<PolicyText> {
    let text = |file: &PolicyDocument| PolicyText {
        path: file.path.clone(),
        text: file.text.clone(),
    };
    mesh.policies.iter().map(text).collect()
}
