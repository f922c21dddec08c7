//! Which pods of this node are captured: what Kubernetes asks for, made so by the helper, served by a worker.
//!
//! ```text
//!   wanted ──join──▶ served ──not wanted any more──▶ leaving: new flows pass through ──last tunnel flow ended──▶ let go
//!                      │                                                                                       ▲
//!                      └─────────────────────────── the pod is gone ───────────────────────────────────────────┘
//! ```
//!
//! A pod whose sandbox has a network stack of its own can't be let go while it runs: it's kept, and everything of it passes.
//!
//! One task a pod, so that a slow one delays nobody else; the helper itself serves one request after another.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_control::kubernetes::{Annotated, Capability, KubeClient, Source, State, WantedPod, annotate};
use adit_flow::WorkloadName;
use adit_link::Queue;
use adit_node::cluster::PodRef;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::broker::{Broker, BrokerError};
use super::sockets::PodSockets;
use crate::agent::running::{Running, WorkerLost};
use crate::worker::WireSide;

mod readiness;

/// How long to wait before what failed is tried again: doubled each time up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pods being captured, served or let go. Its owner is the task that follows Kubernetes.
pub(super) struct Members {
    context: Arc<Context>,
    /// By the pod's uid.
    tasks: HashMap<Arc<str>, Task>,
}

/// What every pod's task needs.
struct Context {
    running: Arc<Running>,
    broker: Broker,
    client: KubeClient,
    source: Arc<Source>,
    /// What a captured pod says of itself.
    capability: Capability,
    /// Those whose flows the agent may expect in HBONE: the source says so in its next state.
    captured: Mutex<BTreeSet<Arc<str>>>,
}

struct Task {
    name: WorkloadName,
    wish: watch::Sender<Wish>,
    /// What the API says of the pod.
    told: watch::Sender<Capability>,
    handle: JoinHandle<()>,
}

/// What is to become of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// To be in the mesh.
    Join,
    /// To go on outside the mesh.
    Leave,
    /// It doesn't exist any more.
    Gone,
}

