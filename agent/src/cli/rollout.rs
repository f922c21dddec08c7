//! `adit await-daemon-set`: waits until every node has done something.

use adit_control::kubernetes;

use super::args::AwaitDaemonSet;
use super::{CliError, block_on, logging};
use crate::cluster::ClusterError;

/// Waits as long as it takes; whoever started it sets the bound.
pub(super) fn await_daemon_set(args: &AwaitDaemonSet) -> Result<u8, CliError> {
    logging::start();
    block_on(async {
        let client = kubernetes::connect()
            .await
            .map_err(|error| ClusterError::Api(error.into()))?;
        kubernetes::await_daemon_set(&client, &args.namespace, &args.name, |state| match state {
            Ok(rollout) => tracing::info!(ready = rollout.ready, wanted = ?rollout.wanted, "nodes"),
            Err(error) => tracing::warn!(%error, "the API server doesn't say how far it is"),
        })
        .await;
        Ok(())
    })?;
    Ok(0)
}
