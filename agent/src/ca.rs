//! The signer of a cluster as a process of its own: `adit ca`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_control::kubernetes;
use adit_control::kubernetes::ca::{self, CaOptions, CaStatus, ServeError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::confine::{self, ConfineError};
use crate::metrics::{self, Exposition, Subject};

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
    /// Another program has the address for metrics, or it isn't this host's.
    #[error("[ADIT-A065] listening on {address} for metrics: {source}")]
    Metrics {
        /// The address asked for.
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

/// Signs for agents that connect to `listen`, until SIGTERM or SIGINT. Offers metrics and health at `metrics`.
///
/// # Errors
/// See [`CaProcessError`].
pub fn run(
    options: CaOptions,
    listen: SocketAddr,
    metrics: Option<SocketAddr>,
) -> Result<(), CaProcessError> {
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
        let status = Arc::new(CaStatus::default());
        if let Some(address) = metrics {
            let bound = TcpListener::bind(address).await;
            let listener = bound.map_err(|source| CaProcessError::Metrics { address, source })?;
            tokio::spawn(metrics::serve(listener, SignerHealth(Arc::clone(&status))));
        }
        let client = kubernetes::connect()
            .await
            .map_err(|error| CaProcessError::Api(error.into()))?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(ca::serve(client, options, listener, status, stop).await?)
    })
}

/// A signer, as it is asked about over HTTP.
struct SignerHealth(Arc<CaStatus>);

impl Subject for SignerHealth {
    async fn metrics(&self) -> Exposition {
        let mut all = Exposition::new();
        all.add("ca_certificates_signed_total", &[], self.0.signed() as f64);
        for (code, count) in self.0.refused() {
            all.add("ca_certificates_refused_total", &[("code", &code)], count as f64);
        }
        all
    }

    /// One thread does everything: it is alive if this is reached.
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        self.0.ready()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NAMES;

    #[tokio::test]
    async fn a_signer_that_has_just_started_is_live_and_not_ready() {
        let health = SignerHealth(Arc::default());
        assert_eq!(health.live(), Ok(()));
        assert!(health.ready().unwrap_err().contains("no keys yet"));
        let samples = health.metrics().await;
        for name in samples.names() {
            assert!(NAMES.iter().any(|(known, _)| *known == name), "{name}");
        }
    }
}
