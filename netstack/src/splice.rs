//! Building a running connection anew in the engine, with rings of other sizes.
//!
//! A flow comes to the engine when something out of the ordinary happens to it, and smoltcp fixes a socket's rings when it's made.
//! To hand it a connection in mid-stream, and to let its rings grow with use, the stack makes a new socket and brings it to the
//! wanted state: it plays the pod and feeds the socket a SYN and
//! an ACK (and FINs, where a direction is closed) that carry the connection's real sequence numbers, window and options.
//! The answers go nowhere. This is possible at an instant at which nothing is under way
//! ([`Live::is_quiescent`](crate::live::Live::is_quiescent)), or as if nothing were: what the fast path has sent counts as not
//! sent. Then the state is nothing but the numbers in [`Splice`].
//!
//! - *Sequence numbers* are the connection's own, so neither direction needs translation:
//!   [`Engine::with_isn`](crate::engine::Engine::with_isn) chooses ours.
//! - *The window scale* that the pod was told once holds for life. It's that of the largest ring from the start, and
//!   [`Live::on_egress`](crate::live::Live::on_egress) shifts the engine's window fields to it, rounding down.
//! - *The window* that was announced is a promise (RFC 9293 §3.8.6.2.1): a rebuilt socket's receive ring is never
//!   smaller than what is left of it, as long as the budget allows.
//! - *Bytes received and not read* are fed to the new socket like the rest.
//! - *Lost in the rebuild* are the round-trip estimate and the back-off, which start afresh.

use std::net::SocketAddr;

use smoltcp::wire::IpEndpoint;

use crate::clock::Tick;
use crate::config::Config;
use crate::engine::Engine;
use crate::live::{Live, Rings};
use crate::packet::ip;
use crate::packet::tcp::{ACK, FIN, HEADER, Options, SYN, Segment, Template};

/// All that there is to a connection at rest, but for what was received and not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Splice {
    /// What the pod's SYN said.
    pub(crate) peer: Options,
    /// The window field of the pod's last segment, not scaled.
    pub(crate) peer_window: u16,
    /// SND.NXT, and SND.UNA too.
    pub(crate) send_next: u32,
    /// RCV.NXT.
    pub(crate) receive_next: u32,
    /// The highest right edge of the window that was announced.
    pub(crate) window_edge: u32,
    /// Window scale that was announced in our SYN.
    pub(crate) announced_scale: u8,
    /// Whether the pod's FIN was received.
    pub(crate) peer_fin: bool,
    /// Whether our FIN was sent, and acknowledged.
    pub(crate) our_fin: bool,
}

impl Splice {
    /// The window that the pod may still use, in bytes.
    pub(crate) fn promised(&self) -> usize {
        // A FIN may lie one beyond it.
        (self.window_edge.wrapping_sub(self.receive_next) as i32).max(0) as usize
    }

    /// What the window field has to say for that promise, rounded down.
    pub(crate) fn window_field(&self) -> u16 {
        u16::try_from(self.promised() >> self.announced_scale).unwrap_or(u16::MAX)
    }

