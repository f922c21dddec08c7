//! What a pod's driver does in one turn: reads frames, hands each to whom it's for, writes what there is to write.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use adit_link::{Checksum, Frame, MAX_FRAME, Queue, Sent, VnetHeader};
use adit_netstack::{Netstack, NewFlow, PacketParts, RxChecksum, Side, Transmit};
use tokio::io::unix::AsyncFd;

use super::crossing::{Course, Next};
use super::frames::Frames;
use super::outer::Outer;
use super::pod::{Arrivals, Pod};

/// Frames read from a device before the netstack's events are handled and its answers written.
const FRAMES_PER_TURN: usize = 32;

/// Packets written in one turn before other tasks of the worker run.
const PACKETS_PER_TURN: usize = 64;

/// A frame of at least this many bytes is handed on where it lies, and the next gets other memory: half of what the
/// longest needs, so that bytes which wait never hold more than twice their memory.
const LONG_FRAME: usize = MAX_FRAME / 2;

/// The queues and the buffers of a driver.
pub(super) struct Turn {
    queue: AsyncFd<Rc<Queue>>,
    wire: Option<AsyncFd<Rc<Queue>>>,
    frame: Frame,
    frames: Frames,
    packet: PacketParts,
}

#[derive(PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    More,
}

impl Turn {
    /// Takes over the queue of a pod's device and, on a node, that of its outer one.
    pub(super) fn new(queue: Rc<Queue>, wire: Option<Rc<Queue>>, frames: Frames) -> io::Result<Self> {
        Ok(Self {
            queue: watched(queue)?,
            wire: wire.map(watched).transpose()?,
            frame: Frame::default(),
            frames,
            packet: PacketParts::default(),
        })
    }

    /// Reads frames from both sides; ready if there may be more.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        pod: &Pod,
        arrivals: &impl Arrivals,
    ) -> io::Result<Poll<()>> {
        let wire = match pod.outer() {
            Some(outer) => self.read_wire(cx, now, pod, outer, arrivals)?,
            None => Poll::Pending,
        };
        let own = self.read_pod(cx, now, pod, arrivals)?;
        Ok(if wire.is_ready() { wire } else { own })
    }

    fn read_pod(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        pod: &Pod,
        arrivals: &impl Arrivals,
    ) -> io::Result<Poll<()>> {
        let mut stack = pod.stack();
        for _ in 0..FRAMES_PER_TURN {
            let Poll::Ready(header) = receive(cx, &self.queue, &mut self.frame)? else {
                return Ok(Poll::Pending);
            };
            let Some(header) = header else { continue };
            let next = match (pod.outer(), &self.wire) {
                (Some(outer), Some(_)) => {
                    let course = |new: &NewFlow| match stack.has_flow(new.key.tuple.src, new.key.tuple.dst) {
                        true => Course::Stack,
                        false => arrivals.course(new),
                    };
                    let frame = self.frame.whole_mut();
                    outer.crossing.take(now, Side::Pod, &header, frame, course)
                }
                _ => Next::Stack,
            };
            match next {
                Next::Stack => self.hand_to_stack(now, &mut stack, &header),
                Next::Across => forward(pod, self.wire.as_ref(), self.frame.whole()),
                Next::Back | Next::Door(_) | Next::Done => {}
            }
        }
        Ok(Poll::Ready(()))
    }

    fn read_wire(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        pod: &Pod,
        outer: &Outer,
        arrivals: &impl Arrivals,
    ) -> io::Result<Poll<()>> {
        let Some(wire) = &self.wire else {
            return Ok(Poll::Pending);
        };
        for _ in 0..FRAMES_PER_TURN {
            let Poll::Ready(header) = receive(cx, wire, &mut self.frame)? else {
                return Ok(Poll::Pending);
            };
            let Some(header) = header else { continue };
            let course = |new: &NewFlow| arrivals.course(new);
            match outer
                .crossing
                .take(now, Side::Wire, &header, self.frame.whole_mut(), course)
            {
                Next::Across => forward(pod, Some(&self.queue), self.frame.whole()),
                Next::Back => forward(pod, Some(wire), self.frame.whole()),
                Next::Door(tuple) => arrivals.on_door(tuple, self.frame.whole()),
                Next::Stack | Next::Done => {}
            }
        }
        Ok(Poll::Ready(()))
    }

    fn hand_to_stack(&mut self, now: Instant, stack: &mut Netstack, header: &VnetHeader) {
        let checksum = match header.checksum {
            Checksum::Partial { .. } => RxChecksum::Partial,
            _ => RxChecksum::Verify,
        };
        if self.frame.packet().len() < LONG_FRAME {
            stack.handle_frame(now, self.frame.packet(), checksum);
        } else {
            let start = self.frame.packet_start();
            let frame = self.frame.replace(self.frames.lend());
            let packet = self.frames.hand_on(frame).slice(start..);
            stack.handle_frame_bytes(now, &packet, checksum);
        }
    }

    /// Writes what there is to send. A packet that a device refuses is lost, as on any link.
    pub(super) fn write(&mut self, now: Instant, pod: &Pod) -> Progress {
        if let Some(outer) = pod.outer() {
            while let Some((side, frame)) = outer.crossing.poll_write() {
                let queue = match side {
                    Side::Pod => Some(&self.queue),
                    Side::Wire => self.wire.as_ref(),
                };
                forward(pod, queue, &frame);
            }
        }
        let mut stack = pod.stack();
        for _ in 0..PACKETS_PER_TURN {
            let Some(transmit) = stack.poll_transmit_parts(now, &mut self.packet) else {
                return Progress::Done;
            };
            let header = match transmit {
                Transmit::Complete => VnetHeader::default(),
                Transmit::NeedsChecksum { start, offset } => VnetHeader::partial_checksum(start, offset),
            };
            match self.queue.get_ref().send(&header, self.packet.slices()) {
                Ok(sent) => note(pod, sent),
                Err(error) => tracing::debug!(pod = %pod.name(), %error, "the device took no packet"),
            }
        }
        Progress::More
    }
}

fn watched(queue: Rc<Queue>) -> io::Result<AsyncFd<Rc<Queue>>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; a Queue owns its descriptor and keeps the same one"
    )]
    AsyncFd::new(queue)
}

/// The next frame, into `frame`; `None` where the device turned out to have none, or one that was for the link alone.
fn receive(
    cx: &mut Context<'_>,
    queue: &AsyncFd<Rc<Queue>>,
    frame: &mut Frame,
) -> io::Result<Poll<Option<VnetHeader>>> {
    let Poll::Ready(guard) = queue.poll_read_ready(cx) else {
        return Ok(Poll::Pending);
    };
    match guard?.try_io(|queue| queue.get_ref().recv(frame)) {
        Err(_would_block) => Ok(Poll::Ready(None)),
        Ok(received) => received.map(Poll::Ready),
    }
}

fn forward(pod: &Pod, queue: Option<&AsyncFd<Rc<Queue>>>, frame: &[u8]) {
    let Some(queue) = queue else { return };
    match queue.get_ref().forward(frame) {
        Ok(sent) => note(pod, sent),
        Err(error) => {
            tracing::debug!(pod = %pod.name(), %error, "a device took no packet that passes through");
        }
    }
}

/// Tells what is told once for each queue.
fn note(pod: &Pod, sent: Sent) {
    if sent == Sent::OffloadDropped {
        let (code, pod) = (adit_node::codes::Code::OFFLOAD_DROPPED, pod.name());
        tracing::warn!(%pod, "[{code}] the kernel refused to finish a checksum; they are finished here from now on");
    }
}
