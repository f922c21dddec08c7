use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Bounds, timeouts and addresses of one [`Forwarder`](crate::Forwarder). `Default` suits a pod of an ordinary size on a
/// link of 1500 bytes; only `addresses` has to be filled in.
#[derive(Clone, Debug)]
pub struct ForwardConfig {
    /// The pod's own addresses. A packet from it with any other source, and one to it with any other destination, is dropped.
    pub addresses: Vec<IpAddr>,
    /// Longest IP packet in bytes that the wire side takes, headers included: the MTU of the pod's real interface. At least
    /// 576, and 1280 where the pod has IPv6 (RFC 8200 §5).
    pub wire_mtu: u16,
    /// Flows at once, refused ones included. When it's reached a record gives way to a new flow's: of some that are looked at
    /// one that refuses, else one of an ended connection, else one of an unfinished handshake, else the longest idle of another
    /// protocol than TCP. An established TCP flow never gives way; if there's nothing else, new flows are refused.
    pub max_flows: usize,
    /// Refused flows remembered at once. When it's reached the oldest is forgotten: its next packet is judged again.
    pub max_refused: usize,
    /// Fragmented packets under way whose first fragment passed. When it's reached the oldest is forgotten, and what's missing
    /// of it is dropped.
    pub max_fragmented: usize,
    /// How long later fragments may follow a first one. The receiver gives up by then (RFC 8200 §4.5).
    pub fragment_timeout: Duration,
    /// How long a refusal is remembered: packets of the flow are dropped without another verdict.
    pub refusal_timeout: Duration,
    /// ICMP errors to a sender, each second. Bursts of as many are let through; what's over is left out and counted
    /// (RFC 4443 §2.4 (f)).
    pub icmp_errors_per_second: u32,
    /// Ports of the agent's own sockets in the outer namespace: ICMP errors about TCP segments from them, or to a peer agent's,
    /// are for the kernel there.
    pub agent_ports: RangeInclusive<u16>,
    /// The port that those sockets listen on for tunnels, for the same.
    pub tunnel_port: u16,
    /// When a flow without packets is forgotten.
    pub idle: IdleTimeouts,
}

/// How long flows may be without a packet. A packet after that is one of an unknown flow: it's judged again.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimeouts {
    /// TCP, both ends heard of. RFC 5382 §5 wants no less than 2 hours 4 minutes.
    pub tcp_established: Duration,
    /// TCP in its handshake, picked up and heard of one way, or closed both ways but for the last acknowledgement. RFC 5382 §5
    /// wants no less than 4 minutes.
    pub tcp_transitory: Duration,
    /// TCP after both FINs were acknowledged, or a handshake was refused: repetitions pass that long. A verdict is all that one
    /// after it costs, so there's no need for 2 MSL.
    pub tcp_closed: Duration,
    /// TCP after a reset with a plausible sequence number: so long does the kernel that it's for have to say otherwise.
    pub tcp_reset: Duration,
    /// UDP (RFC 4787 §4.3, REQ-5).
    pub udp: Duration,
    /// UDP to a well-known port (REQ-5 a): one question, one answer.
    pub udp_well_known: Duration,
    /// Pings (RFC 5508 §3.2 wants no less than 60 s).
    pub icmp: Duration,
    /// SCTP. Its heartbeats come every 30 s (RFC 9260 §8.3).
    pub sctp: Duration,
    /// Any other protocol.
    pub other: Duration,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            wire_mtu: 1500,
            max_flows: 65_536,
            max_refused: 4096,
            max_fragmented: 1024,
            fragment_timeout: Duration::from_secs(60),
            refusal_timeout: Duration::from_secs(5),
            icmp_errors_per_second: 1000,
            agent_ports: 61_440..=u16::MAX,
            tunnel_port: 15_008,
            idle: IdleTimeouts::default(),
        }
    }
}

impl Default for IdleTimeouts {
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(2 * 3600 + 4 * 60),
            tcp_transitory: Duration::from_secs(4 * 60),
            tcp_closed: Duration::from_secs(10),
            tcp_reset: Duration::from_secs(3),
            udp: Duration::from_secs(5 * 60),
            udp_well_known: Duration::from_secs(30),
            icmp: Duration::from_secs(60),
            sctp: Duration::from_secs(5 * 60),
            other: Duration::from_secs(5 * 60),
        }
    }
}

impl ForwardConfig {
    /// With every size in its range.
    pub(super) fn sanitised(mut self) -> Self {
        self.wire_mtu = sane_mtu(self.wire_mtu);
        self.max_flows = self.max_flows.clamp(1, MAXIMUM_FLOWS);
        self.max_refused = self.max_refused.clamp(1, self.max_flows);
        self.max_fragmented = self.max_fragmented.clamp(1, MAXIMUM_FLOWS);
        self
    }
}

/// Every host takes IPv4 packets of this size (RFC 791 §3.2); below it an MSS is nonsense.
pub(super) fn sane_mtu(mtu: u16) -> u16 {
    mtu.max(576)
}

/// Slots are numbered in 32 bits; this many flows of one pod is already more than it has ports.
const MAXIMUM_FLOWS: usize = 1 << 22;