    /// Makes a socket of this connection with `rings`, whose receive ring holds `unread`. `answer` holds an ACK of the
    /// engine after, which says what the window is now; it's up to the caller to send it. `None` if the engine did not come to the
    /// state that was wanted.
    pub(crate) fn build(
        &self,
        now: Tick,
        ends: Ends,
        (rings, unread): (Rings, &[u8]),
        (engine, config): (&mut Engine, &Config),
        answer: &mut Vec<u8>,
    ) -> Option<Live> {
        let Ends { remote, pod } = ends;
        let our_isn = self.send_next.wrapping_sub(1 + u32::from(self.our_fin));
        let mut socket = rings.socket();
        socket.listen(IpEndpoint::from(remote)).ok()?;
        let mut live = Live::new(now, socket, rings, our_isn, config);
        let mut script = Script {
            now,
            remote,
            pod,
            splice: self,
            frame: Vec::with_capacity(128),
            answer,
        };

        let unread_from = self
            .receive_next
            .wrapping_sub(unread.len() as u32 + u32::from(self.peer_fin));
        let (mut pod_next, our_next) = (unread_from, our_isn.wrapping_add(1));
        let mut opener = Engine::with_isn(engine.mtu(), our_isn);
        script.feed(&mut opener, &mut live, (unread_from.wrapping_sub(1), 0), SYN, b"");
        (script.turn(engine, &mut live)? == (our_isn, SYN | ACK)).then_some(())?;
        script.feed(engine, &mut live, (pod_next, our_next), ACK, b"");
        if self.our_fin {
            live.socket_mut().close();
            (script.turn(engine, &mut live)? == (our_next, FIN | ACK)).then_some(())?;
            script.feed(engine, &mut live, (pod_next, self.send_next), ACK, b"");
        }
        for part in unread.chunks(PART) {
            script.feed(engine, &mut live, (pod_next, self.send_next), ACK, part);
            pod_next = pod_next.wrapping_add(part.len() as u32);
        }
        if self.peer_fin {
            script.feed(engine, &mut live, (pod_next, self.send_next), FIN | ACK, b"");
        }
        if self.receive_next != unread_from {
            script.turn(engine, &mut live)?;
        }
        // An old byte makes the engine say where it is; with that, its own idea of the window it announced is right too.
        // That of its SYN isn't: it takes the unscaled field for a scaled one.
        let answered = script.feed(
            engine,
            &mut live,
            (self.receive_next.wrapping_sub(1), self.send_next),
            ACK,
            b"?",
        );
        let is_whole = live.socket().recv_queue() == unread.len();
        (answered && is_whole && self.is_reached(&live)).then_some(())?;
        live.unread_from = unread_from;
        self.complete(&mut live);
        Some(live)
    }

    fn is_reached(&self, live: &Live) -> bool {
        use smoltcp::socket::tcp::State;
        let wanted = match (self.our_fin, self.peer_fin) {
            (false, false) => State::Established,
            (false, true) => State::CloseWait,
            (true, false) => State::FinWait2,
            (true, true) => return false,
        };
        live.state() == wanted
    }

    fn complete(&self, live: &mut Live) {
        live.peer = self.peer;
        live.peer_window = self.peer_window;
        live.send_next = self.send_next;
        live.written_end = self.send_next.wrapping_sub(u32::from(self.our_fin));
        live.window_edge = self.window_edge;
        live.announced_scale = self.announced_scale;
        live.established = true;
        live.shutdown = self.our_fin;
    }
}

impl Live {
    /// What there is to this connection; meaningful while [`Live::is_quiescent`].
    pub(crate) fn splice(&self) -> Splice {
        Splice {
            peer: self.peer,
            peer_window: self.peer_window,
            send_next: self.send_next,
            receive_next: self.receive_next(),
            window_edge: self.window_edge,
            announced_scale: self.announced_scale,
            peer_fin: self.has_peer_fin(),
            our_fin: self.state() == smoltcp::socket::tcp::State::FinWait2,
        }
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// The end that the stack plays.
    pub(crate) remote: SocketAddr,
    /// The pod's end.
    pub(crate) pod: SocketAddr,
}

/// Most bytes fed at once: below the engine's longest packet whatever the MTU.
const PART: usize = 1 << 14;

/// The pod's part in the rebuild.
struct Script<'a> {
    now: Tick,
    remote: SocketAddr,
    pod: SocketAddr,
    splice: &'a Splice,
    frame: Vec<u8>,
    answer: &'a mut Vec<u8>,
}

impl Script<'_> {
    /// Feeds a segment of the pod; whether it was answered at once.
    fn feed(
        &mut self,
        engine: &mut Engine,
        live: &mut Live,
        numbers: (u32, u32),
        flags: u8,
        data: &[u8],
    ) -> bool {
        let options = if flags == SYN {
            self.splice.peer
        } else {
            Options::default()
        };
        let (seq, ack) = numbers;
        let window = self.splice.peer_window;
        Template {
            src: self.pod,
            dst: self.remote,
            seq,
            ack,
            flags,
            window,
            options,
        }
        .emit(&mut self.frame, data);
        engine.ingress(self.now, &mut live.sockets, &self.frame, self.answer)
    }

    /// Lets the engine send a segment: its number and flags.
    fn turn(&mut self, engine: &mut Engine, live: &mut Live) -> Option<(u32, u8)> {
        let sent = engine.egress(self.now, &mut live.sockets, self.answer);
        let transport = self.answer.get(ip::header_len(self.pod.ip())..)?;
        let segment = Segment::parse(transport).ok()?;
        debug_assert!(transport.len() >= HEADER);
        sent.then_some((segment.seq, segment.flags))
    }
}
