//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echoes, and "destination unreachable" both ways.

use std::net::{IpAddr, SocketAddr};

use adit_flow::{DropReason, FourTuple, Protocol};

use super::checksum::Sum;
use super::ip::{self, IpPacket};
use super::{be16, put16, tcp, udp};
use crate::event::{Echo, Unreachable};

/// What a message from the pod says.
pub(crate) enum Message {
    EchoReply(Echo),
    EchoRequest(Echo),
    Unreachable {
        protocol: Protocol,
        tuple: FourTuple,
        what: Unreachable,
    },
    /// Well-formed and of no interest: neighbour discovery, group reports, other errors.
    Other,
}

impl Message {
    /// Reads the message in `packet`; `verify` says whether its checksum must be right.
    pub(crate) fn parse(packet: &IpPacket<'_>, verify: bool) -> Result<Self, DropReason> {
        let bytes = packet.payload();
        let v6 = packet.src.is_ipv6();
        let header = bytes.get(..HEADER).ok_or(DropReason::Truncated)?;
        if verify && !is_valid(packet) {
            return Err(DropReason::BadChecksum);
        }
        let echo = || Echo {
            src: packet.src,
            dst: packet.dst,
            ident: be16(header, 4),
            sequence: be16(header, 6),
            payload: bytes[HEADER..].to_vec(),
        };
        Ok(match (header[0], v6) {
            (ECHO_REPLY_V4, false) | (ECHO_REPLY_V6, true) => Self::EchoReply(echo()),
            (ECHO_REQUEST_V4, false) | (ECHO_REQUEST_V6, true) => Self::EchoRequest(echo()),
            (UNREACHABLE_V4, false) | (UNREACHABLE_V6, true) => {
                match (
                    Unreachable::from_icmp_code(header[1], v6),
                    Quoted::read(&bytes[HEADER..]),
                ) {
                    (Some(what), Some(quoted)) => Self::Unreachable {
                        protocol: quoted.protocol,
                        tuple: quoted.tuple,
                        what,
                    },
                    _ => Self::Other,
                }
            }
            _ => Self::Other,
        })
    }
}

fn is_valid(packet: &IpPacket<'_>) -> bool {
    if packet.src.is_ipv6() {
        packet.has_valid_checksum()
    } else {
        Sum::default().add(packet.payload()).is_valid()
    }
}

/// The packet that an error quotes.
pub(crate) struct Quoted {
    pub(crate) protocol: Protocol,
    /// From its sender. Of a query or a reply the asker's port is the identifier.
    pub(crate) tuple: FourTuple,
    /// It answers a query.
    pub(crate) is_reply: bool,
}

impl Quoted {
    /// Reads its IP header and at least 8 bytes more.
    pub(crate) fn read(quote: &[u8]) -> Option<Self> {
        let header = ip::Header::of_quote(quote)?;
        if header.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return None;
        }
        let transport: &[u8; HEADER] = quote.get(header.payload_at..)?.first_chunk()?;
        let protocol = Protocol::from(header.protocol);
        let query = match protocol {
            Protocol::Icmp | Protocol::Icmpv6 => Query::read(transport, header.is_v6),
            _ => None,
        };
        let (src_port, dst_port) = match query {
            Some(query) => query.ports(),
            None if protocol.has_ports() => (be16(transport, 0), be16(transport, 2)),
            None => (0, 0),
        };
        Some(Self {
            protocol,
            tuple: FourTuple::new(
                SocketAddr::new(header.src(), src_port),
                SocketAddr::new(header.dst(), dst_port),
            ),
            is_reply: query.is_some_and(|query| query.is_reply),
        })
    }
}

/// A message that asks something of the other end, or answers it.
#[derive(Clone, Copy)]
pub(crate) struct Query {
    ident: u16,
    pub(crate) is_reply: bool,
}

impl Query {
    pub(crate) fn read(header: &[u8; HEADER], v6: bool) -> Option<Self> {
        let is_reply = match (header[0], v6) {
            (ECHO_REQUEST_V4 | TIMESTAMP_V4, false) | (ECHO_REQUEST_V6, true) => false,
            (ECHO_REPLY_V4 | TIMESTAMP_REPLY_V4, false) | (ECHO_REPLY_V6, true) => true,
            _ => return None,
        };
        let ident = be16(header, 4);
        Some(Self { ident, is_reply })
    }

