//! When a pod can be served as one of the mesh.

use std::time::Duration;

use adit_control::Workload;
use adit_control::kubernetes::{Capability, WantedPod};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Context, Wish, next_wish};
use crate::agent::running::Running;

/// How long the packets of a pod that is behind the helper's devices wait for its SVID, and for its peers to be told.
const READY_LIMIT: Duration = Duration::from_secs(5);

impl Context {
    /// Waits until the pod can be served as one of the mesh: nothing that it opens to others in it is plain, or refused. False
    /// for a running pod, which goes on outside the mesh meanwhile.
    ///
    /// What is sent by one that starts, or to one that an agent before this had in the mesh, waits in the devices' queues; but not
    /// for ever, since most of it may be for others. Peers are told before any of it is read: those that don't know that the pod
    /// is in the mesh would take its tunnels for plain connections.
    pub(super) async fn prepare(
        &self,
        pod: &WantedPod,
        wishes: &mut watch::Receiver<Wish>,
        tells: &mut watch::Receiver<Capability>,
    ) -> bool {
        if !self.is_behind_helper(pod).await {
            self.until_ready(pod, wishes, |own| has_svid(&self.running, own))
                .await;
            return false;
        }
        self.set_captured(pod, true);
        let ready = async {
            self.identified(pod, wishes).await;
            if pod.capability != self.capability && *wishes.borrow() == Wish::Join {
                self.tell_peers(pod, wishes, tells).await;
            }
        };
        if timeout(READY_LIMIT, ready).await.is_err() {
            tracing::warn!(
                pod = %pod.name, waited = ?READY_LIMIT,
                "a pod has no SVID yet, or its peers don't know that it's in the mesh: \
                 what it opens to others in the mesh is refused until then"
            );
        }
        true
    }

    /// Whether the pod's interface is the helper's already.
    async fn is_behind_helper(&self, pod: &WantedPod) -> bool {
        if pod.capability != Capability::None {
            return true;
        }
        let members = self.broker.members().await;
        members.map_or(true, |members| {
            members.iter().any(|member| *member.uid == *pod.uid)
        })
    }

    /// Waits until the pod, which is captured or about to be, is in the mesh and has its SVID, or the wish has changed.
    pub(super) async fn identified(&self, pod: &WantedPod, wishes: &mut watch::Receiver<Wish>) {
        self.until_ready(pod, wishes, |own| own.in_mesh && has_svid(&self.running, own))
            .await;
    }

    /// Tells the API that the pod is in the mesh, and waits until our own watch has it, by when those of its peers should have
    /// it too, or the wish has changed; [`READY_LIMIT`] at most.
    pub(super) async fn tell_peers(
        &self,
        pod: &WantedPod,
        wishes: &mut watch::Receiver<Wish>,
        tells: &mut watch::Receiver<Capability>,
    ) {
        self.annotate(pod, self.capability, wishes).await;
        tokio::select! {
            // Without a sender any more the agent ends, and the pod stays as it is.
            Ok(_) = tells.wait_for(|told| *told == self.capability) => {}
            _ = next_wish(wishes, Wish::Join) => {}
            () = sleep(READY_LIMIT) => tracing::warn!(
                pod = %pod.name, waited = ?READY_LIMIT,
                "the API took it that a pod is in the mesh, and its watch hasn't said so: peers may not know either"
            ),
        }
    }

    /// Waits until the snapshot has the pod, and it's `ready`, or the wish has changed.
    async fn until_ready(
        &self,
        pod: &WantedPod,
        wishes: &mut watch::Receiver<Wish>,
        ready: impl Fn(&Workload) -> bool,
    ) {
        const POLL: Duration = Duration::from_millis(10);
        let is_ready = || {
            let snapshot = self.running.shared.snapshot.load();
            snapshot.workloads.get(&pod.name).is_some_and(|own| ready(own))
        };
        while !is_ready() {
            tokio::select! {
                () = sleep(POLL) => {}
                _ = next_wish(wishes, Wish::Join) => return,
            }
        }
    }
}

fn has_svid(running: &Running, workload: &Workload) -> bool {
    let identities = &running.shared.identities;
    identities.credentials(&workload.identity).is_some()
}
