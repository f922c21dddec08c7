//! Pods that are about to start: the helper asks whether they belong into the mesh, before their first container runs.
//! And adit's end on this node: the helper says so on the same connection.
//!
//! The API is asked about each, since what we watch may lag behind the kubelet, and has no addresses yet.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_control::kubernetes::{self, Belonging, KubeClient};
use adit_flow::WorkloadName;
use adit_node::ClientError;
use adit_node::cluster::{Admissions, Decision, Notice, PodRef};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Before the helper is asked again to ask us.
const PAUSE: Duration = Duration::from_millis(500);

/// Answers the helper's questions on a thread of its own, as long as the agent runs. `dismissed` says whether adit is being
/// taken off the node.
///
/// # Errors
/// The thread could not be made.
pub(super) fn start(socket: PathBuf, client: KubeClient, dismissed: watch::Sender<bool>) -> io::Result<()> {
    let runtime = Handle::current();
    let serve = move || {
        loop {
            if let Err(error) = answer(&socket, &client, &runtime, &dismissed) {
                tracing::warn!(%error, "the node helper can't ask about new pods: they wait");
            }
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::Builder::new()
        .name("adit-admission".to_owned())
        .spawn(serve)
        .map(drop)
}

fn answer(
    socket: &Path,
    client: &KubeClient,
    runtime: &Handle,
    dismissed: &watch::Sender<bool>,
) -> Result<(), ClientError> {
    let mut admissions = Admissions::connect(socket)?;
    loop {
        // A helper that was started anew, and isn't dismissed, wants pods again.
        dismissed.send_if_modified(|was| std::mem::replace(was, admissions.is_dismissed()) != *was);
        let Notice::Admission(admission) = admissions.next()? else {
            continue;
        };
        let decision = runtime.block_on(decide(client, &admission.pod));
        tracing::debug!(
            pod = admission.pod.name,
            namespace = admission.pod.namespace,
            ?decision,
            "a pod starts"
        );
        admissions.answer(admission.id, decision)?;
    }
}

async fn decide(client: &KubeClient, pod: &PodRef) -> Decision {
    let name = WorkloadName::new(&pod.namespace, &pod.name);
    match kubernetes::belongs(client, &name, &pod.uid).await {
        Ok(Belonging::Mesh {
            has_runtime_class: false,
        }) => Decision::Join,
        Ok(Belonging::Mesh {
            has_runtime_class: true,
        }) => Decision::JoinByEthernet,
        Ok(Belonging::Outside) => Decision::LeaveAlone,
        Err(error) => Decision::Refuse {
            reason: error.to_string(),
        },
    }
}
