//! A flow with an engine socket: what the stack knows of it beside the socket.
//!
//! smoltcp keeps its sequence numbers to itself. The stack follows them from outside, by what goes in and out, as it
//! needs them for three things: to write segments of its own (resets, probes), to know when nothing
//! is under way in either direction, and to build the same connection anew with other rings
//! (see [`splice`](crate::splice)).

use std::time::Duration;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use crate::clock::{Tick, after};
use crate::config::{Config, MINIMUM_RING};
use crate::fast::Fast;
use crate::packet::tcp::{self, Options, Segment};

/// A connection in the engine. Names are RFC 9293 §3.3.1's, in words.
pub(crate) struct Live {
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) handle: SocketHandle,
    /// What the pod's SYN said.
    pub(crate) peer: Options,
    /// The window field of the pod's last segment, not scaled.
    pub(crate) peer_window: u16,
    /// Next sequence number that was never sent (SND.NXT).
    pub(crate) send_next: u32,
    /// Sequence number behind the last byte that was written to the socket.
    pub(crate) written_end: u32,
    /// Sequence number of the first byte that nobody has read.
    pub(crate) unread_from: u32,
    /// The highest right edge of the window that was announced.
    pub(crate) window_edge: u32,
    /// What was acknowledged last, since the engine has the flow.
    pub(crate) acknowledged: Option<u32>,
    /// Data came ahead of its turn, up to this sequence number.
    pub(crate) ahead_until: Option<u32>,
    /// Window scale that was announced in our SYN.
    pub(crate) announced_scale: u8,
    /// Sizes of the rings, in bytes.
    pub(crate) rings: Rings,
    /// Most bytes that waited to be read since the receive ring has this size.
    pub(crate) unread_peak: usize,
    /// The send ring was too small for what was to be written, though the pod had room.
    pub(crate) wants_send_room: bool,
    /// `send` took less than it was given.
    pub(crate) write_blocked: bool,
    /// The last packet or byte, either way.
    pub(crate) last_activity: Tick,
    /// Since when the pod owes an answer.
    pub(crate) unanswered_since: Option<Tick>,
    pub(crate) established: bool,
    /// FIN is to be sent once the handshake is done.
    pub(crate) shutdown: bool,
    /// Who sent FIN first.
    pub(crate) first_fin: Option<crate::event::ClosedBy>,
    /// Whether `RemoteFin` was raised.
    pub(crate) fin_reported: bool,
    /// Whether the clean end was reported, ahead of TIME-WAIT's own.
    pub(crate) end_reported: bool,
    /// In TIME-WAIT, and the pod's FIN was acknowledged. The engine's own timer must not run any more: at its end
    /// it would throw away what nobody has read yet.
    pub(crate) is_parked: bool,
    /// The engine has something to bring to the pod and asks for no answer.
    pub(crate) stall: Option<Stall>,
}

/// Since when a flow stalls, and for how long that's borne.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    since: Tick,
    patience: Duration,
}

/// Sizes of a flow's rings, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rings {
    pub(crate) receive: usize,
    pub(crate) send: usize,
}

impl Rings {
    pub(crate) const LEAST: Self = Self {
        receive: MINIMUM_RING,
        send: MINIMUM_RING,
    };

    pub(crate) fn total(self) -> usize {
        self.receive + self.send
    }

    /// Those of a new flow.
    pub(crate) fn initial(config: &Config) -> Self {
        Self {
            receive: config.receive_buffer.initial,
            send: config.send_buffer.initial,
        }
    }

    pub(crate) fn at_least(self, least: Self) -> Self {
        Self {
            receive: self.receive.max(least.receive),
            send: self.send.max(least.send),
        }
    }

    /// A socket with rings of these sizes, in the way that every flow has it.
    pub(crate) fn socket(self) -> Socket<'static> {
        let ring = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(ring(self.receive), ring(self.send));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket
    }
}

/// A set that holds one socket and has room for no other.
pub(crate) fn set_of_one(socket: Socket<'static>) -> (SocketSet<'static>, SocketHandle) {
    let mut sockets = SocketSet::new(vec![smoltcp::iface::SocketStorage::EMPTY]);
    let handle = sockets.add(socket);
    (sockets, handle)
}

