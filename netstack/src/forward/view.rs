//! A packet as the forwarder looks at it: whose it is, and what it does to its flow.

use std::net::IpAddr;

use adit_flow::DropReason;

use super::types::Side;
use crate::ends::Ends;
use crate::packet::ip::{self, Header};
use crate::packet::tcp::{self, Segment};
use crate::packet::{be16, icmp, udp};

/// A whole packet, or the first fragment of one.
pub(super) struct View {
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
    /// It belongs to a connection that was open before.
    MidStream,
    /// It answers something: there's a flow, or nobody asked.
    Reply,
    Tcp(Segment),
}

impl View {
    /// Reads the transport header behind `header`. Ports that must be there are there, and not 0.
    pub(super) fn read(from: Side, header: &Header, packet: &[u8]) -> Result<Self, DropReason> {
        let transport = packet
            .get(header.payload_at..header.length)
            .ok_or(DropReason::Truncated)?;
        let v6 = header.src.is_ipv6();
        let ((src_port, dst_port), kind, length) = match (header.protocol, v6) {
            (ip::TCP, _) => {
                let segment = Segment::parse(transport)?;
                let length = transport.len() - segment.data_len as usize;
                ((segment.src_port, segment.dst_port), Kind::Tcp(segment), length)
            }
            (ip::UDP, _) => {
                let head: &[u8; udp::HEADER] = transport.first_chunk().ok_or(DropReason::Truncated)?;
                (ports(head)?, Kind::Datagram, udp::HEADER)
            }
            (ip::SCTP, _) => {
                let head: &[u8; SCTP_HEADER + 1] = transport.first_chunk().ok_or(DropReason::Truncated)?;
                let kind = if head[SCTP_HEADER] == SCTP_INIT {
                    Kind::Datagram
                } else {
                    Kind::MidStream
                };
                (ports(head)?, kind, SCTP_HEADER)
            }
            (ip::ICMP, false) | (ip::ICMPV6, true) => {
                let head: &[u8; icmp::HEADER] = transport.first_chunk().ok_or(DropReason::Truncated)?;
                if icmp::is_error(head[0], v6) {
                    ((0, 0), Kind::Error, icmp::HEADER)
                } else {
                    let ports = icmp::query_ports(head, v6).ok_or(DropReason::UnsupportedProtocol)?;
                    let kind = if icmp::is_reply(head[0], v6) {
                        Kind::Reply
                    } else {
                        Kind::Datagram
                    };
                    (ports, kind, icmp::HEADER)
                }
            }
            (ip::ICMP, true) | (ip::ICMPV6, false) => return Err(DropReason::UnsupportedProtocol),
            _ => ((0, 0), Kind::Datagram, 0),
        };
        let (pod, remote, pod_port, remote_port) = match from {
            Side::Pod => (header.src, header.dst, src_port, dst_port),
            Side::Wire => (header.dst, header.src, dst_port, src_port),
        };
        let ends = Ends {
            pod,
            remote,
            pod_port,
            remote_port,
            protocol: header.protocol,
        };
        Ok(Self {
            ends,
            kind,
            payload_at: header.payload_at + length,
        })
    }

    /// Whether it begins a connection or a flow of its own.
    pub(super) fn opens(&self) -> bool {
        match &self.kind {
            Kind::Datagram => true,
            Kind::Tcp(segment) => segment.opens(),
            Kind::Error | Kind::MidStream | Kind::Reply => false,
        }
    }
}

fn ports(transport: &[u8]) -> Result<(u16, u16), DropReason> {
    let (src, dst) = (be16(transport, 0), be16(transport, 2));
    // A UDP source port of 0 means that no answer is wanted (RFC 768); a destination of 0 is nobody's.
    if dst == 0 {
        Err(DropReason::Malformed)
    } else {
        Ok((src, dst))
    }
}

/// Whether `packet` may pass between a pod with these addresses and the rest of the world.
pub(super) fn check_addresses(pod: &[IpAddr], from: Side, header: &Header) -> Result<(), DropReason> {
    let (src_is_pods, dst_is_pods) = (pod.contains(&header.src), pod.contains(&header.dst));
    match from {
        Side::Pod if !src_is_pods => Err(DropReason::BadSource),
        Side::Pod if dst_is_pods || !ip::is_routable(header.dst) => Err(DropReason::Unroutable),
        Side::Wire if !dst_is_pods => Err(DropReason::BadDestination),
        Side::Wire if src_is_pods || !ip::is_routable(header.src) => Err(DropReason::BadSource),
        _ => Ok(()),
    }
}

/// Whether the header has an IPv4 source route: then the packet is for somebody else than its destination address says, and a
/// verdict about that would be worth nothing. Malformed options count as one.
pub(super) fn is_source_routed(header: &Header, packet: &[u8]) -> bool {
    if header.src.is_ipv6() || header.payload_at == ip::V4_HEADER {
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

/// Whether a later fragment reaches into the header that was judged (RFC 3128 §2).
pub(super) fn overlaps_header(fragment: &ip::Fragment) -> bool {
    fragment.next == ip::TCP && fragment.offset < tcp::HEADER
}

/// Common header of SCTP (RFC 9260 §3.1); the type of the first chunk follows.
const SCTP_HEADER: usize = 12;
const SCTP_INIT: u8 = 1;

/// IPv4 options (RFC 791 §3.1).
const END_OF_LIST: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
