use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use adit_control::Snapshot;
use adit_flow::WorkloadName;
use adit_policy::PolicySet;
use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::Command;
use super::server_name::pod_address;
use crate::admin::FlowHub;
use crate::cluster::OuterSockets;
use crate::identities::Identities;

/// What all workers read. The agent's main thread owns and replaces it; nobody else writes.
pub(crate) struct Shared {
    /// The mesh.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// The compiled policies.
    pub(crate) policy: ArcSwap<PolicySet>,
    /// The SVIDs of local workloads, and the trust bundle.
    pub(crate) identities: Arc<Identities>,
    /// The sockets at the addresses of pods that have an outer namespace.
    pub(crate) outer: OuterSockets,
    /// Which worker has which pod.
    pub(crate) places: ArcSwap<Places>,
    /// The way to each worker, by its index.
    pub(crate) workers: Vec<Mailbox>,
    /// Where finished flow records go.
    pub(crate) flows: Arc<FlowHub>,
}

/// Which worker serves a local workload.
pub(crate) type Places = HashMap<WorkloadName, usize>;

/// The way to a worker. Never blocks: what the data path sends is lost when it's full, and counted.
#[derive(Debug)]
pub(crate) struct Mailbox {
    sender: mpsc::Sender<Command>,
    overflowed: AtomicU64,
}

/// Commands that may wait for a worker: some milliseconds of datagrams.
const MAILBOX_LIMIT: usize = 4_096;

impl Mailbox {
    /// Commands that found no room.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// A mailbox and the end that its worker reads.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(MAILBOX_LIMIT);
        (
            Self {
                sender,
                overflowed: AtomicU64::new(0),
            },
            receiver,
        )
    }

    /// Sends unless the mailbox is full or its worker has ended.
    pub(crate) fn try_send(&self, command: Command) -> Result<(), Overflowed> {
        self.sender.try_send(command).map_err(|_| {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            Overflowed
        })
    }

    /// Sends, waiting for room: for commands that may not be lost. `Err` when the worker has ended.
    pub(crate) async fn send(&self, command: Command) -> Result<(), Overflowed> {
        self.sender.send(command).await.map_err(|_| Overflowed)
    }
}

/// The worker had no room for a command, or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflowed;

impl Shared {
    /// The index of the worker that serves the pod which a client asked for by SNI.
    pub(crate) fn place_of(&self, server_name: &str) -> Option<usize> {
        let snapshot = self.snapshot.load();
        let workload = snapshot.workload_at(pod_address(server_name)?)?;
        self.places.load().get(&workload.name).copied()
    }

    /// Whether `workload` is served on this node.
    pub(crate) fn serves(&self, workload: &WorkloadName) -> bool {
        self.places.load().contains_key(workload)
    }

    /// The mailbox of the worker that serves `workload` on this node.
    pub(crate) fn worker_of(&self, workload: &WorkloadName) -> Option<&Mailbox> {
        self.workers.get(*self.places.load().get(workload)?)
    }
}
