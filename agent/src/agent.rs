//! The agent's process: takes the mesh from its supervisor, the pods' queues from the node helper, and keeps the
//! workers going. It parses what pods and peers send, so it runs confined: no capability, no new privilege, a filter of
//! system calls.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_control::signing::SignerOptions;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::admin::{self, FlowHub};
use crate::confine::{self, ConfineError};

mod arrivals;
pub(crate) mod handler;
mod listener;
pub(crate) mod policies;
pub(crate) mod running;
mod store;
pub(crate) mod trial;

pub use store::StoreError;

/// How `adit agent` is started.
#[derive(Debug)]
pub struct AgentOptions {
    /// Where the control socket is bound.
    pub socket: PathBuf,
    /// The node helper's socket.
    pub node_socket: PathBuf,
    /// The read end of a pipe that the supervisor holds open: at its end the agent ends.
    pub lifeline: OwnedFd,
    /// Where agents on other nodes reach this one's pods.
    pub listen: Option<SocketAddr>,
    /// What the agent keeps, and for how long.
    pub settings: AgentSettings,
}

/// What a user may tune.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// Where the CA's key is kept; in memory only without it.
    pub state_dir: Option<PathBuf>,
    /// Who signs SVIDs; an authority in this process without it.
    pub signer: Option<SignerOptions>,
    /// How long an SVID of the authority in this process is valid. Default one hour.
    pub svid_ttl: Duration,
    /// Worker threads. Default: one a core, eight at most.
    pub workers: usize,
    /// How long a worker may look for work before it sleeps, where that pays. Default 100 µs; none switches it off.
    pub busy_poll: Duration,
    /// Flow records kept for readers. Default 4096, some 2 MiB.
    pub flow_records: usize,
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
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
    /// Another program has the address, or it isn't this host's.
    #[error("[ADIT-A025] listening on {address} for other nodes: {source}")]
    Listen {
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
}

impl Default for AgentSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            signer: None,
            state_dir: None,
            svid_ttl: Duration::from_secs(3600),
            workers: cores.min(8),
            busy_poll: Duration::from_micros(100),
            flow_records: 4096,
        }
    }
}

/// Runs the agent until its lifeline ends.
///
/// # Errors
/// See [`AgentError`]. Everything that can fail at the start fails before the control socket answers.
pub fn run(options: AgentOptions) -> Result<(), AgentError> {
    let runtime = |source| AgentError::Runtime { source };
    let listener = options.listen.map(listen).transpose()?;
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(runtime)?;
    let _inside = executor.enter();
    let control = admin::bind(&options.socket).map_err(|source| AgentError::ControlSocket {
        path: options.socket.clone(),
        source,
    })?;
    // One thread so far: all that come later inherit what is given up here.
    confine::confine()?;
    let hub = FlowHub::new(options.settings.flow_records);
    let handler = Arc::new(handler::Agent::new(
        options.settings,
        Some(options.node_socket),
        hub,
    ));
    executor.block_on(async {
        if let Some(listener) = listener {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(runtime)?;
            tokio::spawn(listener::accept(listener, Arc::clone(&handler)));
        }
        tokio::spawn(admin::serve(control, handler));
        lifeline(options.lifeline).await.map_err(runtime)
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener, AgentError> {
    let bound =
        TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.map_err(|source| AgentError::Listen { address, source })
}

/// Ends when the other end of the pipe is closed: whoever held it is gone.
async fn lifeline(pipe: OwnedFd) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut ignored = [0; 64];
    while pipe.read(&mut ignored).await? > 0 {}
    Ok(())
}
