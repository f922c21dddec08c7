//! What the owner asks of a TCP flow.

use std::net::SocketAddr;
use std::time::Instant;

use adit_flow::{CloseReason, FourTuple};
use smoltcp::wire::IpEndpoint;

use super::Netstack;
use crate::clock::Tick;
use crate::engine::Engine;
use crate::event::{ClosedBy, ConnectError, FlowError, FlowGone, FlowId, Refusal};
use crate::flow::{Flow, HeldSyn, Opener, Stage};
use crate::live::Live;
use crate::packet::icmp::Quote;
use crate::packet::tcp::{ACK, RST, SYN, Segment, Template};

impl Netstack {
    /// Accepts a held SYN: the handshake is completed, and the app's `connect` succeeds. [`Event::Established`] follows.
    ///
    /// # Errors
    /// If the SYN is no longer held: it was answered, timed out, or the pod took it back.
    ///
    /// [`Event::Established`]: crate::Event::Established
    pub fn accept(&mut self, now: Instant, flow: FlowId) -> Result<(), FlowGone> {
        let now = self.advance(now);
        let slot = self.resolve(flow).ok_or(FlowGone { flow })?;
        let entry = self.table.get(slot).ok_or(FlowGone { flow })?;
        let Stage::Held(syn) = entry.stage else {
            return Err(FlowGone { flow });
        };
        let (remote, pod) = (entry.remote(), entry.pod());
        let live = self.passive_open(now, (remote, pod), &syn);
        self.held -= 1;
        self.counters.syns_accepted += 1;
        self.deadlines.disarm(slot);
        self.become_live(slot, live);
        Ok(())
    }

    /// A socket that has taken in the held SYN.
    fn passive_open(&mut self, now: Tick, (remote, pod): (SocketAddr, SocketAddr), syn: &HeldSyn) -> Live {
        let rings = self.new_rings();
        let mut socket = rings.socket();
        socket
            .listen(IpEndpoint::from(remote))
            .expect("a new socket listens on any port but 0, which no segment has");
        let our_isn = self.initial_sequence(now, pod, remote);
        let mut live = Live::new(now, socket, rings, our_isn, &self.config);
        let HeldSyn { seq, window, options } = *syn;
        let template = Template {
            src: pod,
            dst: remote,
            seq,
            ack: 0,
            flags: SYN,
            window,
            options,
        };
        template.emit(&mut self.scratch, b"");
        let mut opener = Engine::with_isn(self.engine.mtu(), our_isn);
        opener.ingress(now, &mut live.sockets, &self.scratch, &mut Vec::new());
        let segment = Segment {
            src_port: pod.port(),
            dst_port: remote.port(),
            seq,
            ack: 0,
            flags: SYN,
            window,
            data_len: 0,
        };
        live.on_peer_syn(&segment, options);
        live
    }

    /// Refuses a held SYN. Its id is stale afterwards; no event follows.
    pub fn refuse(&mut self, now: Instant, flow: FlowId, refusal: Refusal) {
        self.advance(now);
        let Some(slot) = self.resolve(flow) else { return };
        let Some(entry) = self.table.get(slot) else { return };
        let Stage::Held(syn) = entry.stage else { return };
        match refusal {
            Refusal::Reset => {
                let reset = entry.template(0, syn.seq.wrapping_add(1), RST | ACK, 0);
                self.send_reset(reset);
            }
            Refusal::Silent => {}
            Refusal::Unreachable(what) => {
                let quote = Quote::Tcp { seq: syn.seq };
                // If the queue is full the error is lost, as one on the wire; the pod repeats its SYN.
                let _ = self.push_unreachable(entry.tuple, quote, what);
            }
        }
        self.counters.syns_refused += 1;
        self.forget_held(slot);
    }

    /// Opens a flow to the pod: `tuple.src` is the client that the app will see, `tuple.dst` the app.
    /// [`Event::Established`] or [`Event::Refused`] follows.
    ///
    /// # Errors
    /// If the addresses can't be those of a flow to this pod, or are in use, or the table is full.
    ///
    /// [`Event::Established`]: crate::Event::Established
    /// [`Event::Refused`]: crate::Event::Refused
    pub fn connect(&mut self, now: Instant, tuple: FourTuple) -> Result<FlowId, ConnectError> {
        let now = self.advance(now);
        // Flow labels and scopes of IPv6 are no part of a four-tuple.
        let plain = |end: SocketAddr| SocketAddr::new(end.ip(), end.port());
        let tuple = FourTuple::new(plain(tuple.src), plain(tuple.dst));
        if !tuple.is_unicast() || tuple.src.port() == 0 || tuple.dst.port() == 0 {
            return Err(ConnectError::BadAddress { tuple });
        }
        if !self.config.addresses.contains(&tuple.dst.ip()) {
            return Err(ConnectError::NotThisPod { tuple });
        }
        let mut our_isn = self.initial_sequence(now, tuple.dst, tuple.src);
        if let Some(old) = self.table.find(tuple.dst, tuple.src) {
            our_isn = self
                .reuse_time_wait(old, our_isn)
                .ok_or(ConnectError::InUse { tuple })?;
        }
        if self.table.is_full() && !self.evict_time_wait() {
            return Err(ConnectError::TableFull {
                tuple,
                limit: self.config.max_flows,
            });
        }
        let live = self
            .active_open(now, tuple, our_isn)
            .ok_or(ConnectError::BadAddress { tuple })?;
        self.counters.connects += 1;
        let id = self
            .table
            .insert(Flow::new(tuple, Opener::Agent, Stage::Live(Box::new(live))));
        self.mark_dirty(id.index);
        Ok(id)
    }

