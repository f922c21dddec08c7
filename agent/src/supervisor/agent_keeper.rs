//! Keeps an agent running, and keeps it told.
//!
//! What the agent should know and serve is one value ([`Desired`]) of which only the latest counts. Whenever it changes
//! the difference is sent, removals first; a new agent is sent everything. So starting the agent, telling it news and
//! restoring it after a crash are one and the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::artifacts::FlowLog;
use super::notice::Notices;
use super::process::{self, AgentArguments, Kept};
use super::restart::Backoff;
use super::table::{Desired, Pod};
use super::{Event, Stop, stopping};
use crate::admin::{AgentClient, ClientError, Fault};
use crate::rundir::RunPaths;

/// What the agent has taken in.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    /// The generation that it holds; 0 before the first.
    pub(super) generation: u64,
    /// The pods that it serves.
    pub(super) served: BTreeSet<Pod>,
    /// The pods that it couldn't serve, and why.
    pub(super) refused: BTreeMap<Pod, Fault>,
    /// Its process.
    pub(super) pid: Option<u32>,
    /// How often it was started again.
    pub(super) restarts: u32,
}

impl Applied {
    /// Whether the agent serves the pod or has refused to.
    pub(super) fn knows(&self, pod: &Pod) -> bool {
        self.served.contains(pod) || self.refused.contains_key(pod)
    }
}

pub(super) struct AgentKeeper {
    pub(super) paths: RunPaths,
    pub(super) arguments: AgentArguments,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) applied: watch::Sender<Applied>,
    pub(super) stop: watch::Receiver<Stop>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) notices: Notices,
    /// Where the records of flows are kept.
    pub(super) flows: Option<FlowLog>,
}

/// Why an agent's time was over.
enum End {
    /// We stop.
    Stopping,
    /// Its process ended.
    Exited(String),
    /// It runs and can't be talked to.
    Unreachable(ClientError),
    /// It doesn't take the mesh. Another try would end the same.
    Refused(Fault),
}

