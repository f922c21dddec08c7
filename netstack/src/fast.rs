//! The fast path: a flow as long as everything about it is ordinary.
//!
//! Nearly every segment is the next one in order, and acknowledges what was sent (Van Jacobson's header prediction). What
//! has to be done for it are some additions, and these are done here, on a record of two cache lines. Whatever else
//! happens (a segment lost, repeated or out of its turn, a window that stays closed, an answer that doesn't come) is the
//! engine's: the connection is built there with the numbers and bytes of this record ([`splice`](crate::splice)), and comes back
//! here when it is at rest again.
//!
//! ```text
//!              ┌───────────── next in order ────────────┐
//!   SYN-SENT ──┤                                        ├─▶ Open: ESTABLISHED, CLOSE-WAIT, FIN-WAIT-1 and -2, LAST-ACK
//!   SYN-RECEIVED                                        │
//!              └─ anything else ─▶ the engine ─ at rest ┘
//! ```
//!
//! So nothing is sent twice from here, nothing is put together, and there's one timer: the first retransmission's. Names are
//! RFC 9293 §3.3.1's, in words.

mod ack;
mod judge;
mod output;
mod timers;

use crate::buffers::Buffers;
use crate::clock::Tick;
use crate::config::Config;
use crate::event::ClosedBy;
use crate::live::{Rings, scale_of_ring};
use crate::packet::tcp::{FIN, Options, Segment};
use crate::splice::Splice;

pub(crate) use ack::Ack;
pub(crate) use judge::Judgement;

/// A flow on the fast path.
pub(crate) struct Fast {
    pub(crate) phase: Phase,
    /// What the pod's SYN said.
    pub(crate) peer: Options,
    /// The window field of the pod's last segment, not scaled.
    pub(crate) peer_window: u16,
    /// Window scale that was announced in our SYN.
    pub(crate) announced_scale: u8,
    duplicate_acks: u8,
    /// The oldest number that the pod has not acknowledged (SND.UNA).
    pub(crate) unacknowledged: u32,
    /// Next number to be sent (SND.NXT).
    pub(crate) send_next: u32,
    /// Next number that is expected (RCV.NXT).
    pub(crate) receive_next: u32,
    /// The highest right edge of the window that was announced.
    pub(crate) window_edge: u32,
    /// Most bytes that may wait, each way: as rings, though none is there.
    pub(crate) limits: Rings,
    /// What waits; none if nothing does.
    pub(crate) buffers: Option<Box<Buffers>>,
    /// The last packet or byte, either way.
    pub(crate) last_activity: Tick,
    /// The last keep-alive probe.
    pub(crate) last_probe: Tick,
    /// Since when the pod owes an answer, or room; starts afresh with each that brings the flow on.
    pub(crate) unanswered_since: Option<Tick>,
    /// When the deadline queue looks at the flow, if it does: so the queue is left alone while deadlines move later.
    pub(crate) looked_at: Option<Tick>,
    pub(crate) ack: Ack,
    /// Segments whose ACK won't be held, since holding one was in vain.
    prompt: u8,
    /// Half of what may wait to be read did.
    pub(crate) was_filled: bool,
    /// `send` took less than it was given.
    pub(crate) write_blocked: bool,
    /// FIN is to follow what was written.
    pub(crate) shutdown: bool,
    pub(crate) fin_sent: bool,
    pub(crate) peer_fin: bool,
    /// Whether `RemoteFin` was raised.
    pub(crate) fin_reported: bool,
    /// Who sent FIN first.
    pub(crate) first_fin: Option<ClosedBy>,
}

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    SynSent,
    SynReceived,
    Open,
}

impl Fast {
    /// A flow whose handshake starts now. `isn` is our initial sequence number.
    pub(crate) fn opening(now: Tick, phase: Phase, isn: u32, config: &Config) -> Self {
        Self {
            phase,
            peer: Options::default(),
            peer_window: 0,
            announced_scale: scale_of_ring(config.receive_buffer.max),
            duplicate_acks: 0,
            unacknowledged: isn,
            send_next: isn,
            receive_next: 0,
            window_edge: 0,
            limits: Rings::initial(config),
            buffers: None,
            last_activity: now,
            last_probe: now,
            unanswered_since: None,
            looked_at: None,
            ack: Ack::None,
            prompt: 0,
            was_filled: false,
            write_blocked: false,
            shutdown: false,
            fin_sent: false,
            peer_fin: false,
            fin_reported: false,
            first_fin: None,
        }
    }