/// The next size of a ring.
pub(crate) fn grown(size: usize, max: usize) -> usize {
    size.saturating_mul(4).min(max)
}

/// The window scale that smoltcp uses for a receive ring of `size` bytes.
pub(crate) fn scale_of_ring(size: usize) -> u8 {
    (usize::BITS - size.leading_zeros()).saturating_sub(16) as u8
}

impl Live {
    /// A flow whose handshake starts now; `our_isn` is the engine's initial sequence number.
    pub(crate) fn new(
        now: Tick,
        socket: Socket<'static>,
        rings: Rings,
        our_isn: u32,
        config: &Config,
    ) -> Self {
        let (sockets, handle) = set_of_one(socket);
        Self {
            sockets,
            handle,
            peer: Options::default(),
            peer_window: 0,
            send_next: our_isn,
            written_end: our_isn.wrapping_add(1),
            unread_from: 0,
            window_edge: 0,
            acknowledged: None,
            ahead_until: None,
            announced_scale: scale_of_ring(config.receive_buffer.max),
            rings,
            unread_peak: 0,
            wants_send_room: false,
            write_blocked: false,
            last_activity: now,
            unanswered_since: None,
            established: false,
            shutdown: false,
            first_fin: None,
            fin_reported: false,
            end_reported: false,
            is_parked: false,
            stall: None,
        }
    }

    pub(crate) fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(crate) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn state(&self) -> State {
        self.socket().state()
    }

    /// Takes over what the SYN or SYN-ACK of the pod says.
    pub(crate) fn on_peer_syn(&mut self, segment: &Segment, options: Options) {
        self.peer = options;
        // Later ones say it scaled (RFC 7323 §2.2).
        self.peer_window = segment.window >> options.window_scale.unwrap_or(0);
        self.unread_from = segment.seq.wrapping_add(1);
        self.window_edge = self.unread_from;
        if options.window_scale.is_none() {
            self.announced_scale = 0;
        }
    }

    /// The scale that the engine counts windows with.
    fn engine_scale(&self) -> u8 {
        if self.peer.window_scale.is_none() {
            0
        } else {
            scale_of_ring(self.rings.receive)
        }
    }

    /// Whether the pod's FIN has its place in what was received.
    pub(crate) fn has_peer_fin(&self) -> bool {
        // In CLOSED it depends on how it got there; nobody acknowledges anything then.
        matches!(
            self.state(),
            State::CloseWait | State::Closing | State::LastAck | State::TimeWait
        )
    }

    /// Whether `segment` has data behind the pod's FIN, where there can be none (RFC 9293 §3.10.7.4, seventh). smoltcp would
    /// take it in.
    pub(crate) fn lies_beyond_fin(&self, segment: &Segment) -> bool {
        let fin = self.receive_next().wrapping_sub(1);
        let data_end = segment.seq.wrapping_add(segment.data_len);
        segment.data_len > 0 && self.has_peer_fin() && tcp::before(fin, data_end)
    }

    /// Whether `segment` has a FIN behind data of which the engine may have to cut off a part, for want of window. smoltcp would
    /// take the FIN for the end of what's left: a truncated stream with a clean end.
    pub(crate) fn would_cut(&self, segment: &Segment) -> bool {
        let socket = self.socket();
        // The engine's window ends at a multiple of its scale, so up to that much before the ring does.
        let ring = socket.recv_capacity().saturating_sub(1 << self.engine_scale());
        let ring_end = self.unread_from.wrapping_add(ring as u32);
        let data_end = segment.seq.wrapping_add(segment.data_len);
        let fits = !tcp::before(ring_end, data_end) && !tcp::before(self.window_edge, data_end);
        segment.is(tcp::FIN) && segment.data_len > 0 && !fits
    }

    /// Next sequence number that is expected (RCV.NXT).
    pub(crate) fn receive_next(&self) -> u32 {
        let queued = self.socket().recv_queue() as u32;
        self.unread_from
            .wrapping_add(queued)
            .wrapping_add(u32::from(self.has_peer_fin()))
    }

