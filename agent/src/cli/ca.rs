//! `adit ca`: the signer of a cluster.

use adit_control::kubernetes::ca::CaOptions;
use adit_flow::WorkloadName;

use super::args::Ca;
use super::{CliError, logging};

/// Signs until it's told to stop.
pub(super) fn ca(args: Ca) -> Result<u8, CliError> {
    logging::start();
    let agents = match args.agents.is_empty() {
        true => vec![WorkloadName::new(&args.namespace, "adit-agent")],
        false => args.agents,
    };
    let options = CaOptions {
        trust_domain: args.trust_domain,
        namespace: args.namespace,
        service: args.service,
        audience: args.audience,
        agents,
        max_ttl: args.max_svid_ttl,
    };
    crate::ca::run(options, args.listen, args.metrics)?;
    Ok(0)
}