    /// What stands for the ports, the sender's first: the identifier at the end that asked, 0 at the other.
    pub(crate) fn ports(self) -> (u16, u16) {
        if self.is_reply {
            (0, self.ident)
        } else {
            (self.ident, 0)
        }
    }
}

/// Whether a message of this type is an error about a packet that it quotes (RFC 1122 §3.2.2, RFC 4443 §2.1). Redirects quote
/// one too, but only a router on the same link may send them; source quench is obsolete (RFC 6633).
pub(crate) fn is_error(kind: u8, v6: bool) -> bool {
    if v6 {
        kind < 128
    } else {
        matches!(kind, UNREACHABLE_V4 | TIME_EXCEEDED_V4 | PARAMETER_PROBLEM_V4)
    }
}

/// An echo as an IP packet with its checksum. The caller has checked versions and length.
pub(crate) fn emit_echo(echo: &Echo, reply: bool) -> Vec<u8> {
    let kind = match (echo.src.is_ipv4(), reply) {
        (true, true) => ECHO_REPLY_V4,
        (true, false) => ECHO_REQUEST_V4,
        (false, true) => ECHO_REPLY_V6,
        (false, false) => ECHO_REQUEST_V6,
    };
    let [ident, sequence] = [echo.ident.to_be_bytes(), echo.sequence.to_be_bytes()];
    let rest = [ident[0], ident[1], sequence[0], sequence[1]];
    emit(echo.src, echo.dst, [kind, 0], rest, |out| {
        out.extend_from_slice(&echo.payload)
    })
}

/// An error about the TCP or UDP packet from `tuple.src` to `tuple.dst`, as an IP packet from `tuple.dst`.
///
/// The quote has what the receiving kernel looks at: addresses, ports, and for TCP the sequence number, which
/// must be one in flight (RFC 5927 §4.1).
pub(crate) fn emit_unreachable(tuple: FourTuple, quote: Quote, what: Unreachable) -> Vec<u8> {
    let v6 = tuple.src.is_ipv6();
    let kind = if v6 { UNREACHABLE_V6 } else { UNREACHABLE_V4 };
    emit(
        tuple.dst.ip(),
        tuple.src.ip(),
        [kind, what.icmp_code(v6)],
        [0; 4],
        |out| match quote {
            Quote::Tcp { seq } => {
                let options = tcp::Options::default();
                let template = tcp::Template {
                    src: tuple.src,
                    dst: tuple.dst,
                    seq,
                    ack: 0,
                    flags: tcp::SYN,
                    window: 0,
                    options,
                };
                let mut packet = Vec::new();
                template.emit(&mut packet, b"");
                out.extend_from_slice(&packet);
            }
            Quote::Udp => {
                ip::push_header(out, tuple.src.ip(), tuple.dst.ip(), ip::UDP, udp::HEADER);
                udp::push_header(out, tuple.src, tuple.dst, udp::HEADER);
            }
        },
    )
}

/// What kind of packet an error is about.
#[derive(Clone, Copy)]
pub(crate) enum Quote {
    Tcp { seq: u32 },
    Udp,
}

/// What's wrong with a packet, for [`write_error`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Problem {
    /// It doesn't fit the link with this MTU (RFC 1191 §4, RFC 4443 §3.2).
    TooBig { mtu: u16 },
    /// What it's for can't be reached.
    Unreachable(Unreachable),
}

/// Replaces `out` by an error about `packet`, whose headers are `header`, for its sender. It comes from the packet's
/// destination: an address that the sender's kernel takes for a foreign one in any case.
pub(crate) fn write_error(out: &mut Vec<u8>, header: &ip::Header, packet: &[u8], problem: Problem) {
    let (src, dst, v6) = (header.dst(), header.src(), header.is_v6);
    let (kind, code, rest) = match (problem, v6) {
        (Problem::TooBig { mtu }, true) => (TOO_BIG_V6, 0, u32::from(mtu)),
        (Problem::TooBig { mtu }, false) => (UNREACHABLE_V4, FRAGMENTATION_NEEDED, u32::from(mtu)),
        (Problem::Unreachable(what), true) => (UNREACHABLE_V6, what.icmp_code(true), 0),
        (Problem::Unreachable(what), false) => (UNREACHABLE_V4, what.icmp_code(false), 0),
    };
    let (protocol, limit) = if v6 {
        (ip::ICMPV6, LONGEST_V6)
    } else {
        (ip::ICMP, LONGEST_V4)
    };
    let at = ip::header_len(src);
    let quote = &packet[..packet.len().min(limit - at - HEADER)];
    out.clear();
    ip::push_header(out, src, dst, protocol, HEADER + quote.len());
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(&rest.to_be_bytes());
    out.extend_from_slice(quote);
    let message = &mut out[at..];
    let sum = checksum(src, dst, message);
    put16(message, 2, sum);
}

