//! Those who ask on the supervisor's socket, and those who join the mesh through it.

use adit_control::JoinError;
use adit_node::protocol::PodSpec;
use tokio::sync::{mpsc, oneshot, watch};

use super::agent_keeper::Applied;
use super::helper::Helper;
use super::table::{Change, Pod};
use super::{Event, Stop, stopping};
use crate::admin::{Fault, JoinRequest, JoinTicket, PsReport, SupervisorHandler};
use crate::rundir::RunPaths;

/// What is asked of the task that owns the state.
#[derive(Debug)]
pub(super) enum Ask {
    Down {
        answer: oneshot::Sender<()>,
    },
    Join {
        request: JoinRequest,
        answer: oneshot::Sender<Result<(JoinTicket, Pod), Fault>>,
    },
    Leave {
        pod: Pod,
    },
    Ps {
        answer: oneshot::Sender<PsReport>,
    },
}

/// Carries questions from the socket to the state's owner.
pub(super) struct Door {
    reports: mpsc::UnboundedSender<Event>,
    stop: watch::Receiver<Stop>,
}

/// Whoever holds it is in the mesh.
pub(super) struct Member {
    pod: Pod,
    reports: mpsc::UnboundedSender<Event>,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.reports.send(Event::Asked(Ask::Leave {
            pod: self.pod.clone(),
        }));
    }
}

impl Door {
    pub(super) fn new(reports: mpsc::UnboundedSender<Event>, stop: watch::Receiver<Stop>) -> Self {
        Self { reports, stop }
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Fault> {
        let stopping = || Fault::new("ADIT-A009", "the mesh is stopping");
        let (answer, answered) = oneshot::channel();
        self.reports
            .send(Event::Asked(ask(answer)))
            .map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())
    }
}

impl SupervisorHandler for Door {
    type Member = Member;

    async fn down(&self) -> Result<(), Fault> {
        self.ask(|answer| Ask::Down { answer }).await
    }

    async fn join(&self, request: JoinRequest) -> Result<(JoinTicket, Member), Fault> {
        let (ticket, pod) = self.ask(|answer| Ask::Join { request, answer }).await??;
        Ok((
            ticket,
            Member {
                pod,
                reports: self.reports.clone(),
            },
        ))
    }

    async fn ps(&self) -> Result<PsReport, Fault> {
        self.ask(|answer| Ask::Ps { answer }).await
    }

    async fn stopping(&self) {
        stopping(&self.stop, Stop::Gently).await;
    }
}

/// Someone whose pod is being made.
pub(super) struct Joining {
    pub(super) pod: Pod,
    pub(super) spec: PodSpec,
    pub(super) paths: RunPaths,
    pub(super) helper: Helper,
    pub(super) applied: watch::Receiver<Applied>,
    pub(super) reports: mpsc::UnboundedSender<Event>,
}

impl Joining {
    /// Makes the pod, waits until the agent serves it, and answers. Whoever doesn't get in leaves again.
    pub(super) async fn run(mut self, answer: oneshot::Sender<Result<(JoinTicket, Pod), Fault>>) {
        let outcome = self.make().await;
        let failed = outcome.is_err();
        // The asker may be gone: then there is nobody whose leaving would be noticed.
        if answer.send(outcome).is_err() || failed {
            let _ = self.reports.send(Event::Asked(Ask::Leave { pod: self.pod }));
        }
    }

    async fn make(&mut self) -> Result<(JoinTicket, Pod), Fault> {
        let info = self.helper.create_pod(self.spec.clone()).await;
        let info = info.map_err(|error| Fault::new(error.code().to_string(), error.to_string()))?;
        let little_room = info.little_room();
        for warning in info.warnings.into_iter().chain(little_room) {
            let _ = self.reports.send(Event::Warning(warning));
        }
        let (name, pod) = (self.pod.name.clone(), self.pod.clone());
        let link = info.link;
        let change = Change::PodMade { pod, link };
        let _ = self.reports.send(Event::Changed { name, change });
        self.applied
            .wait_for(|applied| applied.knows(&self.pod))
            .await
            .map_or_else(
                |_| Err(Fault::new("ADIT-A009", "the mesh is stopping")),
                |applied| {
                    applied
                        .refused
                        .get(&self.pod)
                        .map_or(Ok(()), |fault| Err(fault.clone()))
                },
            )?;
        let ticket = JoinTicket {
            node_socket: self.paths.node_socket(),
            pod: self.spec.name.clone(),
            addresses: self.spec.addresses.iter().map(|address| address.ip).collect(),
        };
        Ok((ticket, self.pod.clone()))
    }
}

/// What someone is told who can't join.
pub(super) fn refusal(error: &JoinError) -> Fault {
    let code = match error {
        JoinError::Exhausted { .. } => "ADIT-A010",
        JoinError::NameTaken { .. } => "ADIT-A013",
        _ => "ADIT-A017",
    };
    Fault::new(code, error.to_string())
}
