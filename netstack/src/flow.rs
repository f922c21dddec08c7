//! One flow's state, and what its owner has not been told yet.

use std::net::SocketAddr;

use adit_flow::{CloseReason, FourTuple, RefuseReason};

use crate::clock::Tick;
use crate::ends::Ends;
use crate::event::{ClosedBy, Event, FlowId};
use crate::fast::Fast;
use crate::live::Live;
use crate::packet::tcp::{Options, Template};
use crate::table::Between;

/// A slot of the flow table in use.
pub(crate) struct Flow {
    /// The flow as it was opened.
    pub(crate) tuple: FourTuple,
    /// Which end opened it.
    pub(crate) opener: Opener,
    pub(crate) stage: Stage,
    pub(crate) news: News,
    /// Nobody wants to hear of it any more.
    pub(crate) is_released: bool,
}

/// Which end opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opener {
    Agent,
    Pod,
}

/// How far a flow is.
///
/// ```text
///   SYN ─▶ Held ─ accept ─┐          ┌── anything out of the ordinary ──▶ Live
///                         ├─▶ Fast ──┤                                      │
///   connect ──────────────┘    ▲     └────────────── at rest ◀──────────────┘
///                              │
///                              ├─ both FINs, ours first ─▶ TimeWait ─ timer ─▶ gone
///   any ─ reset, timeout ──────┴─────────────────────────▶ Ended ─ Closed was read ─▶ gone
/// ```
pub(crate) enum Stage {
    /// The pod's SYN waits for a verdict; the engine knows nothing of it.
    Held(HeldSyn),
    /// All about it is ordinary, or it's at rest: the stack moves its bytes itself.
    Fast(Fast),
    /// The engine has a socket for it.
    Live(Box<Live>),
    /// Both directions are closed; repeated FINs are still answered.
    TimeWait(TimeWait),
    /// Nothing is left but the news of its end. Its four-tuple is free.
    Ended,
}

/// A SYN that waits for a verdict.
#[derive(Clone, Copy)]
pub(crate) struct HeldSyn {
    pub(crate) seq: u32,
    pub(crate) window: u16,
    pub(crate) options: Options,
}

/// A closed connection's numbers (RFC 9293 §3.10.7.4).
#[derive(Clone, Copy)]
pub(crate) struct TimeWait {
    pub(crate) send_next: u32,
    pub(crate) receive_next: u32,
    pub(crate) window: u16,
    pub(crate) expires_at: Tick,
}

impl Between for Flow {
    fn ends(&self) -> Ends {
        Ends::tcp(self.pod(), self.remote())
    }
}

impl Flow {
    pub(crate) fn new(tuple: FourTuple, opener: Opener, stage: Stage) -> Self {
        let news = News::default();
        Self {
            tuple,
            opener,
            stage,
            news,
            is_released: false,
        }
    }

    /// The pod's end.
    pub(crate) fn pod(&self) -> SocketAddr {
        match self.opener {
            Opener::Agent => self.tuple.dst,
            Opener::Pod => self.tuple.src,
        }
    }

    /// The end that the stack plays.
    pub(crate) fn remote(&self) -> SocketAddr {
        match self.opener {
            Opener::Agent => self.tuple.src,
            Opener::Pod => self.tuple.dst,
        }
    }

    /// A segment to the pod without data.
    pub(crate) fn template(&self, seq: u32, ack: u32, flags: u8, window: u16) -> Template {
        Template {
            src: self.remote(),
            dst: self.pod(),
            seq,
            ack,
            flags,
            window,
            options: Options::default(),
        }
    }
}

/// What the owner has not been told of a flow: a flag for each kind of event, so there's never more than one of a kind.
#[derive(Clone, Copy, Default)]
pub(crate) struct News {
    pub(crate) syn: bool,
    pub(crate) established: bool,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) remote_fin: bool,
    pub(crate) refused: Option<RefuseReason>,
    pub(crate) closed: Option<(CloseReason, ClosedBy)>,
}

impl News {
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            syn,
            established,
            readable,
            writable,
            remote_fin,
            refused,
            closed,
        } = self;
        !(*syn
            || *established
            || *readable
            || *writable
            || *remote_fin
            || refused.is_some()
            || closed.is_some())
    }

    /// The next event, in the order of [`Event`]'s diagram.
    pub(crate) fn take(&mut self, flow: FlowId, tuple: FourTuple) -> Option<Event> {
        let take = std::mem::take::<bool>;
        if take(&mut self.syn) {
            return Some(Event::Syn { flow, tuple });
        }
        if take(&mut self.established) {
            return Some(Event::Established { flow });
        }
        if take(&mut self.readable) {
            return Some(Event::Readable { flow });
        }
        if take(&mut self.writable) {
            return Some(Event::Writable { flow });
        }
        if take(&mut self.remote_fin) {
            return Some(Event::RemoteFin { flow });
        }
        if let Some(reason) = self.refused.take() {
            return Some(Event::Refused { flow, reason });
        }
        let (reason, by) = self.closed.take()?;
        Some(Event::Closed { flow, reason, by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory per flow is an API: what 10,000 flows at rest cost is 10,000 times the first of these, and an
    /// entry in the index and in the deadline queue (below 32 bytes together).
    #[test]
    fn a_flow_is_small() {
        assert!(
            size_of::<Option<Flow>>() <= 216,
            "a slot takes {} bytes",
            size_of::<Option<Flow>>()
        );
        assert!(
            size_of::<Live>() <= 192,
            "beside its socket a flow takes {} bytes",
            size_of::<Live>()
        );
        let socket = size_of::<smoltcp::iface::SocketStorage<'_>>();
        assert!(socket <= 1024, "a socket takes {socket} bytes");
    }
}
