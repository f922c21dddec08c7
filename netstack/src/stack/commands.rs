//! What the owner asks of a TCP flow.

use std::net::SocketAddr;
use std::time::Instant;

use adit_flow::{CloseReason, FourTuple};
use bytes::{Buf, Bytes};

use super::Netstack;
use crate::clock::Tick;
use crate::ends::Ends;
use crate::event::{ClosedBy, ConnectError, FlowError, FlowGone, FlowId, Refusal};
use crate::fast::{Fast, Phase};
use crate::flow::{Flow, Opener, Stage};
use crate::packet::icmp::Quote;
use crate::packet::tcp::{ACK, RST};

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
        let isn = self.initial_sequence(now, pod, remote);
        let mut fast = Fast::opening(now, Phase::SynReceived, isn, &self.config);
        fast.on_peer_syn(syn.seq, syn.window, syn.options);
        self.held -= 1;
        self.counters.syns_accepted += 1;
        self.deadlines.disarm(slot);
        if let Some(flow) = self.table.get_mut(slot) {
            flow.stage = Stage::Fast(fast);
        }
        self.mark_dirty(slot);
        Ok(())
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
        if let Some(old) = self.table.find(&Ends::tcp(tuple.dst, tuple.src)) {
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
        let fast = Fast::opening(now, Phase::SynSent, our_isn, &self.config);
        self.counters.connects += 1;
        let id = self
            .table
            .insert(Flow::new(tuple, Opener::Agent, Stage::Fast(fast)));
        self.mark_dirty(id.index);
        Ok(id)
    }

    /// Writes to the flow: how many bytes of `data` it took. If that's less than all,
    /// [`Event::Writable`](crate::Event::Writable) follows once there's room.
    ///
    /// # Errors
    /// If the flow has ended, is not accepted, or was shut down.
    pub fn send(&mut self, now: Instant, flow: FlowId, data: &[u8]) -> Result<usize, FlowError> {
        let now = self.advance(now);
        let slot = self.check_writable(flow)?;
        if data.is_empty() {
            return Ok(0);
        }
        if self.fast_mut(slot).is_some() {
            return Ok(self.write_fast_slice(now, slot, data));
        }
        self.write_live(now, slot, data)
    }

    /// As [`send`](Self::send), without a copy of more than a few bytes: takes from the front of `data`, which may be
    /// referenced until the pod has acknowledged it.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_bytes(&mut self, now: Instant, flow: FlowId, data: &mut Bytes) -> Result<usize, FlowError> {
        let now = self.advance(now);
        let slot = self.check_writable(flow)?;
        if data.is_empty() {
            return Ok(0);
        }
        if self.fast_mut(slot).is_some() {
            return Ok(self.write_fast_bytes(now, slot, data));
        }
        let taken = self.write_live(now, slot, data)?;
        data.advance(taken);
        Ok(taken)
    }

    fn check_writable(&self, flow: FlowId) -> Result<u32, FlowError> {
        let ended = FlowError::Ended { flow };
        let slot = self.resolve(flow).ok_or(ended)?;
        let is_shut_down = match &self.table.get(slot).ok_or(ended)?.stage {
            Stage::Fast(fast) => fast.shutdown,
            Stage::Held(_) => return Err(FlowError::Held { flow }),
            Stage::Live(live) => live.shutdown,
            Stage::Ended | Stage::TimeWait(_) => return Err(ended),
        };
        if is_shut_down {
            return Err(FlowError::Shutdown { flow });
        }
        Ok(slot)
    }

    fn write_live(&mut self, now: Tick, slot: u32, data: &[u8]) -> Result<usize, FlowError> {
        let ended = FlowError::Ended {
            flow: self.table.id(slot),
        };
        let Some(Flow {
            stage: Stage::Live(live),
            ..
        }) = self.table.get_mut(slot)
        else {
            return Err(ended);
        };
        if !live.established || live.wants_send_room {
            live.write_blocked = true;
            return Ok(0);
        }
        let has_room = live.socket().can_send() || !live.socket().may_send();
        let taken = if has_room {
            live.socket_mut().send_slice(data).map_err(|_| ended)?
        } else {
            0
        };
        live.written_end = live.written_end.wrapping_add(taken as u32);
        if taken > 0 {
            live.last_activity = now;
        }
        if taken < data.len() && !live.write_blocked {
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
        let Some(slot) = self.check_readable(flow)? else {
            return Ok(0);
        };
        if self.fast_mut(slot).is_some() {
            let read = self.read_fast(now, slot, |queue, pool| {
                let front = queue.front();
                let count = take(front).min(front.len());
                queue.consume(count, pool);
                count
            });
            return Ok(read.unwrap_or(0));
        }
        self.read_live(now, slot, take)
    }

    /// Takes up to `limit` bytes out of what was received; none if there's nothing now. Of a long segment that is what the
    /// stack has kept of it, without another copy.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_bytes(&mut self, now: Instant, flow: FlowId, limit: usize) -> Result<Bytes, FlowError> {
        let now = self.advance(now);
        let Some(slot) = self.check_readable(flow)? else {
            return Ok(Bytes::new());
        };
        if self.fast_mut(slot).is_some() {
            let taken = self.read_fast(now, slot, |queue, pool| queue.take(limit, pool));
            return Ok(taken.unwrap_or_default());
        }
        let mut taken = Bytes::new();
        self.read_live(now, slot, |bytes| {
            taken = Bytes::copy_from_slice(&bytes[..bytes.len().min(limit)]);
            taken.len()
        })?;
        Ok(taken)
    }

    /// The slot of a flow that there may be something to read of.
    fn check_readable(&self, flow: FlowId) -> Result<Option<u32>, FlowError> {
        let ended = FlowError::Ended { flow };
        let slot = self.resolve(flow).ok_or(ended)?;
        let entry = self.table.get(slot).ok_or(ended)?;
        match &entry.stage {
            Stage::Held(_) => Err(FlowError::Held { flow }),
            Stage::Fast(_) | Stage::Live(_) => Ok(Some(slot)),
            // Nothing waits to be read: that's what let it be closed.
            Stage::TimeWait(_) => Ok(None),
            // A clean end is no error as long as it was not told.
            Stage::Ended if matches!(entry.news.closed, Some((CloseReason::Fin, _))) => Ok(None),
            Stage::Ended => Err(ended),
        }
    }

    fn read_live(
        &mut self,
        now: Tick,
        slot: u32,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Result<usize, FlowError> {
        let ended = FlowError::Ended {
            flow: self.table.id(slot),
        };
        let Some(Flow {
            stage: Stage::Live(live),
            ..
        }) = self.table.get_mut(slot)
        else {
            return Err(ended);
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
        match self.table.get_mut(slot).map(|flow| &mut flow.stage) {
            Some(Stage::Fast(fast)) if !fast.shutdown => {
                fast.close(now);
                self.settle_fast(now, slot);
            }
            Some(Stage::Live(live)) if !live.shutdown => {
                live.shutdown = true;
                live.wants_send_room = false;
                live.last_activity = now;
                if live.established {
                    live.socket_mut().close();
                }
                self.settle(slot);
            }
            _ => return,
        }
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
            Stage::Fast(fast) => {
                let abandons = !fast.is_open() || fast.unread() > 0;
                self.let_go(now, slot, abandons);
            }
            Stage::Live(live) => {
                let abandons = !live.established || live.socket().can_recv();
                self.let_go(now, slot, abandons);
            }
        }
    }

    fn let_go(&mut self, now: Tick, slot: u32, abandons: bool) {
        if let Some(flow) = self.table.get_mut(slot) {
            flow.is_released = true;
        }
        if abandons {
            self.reset(slot, CloseReason::Reset, ClosedBy::Agent);
        } else {
            self.close_write(now, slot);
            // From now on it has a timer of its own, even if nothing else changed.
            self.mark_dirty(slot);
        }
    }

    /// RFC 6528 §3: a clock of 4 µs, and an offset that only the seed's owner can tell.
    fn initial_sequence(&self, now: Tick, pod: SocketAddr, remote: SocketAddr) -> u32 {
        let clock = (now.total_micros() / 4) as u32;
        clock.wrapping_add(self.table.secret().keyed_hash(pod, remote) as u32)
    }
}
