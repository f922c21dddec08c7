use adit_flow::{FourTuple, Protocol};
use adit_identity::SpiffeId;

/// What the engine is asked about: the first packet of a flow, and who sent it as far as that was verified.
///
/// The destination is the workload's own address and port: a service address is resolved to an endpoint before the
/// engine is asked, since policies are written about endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Addresses and ports, from the opener to the endpoint.
    pub tuple: FourTuple,
    /// The transport.
    pub protocol: Protocol,
    /// Type and code, with ICMP and ICMPv6 only. Without it a rule that asks for a type doesn't match.
    pub icmp: Option<Icmp>,
    /// The opener's SPIFFE id, verified by mutual TLS; `None` for a plain flow, whoever it may be from.
    pub source_identity: Option<SpiffeId>,
}

/// Type and code of an ICMP message (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// The type: 8 for an IPv4 echo request, 128 for an IPv6 one.
    pub kind: u8,
    /// The code within the type.
    pub code: u8,
}

/// Which end of the flow is being judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// At the source, leaving it.
    Egress,
    /// At the destination, entering it.
    Ingress,
}

impl Flow {
    /// A plain flow: no identity, no ICMP type.
    pub fn plain(tuple: FourTuple, protocol: Protocol) -> Self {
        Self {
            tuple,
            protocol,
            icmp: None,
            source_identity: None,
        }
    }
}

impl Direction {
    /// The word that policy objects use for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}
