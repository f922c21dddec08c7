//! Flows between the [fast path](crate::fast) and the engine.

use smoltcp::wire::IpEndpoint;

use super::Netstack;
use crate::buffers::Buffers;
use crate::clock::Tick;
use crate::engine::Engine;
use crate::event::ClosedBy;
use crate::fast::{Ack, Fast, Phase};
use crate::flow::{Flow, HeldSyn, Stage};
use crate::live::{Live, Rings};
use crate::packet::tcp::{SYN, Segment, Template};
use crate::splice::Ends;

impl Netstack {
    /// Hands a flow of the fast path to the engine, with all that's under way. If the engine doesn't take it, the flow is reset.
    pub(super) fn engage(&mut self, now: Tick, slot: u32) {
        let Some(Flow {
            stage: Stage::Fast(fast),
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        let buffers = fast.buffers.take().unwrap_or_default();
        let needed = Rings {
            receive: buffers.received.len() + fast.promised(),
            send: buffers.written.len(),
        };
        let limits = fast.limits;
        self.ring_bytes -= buffers.len();
        let rings = self.engine_rings([limits.at_least(needed), needed.at_least(Rings::LEAST)], &buffers);
        if rings.receive < needed.receive {
            self.counters.windows_shrunk += 1;
        }
        let built = self.build(now, slot, rings, &buffers);
        self.pool.give_back_buffers(buffers);
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        match (built, &flow.stage) {
            (Some(mut live), Stage::Fast(fast)) => {
                live.inherit_fast(fast);
                let is_acknowledged = !fast.is_open() || fast.ack == Ack::None;
                flow.stage = Stage::Live(Box::new(live));
                self.counters.engaged += 1;
                self.mark_dirty(slot);
                if !is_acknowledged {
                    self.answer_from_engine(now, slot);
                }
            }
            _ => {
                self.counters.rebuilds_failed += 1;
                self.free_rings(rings);
                self.reset(slot, adit_flow::CloseReason::PeerLost, ClosedBy::Agent);
            }
        }
    }

    /// Rings for a flow that the engine takes over: the first of those wanted that fits the budget, or the least that holds
    /// what's under way.
    fn engine_rings(&mut self, wanted: [Rings; 2], buffers: &Buffers) -> Rings {
        let spare = self.config.buffer_budget.saturating_sub(self.ring_bytes);
        let fitting = wanted.into_iter().find(|rings| rings.total() <= spare);
        let rings = fitting.unwrap_or_else(|| {
            self.counters.rings_minimal += 1;
            let least = Rings {
                receive: buffers.received.len(),
                send: buffers.written.len(),
            };
            least.at_least(Rings::LEAST)
        });
        self.ring_bytes += rings.total();
        rings
    }

    /// The engine's connection for a flow of the fast path. If that has something to acknowledge, the scratch buffer holds the
    /// ACK after.
    fn build(&mut self, now: Tick, slot: u32, rings: Rings, buffers: &Buffers) -> Option<Live> {
        let flow = self.table.get(slot)?;
        let Stage::Fast(fast) = &flow.stage else {
            return None;
        };
        let ends = Ends {
            remote: flow.remote(),
            pod: flow.pod(),
        };
        let isn = fast.unacknowledged;
        match fast.phase {
            Phase::SynSent => self.active_open(now, ends, rings, isn),
            Phase::SynReceived => {
                let syn = HeldSyn {
                    seq: fast.receive_next.wrapping_sub(1),
                    window: fast.peer_window,
                    options: fast.peer,
                };
                Some(self.passive_open(now, ends, (rings, isn), &syn))
            }
            Phase::Open => {
                self.unread.clear();
                for part in buffers.received.slices() {
                    self.unread.extend_from_slice(part);
                }
                let engine = (&mut self.engine, &self.config);
                let mut live =
                    fast.splice()
                        .build(now, ends, (rings, &self.unread), engine, &mut self.scratch)?;
                for part in buffers.written.slices() {
                    let taken = live.socket_mut().send_slice(part).unwrap_or(0);
                    live.written_end = live.written_end.wrapping_add(taken as u32);
                    (taken == part.len()).then_some(())?;
                }
                if fast.shutdown && !fast.is_fin_acknowledged() {
                    live.socket_mut().close();
                }
                Some(live)
            }
        }
    }

    /// A socket that has taken in the pod's SYN.
    fn passive_open(&mut self, now: Tick, ends: Ends, (rings, isn): (Rings, u32), syn: &HeldSyn) -> Live {
        let Ends { remote, pod } = ends;
        let mut socket = rings.socket();
        socket
            .listen(IpEndpoint::from(remote))
            .expect("a new socket listens on any port but 0, which no segment has");
        let mut live = Live::new(now, socket, rings, isn, &self.config);
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
        let mut opener = Engine::with_isn(self.engine.mtu(), isn);
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

    /// A socket that is about to send our SYN.
    fn active_open(&self, now: Tick, ends: Ends, rings: Rings, isn: u32) -> Option<Live> {
        let mut socket = rings.socket();
        let mut opener = Engine::with_isn(self.engine.mtu(), isn);
        let (pod, remote) = (IpEndpoint::from(ends.pod), IpEndpoint::from(ends.remote));
        socket.connect(opener.context(), pod, remote).ok()?;
        Some(Live::new(now, socket, rings, isn, &self.config))
    }

    /// A flow in the engine that is at rest goes back to the fast path.
    pub(super) fn disengage(&mut self, slot: u32) {
        let Some(Flow {
            stage,
            is_released: false,
            ..
        }) = self.table.get_mut(slot)
        else {
            return;
        };
        let Stage::Live(live) = stage else { return };
        if !live.established || live.is_parked || live.wants_send_room || !live.is_quiescent() {
            return;
        }
        let rings = live.rings;
        let mut fast = Fast::resting(
            live.last_activity,
            &live.splice(),
            rings.at_least(Rings::initial(&self.config)),
            &self.config,
        );
        fast.write_blocked = live.write_blocked;
        fast.first_fin = live.first_fin;
        fast.fin_reported = live.fin_reported;
        *stage = Stage::Fast(fast);
        self.free_rings(rings);
        self.counters.disengaged += 1;
    }
}
