//! `adit await-daemon-set`: waits until every node has done something, and says which haven't.

use std::time::Duration;

use adit_control::kubernetes::{self, UnfinishedError};

use super::args::AwaitDaemonSet;
use super::{CliError, block_on, logging};
use crate::cluster::ClusterError;

/// Some nodes took too long. What is waited for is that adit is taken off them.
#[derive(Debug, thiserror::Error)]
#[error(
    "[ADIT-A076] DaemonSet {name} after {} s: {source}. Adit is still on nodes that aren't done: bring them back and uninstall again, \
     or first `kubectl delete node NAME` of one that won't come back",
    .patience.as_secs()
)]
pub(super) struct StillInstalled {
    name: String,
    patience: Duration,
    source: UnfinishedError,
}

/// The exit code, apart from that of other failures: trying again at once wouldn't help.
pub(super) const STILL_INSTALLED: u8 = 3;

/// Waits for all nodes, as long as it's told.
pub(super) fn await_daemon_set(args: &AwaitDaemonSet) -> Result<u8, CliError> {
    logging::start();
    block_on(async {
        let client = kubernetes::connect()
            .await
            .map_err(|error| ClusterError::Api(error.into()))?;
        let told = |state: Result<kubernetes::Rollout, String>| match state {
            Ok(rollout) => tracing::info!(ready = rollout.ready, wanted = ?rollout.wanted, "nodes"),
            Err(error) => tracing::warn!(%error, "the API server doesn't say how far it is"),
        };
        kubernetes::await_daemon_set(&client, &args.namespace, &args.name, args.timeout, told)
            .await
            .map_err(|source| StillInstalled {
                name: format!("{}/{}", args.namespace, args.name),
                patience: args.timeout,
                source,
            })?;
        Ok(0)
    })
}
