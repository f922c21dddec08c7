//! What runs: one row a workload. Pure; the supervisor owns it, and everything that is told to the agent or to
//! people is made of it.

mod row;
mod told;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use adit_control::{JoinError, Joined, Mesh, Snapshot, View, WorkloadSpec};
use adit_flow::WorkloadName;
use adit_identity::TrustDomain;

use crate::admin::{Fault, JoinRequest};
pub(super) use row::{Change, Pod};
use row::{Life, Row};
pub(super) use told::{Around, Desired, policy_texts};

/// The mesh as it was read, and which part of it runs here.
#[derive(Clone, Debug)]
pub struct Source {
    /// The mesh file's path.
    pub path: PathBuf,
    /// What stands in it.
    pub text: String,
    /// What it means.
    pub mesh: Arc<Mesh>,
    /// The node that this is; `None` in a mesh without nodes.
    pub node: Option<String>,
}

/// How much of a changed mesh file took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    /// All that the agent knows: labels, services, service accounts, policies.
    Whole {
        /// Whether commands, probes or restart policies changed too, which a running program doesn't see.
        restart_needed: bool,
    },
    /// The policies alone: the file has other workloads than run.
    Policies,
}

/// The rows of every workload.
#[derive(Debug)]
pub(super) struct Table {
    source: Source,
    generation: u64,
    files: Files,
    rows: Vec<Row>,
}

/// What became of the versions of the mesh file and its policy files.
#[derive(Debug)]
struct Files {
    /// Those that took effect, the first included.
    accepted: u64,
    since: Instant,
    refused: Option<(Fault, Instant)>,
}

impl Table {
    /// Every replica of the mesh; those of this node are pending.
    pub(super) fn new(source: Source, now: Instant) -> Self {
        let rows = source
            .mesh
            .replicas()
            .map(|replica| Row {
                addresses: source.mesh.allocation.workload(&replica.name).to_vec(),
                probed: replica.spec.readiness.is_some(),
                life: match &replica.spec.node {
                    Some(node) if Some(node) != source.node.as_ref() => {
                        Life::Elsewhere { node: node.clone() }
                    }
                    _ => Life::Pending,
                },
                since: now,
                born: 1,
                pod_link: None,
                // Nobody tells us of other nodes' replicas: whoever connects finds out.
                ready: replica.spec.node.is_some() && replica.spec.node != source.node,
                starts: 0,
                last_exit: None,
                joined: None,
                service_account: replica.spec.identity.service_account().to_owned(),
                name: replica.name,
            })
            .collect();
        Self {
            source,
            generation: 1,
            files: Files {
                accepted: 1,
                since: now,
                refused: None,
            },
            rows,
        }
    }

    /// Takes a change in. Whether the agent has to know.
    pub(super) fn on_change(&mut self, name: &WorkloadName, change: Change, now: Instant) -> bool {
        let Some(row) = self.rows.iter_mut().find(|row| row.name == *name) else {
            return false;
        };
        let changed = row.on_change(change, now);
        self.generation += u64::from(changed);
        changed
    }

    /// Adds a workload that joins. Its pod is still to be made.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub(super) fn join(&mut self, request: JoinRequest, now: Instant) -> Result<Pod, JoinError> {
        let before = self.joined();
        let request = adit_control::JoinRequest {
            name: request.name,
            service_account: request.service_account,
            labels: request.labels,
            ports: Vec::new(),
        };
        let joined = self
            .source
            .mesh
            .join(self.source.node.as_deref(), &before, request)?;
        self.generation += 1;
        let pod = Pod {
            name: joined.name.clone(),
            born: self.generation,
        };
        self.rows.push(Row {
            name: joined.name.clone(),
            addresses: joined.addresses.clone(),
            probed: false,
            life: Life::Joined,
            since: now,
            born: pod.born,
            pod_link: None,
            ready: false,
            starts: 0,
            last_exit: None,
            service_account: joined.identity.service_account().to_owned(),
            joined: Some(joined),
        });
        Ok(pod)
    }

    /// Removes a workload that joined; nothing happens for any other. Whether the agent has to know.
    pub(super) fn leave(&mut self, pod: &Pod) -> bool {
        let before = self.rows.len();
        self.rows.retain(|row| row.joined.is_none() || row.pod() != *pod);
        let left = self.rows.len() != before;
        self.generation += u64::from(left);
        left
    }

    /// Takes what the mesh file and its policy files say now. Where the file has other workloads than run, or they
    /// have other addresses, only its policies are taken: what runs is decided at the start.
    pub(super) fn replace(&mut self, mesh: Mesh, text: String, now: Instant) -> Replaced {
        self.generation += 1;
        self.files = Files {
            accepted: self.files.accepted + 1,
            since: now,
            refused: None,
        };
        let running = &self.source.mesh;
        if placed(running).eq(placed(&mesh)) {
            let restart_needed = !run_alike(running, &mesh);
            self.source.mesh = Arc::new(mesh);
            self.source.text = text;
            return Replaced::Whole { restart_needed };
        }
        let mut running = (**running).clone();
        running.policy_paths = mesh.policy_paths;
        running.policies = mesh.policies;
        self.source.mesh = Arc::new(running);
        Replaced::Policies
    }

    /// The trust domain of the mesh that runs, which can't change while it does.
    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.source.mesh.trust_domain
    }

    /// Notes that a saved version of the files can't be taken: the last one stays in force.
    pub(super) fn refuse(&mut self, fault: Fault, now: Instant) {
        self.files.refused = Some((fault, now));
    }

    /// How a workload's program last ended, in words.
    pub(super) fn last_exit(&self, name: &WorkloadName) -> Option<String> {
        let row = self.rows.iter().find(|row| row.name == *name)?;
        row.last_exit.clone()
    }

    /// The version of what the agent is to know.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The pod that `name` has or will have.
    pub(super) fn pod(&self, name: &WorkloadName) -> Option<Pod> {
        self.rows.iter().find(|row| row.name == *name).map(Row::pod)
    }

    /// The mesh as workloads see it, for what doesn't depend on readiness.
    pub(super) fn snapshot(&self) -> Snapshot {
        let view = View {
            node: self.source.node.as_deref(),
            ready: &|_| false,
            joined: &self.joined(),
            generation: self.generation,
        };
        adit_control::build(&self.source.mesh, view)
    }

    fn joined(&self) -> Vec<Joined> {
        self.rows.iter().filter_map(|row| row.joined.clone()).collect()
    }
}

/// Every replica with its place in the network.
fn placed(mesh: &Mesh) -> impl Iterator<Item = (WorkloadName, Option<&str>, &[IpAddr])> {
    mesh.replicas().map(|replica| {
        let addresses = mesh.allocation.workload(&replica.name);
        (replica.name, replica.spec.node.as_deref(), addresses)
    })
}

/// Whether the workloads of both, which are placed alike, have programs that are run alike: what only a new start changes.
fn run_alike(running: &Mesh, saved: &Mesh) -> bool {
    let alike = |(one, other): (&WorkloadSpec, &WorkloadSpec)| {
        one.command == other.command
            && one.args == other.args
            && one.env == other.env
            && one.working_dir == other.working_dir
            && one.restart == other.restart
            && one.readiness == other.readiness
    };
    running.workloads.len() == saved.workloads.len()
        && running.workloads.iter().zip(&saved.workloads).all(alike)
}

#[cfg(test)]
mod tests;