    /// The window that the pod announced last, in bytes.
    pub(crate) fn peer_window_bytes(&self) -> usize {
        usize::from(self.peer_window) << self.peer.window_scale.unwrap_or(0)
    }

    /// Takes over from the fast path what the engine doesn't know.
    pub(crate) fn inherit_fast(&mut self, fast: &Fast) {
        self.send_next = fast.send_next;
        self.write_blocked = fast.write_blocked;
        self.shutdown = fast.shutdown;
        self.first_fin = fast.first_fin;
        self.fin_reported = fast.fin_reported;
        self.last_activity = fast.last_activity;
        self.unanswered_since = fast.unanswered_since;
    }

    /// Notes a segment from the pod, before the engine sees it.
    pub(crate) fn before_ingress(&mut self, now: Tick, segment: &Segment) {
        self.last_activity = now;
        if self.established {
            // Until then the patience is for the whole handshake.
            self.unanswered_since = None;
        }
        if !segment.is(tcp::SYN | tcp::RST) {
            self.peer_window = segment.window;
            let next = self.receive_next();
            if segment.length() > 0 && tcp::before(next, segment.seq) {
                let end = segment.end();
                let until = self
                    .ahead_until
                    .map_or(end, |until| if tcp::before(until, end) { end } else { until });
                self.ahead_until = Some(until);
            }
        }
    }

    /// Notes what the engine made of it.
    pub(crate) fn after_ingress(&mut self) {
        self.unread_peak = self.unread_peak.max(self.socket().recv_queue());
        if self
            .ahead_until
            .is_some_and(|until| !tcp::before(self.receive_next(), until))
        {
            self.ahead_until = None;
        }
    }

    /// Corrects a segment of the engine, whose TCP header is at `at` in `frame`, to what was announced to the pod, and
    /// follows it; whether it says anything new. Its checksum field is left to the caller.
    pub(crate) fn on_egress(&mut self, now: Tick, frame: &mut [u8], at: usize) -> bool {
        let transport = &mut frame[at..];
        let Ok(segment) = Segment::parse(transport) else {
            debug_assert!(false, "the engine writes whole segments");
            return true;
        };
        if segment.is(tcp::RST) {
            return true; // maybe not of the socket but of the interface, which takes its number from the pod's segment
        }
        let window_bytes = if segment.is(tcp::SYN) {
            tcp::replace_window_scale(transport, self.announced_scale);
            u32::from(segment.window)
        } else {
            let scaled = u32::from(segment.window) << self.engine_scale() >> self.announced_scale;
            transport[14..16].copy_from_slice(&(scaled as u16).to_be_bytes());
            scaled << self.announced_scale
        };
        let mut is_new = segment.length() > 0;
        if segment.is(tcp::ACK) {
            is_new |= self.acknowledged.replace(segment.ack) != Some(segment.ack);
            let edge = segment.ack.wrapping_add(window_bytes);
            if tcp::before(self.window_edge, edge) {
                self.window_edge = edge;
                is_new = true;
            }
        }
        let end = segment.end();
        if segment.length() == 0 && tcp::before(segment.seq, self.send_next) {
            // The engine counts as not sent what the fast path has sent, and again what it's about to repeat; an ACK with so
            // old a number may be discarded unread (RFC 9293 §3.10.7.4, first).
            transport[4..8].copy_from_slice(&self.send_next.to_be_bytes());
        }
        if tcp::before(self.send_next, end) {
            self.send_next = end;
        }
        if segment.length() > 0 {
            self.last_activity = now;
            self.unanswered_since.get_or_insert(now);
        }
        is_new
    }

    /// Whether the engine has nothing left to do by itself, whatever it says. smoltcp keeps the timer of its probes when the pod
    /// acknowledges the last byte and the FIN with a closed window. When it's due it sends an ACK, and doesn't move on.
    pub(crate) fn has_stale_timer(&self) -> bool {
        self.state() == State::FinWait2
    }

    /// Whether nothing is under way in either direction: all that was received was read, all that was sent is acknowledged.
    pub(crate) fn is_quiescent(&self) -> bool {
        self.is_read_out() && self.is_sent_out() && self.is_spliceable()
    }

