//! The agent on a Kubernetes node: the API says what the mesh is, the node helper captures pods, the workers serve them.
//!
//! ```text
//!   Kubernetes API ──State──▶ follow ──snapshot, policies──▶ workers
//!                               │                               ▲ queues, sockets
//!                               └──wanted pods──▶ members ──▶ broker ──▶ node helper (privileged)
//! ```
//!
//! It has no capability, enters no namespace, and needs no network of its own but the way to the API.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_control::kubernetes::KubeClient;
use adit_control::kubernetes::{self, Capability, Source, SourceOptions, State};
use adit_identity::TrustDomain;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Fault, FlowHub};
use crate::agent::AgentSettings;
use crate::agent::handler::Agent;
use crate::agent::running::Running;
use crate::confine::{self, ConfineError};
use crate::metrics;
use broker::{Broker, BrokerError};
use health::{HelperWatch, NodeHealth};
use members::Members;

mod admissions;
mod broker;
mod health;
mod members;
mod sockets;
mod stop;

pub(crate) use sockets::{OuterSockets, PodSockets};

/// How `adit node-agent` is started.
#[derive(Debug)]
pub struct ClusterOptions {
    /// The Kubernetes node that it serves.
    pub node_name: String,
    /// The trust domain of the cluster's workloads.
    pub trust_domain: TrustDomain,
    /// The node helper's socket.
    pub helper_socket: PathBuf,
    /// Where captured pods say that they take HBONE; never [`Capability::None`].
    pub capability: Capability,
    /// Where the control socket is bound.
    pub socket: PathBuf,
    /// Where metrics and health are to be had over HTTP; nowhere without it.
    pub metrics: Option<SocketAddr>,
    /// How long live flows may go on after SIGTERM.
    pub drain: Duration,
    /// What the agent keeps, and for how long.
    pub settings: AgentSettings,
}

/// Why the agent of a node could not start, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// It could not give up what it doesn't need.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// The control socket could not be bound.
    #[error("[ADIT-A024] binding the agent's control socket {path}: {source}", path = path.display())]
    ControlSocket {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another program has the address for metrics, or it isn't this host's.
    #[error("[ADIT-A065] listening on {address} for metrics: {source}")]
    Metrics {
        /// The address asked for.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A runtime or thread could not be made.
    #[error("[ADIT-A026] starting the agent's runtime: {source}")]
    Runtime {
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is nothing that says how to reach the API, or it makes no sense.
    #[error("[ADIT-A062] configuring the client of the Kubernetes API: {0}")]
    Api(Box<dyn std::error::Error + Send + Sync>),
    /// The helper can't be asked.
    #[error("{0}")]
    Helper(String),
    /// The first mesh could not be served.
    #[error("{0}")]
    Mesh(String),
}

impl From<BrokerError> for ClusterError {
    fn from(error: BrokerError) -> Self {
        Self::Helper(error.to_string())
    }
}

/// Serves the node until SIGTERM or SIGINT, and then for as long as its flows live, but [`ClusterOptions::drain`] at most.
///
/// # Errors
/// See [`ClusterError`].
pub fn run(options: ClusterOptions) -> Result<(), ClusterError> {
    let runtime = |source| ClusterError::Runtime { source };
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(runtime)?;
    let _inside = executor.enter();
    let control = admin::bind(&options.socket).map_err(|source| ClusterError::ControlSocket {
        path: options.socket.clone(),
        source,
    })?;
    // One thread so far: all that come later inherit what is given up here.
    confine::confine()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(runtime)?;
    let hub = FlowHub::new(options.settings.flow_records);
    let agent = Arc::new(Agent::new(options.settings.clone(), None, hub));
    let broker = Broker::start(options.helper_socket.clone()).map_err(runtime)?;
    executor.block_on(async {
        tokio::spawn(admin::serve(control, Arc::clone(&agent)));
        let client = kubernetes::connect()
            .await
            .map_err(|error| ClusterError::Api(error.into()))?;
        let source = Arc::new(Source::start(
            client.clone(),
            SourceOptions {
                node: options.node_name,
                trust_domain: options.trust_domain,
            },
        ));
        if let Some(address) = options.metrics {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|source| ClusterError::Metrics { address, source })?;
            let health = NodeHealth {
                agent: Arc::clone(&agent),
                source: Arc::clone(&source),
                helper: HelperWatch::start(options.helper_socket.clone()).map_err(runtime)?,
            };
            tokio::spawn(metrics::serve(listener, health));
        }
        let follower = Follower {
            agent: Arc::clone(&agent),
            broker: broker.clone(),
            source,
            client,
            helper_socket: options.helper_socket,
            capability: options.capability,
        };
        let told_to_stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop::hand_over(&agent, &broker, options.drain).await;
        };
        // Pods join and leave, and policies take effect, to the end.
        tokio::select! {
            ended = follower.run() => ended,
            () = told_to_stop => Ok(()),
        }
    })
}

/// Makes what Kubernetes says so.
struct Follower {
    agent: Arc<Agent>,
    broker: Broker,
    source: Arc<Source>,
    client: KubeClient,
    helper_socket: PathBuf,
    capability: Capability,
}

impl Follower {
    /// As long as the agent runs.
    async fn run(self) -> Result<(), ClusterError> {
        let mut states = self.source.states();
        let mut members: Option<Members> = None;
        // States follow one another for other reasons: what is wrong with one is told once, not with each that has it still.
        let mut told: Option<Fault> = None;
        let (dismiss, mut dismissed) = watch::channel(false);
        loop {
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                Ok(()) = dismissed.changed() => {}
            }
            let Some(state) = states.borrow_and_update().clone() else {
                continue;
            };
            // The signer takes its time: it's asked as soon as a pod is wanted, not when it's captured.
            let joining: Vec<_> = state.wanted.iter().map(|pod| pod.name.clone()).collect();
            let published = self.agent.publish(
                Arc::clone(&state.snapshot),
                &joining,
                &state.policies,
                &state.accounts,
            );
            let running = match published.await {
                Ok(running) => running,
                // The first has nothing to fall back on; later ones leave what is in force.
                Err(fault) if members.is_none() => return Err(ClusterError::Mesh(fault.to_string())),
                Err(fault) => {
                    if told.as_ref() != Some(&fault) {
                        tracing::error!(%fault, "a change of the cluster's state is not in force");
                        told = Some(fault);
                    }
                    continue;
                }
            };
            if told.take().is_some() {
                tracing::info!("the cluster's state is in force again");
            }
            let members = match &mut members {
                Some(members) => members,
                none => none.insert(self.first(Arc::clone(running), &state, dismiss.clone()).await?),
            };
            match *dismissed.borrow_and_update() {
                false => members.follow(&state, &state.wanted),
                // The labels still say otherwise, but adit is being taken off the node.
                true => members.follow(&state, &[]),
            }
        }
    }

    /// What is done once there is a mesh.
    async fn first(
        &self,
        running: Arc<Running>,
        state: &State,
        dismissed: watch::Sender<bool>,
    ) -> Result<Members, ClusterError> {
        let mut members = Members::new(
            running,
            self.broker.clone(),
            self.client.clone(),
            Arc::clone(&self.source),
            self.capability,
        );
        members.adopt(state).await?;
        admissions::start(self.helper_socket.clone(), self.client.clone(), dismissed)
            .map_err(|source| ClusterError::Runtime { source })?;
        Ok(members)
    }
}
