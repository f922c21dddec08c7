use std::fmt;
use std::net::{IpAddr, SocketAddr};

use adit_flow::{CloseReason, FourTuple, Protocol, RefuseReason};
use bytes::Bytes;

use crate::packet::sctp::SctpPacket;

/// Names a TCP flow of one [`Netstack`](crate::Netstack). An old one never names another flow: it's stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// What the owner of a [`Netstack`](crate::Netstack) is told, by [`poll_event`](crate::Netstack::poll_event).
///
/// Events of a flow come in this order; `Readable` and `Writable` are merged while they wait, so at most one of
/// each kind is queued for a flow. `Closed` is a flow's last event, and its id is stale from then on.
///
/// ```text
///   Syn ─▶ (accept) ─┐
///                    ├─▶ Established ─▶ (Readable | Writable)* ─▶ RemoteFin ─▶ (Writable)* ─▶ Closed
///   (connect) ───────┤
///                    └─▶ Refused ─▶ Closed
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The flow ended. With [`CloseReason::Fin`] both directions were closed by FIN, and everything that the pod
    /// sent was read; with any other reason what was not read is gone, as TCP does it.
    Closed {
        /// Whose id is stale now.
        flow: FlowId,
        /// Why it ended.
        reason: CloseReason,
        /// Which end ended it; for `Fin` the one whose FIN came first.
        by: ClosedBy,
    },
    /// A UDP datagram from the pod.
    Datagram {
        /// The pod's address and port.
        src: SocketAddr,
        /// Where it should go.
        dst: SocketAddr,
        /// Its bytes, without headers.
        payload: Vec<u8>,
    },
    /// An ICMP or ICMPv6 echo reply from the pod.
    EchoReply(Echo),
    /// An ICMP or ICMPv6 echo request from the pod.
    EchoRequest(Echo),
    /// The handshake with the pod is complete: bytes flow.
    Established {
        /// The flow.
        flow: FlowId,
    },
    /// There are bytes to read. Read until there are none: it isn't repeated for bytes already announced.
    Readable {
        /// The flow.
        flow: FlowId,
    },
    /// The handshake with the pod failed; `Closed` follows.
    Refused {
        /// The flow.
        flow: FlowId,
        /// `Refused` (RST), `Unreachable` (ICMP), or `TimedOut`.
        reason: RefuseReason,
    },
    /// The pod's FIN: everything before it has been read, nothing comes after it.
    RemoteFin {
        /// The flow.
        flow: FlowId,
    },
    /// An SCTP packet from the pod.
    Sctp {
        /// The pod's address and port.
        src: SocketAddr,
        /// Where it should go.
        dst: SocketAddr,
        /// The packet.
        packet: SctpPacket,
    },
    /// The pod opens a TCP flow; its SYN is held until [`accept`](crate::Netstack::accept) or
    /// [`refuse`](crate::Netstack::refuse).
    Syn {
        /// The new flow.
        flow: FlowId,
        /// The pod's end and the original destination.
        tuple: FourTuple,
    },
    /// The pod answered something of ours with an ICMP error.
    Unreachable {
        /// The protocol of the packet that it's about.
        protocol: Protocol,
        /// Addresses of the packet that it's about; its source is the end we played.
        tuple: FourTuple,
        /// What the error says.
        what: Unreachable,
    },
    /// There is room again to [`send`](crate::Netstack::send) after it took less than all.
    Writable {
        /// The flow.
        flow: FlowId,
    },
}

/// An echo message, for the events and for sending one. The identifier and the data are the requester's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Who sends it.
    pub src: IpAddr,
    /// Whom it's for; of the same IP version.
    pub dst: IpAddr,
    /// Tells one pinger from another.
    pub ident: u16,
    /// Tells one echo from another.
    pub sequence: u16,
    /// Sent back as it is.
    pub payload: Vec<u8>,
}

/// Which end of a flow ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// The owner of the netstack.
    Agent,
    /// Neither: no answer came.
    Network,
    /// The pod's kernel, for its app.
    Pod,
}

/// How a held SYN is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// RST: the app sees `ECONNREFUSED`.
    Reset,
    /// Nothing: the pod's kernel repeats the SYN, and the app sees `ETIMEDOUT` in the end. A repetition after
    /// this is a new [`Event::Syn`].
    Silent,
    /// An ICMP or ICMPv6 error from the destination's address.
    Unreachable(Unreachable),
}

/// What could not be reached. [`Unreachable::icmp_code`] maps it to the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// A filter forbids it: the app sees `EHOSTUNREACH` or `EACCES`.
    AdminProhibited,
    /// The host: the app sees `EHOSTUNREACH`.
    Host,
    /// The network: the app sees `ENETUNREACH`.
    Net,
    /// The port: the app sees `ECONNREFUSED`.
    Port,
}

impl Unreachable {
    /// The code of "destination unreachable" in ICMP (RFC 792, RFC 1812 §5.2.7.1) or ICMPv6 (RFC 4443 §3.1).
    pub fn icmp_code(self, v6: bool) -> u8 {
        match (self, v6) {
            (Self::Net, _) => 0,
            (Self::Host, false) => 1,
            (Self::Host, true) => 3,
            (Self::Port, false) => 3,
            (Self::Port, true) => 4,
            (Self::AdminProhibited, false) => 13,
            (Self::AdminProhibited, true) => 1,
        }
    }

