//! The node helper, asked from async code.
//!
//! The helper answers at once, one request after another, and its client blocks; so a thread of its own asks, and
//! everybody else waits for a message. It connects again when the helper was started anew: pods outlive both.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use adit_node::ClientError;
use adit_node::cluster::{Client, Counters, Family, Kind, Member, PodQueues, PodRef};
use adit_node::codes::Code;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait; who finds no room waits too. The helper takes far less than a millisecond for all but joins
/// and leaves.
const WAITING_LIMIT: usize = 1_024;

/// How long to wait for a helper that is being started anew, and how often.
const PAUSE: Duration = Duration::from_millis(200);
const ATTEMPTS: usize = 25;

/// A handle; clones ask the same helper.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    jobs: mpsc::Sender<Job>,
}

/// Why the helper gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[error("[ADIT-A060] {doing}: {problem}")]
pub(crate) struct BrokerError {
    doing: &'static str,
    problem: Problem,
}

/// In the client's words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
struct Problem {
    /// The helper's own code, if it has refused.
    refusal: Option<Code>,
    message: String,
}

impl Problem {
    /// The helper has said nothing to it.
    fn unanswered(message: String) -> Self {
        Self {
            refusal: None,
            message,
        }
    }
}

impl BrokerError {
    /// Whether the pod runs in a sandbox with a network stack of its own, which neither joins nor leaves while it runs.
    pub(crate) fn is_of_sandbox(&self) -> bool {
        self.problem.refusal == Some(Code::POD_SANDBOX)
    }
}

impl From<BrokerError> for io::Error {
    fn from(error: BrokerError) -> Self {
        Self::other(error)
    }
}

type Job = Box<dyn FnOnce(&mut Helper) + Send>;

impl Broker {
    /// Starts the thread that asks the helper at `socket`; it ends when the last handle is dropped.
    ///
    /// # Errors
    /// The thread could not be made.
    pub(crate) fn start(socket: PathBuf) -> io::Result<Self> {
        let (jobs, mut waiting) = mpsc::channel::<Job>(WAITING_LIMIT);
        let mut helper = Helper { socket, client: None };
        std::thread::Builder::new()
            .name("adit-broker".to_owned())
            .spawn(move || {
                while let Some(job) = waiting.blocking_recv() {
                    job(&mut helper);
                }
            })?;
        Ok(Self { jobs })
    }

    /// Captures a pod, or takes the queues of one that is captured.
    pub(crate) async fn join(&self, pod: PodRef) -> Result<(Member, PodQueues), BrokerError> {
        self.ask("capturing a pod", move |client| client.join(&pod)).await
    }

    /// Lets a pod go.
    pub(crate) async fn leave(&self, uid: &str) -> Result<(), BrokerError> {
        let uid = uid.to_owned();
        self.ask("letting a pod go", move |client| client.leave(&uid))
            .await
    }

    /// The pods that are captured now.
    pub(crate) async fn members(&self) -> Result<Vec<Member>, BrokerError> {
        self.ask("listing captured pods", Client::members).await
    }

    /// What the helper has counted.
    pub(crate) async fn stats(&self) -> Result<Counters, BrokerError> {
        self.ask("asking how the helper is", Client::stats).await
    }

    /// Blank TCP sockets in a pod's outer namespace.
    pub(crate) async fn sockets(
        &self,
        uid: &str,
        family: Family,
        count: u16,
    ) -> Result<Vec<OwnedFd>, BrokerError> {
        let uid = uid.to_owned();
        let ask = move |client: &mut Client| client.sockets(&uid, family, Kind::Tcp, count);
        self.ask("making sockets at a pod's address", ask).await
    }

    /// Has agents' connections to `port` of a pod reach the agent's listener there.
    pub(crate) async fn open_port(&self, uid: &str, port: u16) -> Result<(), BrokerError> {
        let uid = uid.to_owned();
        self.ask("opening a port", move |client| client.open_port(&uid, port))
            .await
    }

    /// Undoes [`Broker::open_port`].
    pub(crate) async fn close_port(&self, uid: &str, port: u16) -> Result<(), BrokerError> {
        let uid = uid.to_owned();
        self.ask("closing a port", move |client| client.close_port(&uid, port))
            .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        doing: &'static str,
        mut call: impl FnMut(&mut Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move |helper: &mut Helper| {
            // Who asked may have given up meanwhile.
            let _ = answer.send(helper.ask(&mut call));
        });
        let answer = match self.jobs.send(job).await {
            Ok(()) => answered.await.ok(),
            Err(_) => None,
        };
        answer
            .unwrap_or_else(|| {
                let ended = "the thread that asks the node helper has ended";
                Err(Problem::unanswered(ended.to_owned()))
            })
            .map_err(|problem| BrokerError { doing, problem })
    }
}

/// The connection, which the thread owns.
struct Helper {
    socket: PathBuf,
    client: Option<Client>,
}

impl Helper {
    /// Asks until there is an answer, or the helper has stayed away for too long. Every request may be repeated: each says
    /// what is to be, not what to change.
    fn ask<T>(&mut self, call: &mut impl FnMut(&mut Client) -> Result<T, ClientError>) -> Result<T, Problem> {
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(PAUSE);
            }
            match self.connected().and_then(&mut *call) {
                Ok(answer) => return Ok(answer),
                Err(error @ ClientError::Refused { code, .. }) => {
                    return Err(Problem {
                        refusal: Some(code),
                        message: format!("[{code}] {error}"),
                    });
                }
                Err(error) => {
                    self.client = None;
                    last = error.to_string();
                }
            }
        }
        Err(Problem::unanswered(last))
    }

    fn connected(&mut self) -> Result<&mut Client, ClientError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.socket)?,
        };
        Ok(self.client.insert(client))
    }
}