    fn active_open(&mut self, now: Tick, tuple: FourTuple, our_isn: u32) -> Option<Live> {
        let rings = self.new_rings();
        let mut socket = rings.socket();
        let mut opener = Engine::with_isn(self.engine.mtu(), our_isn);
        let opened = socket.connect(
            opener.context(),
            IpEndpoint::from(tuple.dst),
            IpEndpoint::from(tuple.src),
        );
        if opened.is_err() {
            self.free_rings(rings);
            return None;
        }
        Some(Live::new(now, socket, rings, our_isn, &self.config))
    }

    /// Writes to the flow: how many bytes of `data` it took. If that's less than all,
    /// [`Event::Writable`](crate::Event::Writable) follows once there's room.
    ///
    /// # Errors
    /// If the flow has ended, is not accepted, or was shut down.
    pub fn send(&mut self, now: Instant, flow: FlowId, data: &[u8]) -> Result<usize, FlowError> {
        let mut taken = 0;
        // The ring may end before the room does; then the rest goes to its start.
        for _ in 0..2 {
            let rest = &data[taken..];
            taken += self.write(now, flow, rest.len(), |room| {
                let count = room.len().min(rest.len());
                room[..count].copy_from_slice(&rest[..count]);
                count
            })?;
        }
        Ok(taken)
    }

    /// Lets `fill` write into the flow's ring: it's given the room that lies in one piece and returns how many bytes it
    /// wrote, at most all. Not called if there's no room; [`Event::Writable`](crate::Event::Writable) follows then. As the
    /// room may go on at the ring's start, call again until it gives 0.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with(
        &mut self,
        now: Instant,
        flow: FlowId,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, FlowError> {
        self.write(now, flow, usize::MAX, fill)
    }

