//! What the agent does once it knows its mesh: workers, identities, and the snapshot that they read.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use adit_control::Snapshot;
use adit_control::signing::{BadAddress, SignerClient};
use adit_flow::WorkloadName;
use adit_identity::{EmbeddedSource, SvidSource, TrustDomain};
use adit_link::Queue;
use adit_policy::PolicySet;
use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::AgentSettings;
use super::store::{self, StoreError};
use crate::admin::FlowHub;
use crate::cluster::OuterSockets;
use crate::identities::{Answer, IdentityStatus, Issuer};
use crate::telemetry::Counters;
use crate::worker::{Admission, Command, Gauges, Mailbox, Places, Shared, Which, WireSide, Worker};

/// A mesh being served.
pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    trust_domain: TrustDomain,
    counters: Vec<Arc<Counters>>,
    issuer: Mutex<Issuer>,
    followed: Notify,
}

/// Why a mesh can't be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Signer(#[from] BadAddress),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("[ADIT-A026] starting the agent's workers: {source}")]
    Workers {
        #[source]
        source: io::Error,
    },
}

/// A worker has ended: a defect, since only the agent's end ends one.
#[derive(Debug, thiserror::Error)]
#[error("[ADIT-A027] the worker of {pod} has ended")]
pub(crate) struct WorkerLost {
    pod: WorkloadName,
}

