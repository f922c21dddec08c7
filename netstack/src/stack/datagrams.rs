//! Packets that are carried as they are: UDP, SCTP, echoes, ICMP errors. The stack keeps no state for them but two bounded
//! queues.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use adit_flow::{DropReason, FourTuple, Protocol, RefuseReason};

use super::{Netstack, Outbound};
use crate::ends::Ends;
use crate::event::{Echo, Event, SendError, Transmit, Unreachable};
use crate::flow::Stage;
use crate::packet::icmp::{self, Message, Quote};
use crate::packet::ip::{self, IpPacket};
use crate::packet::sctp::SctpPacket;
use crate::packet::udp;

/// A UDP datagram to be sent to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who the pod sees as the sender.
    pub src: SocketAddr,
    /// The pod's address and port; of the same IP version.
    pub dst: SocketAddr,
    /// The bytes to carry.
    pub payload: &'a [u8],
}

impl Netstack {
    /// Queues a UDP datagram to the pod.
    ///
    /// # Errors
    /// If addresses don't match, it's too long for the device, or the queue is full; then it's dropped.
    pub fn send_datagram(&mut self, now: Instant, datagram: Datagram<'_>) -> Result<(), SendError> {
        self.advance(now);
        let Datagram { src, dst, payload } = datagram;
        self.check_outbound(src.ip(), dst.ip(), udp::HEADER + payload.len())?;
        let start = ip::header_len(src.ip()) as u16;
        let transmit = Transmit::NeedsChecksum {
            start,
            offset: udp::CHECKSUM_AT as u16,
        };
        self.push_outbound(udp::emit(src, dst, payload), transmit);
        Ok(())
    }

    /// Queues an echo reply to the pod.
    ///
    /// # Errors
    /// As [`send_datagram`](Self::send_datagram).
    pub fn send_echo_reply(&mut self, now: Instant, echo: &Echo) -> Result<(), SendError> {
        self.send_echo(now, echo, true)
    }

    /// Queues an echo request to the pod.
    ///
    /// # Errors
    /// As [`send_datagram`](Self::send_datagram).
    pub fn send_echo_request(&mut self, now: Instant, echo: &Echo) -> Result<(), SendError> {
        self.send_echo(now, echo, false)
    }

    fn send_echo(&mut self, now: Instant, echo: &Echo, reply: bool) -> Result<(), SendError> {
        self.advance(now);
        self.check_outbound(echo.src, echo.dst, icmp::HEADER + echo.payload.len())?;
        self.push_outbound(icmp::emit_echo(echo, reply), Transmit::Complete);
        Ok(())
    }

    /// Queues an SCTP packet to the pod, from `src` to `dst`, which is the pod's. Ports and checksum are made to fit.
    ///
    /// # Errors
    /// As [`send_datagram`](Self::send_datagram).
    pub fn send_sctp(
        &mut self,
        now: Instant,
        src: SocketAddr,
        dst: SocketAddr,
        packet: SctpPacket,
    ) -> Result<(), SendError> {
        self.advance(now);
        self.check_outbound(src.ip(), dst.ip(), packet.wire_len())?;
        // Complete: no device makes SCTP's checksum for a TUN (`NETIF_F_SCTP_CRC` is never set on one).
        self.push_outbound(packet.emit(src, dst), Transmit::Complete);
        Ok(())
    }

    /// Answers an SCTP packet that the pod sent from `tuple.src` to `tuple.dst` as a host does that listens on no such
    /// port: with an ABORT, unless the packet is one that must not be answered (RFC 9260 §8.4).
    ///
    /// # Errors
    /// As [`send_datagram`](Self::send_datagram).
    pub fn abort_sctp(
        &mut self,
        now: Instant,
        tuple: FourTuple,
        packet: &SctpPacket,
    ) -> Result<(), SendError> {
        match packet.abort() {
            Some(abort) => self.send_sctp(now, tuple.dst, tuple.src, abort),
            None => Ok(()),
        }
    }

    /// Queues an ICMP error to the pod about a UDP datagram that it sent, from `tuple.src` (its own) to `tuple.dst`. The
    /// error comes from `tuple.dst`.
    ///
    /// # Errors
    /// As [`send_datagram`](Self::send_datagram).
    pub fn send_unreachable(
        &mut self,
        now: Instant,
        tuple: FourTuple,
        what: Unreachable,
    ) -> Result<(), SendError> {
        self.advance(now);
        self.push_unreachable(tuple, Quote::Udp, what)
    }

