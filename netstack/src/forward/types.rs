//! What the forwarder is told and what it says.

use std::fmt;
use std::time::Instant;

use adit_flow::{CloseReason, DropReason, FourTuple, Protocol};

use crate::ends::Ends;
use crate::event::FlowId;

/// The two sides that packets pass between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The pod's TUN device.
    Pod,
    /// The TUN device in its outer namespace, behind which the kernel forwards to and from the pod's real interface.
    Wire,
}

impl Side {
    /// The side that a packet from this one leaves by.
    pub fn other(self) -> Self {
        match self {
            Self::Pod => Self::Wire,
            Self::Wire => Self::Pod,
        }
    }
}

/// What the virtio-net header in front of a packet says of it (virtio 1.2 §5.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// `gso_size`, if the packet is to be cut up into segments: bytes of payload in each.
    pub segment_size: Option<u16>,
    /// `NEEDS_CSUM`: the transport checksum field holds only the pseudo-header's sum.
    pub partial_checksum: bool,
}

/// Names a flow of one [`Forwarder`](crate::Forwarder). An old one never names another flow: it's stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForwardId(pub(crate) FlowId);

impl ForwardId {
    /// The place of the flow among those at once, below [`max_flows`](crate::ForwardConfig::max_flows): for a caller that keeps
    /// something for each flow in a vector.
    pub fn index(self) -> usize {
        self.0.index as usize
    }
}

impl fmt::Display for ForwardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a flow is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The transport.
    pub protocol: Protocol,
    /// From the sender of the first packet. Ports are 0 for protocols without; for a ping the source port is the echo
    /// identifier.
    pub tuple: FourTuple,
    /// The side that the first packet came from. For a ping it's where the request comes from, of which the tuple is too.
    pub from: Side,
}

impl Key {
    pub(crate) fn ends(&self) -> Ends {
        let FourTuple { src, dst } = self.tuple;
        let (pod, remote) = match self.from {
            Side::Pod => (src, dst),
            Side::Wire => (dst, src),
        };
        let is_ping = matches!(self.protocol, Protocol::Icmp | Protocol::Icmpv6);
        let asked_by_remote = is_ping && self.from == Side::Wire;
        Ends::between(self.protocol.number(), pod, remote).asked_by_remote(asked_by_remote)
    }

    pub(crate) fn of(ends: &Ends, from: Side) -> Self {
        let tuple = match from {
            Side::Pod => FourTuple::new(ends.pod(), ends.remote()),
            Side::Wire => FourTuple::new(ends.remote(), ends.pod()),
        };
        Self {
            protocol: Protocol::from(ends.protocol()),
            tuple,
            from,
        }
    }
}

/// A flow that the forwarder doesn't know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlow {
    /// What it will be found by.
    pub key: Key,
    /// It was open before: TCP without a SYN, SCTP without an INIT. Which end opened it can't be told from the packet. Always
    /// false for other protocols, which don't say.
    pub established: bool,
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Dropped and counted; [`answer`](crate::Forwarder::answer) has a packet for the side that it came from.
    Answer(DropReason),
    /// Dropped and counted.
    Drop(DropReason),
    /// Write it out on the other side, with its virtio-net header as it came.
    Forward(ForwardId),
    /// The first packet of an unknown flow, which has not been counted. Judge it, call [`admit`](crate::Forwarder::admit) or
    /// [`deny`](crate::Forwarder::deny), and hand it in again; or take it for something else.
    New(NewFlow),
    /// From the wire side, about the agent's own sockets: write it back to where it came from, for the kernel there.
    ToKernel,
}

/// The end of an admitted flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose it was. Stale from now on, but for packets that are still under way.
    pub id: ForwardId,
    /// What it was found by.
    pub key: Key,
    /// Why it ended.
    pub reason: CloseReason,
    /// The side whose end ended it: for `Fin` the one whose FIN came first. `None`: neither, but the owner, a timeout or a bound.
    pub by: Option<Side>,
    /// When it was admitted.
    pub opened: Instant,
    /// When its last packet passed.
    pub last_packet: Instant,
    /// What came from the pod and passed.
    pub from_pod: Traffic,
    /// What came from the wire and passed.
    pub from_wire: Traffic,
}

/// What passed one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets as they were handed in: a super-packet is one.
    pub packets: u64,
    /// Bytes behind the transport header, repetitions included; behind the IP header for protocols that have none here.
    pub bytes: u64,
}

/// The flow table is full of flows that don't give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("admitting {tuple}: all {limit} forwarded flows of the pod are in use")]
pub struct Full {
    /// What was to be admitted.
    pub tuple: FourTuple,
    /// The bound, [`max_flows`](crate::ForwardConfig::max_flows).
    pub limit: usize,
}
