//! Frames in, flows out: the userspace TCP/IP stack. Pure.
//!
//! One [`Netstack`] stands behind one pod's TUN device. The pod's kernel is the other end of every TCP connection; the
//! stack plays whatever address the pod talks to. IP packets of the pod go in, flows and datagrams come out, and the
//! other way round. As long as all about a flow is ordinary its segments are dealt with here, on the fast path; for the
//! rest smoltcp is the TCP engine. The flow table, the held SYNs, the deadlines and the budgets are this crate's.
//!
//! Nothing here opens a socket, reads a clock or draws randomness: `now` is an argument, the seed is given. Equal
//! inputs give equal outputs, byte for byte.
//!
//! # Order of calls
//! After anything that may have an effect (`handle_*`, a command) drain [`Netstack::poll_event`] and
//! [`Netstack::poll_transmit`] until both give `None`; then sleep until [`Netstack::poll_timeout`] or the next input. Many
//! frames may be handed in before draining: answers are merged then. `poll_transmit` raises no events, so it may come last.
//!
//! # Bounds
//! Every queue, table and ring is bounded by [`Config`]; what happens when one is full is said there and counted in
//! [`Counters`]. The work of a call is bounded by the packet or the bytes it's given, that of `poll_transmit` by the flows that
//! were touched since, that of `handle_timeout` by a constant.

mod buffers;
mod clock;
mod config;
mod counters;
mod deadline;
mod ends;
mod engine;
mod event;
mod fast;
mod flow;
mod forward;
mod live;
mod packet;
mod queue;
mod splice;
mod stack;
mod table;

pub use config::{BufferSize, Config, MAXIMUM_INITIAL_RING, MAXIMUM_RING, MINIMUM_RING, QueueLimit};
pub use counters::Counters;
pub use event::{
    ClosedBy, ConnectError, Echo, Event, FlowError, FlowGone, FlowId, PacketParts, Refusal, RxChecksum,
    SendError, Transmit, Unreachable,
};
pub use forward::{
    Ended, ForwardConfig, ForwardCounters, ForwardId, Forwarder, Full, IdleTimeouts, Key, NewFlow, Offloads,
    Passage, Side, Traffic,
};
pub use packet::sctp::SctpPacket;
pub use stack::{Datagram, Netstack};
