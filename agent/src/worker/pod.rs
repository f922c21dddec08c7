//! One pod on its worker: the netstack, the queue of its device under it, and the flows that wait for something.
//!
//! The pod's state belongs to one thread. Flow tasks reach it through [`Pod`]; only [`Pod::drive`] touches the
//! queue. A flow task that changed something wakes the driver, which writes out what the netstack has to say:
//! so packets of many flows leave in one go, and no task ever waits for the device. After frames that concern flows the
//! driver lets their tasks run before it writes, and the tunnels' tasks which these wake: bytes go on their way before their
//! acknowledgement does, and often the acknowledgement leaves with an answer.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use adit_flow::{CloseReason, FourTuple, RefuseReason, WorkloadName};
use adit_link::Queue;
use adit_netstack::{ClosedBy, Datagram, Echo, Event, FlowId, Netstack, NewFlow, Unreachable};
use adit_policy::PolicySet;
use tokio::sync::Notify;
use tokio::time::Sleep;

use super::busy_poll::{BusyPoll, LastTurn};
use super::crossing::Course;
use super::datagrams::{Content, Datagrams, Packet};
use super::doors::Outcome;
use super::frames::Frames;
use super::outer::Outer;
use super::turn::{Progress, Turn};

/// A pod served by this worker.
pub(crate) struct Pod {
    name: WorkloadName,
    stack: RefCell<Netstack>,
    flows: RefCell<HashMap<FlowId, FlowState>>,
    /// The flows of datagrams, which the netstack doesn't know.
    pub(super) datagrams: Datagrams,
    /// The side of the wire, where it has one of its own: on a node.
    outer: Option<Outer>,
    /// The queue of its device, which the driver's task holds: it is closed when that ends, whoever knows the pod then.
    queue: Weak<Queue>,
    driver: RefCell<Option<Waker>>,
    /// Told when the driver has something to do, which it has for whatever reaches the pod.
    busy_poll: Arc<BusyPoll>,
    /// For ACKs that wait.
    last_turn: LastTurn,
    kicked: Cell<bool>,
    gone: Cell<bool>,
    /// Wakes those that live as long as the pod.
    ended: Notify,
}

/// What the netstack said of a flow that its task has not asked for yet.
#[derive(Default)]
pub(super) struct FlowState {
    pub(super) waiting: Option<Waker>,
    pub(super) established: bool,
    pub(super) remote_fin: bool,
    pub(super) refused: Option<RefuseReason>,
    pub(super) closed: Option<Closed>,
}

/// How the netstack reports the end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) reason: CloseReason,
    pub(super) by: ClosedBy,
}

/// What a pod's driver hands to the pipeline: everything that isn't about a flow which has a task already.
pub(crate) trait Arrivals {
    /// The pod opens a TCP flow, whose SYN is held until it's accepted or refused.
    fn on_syn(&self, flow: FlowId, tuple: FourTuple);
    /// A datagram, an echo or an SCTP packet.
    fn on_packet(&self, packet: Packet);
    /// Where a flow goes that a captured pod's agent doesn't know.
    fn course(&self, new: &NewFlow) -> Course;
    /// A SYN of another agent, whole with its virtio-net header, for a port that nobody listens on yet.
    fn on_door(&self, tuple: FourTuple, frame: &[u8]);
}

impl Pod {
    /// A pod with its netstack; [`Pod::drive`] brings it to life, with the queue.
    pub(super) fn new(
        name: WorkloadName,
        stack: Netstack,
        queue: Weak<Queue>,
        outer: Option<Outer>,
        busy_poll: Arc<BusyPoll>,
    ) -> Self {
        Self {
            name,
            stack: RefCell::new(stack),
            flows: RefCell::default(),
            datagrams: Datagrams::default(),
            outer,
            queue,
            driver: RefCell::default(),
            busy_poll,
            last_turn: LastTurn::default(),
            kicked: Cell::new(false),
            gone: Cell::new(false),
            ended: Notify::new(),
        }
    }

