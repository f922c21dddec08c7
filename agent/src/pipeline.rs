//! The whole path: what happens to a flow from its first packet to its record.
//!
//! [`outbound`] serves the flows that a pod opens, [`inbound`] the streams that arrive for one, [`plain`] the flows that
//! arrive without a tunnel. All read top to bottom: route, verdict, connect, relay, record.

use adit_flow::{Closer, RefuseReason};
use adit_netstack::{Refusal, Unreachable};

pub(crate) mod course;
pub(crate) mod inbound;
pub(crate) mod live;
pub(crate) mod outbound;
pub(crate) mod plain;
pub(crate) mod relay;
pub(crate) mod route;

/// Why a flow was not established, before it's told to the one who asked.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The reason as recorded.
    pub(crate) reason: RefuseReason,
    /// Who refused.
    pub(crate) by: Closer,
    /// Detail for people.
    pub(crate) detail: Option<String>,
}

impl Refused {
    /// The agent itself refuses.
    pub(crate) fn by_agent(reason: RefuseReason) -> Self {
        Self {
            reason,
            by: Closer::Agent,
            detail: None,
        }
    }
}

/// What the application sees of a refusal: the same as without a mesh. A packet filter drops what it denies, so
/// a denied `connect` hears nothing; a service without endpoints is answered by a reset, as kube-proxy does.
pub(crate) fn refusal(reason: RefuseReason) -> Refusal {
    match reason {
        RefuseReason::Denied | RefuseReason::OverLimit | RefuseReason::TimedOut => Refusal::Silent,
        RefuseReason::Unreachable => Refusal::Unreachable(Unreachable::Host),
        RefuseReason::BadIdentity
        | RefuseReason::Draining
        | RefuseReason::NoEndpoint
        | RefuseReason::Refused
        | RefuseReason::TunnelFailed => Refusal::Reset,
    }
}