    /// The reverse of [`Unreachable::icmp_code`], for every code that means one of these.
    pub(crate) fn from_icmp_code(code: u8, v6: bool) -> Option<Self> {
        match (code, v6) {
            (0 | 6 | 11, false) | (0, true) => Some(Self::Net),
            (1 | 5 | 7 | 8 | 12, false) | (2 | 3, true) => Some(Self::Host),
            (2 | 3, false) | (4, true) => Some(Self::Port),
            (9 | 10 | 13..=15, false) | (1 | 5 | 6, true) => Some(Self::AdminProhibited),
            _ => None,
        }
    }
}

/// Whether the transport checksum of a frame from the pod is to be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RxChecksum {
    /// The frame never left the machine: its checksum field holds only the pseudo-header's sum
    /// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`). Nothing to verify.
    Partial,
    /// The checksum is complete and must be right.
    Verify,
}

/// How a frame from [`poll_transmit`](crate::Netstack::poll_transmit) must be handed to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transmit {
    /// All checksums are filled in.
    Complete,
    /// The transport checksum field holds the pseudo-header's sum; the device, or nobody on a link that is local
    /// to the machine, completes it (virtio 1.2 §5.1.6.2, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    NeedsChecksum {
        /// Bytes from the start of the frame to the transport header.
        start: u16,
        /// Bytes from there to the checksum field.
        offset: u16,
    },
}

/// A packet from [`poll_transmit_parts`](crate::Netstack::poll_transmit_parts). Keep it from call to call, so that its memory
/// isn't allocated again.
#[derive(Clone, Debug, Default)]
pub struct PacketParts {
    pub(crate) head: Vec<u8>,
    pub(crate) data: Vec<Bytes>,
}

impl PacketParts {
    /// The parts in their order. The first has all headers.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> + Clone {
        std::iter::once(&self.head[..]).chain(self.data.iter().map(|part| &part[..]))
    }
}

/// The flow is no longer there, or is past the point where this could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flow {flow} has ended or was answered already")]
pub struct FlowGone {
    /// The id that was given.
    pub flow: FlowId,
}

/// Why bytes could not be moved on a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowError {
    /// The flow has ended; its [`Event::Closed`] says why.
    #[error("flow {flow} has ended")]
    Ended {
        /// The id that was given.
        flow: FlowId,
    },
    /// Sending was ended before, by [`shutdown`](crate::Netstack::shutdown).
    #[error("sending on flow {flow} after its end was announced")]
    Shutdown {
        /// The flow.
        flow: FlowId,
    },
    /// The SYN is still held: accept it first.
    #[error("flow {flow} has not been accepted yet")]
    Held {
        /// The flow.
        flow: FlowId,
    },
}

/// Why a flow towards the pod could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Mixed IP versions, port 0, or an address that nobody can have.
    #[error("opening {tuple}: not a pair of unicast addresses with ports")]
    BadAddress {
        /// What was asked for.
        tuple: FourTuple,
    },
    /// A flow with these addresses exists: choose another source port.
    #[error("opening {tuple}: a flow with these addresses exists")]
    InUse {
        /// What was asked for.
        tuple: FourTuple,
    },
    /// `dst` is not an address of the pod.
    #[error("opening {tuple}: the destination is not an address of this pod")]
    NotThisPod {
        /// What was asked for.
        tuple: FourTuple,
    },
    /// The flow table is full.
    #[error("opening {tuple}: all {limit} flows of the pod are in use")]
    TableFull {
        /// What was asked for.
        tuple: FourTuple,
        /// The bound, [`Config::max_flows`](crate::Config::max_flows).
        limit: usize,
    },
}

/// Why a packet without a flow could not be sent to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Source and destination are of different IP versions.
    #[error("a packet from {src} to {dst}: the addresses are of different IP versions")]
    MixedVersions {
        /// The source that was given.
        src: IpAddr,
        /// The destination that was given.
        dst: IpAddr,
    },
    /// The queue to the pod is full; the packet was dropped and counted.
    #[error("a packet from {src} to {dst}: the queue to the pod is full")]
    QueueFull {
        /// The source that was given.
        src: IpAddr,
        /// The destination that was given.
        dst: IpAddr,
    },
    /// The packet would be longer than the device takes.
    #[error("a packet from {src} to {dst} of {length} bytes: the device takes {mtu}")]
    TooBig {
        /// The source that was given.
        src: IpAddr,
        /// The destination that was given.
        dst: IpAddr,
        /// The packet's length with headers, in bytes.
        length: usize,
        /// The bound, [`Config::mtu`](crate::Config::mtu).
        mtu: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreachable_codes_are_their_own_inverse() {
        for what in [
            Unreachable::AdminProhibited,
            Unreachable::Host,
            Unreachable::Net,
            Unreachable::Port,
        ] {
            for v6 in [false, true] {
                assert_eq!(Unreachable::from_icmp_code(what.icmp_code(v6), v6), Some(what));
            }
        }
        assert_eq!(
            Unreachable::from_icmp_code(4, false),
            None,
            "fragmentation needed is not an end"
        );
    }
}
