use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// An IP protocol, with names for those that adit treats apart.
///
/// Written in lower case as in policy objects and logs; anything else by its IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// ICMP for IPv4 (1).
    Icmp,
    /// ICMP for IPv6 (58).
    Icmpv6,
    /// SCTP (132).
    Sctp,
    /// TCP (6).
    Tcp,
    /// UDP (17).
    Udp,
    /// Any other protocol by its IANA number.
    #[serde(untagged)]
    Other(u8),
}

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
            Self::Sctp => 132,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Other(number) => number,
        }
    }

    /// Whether packets of this protocol carry source and destination ports.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Sctp | Self::Tcp | Self::Udp)
    }
}

impl From<u8> for Protocol {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            58 => Self::Icmpv6,
            132 => Self::Sctp,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.write_str("icmp"),
            Self::Icmpv6 => f.write_str("icmpv6"),
            Self::Sctp => f.write_str("sctp"),
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Other(number) => write!(f, "{number}"),
        }
    }
}

/// The addresses of a flow as the packets carry them: who opened it and whom it was opened to.
///
/// Ports are 0 for protocols without ports; for ICMP echo the source port is the echo identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FourTuple {
    /// The end that sent the first packet.
    pub src: SocketAddr,
    /// The original destination: what the opener dialled, before any translation.
    pub dst: SocketAddr,
}

impl FourTuple {
    /// A flow opened by `src` to `dst`.
    pub fn new(src: SocketAddr, dst: SocketAddr) -> Self {
        Self { src, dst }
    }

    /// The same flow seen from the other end, as its reply packets carry it.
    pub fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
        }
    }

    /// Whether both ends are of one IP version and neither is unspecified or multicast.
    pub fn is_unicast(self) -> bool {
        let plain = |ip: IpAddr| !ip.is_unspecified() && !ip.is_multicast();
        self.src.is_ipv4() == self.dst.is_ipv4() && plain(self.src.ip()) && plain(self.dst.ip())
    }
}

impl fmt::Display for FourTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.src, self.dst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_numbers_are_their_own_inverse() {
        for number in 0..=u8::MAX {
            assert_eq!(Protocol::from(number).number(), number);
        }
    }

    #[test]
    fn protocols_serialise_as_they_display() {
        for protocol in [Protocol::Tcp, Protocol::Icmpv6, Protocol::Other(47)] {
            let json = serde_json::to_string(&protocol).unwrap();
            assert_eq!(json.trim_matches('"'), protocol.to_string());
            assert_eq!(serde_json::from_str::<Protocol>(&json).unwrap(), protocol);
        }
    }

    #[test]
    fn a_mixed_family_tuple_is_not_unicast() {
        let mixed = FourTuple::new("10.0.0.1:1".parse().unwrap(), "[fd00::1]:2".parse().unwrap());
        assert!(!mixed.is_unicast());
        let broadcast_group = FourTuple::new("10.0.0.1:1".parse().unwrap(), "224.0.0.1:2".parse().unwrap());
        assert!(!broadcast_group.is_unicast());
    }
}