    /// The workload that it is.
    pub(crate) fn name(&self) -> &WorkloadName {
        &self.name
    }

    /// The side of the wire, if the pod has one.
    pub(super) fn outer(&self) -> Option<&Outer> {
        self.outer.as_ref()
    }

    /// The queues of its devices, its own first, while they are served.
    pub(super) fn queues(&self) -> impl Iterator<Item = Rc<Queue>> {
        let wire = self.outer.as_ref().and_then(Outer::queue);
        self.queue.upgrade().into_iter().chain(wire)
    }

    /// Has new flows pass through, or be taken again.
    pub(super) fn let_pass(&self, passing: bool) {
        if let Some(outer) = &self.outer {
            outer.let_pass(passing);
        }
    }

    /// What waited for `port` goes on, or is answered.
    pub(super) fn answer_syns(&self, port: u16, outcome: &Outcome) {
        if let Some(outer) = &self.outer {
            outer.answer_syns(port, outcome);
            self.kick();
        }
    }

    /// Judges again what passes through.
    pub(super) fn judge_crossing(&self, policy: &PolicySet) {
        if let Some(outer) = &self.outer {
            outer.crossing.judge(policy);
            self.kick();
        }
    }

    /// Runs `task` until it ends or the pod is removed.
    pub(super) async fn until_gone(&self, task: impl Future<Output = ()>) {
        let ended = self.ended.notified();
        if self.gone.get() {
            return;
        }
        tokio::select! {
            () = task => {}
            () = ended => {}
        }
    }

    /// Ends the driver and with it every flow, each seen by its other end as a reset.
    pub(crate) fn remove(&self) {
        self.gone.set(true);
        self.ended.notify_waiters();
        for state in self.flows.borrow_mut().values_mut() {
            state.closed.get_or_insert(Closed {
                reason: CloseReason::PeerLost,
                by: ClosedBy::Network,
            });
            if let Some(waiting) = state.waiting.take() {
                waiting.wake();
            }
        }
        self.kick();
    }

    /// Runs an operation on the netstack and lets the driver write out what follows from it.
    pub(super) fn with_stack<R>(&self, operation: impl FnOnce(&mut Netstack, Instant) -> R) -> R {
        let result = operation(&mut self.stack.borrow_mut(), Instant::now());
        self.kick();
        result
    }

