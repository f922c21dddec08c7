use std::net::SocketAddr;

use adit_flow::Protocol;
use adit_netstack::SctpPacket;

/// A datagram or an echo without its headers, or an SCTP packet.
///
/// For an echo the requester's port is the identifier and the other end's is 0, so that a request and its reply
/// are a flow and its reverse like any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Who sends it.
    pub(crate) src: SocketAddr,
    /// Whom it's for.
    pub(crate) dst: SocketAddr,
    /// What it carries.
    pub(crate) content: Content,
}

/// What a [`Packet`] carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// ICMP or ICMPv6 echo reply.
    EchoReply {
        /// The sequence number.
        sequence: u16,
        /// The data sent back.
        payload: Vec<u8>,
    },
    /// ICMP or ICMPv6 echo request.
    EchoRequest {
        /// The sequence number.
        sequence: u16,
        /// The data to be sent back.
        payload: Vec<u8>,
    },
    /// An SCTP packet. Its ports are those of the flow that it came by.
    Sctp(SctpPacket),
    /// A UDP datagram's payload.
    Udp(Vec<u8>),
}

impl Packet {
    /// The protocol that carries it, which for an echo depends on the IP version.
    pub(crate) fn protocol(&self) -> Protocol {
        match (&self.content, self.dst.is_ipv4()) {
            (Content::Sctp(_), _) => Protocol::Sctp,
            (Content::Udp(_), _) => Protocol::Udp,
            (_, true) => Protocol::Icmp,
            (_, false) => Protocol::Icmpv6,
        }
    }

    /// Whether it can only answer a flow, never open one.
    pub(crate) fn is_reply(&self) -> bool {
        matches!(self.content, Content::EchoReply { .. })
    }

    /// The ICMP or ICMPv6 type (RFC 792, RFC 4443 §4), for an echo.
    pub(crate) fn echo_type(&self) -> Option<u8> {
        match (&self.content, self.dst.is_ipv4()) {
            (Content::EchoReply { .. }, true) => Some(0),
            (Content::EchoReply { .. }, false) => Some(129),
            (Content::EchoRequest { .. }, true) => Some(8),
            (Content::EchoRequest { .. }, false) => Some(128),
            (Content::Sctp(_) | Content::Udp(_), _) => None,
        }
    }
}

impl Content {
    /// Bytes of payload; of SCTP those of its chunks.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::EchoReply { payload, .. } | Self::EchoRequest { payload, .. } | Self::Udp(payload) => {
                payload.len()
            }
            Self::Sctp(packet) => packet.len(),
        }
    }
}