    pub(super) fn push_unreachable(
        &mut self,
        tuple: FourTuple,
        quote: Quote,
        what: Unreachable,
    ) -> Result<(), SendError> {
        self.check_outbound(tuple.dst.ip(), tuple.src.ip(), icmp::HEADER + QUOTE_MAX)?;
        self.push_outbound(icmp::emit_unreachable(tuple, quote, what), Transmit::Complete);
        Ok(())
    }

    fn check_outbound(&mut self, src: IpAddr, dst: IpAddr, length: usize) -> Result<(), SendError> {
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(SendError::MixedVersions { src, dst });
        }
        let (length, mtu) = (length + ip::header_len(src), self.config.mtu);
        if length > mtu {
            self.counters.on_drop(DropReason::TooBig);
            return Err(SendError::TooBig {
                src,
                dst,
                length,
                mtu,
            });
        }
        if !self.outbound.has_room(length) {
            self.counters.on_drop(DropReason::QueueFull);
            return Err(SendError::QueueFull { src, dst });
        }
        Ok(())
    }

    fn push_outbound(&mut self, frame: Vec<u8>, transmit: Transmit) {
        self.counters.datagrams_out += 1;
        let length = frame.len();
        self.outbound.push(Outbound { frame, transmit }, length);
    }

    pub(super) fn on_udp(&mut self, packet: &IpPacket<'_>, verify: bool) -> Result<(), DropReason> {
        let datagram = udp::Datagram::parse(packet, verify)?;
        let udp::Datagram { src, dst, payload } = datagram;
        let length = payload.len();
        self.check_inbound(length)?;
        self.inbound.push(
            Event::Datagram {
                src,
                dst,
                payload: payload.to_vec(),
            },
            length,
        );
        Ok(())
    }

    pub(super) fn on_sctp(&mut self, packet: &IpPacket<'_>, verify: bool) -> Result<(), DropReason> {
        let (src, dst, packet) = SctpPacket::parse(packet, verify)?;
        let length = packet.len();
        self.push_inbound(Event::Sctp { src, dst, packet }, length)
    }

    pub(super) fn on_icmp(&mut self, packet: &IpPacket<'_>, verify: bool) -> Result<(), DropReason> {
        let length = packet.payload().len();
        match Message::parse(packet, verify)? {
            Message::EchoReply(echo) => self.push_inbound(Event::EchoReply(echo), length),
            Message::EchoRequest(echo) => self.push_inbound(Event::EchoRequest(echo), length),
            Message::Unreachable {
                protocol,
                tuple,
                what,
            } => {
                self.counters.icmp_errors_in += 1;
                if protocol == Protocol::Tcp {
                    self.on_tcp_unreachable(tuple, what);
                    return Ok(());
                }
                self.push_inbound(
                    Event::Unreachable {
                        protocol,
                        tuple,
                        what,
                    },
                    length,
                )
            }
            Message::Other => Err(DropReason::UnsupportedProtocol),
        }
    }

    /// The pod answered a SYN of ours with an ICMP error. In the handshake that's an end; later it's a hint that TCP does
    /// not act on (RFC 5461 §4.2).
    fn on_tcp_unreachable(&mut self, tuple: FourTuple, what: Unreachable) {
        let Some(slot) = self.table.find(&Ends::tcp(tuple.dst, tuple.src)) else {
            return;
        };
        let Some(flow) = self.table.get(slot) else { return };
        let opens = match &flow.stage {
            Stage::Fast(fast) => !fast.is_open(),
            Stage::Live(live) => !live.established,
            Stage::Ended | Stage::Held(_) | Stage::TimeWait(_) => false,
        };
        if opens {
            let reason = match what {
                Unreachable::Port => RefuseReason::Refused,
                Unreachable::AdminProhibited | Unreachable::Host | Unreachable::Net => {
                    RefuseReason::Unreachable
                }
            };
            self.fail_handshake(slot, reason);
        }
    }

    fn push_inbound(&mut self, event: Event, length: usize) -> Result<(), DropReason> {
        self.check_inbound(length)?;
        self.inbound.push(event, length);
        Ok(())
    }

    fn check_inbound(&mut self, length: usize) -> Result<(), DropReason> {
        if !self.inbound.has_room(length) {
            return Err(DropReason::QueueFull);
        }
        self.counters.datagrams_in += 1;
        Ok(())
    }
}

/// An IPv6 header and a TCP header.
const QUOTE_MAX: usize = 60;