    /// `wanted` is what the caller would like to write: if the ring can't take it, that's what makes it grow.
    fn write(
        &mut self,
        now: Instant,
        id: FlowId,
        wanted: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, FlowError> {
        let now = self.advance(now);
        let ended = FlowError::Ended { flow: id };
        let slot = self.resolve(id).ok_or(ended)?;
        if wanted == 0 {
            return Ok(0);
        }
        let live = self.wake_for_command(now, slot, id)?;
        if live.shutdown {
            return Err(FlowError::Shutdown { flow: id });
        }
        if !live.established || live.wants_send_room {
            live.write_blocked = true;
            return Ok(0);
        }
        let has_room = live.socket().can_send() || !live.socket().may_send();
        let taken = if has_room {
            let filled = live.socket_mut().send(|room| {
                let count = fill(room).min(room.len());
                (count, count)
            });
            filled.map_err(|_| ended)?
        } else {
            0
        };
        live.written_end = live.written_end.wrapping_add(taken as u32);
        if taken > 0 {
            live.last_activity = now;
        }
        let is_full = !live.socket().can_send();
        if is_full && taken < wanted && !live.write_blocked {
            live.write_blocked = true;
            self.want_send_room(slot);
        }
        if taken > 0 {
            self.mark_dirty(slot);
        }
        Ok(taken)
    }

    /// Reads into `buffer`: how many bytes. 0 means that there's nothing now; that nothing comes any more is said by
    /// [`Event::RemoteFin`](crate::Event::RemoteFin), and only after the last byte was read.
    ///
    /// # Errors
    /// If the flow has ended other than by FIN, its end was told already, or it's not accepted.
    pub fn recv(&mut self, now: Instant, flow: FlowId, buffer: &mut [u8]) -> Result<usize, FlowError> {
        let mut read = 0;
        // As the ring may end before the bytes do.
        for _ in 0..2 {
            let rest = &mut buffer[read..];
            if rest.is_empty() {
                break;
            }
            let part = self.recv_with(now, flow, |bytes| {
                let count = bytes.len().min(rest.len());
                rest[..count].copy_from_slice(&bytes[..count]);
                count
            });
            match part {
                Ok(count) => read += count,
                // What was read before counts; the end is told next time.
                Err(_) if read > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    /// Lets `take` read from the flow's ring: it's given the bytes that lie in one piece, of which there may be none, and
    /// returns how many it used up. As the bytes may go on at the ring's start, call again until it gives 0.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_with(
        &mut self,
        now: Instant,
        flow: FlowId,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Result<usize, FlowError> {
        let now = self.advance(now);
        let ended = FlowError::Ended { flow };
        let slot = self.resolve(flow).ok_or(ended)?;
        let entry = self.table.get_mut(slot).ok_or(ended)?;
        let live = match &mut entry.stage {
            Stage::Held(_) => return Err(FlowError::Held { flow }),
            Stage::Live(live) => live,
            // Nothing waits to be read: that's what let it be folded or closed.
            Stage::Asleep(_) | Stage::TimeWait(_) => return Ok(0),
            // A clean end is no error as long as it was not told.
            Stage::Ended if matches!(entry.news.closed, Some((CloseReason::Fin, _))) => return Ok(0),
            Stage::Ended => return Err(ended),
        };
        if !live.socket().can_recv() || !live.established {
            return Ok(0);
        }
        let read = live
            .socket_mut()
            .recv(|bytes| {
                let count = take(bytes).min(bytes.len());
                (count, count)
            })
            .map_err(|_| ended)?;
        live.unread_from = live.unread_from.wrapping_add(read as u32);
        if read > 0 {
            live.last_activity = now;
            self.after_read(now, slot);
        }
        Ok(read)
    }

    /// Ends sending: a FIN follows the bytes that were written. Reading goes on. Does nothing if that was done before or the
    /// flow has ended.
    pub fn shutdown(&mut self, now: Instant, flow: FlowId) {
        let now = self.advance(now);
        let Some(slot) = self.resolve(flow) else { return };
        self.close_write(now, slot);
    }

    pub(super) fn close_write(&mut self, now: Tick, slot: u32) {
        let id = self.table.id(slot);
        let Ok(live) = self.wake_for_command(now, slot, id) else {
            return;
        };
        if live.shutdown {
            return;
        }
        live.shutdown = true;
        live.wants_send_room = false;
        live.last_activity = now;
        if live.established {
            live.socket_mut().close();
        }
        self.settle(slot);
        self.mark_dirty(slot);
    }

    /// Resets the flow: what's queued either way is gone. [`Event::Closed`](crate::Event::Closed) follows. A held SYN is
    /// refused by [`Refusal::Reset`].
    pub fn abort(&mut self, now: Instant, flow: FlowId) {
        self.advance(now);
        let Some(slot) = self.resolve(flow) else { return };
        if matches!(
            self.table.get(slot),
            Some(Flow {
                stage: Stage::Held(_),
                ..
            })
        ) {
            return self.refuse(now, flow, Refusal::Reset);
        }
        self.reset(slot, CloseReason::Reset, ClosedBy::Agent);
    }

    /// The owner wants to hear no more of the flow: its id is stale from now on. What was written is still delivered, followed
    /// by a FIN, as `close(2)` does it; what the pod has sent and nobody read, or sends from now on, is answered with a
    /// reset (RFC 9293 §3.6.1). A held SYN is forgotten, a handshake that's under way is aborted.
    pub fn release(&mut self, flow: FlowId) {
        let Some(slot) = self.resolve(flow) else { return };
        let now = self.now;
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        entry.news = crate::flow::News::default();
        match &entry.stage {
            Stage::Held(_) => {
                self.counters.syns_refused += 1;
                self.forget_held(slot);
            }
            Stage::Ended => self.table.remove(slot),
            Stage::TimeWait(_) => entry.is_released = true,
            Stage::Asleep(_) => {
                entry.is_released = true;
                self.close_write(now, slot);
            }
            Stage::Live(live) => {
                let abandons = !live.established || live.socket().can_recv();
                entry.is_released = true;
                if abandons {
                    self.reset(slot, CloseReason::Reset, ClosedBy::Agent);
                } else {
                    self.close_write(now, slot);
                    // From now on it has a timer of its own, even if nothing else changed.
                    self.mark_dirty(slot);
                }
            }
        }
    }

    /// The flow's socket; a folded flow is unfolded for it.
    fn wake_for_command(&mut self, now: Tick, slot: u32, flow: FlowId) -> Result<&mut Live, FlowError> {
        if matches!(
            self.table.get(slot),
            Some(Flow {
                stage: Stage::Asleep(_),
                ..
            })
        ) {
            self.wake(now, slot);
        }
        match &mut self.table.get_mut(slot).ok_or(FlowError::Ended { flow })?.stage {
            Stage::Held(_) => Err(FlowError::Held { flow }),
            Stage::Live(live) => Ok(live),
            Stage::Asleep(_) | Stage::TimeWait(_) | Stage::Ended => Err(FlowError::Ended { flow }),
        }
    }

    /// RFC 6528 §3: a clock of 4 µs, and an offset that only the seed's owner can tell.
    fn initial_sequence(&self, now: Tick, pod: SocketAddr, remote: SocketAddr) -> u32 {
        let clock = (now.total_micros() / 4) as u32;
        clock.wrapping_add(self.table.keyed_hash(pod, remote) as u32)
    }
}
