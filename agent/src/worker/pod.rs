//! One pod on its worker: the netstack, the TUN queue under it, and the flows that wait for something.
//!
//! The pod's state belongs to one thread. Flow tasks reach it through [`Pod`]; only [`Pod::drive`] touches the
//! queue. A flow task that changed something wakes the driver, which writes out what the netstack has to say:
//! so packets of many flows leave in one go, and no task ever waits for the device. After frames that concern flows the
//! driver lets their tasks run before it writes: bytes go on their way before their acknowledgement does, and often the
//! acknowledgement leaves with an answer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use adit_flow::{CloseReason, FourTuple, Protocol, RefuseReason, WorkloadName};
use adit_link::{Checksum, MAX_FRAME, TunQueue, VnetHeader};
use adit_netstack::{
    ClosedBy, Datagram, Echo, Event, FlowId, Netstack, PacketParts, RxChecksum, Transmit, Unreachable,
};
use bytes::Bytes;
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;

use super::datagrams::{Content, Datagrams, Packet};

/// Frames read before the netstack's events are handled and its answers written.
const FRAMES_PER_TURN: usize = 32;

/// Packets written in one turn before other tasks of the worker run.
const PACKETS_PER_TURN: usize = 64;

/// A frame of at least this many bytes is handed on where it lies, and the next gets other memory: half of what the
/// longest needs, so that bytes which wait never hold more than twice their memory.
const LONG_FRAME: usize = MAX_FRAME / 2;

/// A pod served by this worker.
pub(crate) struct Pod {
    name: WorkloadName,
    stack: RefCell<Netstack>,
    flows: RefCell<HashMap<FlowId, FlowState>>,
    /// The flows of datagrams, which the netstack doesn't know.
    pub(super) datagrams: Datagrams,
    driver: RefCell<Option<Waker>>,
    kicked: Cell<bool>,
    gone: Cell<bool>,
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
    /// A datagram or an echo.
    fn on_packet(&self, packet: Packet);
}

impl Pod {
    /// A pod with its netstack; [`Pod::drive`] brings it to life.
    pub(crate) fn new(name: WorkloadName, stack: Netstack) -> Self {
        Self {
            name,
            stack: RefCell::new(stack),
            flows: RefCell::default(),
            datagrams: Datagrams::default(),
            driver: RefCell::default(),
            kicked: Cell::new(false),
            gone: Cell::new(false),
        }
    }

    /// The workload that it is.
    pub(crate) fn name(&self) -> &WorkloadName {
        &self.name
    }

    /// Ends the driver and with it every flow, each seen by its other end as a reset.
    pub(crate) fn remove(&self) {
        self.gone.set(true);
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

    /// Looks at the netstack.
    pub(super) fn inspect_stack(&self, look: impl FnOnce(&Netstack)) {
        look(&self.stack.borrow());
    }

    /// Hands a datagram or an echo to the pod's kernel. What finds no room is dropped, and counted there.
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
        if packet.protocol() != Protocol::Udp {
            return;
        }
        let tuple = FourTuple::new(packet.src, packet.dst);
        let sent = self.with_stack(|stack, now| stack.send_unreachable(now, tuple, Unreachable::Port));
        if let Err(error) = sent {
            tracing::debug!(pod = %self.name, %error, "an ICMP error was dropped");
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

    /// Moves packets between `queue` and the netstack until the pod is removed or the queue fails.
    ///
    /// # Errors
    /// The error of the queue: its device is gone.
    pub(crate) async fn drive(&self, queue: TunQueue, arrivals: &impl Arrivals) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a TunQueue owns its descriptor and keeps the same one"
        )]
        let queue = AsyncFd::new(queue)?;
        let mut turn = Turn {
            queue,
            packet: PacketParts::default(),
            frame: Vec::new(),
        };
        let mut sleep = pin!(tokio::time::sleep_until(tokio::time::Instant::now()));
        let mut has_let_tasks_run = false;
        poll_fn(|cx| {
            if self.gone.get() {
                return Poll::Ready(Ok(()));
            }
            self.register(cx);
            let reading = turn.read(cx, self)?;
            self.expire(cx, sleep.as_mut());
            let told = self.dispatch(arrivals);
            has_let_tasks_run = told && !has_let_tasks_run;
            if has_let_tasks_run {
                cx.waker().wake_by_ref(); // behind the tasks that were just woken
                return Poll::Pending;
            }
            let writing = turn.write(self);
            self.arm(cx, sleep.as_mut());
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

    fn expire(&self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) {
        if sleep.as_mut().poll(cx).is_ready() {
            self.stack.borrow_mut().handle_timeout(Instant::now());
        }
    }

    /// Sleeps until the netstack's next deadline.
    fn arm(&self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) {
        let Some(deadline) = self.stack.borrow_mut().poll_timeout() else {
            return;
        };
        let deadline = tokio::time::Instant::from_std(deadline);
        if sleep.deadline() != deadline || sleep.is_elapsed() {
            sleep.as_mut().reset(deadline);
        }
        if sleep.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Hands the netstack's events to those who wait for them; whether there were any.
    fn dispatch(&self, arrivals: &impl Arrivals) -> bool {
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

/// The queue and the buffers of a driver.
struct Turn {
    queue: AsyncFd<TunQueue>,
    frame: Vec<u8>,
    packet: PacketParts,
}

#[derive(PartialEq, Eq)]
enum Progress {
    Done,
    More,
}

impl Turn {
    /// Reads frames into the netstack; ready if there may be more.
    fn read(&mut self, cx: &mut Context<'_>, pod: &Pod) -> io::Result<Poll<()>> {
        let mut stack = pod.stack.borrow_mut();
        for _ in 0..FRAMES_PER_TURN {
            let Poll::Ready(guard) = self.queue.poll_read_ready(cx) else {
                return Ok(Poll::Pending);
            };
            let mut guard = guard?;
            match guard.try_io(|queue| queue.get_ref().recv(&mut self.frame)) {
                Err(_would_block) => {}
                Ok(Err(error)) => return Err(error),
                Ok(Ok(header)) => {
                    let checksum = match header.checksum {
                        Checksum::Partial { .. } => RxChecksum::Partial,
                        _ => RxChecksum::Verify,
                    };
                    let now = Instant::now();
                    if self.frame.len() < LONG_FRAME {
                        stack.handle_frame(now, &self.frame[VnetHeader::LEN..], checksum);
                    } else {
                        let frame = Bytes::from(std::mem::take(&mut self.frame)).slice(VnetHeader::LEN..);
                        stack.handle_frame_bytes(now, &frame, checksum);
                    }
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Writes what the netstack has to send. A packet that the device refuses is lost, as on any link.
    fn write(&mut self, pod: &Pod) -> Progress {
        let mut stack = pod.stack.borrow_mut();
        let now = Instant::now();
        for _ in 0..PACKETS_PER_TURN {
            let Some(transmit) = stack.poll_transmit_parts(now, &mut self.packet) else {
                return Progress::Done;
            };
            let header = match transmit {
                Transmit::Complete => VnetHeader::default(),
                Transmit::NeedsChecksum { start, offset } => VnetHeader::partial_checksum(start, offset),
            };
            if let Err(error) = self.queue.get_ref().send(&header, self.packet.slices()) {
                tracing::debug!(pod = %pod.name, %error, "the TUN took no packet");
            }
        }
        Progress::More
    }
}