    /// A connection at rest.
    pub(crate) fn resting(now: Tick, splice: &Splice, limits: Rings, config: &Config) -> Self {
        Self {
            peer: splice.peer,
            peer_window: splice.peer_window,
            announced_scale: splice.announced_scale,
            receive_next: splice.receive_next,
            window_edge: splice.window_edge,
            limits,
            shutdown: splice.our_fin,
            fin_sent: splice.our_fin,
            peer_fin: splice.peer_fin,
            ..Self::opening(now, Phase::Open, splice.send_next, config)
        }
    }

    /// Takes over what the SYN or SYN-ACK of the pod says. Its window is not scaled.
    pub(crate) fn on_peer_syn(&mut self, seq: u32, window: u16, options: Options) {
        self.peer = options;
        self.peer_window = match self.phase {
            // The window of our own first data; later ones say it scaled.
            Phase::SynSent => window >> options.window_scale.unwrap_or(0),
            // The numbers from which the engine would build it.
            Phase::SynReceived | Phase::Open => window,
        };
        self.receive_next = seq.wrapping_add(1);
        self.window_edge = self.receive_next;
        if options.window_scale.is_none() {
            self.announced_scale = 0;
        }
    }

    pub(crate) fn unread(&self) -> usize {
        self.buffers.as_ref().map_or(0, |buffers| buffers.received.len())
    }

    /// Bytes written and not acknowledged.
    pub(crate) fn unsettled(&self) -> usize {
        self.buffers.as_ref().map_or(0, |buffers| buffers.written.len())
    }

    /// Sequence space that was sent and not acknowledged.
    fn in_flight(&self) -> u32 {
        self.send_next.wrapping_sub(self.unacknowledged)
    }

    /// Bytes written and not sent.
    fn unsent(&self) -> usize {
        if self.fin_sent || !self.is_open() {
            return 0;
        }
        self.unsettled() - self.in_flight() as usize
    }

    /// Whether there is something to send, if the pod's window allows.
    pub(crate) fn has_output(&self) -> bool {
        self.ack == Ack::Due || self.unsent() > 0 || (self.shutdown && !self.fin_sent)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(crate) fn is_fin_acknowledged(&self) -> bool {
        self.fin_sent && self.in_flight() == 0
    }

    /// Whether both directions are closed.
    pub(crate) fn is_over(&self) -> bool {
        self.peer_fin && self.is_fin_acknowledged()
    }

    /// The window that the pod announced last, in bytes.
    pub(crate) fn peer_window_bytes(&self) -> usize {
        usize::from(self.peer_window) << self.peer.window_scale.unwrap_or(0)
    }

    /// Takes in the pod's SYN-ACK.
    pub(crate) fn on_syn_ack(&mut self, now: Tick, segment: &Segment, options: Options) {
        self.on_peer_syn(segment.seq, segment.window, options);
        self.open(now, segment);
        self.ack = Ack::Due;
    }

    fn open(&mut self, now: Tick, segment: &Segment) {
        self.phase = Phase::Open;
        self.unacknowledged = segment.ack;
        self.unanswered_since = None;
        self.last_activity = now;
    }

    /// Takes in the numbers of the [next](Judgement::Next) segment. How many bytes it acknowledges; its own are left to the
    /// caller.
    pub(crate) fn on_next(&mut self, now: Tick, segment: &Segment, holds_acks: bool) -> usize {
        if !self.is_open() {
            self.open(now, segment);
        }
        if self.repeats_ack(segment) {
            self.duplicate_acks += 1;
        }
        let advance = segment.ack.wrapping_sub(self.unacknowledged);
        self.last_activity = now;
        self.unacknowledged = segment.ack;
        self.peer_window = segment.window;
        if advance > 0 {
            self.duplicate_acks = 0;
        }
        if self.in_flight() == 0 {
            self.unanswered_since = None;
        } else if advance > 0 {
            self.unanswered_since = Some(now);
        }
        self.owe_ack(segment, holds_acks);
        self.receive_next = self.receive_next.wrapping_add(segment.length());
        if segment.is(FIN) {
            self.peer_fin = true;
            self.first_fin.get_or_insert(ClosedBy::Pod);
        }
        advance as usize - usize::from(advance > 0 && self.is_fin_acknowledged())
    }

    /// Ends sending.
    pub(crate) fn close(&mut self, now: Tick) {
        self.shutdown = true;
        self.last_activity = now;
        self.first_fin.get_or_insert(ClosedBy::Agent);
    }

    /// The connection as the engine builds it: all that was sent counts as not sent, but for an acknowledged FIN.
    pub(crate) fn splice(&self) -> Splice {
        Splice {
            peer: self.peer,
            peer_window: self.peer_window,
            send_next: self.unacknowledged,
            receive_next: self.receive_next,
            window_edge: self.window_edge,
            announced_scale: self.announced_scale,
            peer_fin: self.peer_fin,
            our_fin: self.is_fin_acknowledged(),
        }
    }
}
