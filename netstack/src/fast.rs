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

use std::time::Duration;

use crate::buffers::Buffers;
use crate::clock::{Tick, after};
use crate::config::{Config, MINIMUM_RING};
use crate::event::ClosedBy;
use crate::live::{Rings, scale_of_ring};
use crate::packet::tcp::{self, ACK, FIN, Options, PSH, RST, SYN, Segment};
use crate::splice::Splice;

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
    /// Something was received that is to be acknowledged, or there's a window to be announced.
    pub(crate) ack_due: bool,
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

/// What a segment is to a flow on the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing new that asks for an ACK: a probe (RFC 9293 §3.8.4), or the last FIN again.
    Answer,
    /// Data behind the pod's FIN, where there can be none (RFC 9293 §3.10.7.4, seventh).
    BeyondFin,
    /// None of these.
    Engine,
    /// Changes nothing.
    Ignore,
    /// The next in order.
    Next,
    /// A reset with just the number that's expected (RFC 5961 §3.2).
    Reset,
    /// The pod's answer to our SYN.
    SynAck,
}

/// A segment to be sent: its numbers, and which of the bytes written it carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) seq: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Options,
    /// From the first byte that is not acknowledged.
    pub(crate) offset: usize,
    pub(crate) count: usize,
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
            ack_due: false,
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
        self.ack_due || self.unsent() > 0 || (self.shutdown && !self.fin_sent)
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

    /// What `segment` is to this flow.
    pub(crate) fn judge(&self, segment: &Segment) -> Judgement {
        match self.phase {
            Phase::Open => self.judge_open(segment),
            Phase::SynReceived => {
                let answers = segment.ack == self.unacknowledged.wrapping_add(1) && self.in_flight() == 1;
                match segment.flags & (SYN | RST | ACK) {
                    RST | RST_ACK if segment.seq == self.receive_next => Judgement::Reset,
                    ACK if answers => self.judge_data(segment),
                    _ => Judgement::Engine,
                }
            }
            Phase::SynSent => {
                let answers = segment.ack == self.unacknowledged.wrapping_add(1) && self.in_flight() == 1;
                match segment.flags & (SYN | FIN | RST | ACK) {
                    SYN_ACK if answers && segment.data_len == 0 => Judgement::SynAck,
                    RST_ACK if answers => Judgement::Reset,
                    _ => Judgement::Engine,
                }
            }
        }
    }

    fn judge_open(&self, segment: &Segment) -> Judgement {
        if self.is_over() {
            // Only its reader is waited for. A reset must not cut it short (RFC 1337).
            let asks = segment.length() > 0 && !segment.is(RST);
            return if asks {
                Judgement::Answer
            } else {
                Judgement::Ignore
            };
        }
        match segment.flags & (SYN | RST | ACK) {
            RST | RST_ACK if segment.seq == self.receive_next => return Judgement::Reset,
            ACK => {}
            _ => return Judgement::Engine,
        }
        if segment.ack.wrapping_sub(self.unacknowledged) > self.in_flight() {
            return Judgement::Engine;
        }
        let probes = !segment.is(FIN)
            && segment.data_len <= 1
            && segment.seq == self.receive_next.wrapping_sub(1)
            && segment.ack == self.send_next;
        if probes && self.in_flight() == 0 {
            return Judgement::Answer;
        }
        if self.repeats_ack(segment) && self.duplicate_acks + 1 >= FAST_RETRANSMIT {
            return Judgement::Engine;
        }
        self.judge_data(segment)
    }

    fn judge_data(&self, segment: &Segment) -> Judgement {
        if segment.seq != self.receive_next {
            return Judgement::Engine;
        }
        if self.peer_fin && segment.data_len > 0 {
            return Judgement::BeyondFin;
        }
        let data_end = segment.seq.wrapping_add(segment.data_len);
        let fits = segment.data_len == 0 || !tcp::before(self.window_edge, data_end);
        if !fits || (self.peer_fin && segment.is(FIN)) {
            return Judgement::Engine;
        }
        Judgement::Next
    }

    /// RFC 5681 §2, duplicate acknowledgement.
    fn repeats_ack(&self, segment: &Segment) -> bool {
        self.in_flight() > 0
            && segment.ack == self.unacknowledged
            && segment.length() == 0
            && segment.window == self.peer_window
    }

    /// Takes in the pod's SYN-ACK.
    pub(crate) fn on_syn_ack(&mut self, now: Tick, segment: &Segment, options: Options) {
        self.on_peer_syn(segment.seq, segment.window, options);
        self.open(now, segment);
        self.ack_due = true;
    }

    fn open(&mut self, now: Tick, segment: &Segment) {
        self.phase = Phase::Open;
        self.unacknowledged = segment.ack;
        self.unanswered_since = None;
        self.last_activity = now;
    }

    /// Takes in the numbers of the [next](Judgement::Next) segment. How many bytes it acknowledges; its own are left to the
    /// caller.
    pub(crate) fn on_next(&mut self, now: Tick, segment: &Segment) -> usize {
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
        if segment.length() > 0 {
            self.ack_due = true;
        }
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

    /// The window that the pod may still use, in bytes.
    pub(crate) fn promised(&self) -> usize {
        // A FIN may lie one beyond it.
        (self.window_edge.wrapping_sub(self.receive_next) as i32).max(0) as usize
    }

    /// What the window field has to say, rounded down.
    pub(crate) fn window_field(&self) -> u16 {
        u16::try_from(self.promised() >> self.announced_scale).unwrap_or(u16::MAX)
    }

    /// Moves the window's edge as far as `budget`, the bytes that all flows together may still take, allows. It never moves back.
    fn extend_window(&mut self, budget: usize) {
        let edge = self.receive_next.wrapping_add(self.window(budget) as u32);
        if tcp::before(self.window_edge, edge) {
            self.window_edge = edge;
        }
    }

    /// How large a window there's room for, in whole units of its scale.
    fn window(&self, budget: usize) -> usize {
        let unread = self.unread();
        let room = self.limits.receive.saturating_sub(unread);
        let least = MINIMUM_RING.saturating_sub(unread);
        let allowed = room.min(budget.max(least));
        let largest = usize::from(u16::MAX) << self.announced_scale;
        allowed.min(largest) >> self.announced_scale << self.announced_scale
    }

    /// Whether the window has grown enough to be worth a segment of its own (RFC 9293 §3.8.6.2.2).
    pub(crate) fn has_window_to_tell(&self, budget: usize) -> bool {
        let window = self.window(budget);
        self.is_open() && !self.peer_fin && window > 0 && window / 2 >= self.promised()
    }

    /// The next segment to be sent, if there is one, which counts as sent then. `mss` is what the device takes.
    pub(crate) fn next_segment(&mut self, now: Tick, mss: usize, budget: usize) -> Option<Outgoing> {
        if !self.is_open() {
            return self.next_syn(now, mss);
        }
        let unsent = self.unsent();
        let room = self.peer_window_bytes().saturating_sub(self.in_flight() as usize);
        let peer_mss = usize::from(self.peer.mss.unwrap_or(DEFAULT_MSS)).max(LEAST_MSS);
        let count = unsent.min(room).min(mss.min(peer_mss));
        let fin = self.shutdown && !self.fin_sent && count == unsent;
        if count == 0 && !fin && !self.ack_due {
            return None;
        }
        self.extend_window(budget);
        let is_last = count > 0 && count == unsent;
        let outgoing = Outgoing {
            seq: self.send_next,
            flags: ACK | if is_last { PSH } else { 0 } | if fin { FIN } else { 0 },
            window: self.window_field(),
            options: Options::default(),
            offset: self.unsettled() - unsent,
            count,
        };
        self.fin_sent |= fin;
        self.on_sent(now, count as u32 + u32::from(fin));
        Some(outgoing)
    }

    fn next_syn(&mut self, now: Tick, mss: usize) -> Option<Outgoing> {
        if self.in_flight() > 0 {
            return None;
        }
        let is_answer = self.phase == Phase::SynReceived;
        let scales = !is_answer || self.peer.window_scale.is_some();
        let window = u16::try_from(self.limits.receive).unwrap_or(u16::MAX);
        if is_answer {
            self.window_edge = self.receive_next.wrapping_add(u32::from(window));
        }
        let outgoing = Outgoing {
            seq: self.send_next,
            flags: SYN | if is_answer { ACK } else { 0 },
            // Not scaled (RFC 7323 §2.2).
            window,
            options: Options {
                mss: u16::try_from(mss).ok(),
                window_scale: scales.then_some(self.announced_scale),
                sack: !is_answer || self.peer.sack,
            },
            offset: 0,
            count: 0,
        };
        self.on_sent(now, 1);
        Some(outgoing)
    }

    fn on_sent(&mut self, now: Tick, length: u32) {
        self.ack_due = false;
        self.send_next = self.send_next.wrapping_add(length);
        if length > 0 {
            self.last_activity = now;
            self.unanswered_since.get_or_insert(now);
        }
    }

    /// Notes that there's nothing to send now. If that's for want of window, the pod owes it.
    pub(crate) fn on_drained(&mut self, now: Tick) {
        if self.unsent() > 0 {
            self.unanswered_since.get_or_insert(now);
        }
    }

    /// When the engine has to take over because something that was sent, or is to be, does not get on.
    pub(crate) fn engine_deadline(&self) -> Option<Tick> {
        let waits = self.in_flight() > 0 || self.unsent() > 0;
        self.unanswered_since
            .filter(|_| waits)
            .map(|since| after(since, FIRST_RETRANSMISSION))
    }

    /// The earliest of the flow's timers.
    pub(crate) fn deadline(&self, config: &Config, is_released: bool) -> Option<Tick> {
        let timers = [
            self.engine_deadline(),
            self.answer_deadline(config),
            self.idle_deadline(config),
            self.orphan_deadline(config, is_released),
            self.keep_alive_deadline(config),
        ];
        timers.into_iter().flatten().min()
    }

    /// When the pod has owed an answer for too long.
    pub(crate) fn answer_deadline(&self, config: &Config) -> Option<Tick> {
        self.unanswered_since
            .map(|since| after(since, config.retransmit_timeout))
    }

    pub(crate) fn idle_deadline(&self, config: &Config) -> Option<Tick> {
        let timeout = config.idle_timeout?;
        self.is_open().then(|| after(self.last_activity, timeout))
    }

    /// In FIN-WAIT-2 nothing but the pod can go on; if nobody would notice, that has a limit.
    pub(crate) fn orphan_deadline(&self, config: &Config, is_released: bool) -> Option<Tick> {
        let waits = is_released && self.is_fin_acknowledged() && !self.peer_fin;
        waits.then(|| after(self.last_activity, config.orphan_timeout))
    }

    /// When to ask a silent pod whether it's still there.
    pub(crate) fn keep_alive_deadline(&self, config: &Config) -> Option<Tick> {
        let interval = config.keep_alive?;
        let asks = self.is_open() && !self.is_over() && self.in_flight() == 0;
        asks.then(|| after(self.last_activity.max(self.last_probe), interval))
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

const SYN_ACK: u8 = SYN | ACK;
const RST_ACK: u8 = RST | ACK;

/// RFC 5681 §3.2: so many equal acknowledgements mean a loss.
const FAST_RETRANSMIT: u8 = 3;

/// RFC 6298 §2.1 and §2.4.
const FIRST_RETRANSMISSION: Duration = Duration::from_secs(1);

/// RFC 9293 §3.7.1, for a pod that doesn't say.
const DEFAULT_MSS: u16 = 536;

/// As Linux' `TCP_MIN_SND_MSS`: less would be a header for every few bytes.
const LEAST_MSS: usize = 48;
