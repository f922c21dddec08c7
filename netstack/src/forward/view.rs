//! A packet as the forwarder looks at it: whose it is, and what it does to its flow.

use adit_flow::DropReason;

use super::types::Side;
use crate::ends::Ends;
use crate::packet::address::Address;
use crate::packet::ip::{self, Fragment, Header};
use crate::packet::tcp::{self, Segment};
use crate::packet::{be16, icmp, udp};

/// What the transport header says of a whole packet, or of the first fragment of one.
pub(super) struct View {
    /// Without ports where it has none.
    pub(super) ends: Ends,
    pub(super) kind: Kind,
    /// Bytes from the start of the packet to what's behind the transport header.
    pub(super) payload_at: usize,
}

/// What a packet is to its flow.
pub(super) enum Kind {
    /// It may begin a flow.
    Datagram,
    /// An ICMP error: it's part of the flow of the packet that it quotes.
    Error,
    /// A fragment without ports.
    LaterFragment(Fragment),
    /// It belongs to a connection that was open before.
    MidStream,
    /// It asks for a reply.
    Query,
    /// It answers a query: there's a flow, or nobody asked.
    Reply,
    Tcp(Segment),
}

impl View {
    /// Reads the transport header behind `header`. Ports that must be there are there, and not 0.
    #[inline]
    pub(super) fn read(from: Side, header: &Header, packet: &[u8]) -> Result<Self, DropReason> {
        let transport = match header.fragment.filter(|fragment| fragment.offset != 0) {
            Some(fragment) => Transport::of_later_fragment(fragment)?,
            None => {
                let bytes = packet.get(header.payload_at..header.length);
                Transport::read(header, bytes.ok_or(DropReason::Truncated)?)?
            }
        };
        let (src, dst) = ((header.src, transport.src), (header.dst, transport.dst));
        let (pod, remote) = match from {
            Side::Pod => (src, dst),
            Side::Wire => (dst, src),
        };
        let asked_by_remote = match transport.kind {
            Kind::Query => from == Side::Wire,
            Kind::Reply => from == Side::Pod,
            _ => false,
        };
        Ok(Self {
            ends: Ends::new(header.protocol, pod, remote).asked_by_remote(asked_by_remote),
            kind: transport.kind,
            payload_at: header.payload_at + transport.length,
        })
    }

    /// Whether it begins a connection or a flow of its own.
    pub(super) fn opens(&self) -> bool {
        match &self.kind {
            Kind::Datagram | Kind::Query => true,
            Kind::Tcp(segment) => segment.opens(),
            Kind::Error | Kind::LaterFragment(_) | Kind::MidStream | Kind::Reply => false,
        }
    }
}

/// A transport header.
struct Transport {
    /// Its ports, or what stands for them.
    src: u16,
    dst: u16,
    kind: Kind,
    /// Bytes of it.
    length: usize,
}

impl Transport {
    #[inline]
    fn read(header: &Header, bytes: &[u8]) -> Result<Self, DropReason> {
        match (header.protocol, header.is_v6) {
            (ip::TCP, _) => {
                let segment = Segment::parse(bytes)?;
                Ok(Self {
                    src: segment.src_port,
                    dst: segment.dst_port,
                    length: bytes.len() - segment.data_len as usize,
                    kind: Kind::Tcp(segment),
                })
            }
            (ip::UDP, _) => Self::with_ports(bytes, Kind::Datagram, udp::HEADER),
            (ip::SCTP, _) => match bytes.get(SCTP_HEADER) {
                Some(&SCTP_INIT) => Self::with_ports(bytes, Kind::Datagram, SCTP_HEADER),
                Some(_) => Self::with_ports(bytes, Kind::MidStream, SCTP_HEADER),
                None => Err(DropReason::Truncated),
            },
            (ip::ICMP, false) | (ip::ICMPV6, true) => Self::of_icmp(bytes, header.is_v6),
            (ip::ICMP, true) | (ip::ICMPV6, false) => Err(DropReason::UnsupportedProtocol),
            _ => Ok(Self::without_ports(Kind::Datagram, 0)),
        }
    }

    #[inline]
    fn with_ports(bytes: &[u8], kind: Kind, length: usize) -> Result<Self, DropReason> {
        let header = bytes.get(..length).ok_or(DropReason::Truncated)?;
        let (src, dst) = (be16(header, 0), be16(header, 2));
        // A UDP source port of 0 means that no answer is wanted (RFC 768); a destination of 0 is nobody's.
        if dst == 0 {
            return Err(DropReason::Malformed);
        }
        Ok(Self {
            src,
            dst,
            kind,
            length,
        })
    }

    fn without_ports(kind: Kind, length: usize) -> Self {
        Self {
            src: 0,
            dst: 0,
            kind,
            length,
        }
    }

    fn of_icmp(bytes: &[u8], v6: bool) -> Result<Self, DropReason> {
        let header: &[u8; icmp::HEADER] = bytes.first_chunk().ok_or(DropReason::Truncated)?;
        if icmp::is_error(header[0], v6) {
            return Ok(Self::without_ports(Kind::Error, icmp::HEADER));
        }
        let query = icmp::Query::read(header, v6).ok_or(DropReason::UnsupportedProtocol)?;
        let (src, dst) = query.ports();
        let kind = if query.is_reply { Kind::Reply } else { Kind::Query };
        Ok(Self {
            src,
            dst,
            kind,
            length: icmp::HEADER,
        })
    }

    fn of_later_fragment(fragment: Fragment) -> Result<Self, DropReason> {
        // It must not reach into the header that was judged (RFC 3128 §2).
        if fragment.next == ip::TCP && fragment.offset < tcp::HEADER {
            return Err(DropReason::Malformed);
        }
        Ok(Self::without_ports(Kind::LaterFragment(fragment), 0))
    }
}

/// Whether `packet` may pass between a pod with these addresses and the rest of the world.
#[inline]
pub(super) fn check_addresses(pod: &[Address], from: Side, header: &Header) -> Result<(), DropReason> {
    if !header.has_plain_addresses() {
        return Err(DropReason::Unroutable);
    }
    let (src_is_pods, dst_is_pods) = (pod.contains(&header.src), pod.contains(&header.dst));
    match from {
        Side::Pod if !src_is_pods => Err(DropReason::BadSource),
        Side::Pod if dst_is_pods || !header.dst.is_routable() => Err(DropReason::Unroutable),
        Side::Wire if !dst_is_pods => Err(DropReason::BadDestination),
        Side::Wire if src_is_pods || !header.src.is_routable() => Err(DropReason::BadSource),
        _ => Ok(()),
    }
}

/// Whether the header has an IPv4 source route: then the packet is for somebody else than its destination address says, and a
/// verdict about that would be worth nothing. Malformed options count as one.
pub(super) fn is_source_routed(header: &Header, packet: &[u8]) -> bool {
    if header.is_v6 || header.payload_at == ip::V4_HEADER {
        return false;
    }
    let mut options = &packet[ip::V4_HEADER..header.payload_at];
    while let Some(&kind) = options.first() {
        let length = match kind {
            END_OF_LIST => return false,
            NO_OPERATION => 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return true,
            _ => options.get(1).map_or(0, |&length| usize::from(length)),
        };
        if length == 0 || length > options.len() || (length < 2 && kind != NO_OPERATION) {
            return true;
        }
        options = &options[length..];
    }
    false
}

/// Common header of SCTP (RFC 9260 §3.1); the type of the first chunk follows.
const SCTP_HEADER: usize = 12;
const SCTP_INIT: u8 = 1;

/// IPv4 options (RFC 791 §3.1).
const END_OF_LIST: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