    /// Whether nothing that was received waits, in order or ahead.
    pub(crate) fn is_read_out(&self) -> bool {
        self.socket().recv_queue() == 0 && self.ahead_until.is_none()
    }

    /// Whether nothing that was written waits.
    pub(crate) fn is_sent_out(&self) -> bool {
        self.socket().send_queue() == 0
    }

    /// Whether a FIN of ours is to be acknowledged.
    fn owes_fin(&self) -> bool {
        matches!(self.state(), State::FinWait1 | State::Closing | State::LastAck)
    }

    /// Notes when the engine next has something to do by itself.
    ///
    /// smoltcp can forget its timer: if the window closes over bytes in flight (because it shrank, or because an older
    /// segment came late: it takes the window of any, without the order of RFC 9293 §3.10.7.4), the retransmission that's due
    /// finds no window, and nothing starts the probes. Or it starts them, with nothing left to put into them, so that they
    /// ask for no answer. The stack probes instead: soon if the engine is idle, late if it has its own idea.
    pub(crate) fn on_engine_timer(&mut self, now: Tick, at: Option<Tick>) {
        let has_something = !self.is_sent_out() || self.owes_fin();
        let patience = match at {
            None => Some(PROBE_SOON),
            Some(_) if self.unanswered_since.is_none() => Some(PROBE_LATE),
            Some(_) => None,
        };
        self.stall = patience.filter(|_| has_something).map(|patience| {
            let since = self.stall.map_or(now, |stall| stall.since);
            Stall { since, patience }
        });
    }

    /// When to probe the window in the engine's place.
    pub(crate) fn probe_deadline(&self) -> Option<Tick> {
        self.stall.map(|stall| after(stall.since, stall.patience))
    }

    /// When to ask a silent pod whether it's still there. smoltcp's own keep-alive isn't used: its probe carries a byte of
    /// rubbish, and while bytes are in flight without a timer it puts that over one of them.
    pub(crate) fn keep_alive_deadline(&self, config: &Config) -> Option<Tick> {
        config
            .keep_alive
            .filter(|_| self.established)
            .map(|interval| after(self.last_activity, interval))
    }

    /// A probe: its number, acknowledgement, flags and window. It has a number that the pod has acknowledged, so that it answers
    /// with its window. The answers make the engine send bytes again, but not a FIN alone: smoltcp stops its timer for a
    /// fast retransmission on the third equal ACK, which then finds no byte to send. So if the FIN is all that's under way,
    /// it is the probe.
    pub(crate) fn probe(&mut self, now: Tick) -> (u32, u32, u8, u16) {
        self.stall = Some(Stall {
            since: now,
            patience: PROBE_SOON,
        });
        self.unanswered_since.get_or_insert(now);
        self.last_activity = now;
        let unacknowledged = self.written_end.wrapping_sub(self.socket().send_queue() as u32);
        let is_fin_sent = self.send_next != self.written_end;
        let (seq, flags) = if self.is_sent_out() && self.owes_fin() && is_fin_sent {
            (self.written_end, tcp::FIN | tcp::ACK)
        } else {
            (unacknowledged.wrapping_sub(1), tcp::ACK)
        };
        let splice = self.splice();
        (seq, splice.receive_next, flags, splice.window_field())
    }

    /// Whether the state is one that [`splice`](crate::splice) can build.
    pub(crate) fn is_spliceable(&self) -> bool {
        matches!(
            self.state(),
            State::Established | State::CloseWait | State::FinWait2
        )
    }

    /// When the pod has owed an answer for too long.
    pub(crate) fn answer_deadline(&self, config: &Config) -> Option<Tick> {
        let patience: Duration = if self.established {
            config.retransmit_timeout
        } else {
            config.connect_timeout
        };
        self.unanswered_since.map(|since| after(since, patience))
    }
}

/// As the first retransmission (RFC 9293 §3.8.6.1).
const PROBE_SOON: Duration = Duration::from_secs(1);

/// Beyond the first of the engine's own probes.
const PROBE_LATE: Duration = Duration::from_secs(30);
