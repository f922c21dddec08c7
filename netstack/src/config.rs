use std::net::IpAddr;
use std::time::Duration;

/// Bounds and timeouts of one [`Netstack`](crate::Netstack). `Default` suits a pod of an ordinary size.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pod's own addresses. A frame from any other source is dropped; with none, every frame is.
    pub addresses: Vec<IpAddr>,
    /// Longest IP packet in bytes, headers included, either way. 65,520 lets one read carry 64 KiB of stream.
    pub mtu: usize,
    /// Flows at once, held SYNs and TIME-WAIT records included. When it's reached the oldest TIME-WAIT record
    /// gives way; without one, the pod's SYN is answered with RST: the app sees a clear error at once, where
    /// silence would let it hang for minutes.
    pub max_flows: usize,
    /// SYNs held for a verdict at once. When it's reached further SYNs are dropped in silence: the bound is
    /// reached by a burst, and the pod's kernel retries after a second.
    pub max_half_open: usize,
    /// What the pod may have sent on a flow and nobody has read. It's the window, and takes memory only while bytes wait.
    pub receive_buffer: BufferSize,
    /// What may be written to a flow that the pod has not acknowledged.
    pub send_buffer: BufferSize,
    /// Bytes that wait in all flows together, and the rings of those in the engine. When it's used up a flow may have
    /// [`MINIMUM_RING`] each way, so the true bound is this plus that much a flow. Windows are promised beyond it: of flows
    /// that all use theirs at once some will lose segments, which the pod repeats.
    pub buffer_budget: usize,
    /// Datagrams and echoes waiting in [`poll_event`](crate::Netstack::poll_event), and those waiting in
    /// [`poll_transmit`](crate::Netstack::poll_transmit): each queue has this bound.
    pub datagram_queue: QueueLimit,
    /// How long the ACK of a few bytes may wait for a segment of ours to go along with (RFC 1122 §4.2.3.2, whose 500 ms
    /// are the most that this may be); [`release_acks`](crate::Netstack::release_acks) has those that wait sent before.
    /// `None`: each is sent at once.
    pub ack_hold: Option<Duration>,
    /// How long a SYN waits for [`accept`](crate::Netstack::accept) or [`refuse`](crate::Netstack::refuse).
    /// Then it's forgotten in silence, as if it had been lost.
    pub syn_hold_timeout: Duration,
    /// How long the handshake with the pod's kernel may take, once started.
    pub connect_timeout: Duration,
    /// How long the pod's kernel may leave data, a FIN or keep-alive probes unanswered (RFC 9293 §3.8.3, R2).
    pub retransmit_timeout: Duration,
    /// How long a closed flow's four-tuple is remembered to answer a repeated FIN (RFC 9293 §3.6.1). Far less
    /// than 2 MSL is enough: the link is one device, no segment outlives its turn in the queue.
    pub time_wait: Duration,
    /// How long a flow that was released in FIN-WAIT-2 waits for the pod's FIN.
    pub orphan_timeout: Duration,
    /// Close flows without a packet for so long. `None`: never, as TCP itself.
    pub idle_timeout: Option<Duration>,
    /// Probe the pod after so long without a packet (RFC 9293 §3.8.4). `None`: never; the pod's kernel can't
    /// vanish without its device.
    pub keep_alive: Option<Duration>,
}

/// Least that a flow may have under way each way, in bytes, whatever the budget says.
pub const MINIMUM_RING: usize = 4096;

/// Most that a flow may have under way each way, in bytes: a window of this size has a scale of 9 of 14.
pub const MAXIMUM_RING: usize = 16 << 20;

/// Largest initial ring in bytes. The window of a SYN is not scaled (RFC 7323 §2.2), so a larger one could not
/// be announced.
pub const MAXIMUM_INITIAL_RING: usize = 32 << 10;

/// How much a flow may have under way one way, in bytes; it grows with use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSize {
    /// At first; limited to [`MINIMUM_RING`]..=[`MAXIMUM_INITIAL_RING`].
    pub initial: usize,
    /// At most; limited to `initial`..=[`MAXIMUM_RING`]. Growth is fourfold.
    pub max: usize,
}

/// The bound of a queue of packets: the first limit that is reached counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimit {
    /// Packets.
    pub packets: usize,
    /// Bytes of payload.
    pub bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        let buffer = BufferSize {
            initial: MAXIMUM_INITIAL_RING,
            max: 1 << 20,
        };
        Self {
            addresses: Vec::new(),
            mtu: 65_520,
            max_flows: 65_536,
            max_half_open: 1024,
            receive_buffer: buffer,
            send_buffer: buffer,
            buffer_budget: 64 << 20,
            datagram_queue: QueueLimit {
                packets: 1024,
                bytes: 4 << 20,
            },
            ack_hold: None,
            syn_hold_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            retransmit_timeout: Duration::from_secs(60),
            time_wait: Duration::from_secs(10),
            orphan_timeout: Duration::from_secs(60),
            idle_timeout: None,
            keep_alive: None,
        }
    }
}

impl Config {
    /// With every size within what the engine can do: a configuration can't make it fail later.
    pub(crate) fn sanitised(mut self) -> Self {
        self.mtu = self.mtu.clamp(MINIMUM_MTU, 65_535);
        self.max_flows = self.max_flows.clamp(1, MAXIMUM_FLOWS);
        self.ack_hold = self.ack_hold.map(|hold| hold.min(LONGEST_ACK_HOLD));
        self.receive_buffer = self.receive_buffer.sanitised();
        self.send_buffer = self.send_buffer.sanitised();
        self
    }
}

impl BufferSize {
    fn sanitised(self) -> Self {
        let initial = self.initial.clamp(MINIMUM_RING, MAXIMUM_INITIAL_RING);
        Self {
            initial,
            max: self.max.clamp(initial, MAXIMUM_RING),
        }
    }
}

/// RFC 1122 §4.2.3.2.
const LONGEST_ACK_HOLD: Duration = Duration::from_millis(500);

/// Every IPv6 link carries this much (RFC 8200 §5).
const MINIMUM_MTU: usize = 1280;

/// Slots are numbered in 32 bits; this many flows of one pod is already more than it has ports.
const MAXIMUM_FLOWS: usize = 1 << 22;