/// Of a message whose checksum field is 0.
fn checksum(src: IpAddr, dst: IpAddr, message: &[u8]) -> u16 {
    let sum = if src.is_ipv6() {
        Sum::default().add_pseudo_header(src, dst, ip::ICMPV6, message.len())
    } else {
        Sum::default()
    };
    sum.add(message).finish()
}

fn emit(src: IpAddr, dst: IpAddr, kind: [u8; 2], rest: [u8; 4], body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut message = vec![kind[0], kind[1], 0, 0, rest[0], rest[1], rest[2], rest[3]];
    body(&mut message);
    let sum = checksum(src, dst, &message);
    put16(&mut message, 2, sum);
    let protocol = if src.is_ipv6() { ip::ICMPV6 } else { ip::ICMP };
    let mut out = Vec::with_capacity(ip::header_len(src) + message.len());
    ip::push_header(&mut out, src, dst, protocol, message.len());
    out.extend_from_slice(&message);
    out
}

/// Bytes of the header that echoes and errors have.
pub(crate) const HEADER: usize = 8;
const ECHO_REPLY_V4: u8 = 0;
const UNREACHABLE_V4: u8 = 3;
const ECHO_REQUEST_V4: u8 = 8;
const TIME_EXCEEDED_V4: u8 = 11;
const PARAMETER_PROBLEM_V4: u8 = 12;
const TIMESTAMP_V4: u8 = 13;
const TIMESTAMP_REPLY_V4: u8 = 14;
/// The code of [`UNREACHABLE_V4`] that asks for shorter packets.
const FRAGMENTATION_NEEDED: u8 = 4;
const UNREACHABLE_V6: u8 = 1;
const TOO_BIG_V6: u8 = 2;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// RFC 1812 §4.3.2.3.
const LONGEST_V4: usize = 576;
/// RFC 4443 §2.4 (c): the least that each link carries.
const LONGEST_V6: usize = 1280;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_read_as_written() {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let payload = b"ping".to_vec();
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            let echo = Echo {
                src,
                dst,
                ident: 3,
                sequence: 9,
                payload,
            };
            let frame = emit_echo(&echo, false);
            let read = Message::parse(&IpPacket::parse(&frame).unwrap(), true).unwrap();
            assert!(matches!(read, Message::EchoRequest(read) if read == echo));
            let frame = emit_echo(&echo, true);
            let read = Message::parse(&IpPacket::parse(&frame).unwrap(), true).unwrap();
            assert!(matches!(read, Message::EchoReply(read) if read == echo));
        }
    }

    #[test]
    fn errors_name_what_they_are_about() {
        for (src, dst) in [("10.0.0.1:5", "10.0.0.2:6"), ("[fd00::1]:5", "[fd00::2]:6")] {
            let about = FourTuple::new(src.parse().unwrap(), dst.parse().unwrap());
            for (quote, expected) in [
                (Quote::Udp, Protocol::Udp),
                (Quote::Tcp { seq: 1 }, Protocol::Tcp),
            ] {
                let frame = emit_unreachable(about, quote, Unreachable::Host);
                let packet = IpPacket::parse(&frame).unwrap();
                assert_eq!((packet.src, packet.dst), (about.dst.ip(), about.src.ip()));
                match Message::parse(&packet, true).unwrap() {
                    Message::Unreachable {
                        protocol,
                        tuple,
                        what,
                    } => {
                        assert_eq!((protocol, tuple, what), (expected, about, Unreachable::Host));
                    }
                    _ => panic!("not read as an error"),
                }
            }
        }
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let (src, dst) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut frame = emit_echo(
            &Echo {
                src,
                dst,
                ident: 3,
                sequence: 9,
                payload: vec![0; 5],
            },
            false,
        );
        *frame.last_mut().unwrap() ^= 1;
        let packet = IpPacket::parse(&frame).unwrap();
        assert_eq!(Message::parse(&packet, true).err(), Some(DropReason::BadChecksum));
    }
}