impl Running {
    /// Starts the workers and the source of SVIDs for the first snapshot.
    pub(super) fn start(
        settings: &AgentSettings,
        snapshot: Arc<Snapshot>,
        joining: &[WorkloadName],
        policy: Arc<PolicySet>,
        hub: Arc<FlowHub>,
    ) -> Result<Arc<Self>, StartError> {
        let now = SystemTime::now();
        let trust_domain = snapshot.trust_domain.clone();
        let (mut issuer, answers) = Issuer::new(source(settings, &trust_domain, now)?, seed());
        issuer.follow(&snapshot, joining, now);
        let (workers, mailboxes): (Vec<_>, Vec<_>) = std::iter::repeat_with(Mailbox::new)
            .take(settings.workers.max(1))
            .unzip();
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from(snapshot),
            policy: ArcSwap::from(policy),
            identities: issuer.identities(),
            outer: OuterSockets::default(),
            places: ArcSwap::default(),
            workers,
            flows: hub,
        });
        let counters: Vec<Arc<Counters>> = mailboxes.iter().map(|_| Arc::default()).collect();
        for (index, mailbox) in mailboxes.into_iter().enumerate() {
            Worker::start(
                index,
                Arc::clone(&shared),
                Arc::clone(&counters[index]),
                mailbox,
                settings.busy_poll,
                seed(),
            )
            .map_err(|source| StartError::Workers { source })?;
        }
        let running = Arc::new(Self {
            shared,
            trust_domain,
            counters,
            issuer: Mutex::new(issuer),
            followed: Notify::new(),
        });
        tokio::spawn(renew(Arc::clone(&running), answers));
        Ok(running)
    }

    /// The trust domain it was started with, which can't change while it runs.
    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Takes a new snapshot: identities first, so that a new workload has its SVID before its first flow. Those of `joining`
    /// are had before these workloads are in the mesh.
    ///
    /// The policies come before the snapshot: whoever reads the snapshot and then the policies, as every flow does, is
    /// never judged by policies that are older than what it was routed by. What is judged in between by newer ones may
    /// have proven an identity that its address no longer has; it's looked at again like every live flow.
    pub(super) async fn publish(
        &self,
        snapshot: Arc<Snapshot>,
        joining: &[WorkloadName],
        policy: Arc<PolicySet>,
    ) {
        self.issuer().follow(&snapshot, joining, SystemTime::now());
        self.followed.notify_one();
        self.shared.policy.store(policy);
        self.shared.snapshot.store(snapshot);
        self.tell(|| Command::Judge).await;
    }

    /// Serves a pod of the mesh file on the worker that has the fewest.
    pub(super) async fn add_pod(&self, pod: WorkloadName, queue: Queue) -> Result<(), WorkerLost> {
        let snapshot = self.shared.snapshot.load_full();
        let addresses = snapshot
            .workloads
            .get(&pod)
            .map(|workload| workload.addresses.clone())
            .unwrap_or_default();
        self.serve_pod(pod, addresses, queue, None).await
    }

    /// Serves a pod on the worker that has the fewest; `wire` is the side of one that is captured on a node.
    pub(crate) async fn serve_pod(
        &self,
        pod: WorkloadName,
        addresses: Vec<IpAddr>,
        queue: Queue,
        wire: Option<WireSide>,
    ) -> Result<(), WorkerLost> {
        let index = self.place(&pod);
        let (done, served) = oneshot::channel();
        let lost = || WorkerLost { pod: pod.clone() };
        let command = Command::AddPod {
            pod: pod.clone(),
            addresses,
            queue,
            wire,
            done,
        };
        self.shared.workers[index]
            .send(command)
            .await
            .map_err(|_| lost())?;
        served.await.map_err(|_| lost())
    }

    /// Has a captured pod's new flows pass through, or be taken again. Those that go on in tunnels do so either way.
    pub(crate) async fn let_pass(&self, pod: &WorkloadName, passing: bool) {
        if let Some(worker) = self.shared.worker_of(pod) {
            let pod = pod.clone();
            let _ = worker.send(Command::LetPass { pod, passing }).await;
        }
    }

    /// Returns once no flow of the pod ends in the agent.
    pub(crate) async fn without_flows(&self, pod: &WorkloadName) {
        let (done, quiet) = oneshot::channel();
        let Some(worker) = self.shared.worker_of(pod) else {
            return;
        };
        let pod = pod.clone();
        if worker.send(Command::AwaitQuiet { pod, done }).await.is_ok() {
            let _ = quiet.await;
        }
    }

    /// Ends a pod's flows and forgets where it was.
    pub(crate) async fn remove_pod(&self, pod: &WorkloadName) {
        let Some(index) = self.shared.places.load().get(pod).copied() else {
            return;
        };
        self.replace_places(|places| {
            places.remove(pod);
        });
        let (done, removed) = oneshot::channel();
        let command = Command::RemovePod {
            pod: pod.clone(),
            done,
        };
        if self.shared.workers[index].send(command).await.is_ok() {
            let _ = removed.await;
        }
    }

    /// Refuses new flows, waits for the live ones, and resets what still lives at the deadline.
    pub(super) async fn drain(&self, deadline: Duration) {
        self.tell(|| Command::Admit(Admission::Refused)).await;
        if timeout(deadline, self.without(Which::All)).await.is_err() {
            self.cut().await;
        }
    }

    /// Resets what still lives. New flows are treated as before.
    pub(crate) async fn cut(&self) {
        /// For the resets to be on their way.
        const LAST: Duration = Duration::from_millis(200);
        self.tell(|| Command::Stop).await;
        let _ = timeout(LAST, self.without(Which::All)).await;
    }

    /// Serves on until no flow ends here any more, or `deadline` has passed, for another agent to go on. New flows are served
    /// meanwhile, and left unanswered from the last moment on, so that none is refused and few are cut.
    ///
    /// ```text
    ///   serve on ──those that lived have ended──▶ hold new ones ──none is left──▶ done
    ///      ▲                                        │ 1 s
    ///      └──────────────── serve them, 1 s ◀──────┘
    /// ```
    pub(crate) async fn wind_down(&self, deadline: Duration) {
        /// How long new flows are held at a time: a SYN is repeated after a second.
        const HOLD: Duration = Duration::from_secs(1);
        /// How long they are served at least before they are held again: what waited comes back within it.
        const BREATH: Duration = Duration::from_secs(1);
        let end = Instant::now() + deadline;
        let last_hold = end.checked_sub(HOLD).unwrap_or(end);
        loop {
            let _ = timeout_at(last_hold, self.without(Which::Present)).await;
            self.tell(|| Command::Admit(Admission::Held)).await;
            let quiet = timeout(HOLD.min(deadline), self.without(Which::All))
                .await
                .is_ok();
            if quiet || Instant::now() >= end {
                return;
            }
            self.tell(|| Command::Admit(Admission::Open)).await;
            sleep_until(last_hold.min(Instant::now() + BREATH)).await;
        }
    }

    async fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.shared.workers {
            let _ = worker.send(command()).await;
        }
    }

    /// Returns once these flows have ended on every worker.
    async fn without(&self, which: Which) {
        let mut waiting = Vec::new();
        for worker in &self.shared.workers {
            let (done, ended) = oneshot::channel();
            if worker.send(Command::AwaitFlows { which, done }).await.is_ok() {
                waiting.push(ended);
            }
        }
        for ended in waiting {
            let _ = ended.await;
        }
    }

    /// How long each worker has been silent, by its index.
    pub(crate) fn silences(&self) -> impl Iterator<Item = Duration> {
        self.counters.iter().map(|counters| counters.pulse.silence())
    }

    /// The sum of all workers' counters.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for counters in &self.counters {
            counters.collect(&mut all);
        }
        let overflowed = self.shared.workers.iter().map(Mailbox::overflowed).sum();
        all.insert("worker_mailbox_overflows_total".to_owned(), overflowed);
        all.insert("flow_records_missed_total".to_owned(), self.shared.flows.missed());
        all
    }

    /// What each worker holds.
    pub(super) async fn gauges(&self) -> Vec<Gauges> {
        let mut all = Vec::new();
        for worker in &self.shared.workers {
            let (reply, gauges) = oneshot::channel();
            if worker.send(Command::Gauges(reply)).await.is_ok() {
                all.extend(gauges.await);
            }
        }
        all
    }

    /// The SVIDs held.
    pub(crate) fn identities(&self) -> Vec<IdentityStatus> {
        self.issuer().status()
    }

    fn place(&self, pod: &WorkloadName) -> usize {
        let mut chosen = 0;
        self.replace_places(|places| {
            let count = |index: usize| places.values().filter(|place| **place == index).count();
            chosen = places
                .get(pod)
                .copied()
                .or_else(|| (0..self.shared.workers.len()).min_by_key(|index| count(*index)))
                .unwrap_or(0);
            places.insert(pod.clone(), chosen);
        });
        chosen
    }

    /// Pods come and go by one task, the control socket's; readers see the table before or after, never between.
    fn replace_places(&self, mut change: impl FnMut(&mut Places)) {
        self.shared.places.rcu(|places| {
            let mut places = Places::clone(places);
            change(&mut places);
            places
        });
    }

    fn issuer(&self) -> MutexGuard<'_, Issuer> {
        // The issuer is whole between any two of its methods, so a panic elsewhere leaves nothing half done.
        self.issuer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews SVIDs as they fall due, as long as the agent runs.
async fn renew(running: Arc<Running>, mut answers: mpsc::Receiver<Answer>) {
    const LONGEST_SLEEP: Duration = Duration::from_secs(60); // the wall clock may be set meanwhile
    loop {
        let now = SystemTime::now();
        let next = running.issuer().renew(now);
        let pause = next
            .and_then(|next| next.duration_since(now).ok())
            .unwrap_or(LONGEST_SLEEP);
        tokio::select! {
            () = tokio::time::sleep(pause.min(LONGEST_SLEEP)) => {}
            () = running.followed.notified() => {}
            Some(answer) = answers.recv() => running.issuer().answered(answer, SystemTime::now()),
        }
    }
}

/// The signer, where there is one, or else the embedded authority.
fn source(
    settings: &AgentSettings,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Box<dyn SvidSource>, StartError> {
    if let Some(signer) = &settings.signer {
        return Ok(Box::new(SignerClient::new(signer.clone())?));
    }
    let authority = store::authority(settings.state_dir.as_deref(), trust_domain, now)?;
    Ok(Box::new(EmbeddedSource::new(authority, settings.svid_ttl)))
}

/// A seed from the system's randomness.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u8)
}
