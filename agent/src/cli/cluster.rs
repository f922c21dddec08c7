//! `adit node-agent`: the agent of a Kubernetes node.

use adit_control::kubernetes::Capability;
use adit_control::signing::SignerOptions;

use super::args::{NodeAgent, WirePort};
use super::{CliError, logging};
use crate::agent::AgentSettings;
use crate::cluster::{self, ClusterOptions};
use crate::rundir::{Base, RunDir};

/// The name under which `adit flows` and others find the agent of a node.
pub(super) const MESH: &str = "node";

/// Serves a node until it's told to stop, and removes its run directory.
pub(super) fn node_agent(args: NodeAgent) -> Result<u8, CliError> {
    logging::start();
    let run_dir = RunDir::create(&Base::of_process(), MESH)?;
    let defaults = AgentSettings::default();
    let svid_ttl = args.svid_ttl.unwrap_or(defaults.svid_ttl);
    let signer = args.signer.map(|address| SignerOptions {
        address,
        token: args.signer_token,
        roots: args.signer_roots,
        cluster: args.cluster,
        ttl: svid_ttl,
    });
    cluster::run(ClusterOptions {
        node_name: args.node_name,
        trust_domain: args.trust_domain,
        helper_socket: args.helper_socket,
        capability: capability(args.wire_port),
        socket: run_dir.paths().agent_socket(),
        metrics: args.metrics,
        drain: args.drain,
        settings: AgentSettings {
            state_dir: args.state_dir,
            signer,
            svid_ttl,
            workers: args.workers.map_or(defaults.workers, usize::from),
            busy_poll: args.busy_poll.unwrap_or(defaults.busy_poll),
            ..defaults
        },
    })?;
    run_dir.remove()?;
    Ok(0)
}

/// What pods are made to say of themselves. Listeners don't depend on it: an agent that hasn't heard of a change yet is served.
fn capability(wire_port: WirePort) -> Capability {
    match wire_port {
        WirePort::Original => Capability::HboneOnOriginalPort,
        WirePort::Hbone => Capability::Hbone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_say_what_the_flag_says() {
        assert_eq!(
            [WirePort::Original, WirePort::Hbone].map(capability),
            [Capability::HboneOnOriginalPort, Capability::Hbone]
        );
    }
}