/// Why a pod isn't captured yet.
#[derive(Debug, thiserror::Error)]
enum CaptureError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Worker(#[from] WorkerLost),
    #[error("taking the TUN queues of a pod: {0}")]
    Queue(#[from] std::io::Error),
}

impl Members {
    /// Nobody yet.
    pub(super) fn new(
        running: Arc<Running>,
        broker: Broker,
        client: KubeClient,
        source: Arc<Source>,
        capability: Capability,
    ) -> Self {
        Self {
            context: Arc::new(Context {
                running,
                broker,
                client,
                source,
                capability,
                captured: Mutex::default(),
            }),
            tasks: HashMap::new(),
        }
    }

    /// Lets pods go that were captured by an agent before this one and aren't wanted any more, or keeps those that can't.
    ///
    /// # Errors
    /// The helper could not be asked.
    pub(super) async fn adopt(&mut self, state: &State) -> Result<(), BrokerError> {
        for member in self.context.broker.members().await? {
            if state.wanted.iter().any(|pod| *pod.uid == *member.uid) {
                continue;
            }
            match self.context.broker.leave(&member.uid).await {
                Ok(()) => tracing::info!(
                    pod = member.name,
                    uid = member.uid,
                    "a pod that was captured is let go"
                ),
                Err(error) if error.is_of_sandbox() => {
                    let pod = WantedPod {
                        uid: member.uid.into(),
                        name: WorkloadName::new(&member.namespace, &member.name),
                        addresses: member.addresses.iter().map(|address| address.ip).collect(),
                        capability: Capability::None,
                    };
                    let task = self.start(pod.clone(), Wish::Leave);
                    self.tasks.insert(pod.uid, task);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has those of the node's pods in the mesh that are `wanted`.
    pub(super) fn follow(&mut self, state: &State, wanted: &[WantedPod]) {
        self.tasks.retain(|_, task| !task.handle.is_finished());
        for (uid, task) in &self.tasks {
            if wanted.iter().any(|pod| pod.uid == *uid) {
                continue;
            }
            // A new pod of the same name is another one: that of this task is gone.
            let lives_on = state.snapshot.workloads.contains_key(&task.name)
                && !wanted.iter().any(|pod| pod.name == task.name);
            task.wish(if lives_on { Wish::Leave } else { Wish::Gone });
        }
        for pod in wanted {
            if let Some(task) = self.tasks.get(&pod.uid) {
                task.told.send_replace(pod.capability);
                task.wish(Wish::Join);
                continue;
            }
            let task = self.start(pod.clone(), Wish::Join);
            self.tasks.insert(Arc::clone(&pod.uid), task);
        }
    }

    fn start(&mut self, pod: WantedPod, wish: Wish) -> Task {
        let name = pod.name.clone();
        // A StatefulSet's new pod has the name of the one before: that one's end comes first.
        let former: Vec<_> = self
            .tasks
            .extract_if(|_, task| task.name == name)
            .map(|(_, task)| task.handle)
            .collect();
        let (wish, wishes) = watch::channel(wish);
        let (told, tells) = watch::channel(pod.capability);
        let context = Arc::clone(&self.context);
        let handle = tokio::spawn(async move {
            for former in former {
                let _ = former.await;
            }
            context.serve(&pod, wishes, tells).await;
        });
        Task {
            name,
            wish,
            told,
            handle,
        }
    }
}

impl Task {
    fn wish(&self, wanted: Wish) {
        self.wish
            .send_if_modified(|wish| std::mem::replace(wish, wanted) != wanted);
    }
}

impl Context {
    /// One pod's time behind the agent. Wished to leave from the start, it couldn't leave the agent before this one.
    async fn serve(
        &self,
        pod: &WantedPod,
        mut wishes: watch::Receiver<Wish>,
        mut tells: watch::Receiver<Capability>,
    ) {
        let mut kept = *wishes.borrow() == Wish::Leave;
        let mut in_mesh = !kept && self.prepare(pod, &mut wishes, &mut tells).await;
        loop {
            // Another wish may have come while it was prepared.
            let meant = kept || *wishes.borrow() == Wish::Join;
            if meant && self.capture_until(pod, &mut wishes).await {
                if kept {
                    self.keep(pod, &mut wishes).await;
                }
                if *wishes.borrow() == Wish::Join {
                    self.running.let_pass(&pod.name, !in_mesh).await;
                    self.stay(pod, &mut wishes, &mut tells).await;
                }
            } else if kept && *wishes.borrow() != Wish::Gone {
                continue;
            }
            in_mesh = false;
            kept = !self.let_go(pod).await;
            if !kept || *wishes.borrow() == Wish::Gone {
                return;
            }
        }
    }

    /// Takes the pod's interface back to it. False if it stays behind the agent, and has nobody else.
    async fn let_go(&self, pod: &WantedPod) -> bool {
        self.set_captured(pod, false);
        self.running.remove_pod(&pod.name).await;
        self.running.shared.outer.remove(&pod.uid);
        match self.broker.leave(&pod.uid).await {
            Ok(()) => true,
            Err(error) if error.is_of_sandbox() => {
                tracing::warn!(pod = %pod.name, %error, "a pod can't be let go: everything of it passes as it is");
                false
            }
            Err(error) => {
                tracing::debug!(pod = %pod.name, %error, "letting a pod go; the helper finds out by itself");
                true
            }
        }
    }

    /// Lets everything of a pod pass until it's wanted again, or gone.
    async fn keep(&self, pod: &WantedPod, wishes: &mut watch::Receiver<Wish>) {
        self.running.let_pass(&pod.name, true).await;
        next_wish(wishes, Wish::Leave).await;
        self.running.let_pass(&pod.name, false).await;
    }

    /// Until the pod is gone, or has left and no flow of it ends here any more. What one opens that was outside the mesh passes as
    /// it did, until its peers know better.
    async fn stay(
        &self,
        pod: &WantedPod,
        wishes: &mut watch::Receiver<Wish>,
        tells: &mut watch::Receiver<Capability>,
    ) {
        loop {
            self.set_captured(pod, true);
            // Peers come with tunnels once they are told, and want to see whose they are.
            self.identified(pod, wishes).await;
            self.tell_peers(pod, wishes, tells).await;
            self.running.let_pass(&pod.name, false).await;
            if next_wish(wishes, Wish::Join).await == Wish::Gone {
                return;
            }
            // Peers come plain from now on, and plain is what the pod's new flows are.
            self.set_captured(pod, false);
            self.running.let_pass(&pod.name, true).await;
            self.annotate(pod, Capability::None, wishes).await;
            tokio::select! {
                () = self.running.without_flows(&pod.name) => return,
                wish = next_wish(wishes, Wish::Leave) => if wish == Wish::Gone { return },
            }
        }
    }

    /// Captures the pod, however often it takes; false if the wish has changed before.
    async fn capture_until(&self, pod: &WantedPod, wishes: &mut watch::Receiver<Wish>) -> bool {
        let (meant, mut pause) = (*wishes.borrow(), FIRST_PAUSE);
        while let Err(error) = self.capture(pod).await {
            tracing::warn!(pod = %pod.name, %error, retry = ?pause, "a pod could not be captured");
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                _ = next_wish(wishes, meant) => return false,
            }
        }
        true
    }

    async fn capture(&self, pod: &WantedPod) -> Result<(), CaptureError> {
        let (member, queues) = self
            .broker
            .join(PodRef {
                uid: pod.uid.to_string(),
                namespace: pod.name.namespace.clone(),
                name: pod.name.name.clone(),
                addresses: pod.addresses.clone(),
            })
            .await?;
        // Of an agent before this one, whose listeners are gone.
        for port in member.open_ports {
            self.broker.close_port(&pod.uid, port).await?;
        }
        let sockets = Arc::new(PodSockets::new(pod.uid.to_string(), self.broker.clone()));
        let addresses: Vec<_> = member.addresses.iter().map(|address| address.ip).collect();
        self.running.shared.outer.insert(&addresses, &sockets);
        let wire = WireSide {
            queue: Queue::from_fd(queues.wire)?,
            mtu: member.wire_mtu,
            sockets,
        };
        let queue = Queue::from_fd(queues.pod)?;
        self.running
            .serve_pod(pod.name.clone(), addresses, queue, Some(wire))
            .await?;
        tracing::info!(pod = %pod.name, uid = %pod.uid, "captured");
        Ok(())
    }

    fn set_captured(&self, pod: &WantedPod, captured: bool) {
        let mut all = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match captured {
            true => all.insert(Arc::clone(&pod.uid)),
            false => all.remove(&pod.uid),
        };
        if changed {
            self.source.set_captured(all.clone());
        }
    }

    /// Tells peers how the pod is reached, until the API takes it or the wish has changed.
    async fn annotate(&self, pod: &WantedPod, capability: Capability, wishes: &mut watch::Receiver<Wish>) {
        let meant = *wishes.borrow();
        let mut pause = FIRST_PAUSE;
        loop {
            match annotate(&self.client, pod, capability).await {
                Ok(Annotated::Done | Annotated::Gone) => return,
                Err(error) => tracing::warn!(%error, retry = ?pause, "peers aren't told how to reach a pod"),
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                _ = next_wish(wishes, meant) => return,
            }
        }
    }
}

/// Waits for another wish than `current`. When nobody wishes any more, the agent ends, and the pod stays as it is.
async fn next_wish(wishes: &mut watch::Receiver<Wish>, current: Wish) -> Wish {
    let wish = wishes.wait_for(|wish| *wish != current).await.map(|wish| *wish);
    match wish {
        Ok(wish) => wish,
        Err(_ended) => std::future::pending().await,
    }
}
