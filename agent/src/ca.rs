//! The signer of a cluster as a process of its own: `adit ca`.

use std::io;
use std::net::SocketAddr;

use adit_control::kubernetes;
use adit_control::kubernetes::ca::{self, CaOptions, ServeError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::confine::{self, ConfineError};

/// Why the signer could not start, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaProcessError {
    /// There is nothing that says how to reach the API, or it makes no sense.
    #[error("[ADIT-A062] configuring the client of the Kubernetes API: {0}")]
    Api(Box<dyn std::error::Error + Send + Sync>),
    /// It could not give up what it doesn't need.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// Agents can't reach it.
    #[error("[ADIT-A063] listening for agents on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A runtime could not be made.
    #[error("[ADIT-A026] starting the signer's runtime: {source}")]
    Runtime {
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its keys can't be used.
    #[error("[ADIT-A064] {0}")]
    Serve(#[from] ServeError),
}

/// Signs for agents that connect to `listen`, until SIGTERM or SIGINT.
///
/// # Errors
/// See [`CaProcessError`].
pub fn run(options: CaOptions, listen: SocketAddr) -> Result<(), CaProcessError> {
    let runtime = |source| CaProcessError::Runtime { source };
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(runtime)?;
    // One thread so far: all that come later inherit what is given up here.
    confine::confine()?;
    executor.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(runtime)?;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| CaProcessError::Listen {
                address: listen,
                source,
            })?;
        let client = kubernetes::connect()
            .await
            .map_err(|error| CaProcessError::Api(error.into()))?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(ca::serve(client, options, listener, stop).await?)
    })
}
