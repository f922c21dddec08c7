use std::fmt;

use serde::{Deserialize, Serialize};

/// Defines a fieldless reason enum with its label: one spelling for metrics, logs and JSON.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $label)] $variant),+
        }

        impl $name {
            /// Every value, in the order of declaration: the label set of a metric.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The label used in metrics, logs and JSON.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

reasons! {
    /// Why a flow ended.
    CloseReason {
        /// The agent is stopping and its drain deadline passed.
        Drained => "drained",
        /// A flow table was full, and it gave way to a newer flow.
        Evicted => "evicted",
        /// Both ends sent FIN and both were acknowledged: the only clean end.
        Fin => "fin",
        /// No packet and no byte for the idle timeout.
        Idle => "idle",
        /// The identity it was authorised with is no longer valid.
        IdentityExpired => "identity-expired",
        /// The far end vanished: the tunnel's connection broke or it stopped answering.
        PeerLost => "peer-lost",
        /// Policy, identity or membership changed and no longer allows it.
        PolicyChanged => "policy-changed",
        /// It was never established; the refusal reason says why.
        Refused => "refused",
        /// One end reset it (TCP RST, RST_STREAM).
        Reset => "reset",
        /// Retransmissions went unanswered.
        TimedOut => "timed-out",
    }
}

reasons! {
    /// Which party ended a flow.
    Closer {
        /// The agent itself: policy, drain, a bound.
        Agent => "agent",
        /// The workload or host that the flow was opened to.
        Destination => "destination",
        /// Neither end: the network or the tunnel between them.
        Network => "network",
        /// The workload that opened the flow.
        Source => "source",
    }
}

reasons! {
    /// Why a new flow was not established. What the opener sees is what it would see without a mesh.
    RefuseReason {
        /// The destination's identity is not the one the control plane gave for its address.
        BadIdentity => "bad-identity",
        /// The policy denied it.
        Denied => "denied",
        /// The agent is draining.
        Draining => "draining",
        /// No endpoint of the service is ready.
        NoEndpoint => "no-endpoint",
        /// A bound was reached: flow table, held SYNs, tunnels.
        OverLimit => "over-limit",
        /// The destination answered with a reset: nobody listens there.
        Refused => "refused",
        /// No answer in time.
        TimedOut => "timed-out",
        /// The tunnel to the peer could not be set up.
        TunnelFailed => "tunnel-failed",
        /// No route to the destination.
        Unreachable => "unreachable",
    }
}

reasons! {
    /// Why a packet was dropped. Each drop is counted under exactly one of these.
    DropReason {
        /// Transport checksum wrong.
        BadChecksum => "bad-checksum",
        /// Destination address is not one of the pod's.
        BadDestination => "bad-destination",
        /// Source address is not one of the pod's.
        BadSource => "bad-source",
        /// Its flow was denied or cut.
        Denied => "denied",
        /// It would begin a flow, and this agent is about to end: its sender repeats it, and the next agent takes it.
        Draining => "draining",
        /// It would begin a flow, of a workload that joins the mesh and may have more to say than we know: its sender repeats it.
        Joining => "joining",
        /// A header field makes no sense (RFC 791, RFC 8200, RFC 9293).
        Malformed => "malformed",
        /// A flow's queue was full.
        QueueFull => "queue-full",
        /// A flow table was full.
        TableFull => "table-full",
        /// A fragment, where the agent needs whole packets.
        Fragment => "fragment",
        /// Not a SYN, and no such flow.
        NoFlow => "no-flow",
        /// Too long for the link it has to leave by.
        TooBig => "too-big",
        /// Shorter than its headers say.
        Truncated => "truncated",
        /// Broadcast, multicast or an unspecified address.
        Unroutable => "unroutable",
        /// A protocol that this path does not carry.
        UnsupportedProtocol => "unsupported-protocol",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_are_what_json_says() {
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::ALL.len());
        for reason in CloseReason::ALL {
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{reason}\""));
        }
    }
}