    /// The netstack, for the driver.
    pub(super) fn stack(&self) -> RefMut<'_, Netstack> {
        self.stack.borrow_mut()
    }

    /// Whether it's captured on a node, with a side of the wire of its own.
    pub(crate) fn is_captured(&self) -> bool {
        self.outer.is_some()
    }

    /// Whether new flows pass through.
    pub(crate) fn lets_pass(&self) -> bool {
        self.outer.as_ref().is_some_and(Outer::lets_pass)
    }

    /// Looks at the netstack.
    pub(super) fn inspect_stack(&self, look: impl FnOnce(&Netstack)) {
        look(&self.stack.borrow());
    }

    /// Hands a packet to the pod's kernel. What finds no room is dropped, and counted there.
    pub(super) fn deliver(&self, packet: Packet) {
        let Packet { src, dst, content } = packet;
        let echo = |ident, sequence, payload| Echo {
            src: src.ip(),
            dst: dst.ip(),
            ident,
            sequence,
            payload,
        };
        let sent = self.with_stack(|stack, now| match content {
            Content::Udp(payload) => stack.send_datagram(
                now,
                Datagram {
                    src,
                    dst,
                    payload: &payload,
                },
            ),
            Content::Sctp(packet) => stack.send_sctp(now, src, dst, packet),
            Content::EchoReply { sequence, payload } => {
                stack.send_echo_reply(now, &echo(dst.port(), sequence, payload))
            }
            Content::EchoRequest { sequence, payload } => {
                stack.send_echo_request(now, &echo(src.port(), sequence, payload))
            }
        });
        if let Err(error) = sent {
            tracing::debug!(pod = %self.name, %error, "a datagram was dropped");
        }
    }

    /// Tells the pod that a datagram which it sent could not be delivered. An echo just stays without reply.
    pub(super) fn unreachable(&self, packet: &Packet) {
        let tuple = FourTuple::new(packet.src, packet.dst);
        let sent = self.with_stack(|stack, now| match &packet.content {
            Content::EchoReply { .. } | Content::EchoRequest { .. } => Ok(()),
            Content::Sctp(packet) => stack.abort_sctp(now, tuple, packet),
            Content::Udp(_) => stack.send_unreachable(now, tuple, Unreachable::Port),
        });
        if let Err(error) = sent {
            tracing::debug!(pod = %self.name, %error, "the answer to a datagram that goes nowhere was dropped");
        }
    }

    /// Looks at what was reported of `flow`, which [`Pod::track`] made known.
    pub(super) fn with_flow<R>(&self, flow: FlowId, look: impl FnOnce(&mut FlowState) -> R) -> Option<R> {
        self.flows.borrow_mut().get_mut(&flow).map(look)
    }

    /// Keeps what the netstack reports of `flow` for its task, until [`Pod::forget`].
    pub(super) fn track(&self, flow: FlowId) {
        self.flows.borrow_mut().entry(flow).or_default();
    }

    /// The task of `flow` has ended.
    pub(super) fn forget(&self, flow: FlowId) {
        self.flows.borrow_mut().remove(&flow);
    }

    /// Whether a task serves a flow of the pod.
    pub(super) fn has_flows(&self) -> bool {
        !self.flows.borrow().is_empty()
    }

    /// Whether the pod was removed.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    fn kick(&self) {
        if !self.kicked.replace(true)
            && let Some(driver) = self.driver.borrow().as_ref()
        {
            driver.wake_by_ref();
        }
    }

    /// Moves packets between the devices and the netstack until the pod is removed or a device fails.
    ///
    /// # Errors
    /// The error of the queue: its device is gone.
    pub(super) async fn drive(
        &self,
        queue: &Rc<Queue>,
        wire: Option<&Rc<Queue>>,
        frames: Frames,
        arrivals: &impl Arrivals,
    ) -> io::Result<()> {
        let mut turn = Turn::new(Rc::clone(queue), wire.cloned(), frames)?;
        let mut sleep = pin!(tokio::time::sleep_until(tokio::time::Instant::now()));
        let mut passes = 0;
        poll_fn(|cx| {
            if self.gone.get() {
                return Poll::Ready(Ok(()));
            }
            let now = Instant::now();
            self.busy_poll.begin_turn(&self.last_turn, now);
            self.register(cx);
            let reading = turn.read(cx, now, self, arrivals)?;
            self.expire(cx, now, sleep.as_mut());
            let told = self.dispatch(arrivals);
            if (told || passes > 0) && passes < PASSES_BEFORE_WRITING {
                passes += 1;
                cx.waker().wake_by_ref(); // behind the tasks that were just woken
                return Poll::Pending;
            }
            passes = 0;
            let comes_again = self.settle_acks(cx);
            let writing = turn.write(now, self);
            self.arm(cx, sleep.as_mut(), comes_again);
            if reading.is_ready() || writing == Progress::More {
                cx.waker().wake_by_ref(); // more to do, after the worker's other tasks
            }
            Poll::Pending
        })
        .await
    }

    fn register(&self, cx: &Context<'_>) {
        self.kicked.set(false);
        let mut driver = self.driver.borrow_mut();
        match driver.as_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *driver = Some(cx.waker().clone()),
        }
    }

    /// ACKs that wait for bytes to go along with wait no longer than the thread looks for work: nothing comes while it sleeps.
    /// Whether there are some, and the driver has a turn before it sleeps.
    fn settle_acks(&self, cx: &Context<'_>) -> bool {
        let mut stack = self.stack.borrow_mut();
        if !stack.holds_acks() {
            return false;
        }
        let comes_again = self.busy_poll.wake_for_last(&self.last_turn, cx.waker());
        if !comes_again {
            stack.release_acks();
        }
        comes_again
    }

    fn expire(&self, cx: &mut Context<'_>, now: Instant, mut sleep: Pin<&mut Sleep>) {
        if sleep.as_mut().poll(cx).is_ready() {
            self.stack.borrow_mut().handle_timeout(Instant::now());
        }
        if let Some(outer) = &self.outer {
            outer.crossing.expire(now);
        }
    }

    /// Sleeps until the netstack's next deadline. If the driver `comes_again` before the thread sleeps, an earlier one that
    /// has lapsed may stand: deadlines of ACKs come and go with each request, and a timer costs as much as a system call.
    fn arm(&self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>, comes_again: bool) {
        let crossing = self
            .outer
            .as_ref()
            .and_then(|outer| outer.crossing.poll_timeout());
        let stack = self.stack.borrow_mut().poll_timeout();
        let Some(deadline) = [stack, crossing].into_iter().flatten().min() else {
            return;
        };
        let deadline = tokio::time::Instant::from_std(deadline);
        let armed = sleep.deadline();
        if !sleep.is_elapsed() && (armed == deadline || (comes_again && armed < deadline)) {
            return; // it was polled when the turn began
        }
        sleep.as_mut().reset(deadline);
        if sleep.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Hands the netstack's events to those who wait for them; whether there were any.
    pub(super) fn dispatch(&self, arrivals: &impl Arrivals) -> bool {
        let mut told = false;
        loop {
            // The borrow ends before anything is woken or spawned.
            let Some(event) = self.stack.borrow_mut().poll_event() else {
                return told;
            };
            told = true;
            match event {
                Event::Syn { flow, tuple } => {
                    self.track(flow);
                    arrivals.on_syn(flow, tuple);
                }
                Event::Established { flow } => self.note(flow, |state| state.established = true),
                Event::Readable { flow } | Event::Writable { flow } => self.note(flow, |_| ()),
                Event::RemoteFin { flow } => self.note(flow, |state| state.remote_fin = true),
                Event::Refused { flow, reason } => self.note(flow, |state| state.refused = Some(reason)),
                Event::Closed { flow, reason, by } => {
                    self.note(flow, |state| state.closed = Some(Closed { reason, by }));
                }
                Event::Datagram { src, dst, payload } => {
                    arrivals.on_packet(Packet {
                        src,
                        dst,
                        content: Content::Udp(payload),
                    });
                }
                Event::Sctp { src, dst, packet } => arrivals.on_packet(Packet {
                    src,
                    dst,
                    content: Content::Sctp(packet),
                }),
                Event::EchoRequest(Echo {
                    src,
                    dst,
                    ident,
                    sequence,
                    payload,
                }) => arrivals.on_packet(Packet {
                    src: SocketAddr::new(src, ident),
                    dst: SocketAddr::new(dst, 0),
                    content: Content::EchoRequest { sequence, payload },
                }),
                Event::EchoReply(Echo {
                    src,
                    dst,
                    ident,
                    sequence,
                    payload,
                }) => arrivals.on_packet(Packet {
                    src: SocketAddr::new(src, 0),
                    dst: SocketAddr::new(dst, ident),
                    content: Content::EchoReply { sequence, payload },
                }),
                other => tracing::trace!(pod = %self.name, event = ?other, "nobody waits for this"),
            }
        }
    }

    fn note(&self, flow: FlowId, change: impl FnOnce(&mut FlowState)) {
        if let Some(state) = self.flows.borrow_mut().get_mut(&flow) {
            change(state);
            if let Some(waiting) = state.waiting.take() {
                waiting.wake();
            }
        }
    }
}

/// So often other tasks have their turn between news and what is written: first the flows', then their tunnels'.
const PASSES_BEFORE_WRITING: u8 = 2;