impl AgentKeeper {
    /// Runs agents until told to stop, or until there is no hope: then the last event is [`Event::AgentFailed`].
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut ever_started = false;
        for attempt in 0.. {
            let started = Instant::now();
            // A killed agent leaves its socket behind, where the next can't bind.
            let _ = std::fs::remove_file(self.paths.agent_socket());
            let mut agent = match Kept::start(process::agent(&self.paths, &self.arguments)) {
                Ok(agent) => agent,
                Err(error) => return self.give_up(format!("starting the agent: {error}")),
            };
            if let (_, Some(stderr)) = agent.streams() {
                self.notices.follow("agent", stderr);
            }
            self.applied.send_modify(|applied| {
                *applied = Applied {
                    pid: agent.pid(),
                    restarts: attempt,
                    ..Applied::default()
                };
            });
            let reading = self.read_flows();
            let end = self.serve(&mut agent).await;
            ever_started |= self.applied.borrow().generation > 0;
            self.applied.send_modify(|applied| applied.pid = None);
            let how = match end {
                End::Stopping => return self.drain(agent, reading).await,
                End::Refused(fault) => {
                    let _ = agent.end(END_LIMIT).await;
                    return self.give_up(fault.to_string());
                }
                End::Exited(how) => format!("ended with {how}"),
                End::Unreachable(error) => {
                    let _ = agent.end(END_LIMIT).await;
                    format!("could not be reached ({error})")
                }
            };
            last_records(reading).await;
            if !ever_started {
                return self.give_up(format!("the agent {how} before it took the mesh"));
            }
            if attempt + 1 == ATTEMPTS {
                return self.give_up(format!("the agent {how}, for the {ATTEMPTS}th time"));
            }
            let pause = backoff.after(started.elapsed());
            let seconds = pause.as_secs();
            self.notices.say(&format!(
                "[ADIT-A007] the agent {how}: every flow was reset; it is started again in {seconds} s"
            ));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopping(&self.stop, Stop::Gently) => return,
            }
        }
    }

    async fn serve(&mut self, agent: &mut Kept) -> End {
        let stop = self.stop.clone();
        let tell = self.tell();
        tokio::select! {
            // A crash closes the socket too; the process' end says more.
            biased;
            status = agent.wait() => End::Exited(status.map_or_else(|error| error.to_string(), process::in_words)),
            () = stopping(&stop, Stop::Gently) => End::Stopping,
            end = tell => end,
        }
    }

    /// Reads the records of the agent that was just started, to the end of either.
    fn read_flows(&self) -> Option<JoinHandle<()>> {
        let (flows, socket) = (self.flows.clone()?, self.paths.agent_socket());
        Some(tokio::task::spawn_local(async move {
            // One that never listens is told of by whoever started it.
            if let Ok(client) = connect(&socket).await {
                flows.follow(client).await;
            }
        }))
    }

    /// Tells the agent what it should know, and again whenever that changes.
    async fn tell(&mut self) -> End {
        let mut client = match connect(&self.paths.agent_socket()).await {
            Ok(client) => client,
            Err(error) => return self.lost(error).await,
        };
        loop {
            let desired = self.desired.borrow_and_update().clone();
            match self.send_difference(&mut client, &desired).await {
                Ok(()) => {}
                Err(ClientError::Refused(fault)) => return End::Refused(fault),
                Err(error) => return self.lost(error).await,
            }
            if self.desired.changed().await.is_err() {
                return End::Stopping;
            }
        }
    }

    /// A connection that breaks mostly means that the process ended: that is about to be noticed, and says why.
    async fn lost(&self, error: ClientError) -> End {
        tokio::time::sleep(Duration::from_millis(500)).await;
        End::Unreachable(error)
    }

    /// An agent that once took the mesh and refuses a later one keeps the last: that is told, and we go on.
    async fn send_difference(
        &mut self,
        client: &mut AgentClient,
        desired: &Desired,
    ) -> Result<(), ClientError> {
        let mut applied = self.applied.borrow().clone();
        let gone: Vec<_> = applied.served.difference(&desired.pods).cloned().collect();
        for pod in gone {
            client.remove_pod(pod.name.clone()).await?;
            applied.served.remove(&pod);
        }
        applied.refused.retain(|pod, _| desired.pods.contains(pod));
        if applied.generation != desired.update.generation {
            match client.set_mesh((*desired.update).clone()).await {
                Err(ClientError::Refused(fault)) if applied.generation > 0 => {
                    self.notices
                        .say(&format!("the agent goes on with the mesh as it was: {fault}"));
                }
                result => result?,
            }
            applied.generation = desired.update.generation;
        }
        let new = desired.pods.iter().filter(|pod| !applied.served.contains(*pod));
        let new: Vec<_> = new
            .filter(|pod| !applied.refused.contains_key(*pod))
            .cloned()
            .collect();
        for pod in new {
            match client.add_pod(pod.name.clone()).await {
                Ok(()) => drop(applied.served.insert(pod)),
                Err(ClientError::Refused(fault)) => drop(applied.refused.insert(pod, fault)),
                Err(error) => return Err(error),
            }
        }
        self.applied.send_replace(applied);
        Ok(())
    }

    /// Lets the live flows end, for a moment, and then the agent.
    async fn drain(&self, mut agent: Kept, reading: Option<JoinHandle<()>>) {
        let deadline = u64::try_from(DRAIN.as_millis()).unwrap_or(u64::MAX);
        let drained = async {
            let mut client = AgentClient::connect(&self.paths.agent_socket()).await?;
            client.drain(deadline).await
        };
        let drained = async {
            let _ = tokio::time::timeout(DRAIN * 2, drained).await;
            // An agent without flows writes no more records: who reads them comes to their end.
            last_records(reading).await;
        };
        // Its flows are reset when it ends, drained or not.
        tokio::select! {
            () = drained => {}
            () = stopping(&self.stop, Stop::Now) => {}
        }
        let _ = agent.end(END_LIMIT).await;
    }

    fn give_up(&self, reason: String) {
        let _ = self.events.send(Event::AgentFailed(reason));
    }
}

/// Waits, but not for long, until whoever reads records has read all of an agent that has ended, or has none any more.
async fn last_records(reading: Option<JoinHandle<()>>) {
    if let Some(mut reading) = reading
        && tokio::time::timeout(LAST_RECORDS, &mut reading).await.is_err()
    {
        reading.abort();
    }
}

/// Connects as soon as the agent listens.
async fn connect(socket: &Path) -> Result<AgentClient, ClientError> {
    let end = tokio::time::Instant::now() + CONNECT_LIMIT;
    loop {
        match AgentClient::connect(socket).await {
            Err(ClientError::Connect { .. }) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(CONNECT_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Agents that are started, at most: with the pauses in between, over some minutes.
const ATTEMPTS: u32 = 10;
/// How long an agent may take until it listens.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
const CONNECT_PAUSE: Duration = Duration::from_millis(5);
/// How long live flows are waited for when everything stops. Their workloads have ended by then.
const DRAIN: Duration = Duration::from_secs(1);
/// How long the records may take that an agent had when it ended: 4096, and a disk that takes them.
const LAST_RECORDS: Duration = Duration::from_secs(2);
/// How long the agent may take to end after its lifeline did.
const END_LIMIT: Duration = Duration::from_secs(3);
