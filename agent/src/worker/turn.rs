//! What a pod's driver does in one turn: reads frames, hands each to whom it's for, writes what there is to write.

use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

use adit_link::{Checksum, MAX_FRAME, TunQueue, VnetHeader};
use adit_netstack::{Netstack, NewFlow, PacketParts, RxChecksum, Side, Transmit};
use bytes::Bytes;
use tokio::io::unix::AsyncFd;

use super::crossing::{Course, Next};
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
    queue: AsyncFd<TunQueue>,
    wire: Option<AsyncFd<TunQueue>>,
    frame: Vec<u8>,
    packet: PacketParts,
}

#[derive(PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    More,
}

impl Turn {
    /// Takes over the queue of a pod's device and, on a node, that of its outer one.
    pub(super) fn new(queue: TunQueue, wire: Option<TunQueue>) -> io::Result<Self> {
        Ok(Self {
            queue: watched(queue)?,
            wire: wire.map(watched).transpose()?,
            frame: Vec::new(),
            packet: PacketParts::default(),
        })
    }

    /// Reads frames from both sides; ready if there may be more.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        pod: &Pod,
        arrivals: &impl Arrivals,
    ) -> io::Result<Poll<()>> {
        let wire = match pod.outer() {
            Some(outer) => self.read_wire(cx, outer, arrivals)?,
            None => Poll::Pending,
        };
        let own = self.read_pod(cx, pod, arrivals)?;
        Ok(if wire.is_ready() { wire } else { own })
    }

    fn read_pod(
        &mut self,
        cx: &mut Context<'_>,
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
                (Some(outer), Some(_)) => outer.crossing.take(Side::Pod, &header, &mut self.frame, |new| {
                    match stack.has_flow(new.key.tuple.src, new.key.tuple.dst) {
                        true => Course::Stack,
                        false => arrivals.course(new),
                    }
                }),
                _ => Next::Stack,
            };
            match next {
                Next::Stack => self.hand_to_stack(&mut stack, &header),
                Next::Across => forward(self.wire.as_ref(), &self.frame),
                Next::Back | Next::Door(_) | Next::Done => {}
            }
        }
        Ok(Poll::Ready(()))
    }

    fn read_wire(
        &mut self,
        cx: &mut Context<'_>,
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
            match outer.crossing.take(Side::Wire, &header, &mut self.frame, course) {
                Next::Across => forward(Some(&self.queue), &self.frame),
                Next::Back => forward(Some(wire), &self.frame),
                Next::Door(tuple) => arrivals.on_door(tuple, &self.frame),
                Next::Stack | Next::Done => {}
            }
        }
        Ok(Poll::Ready(()))
    }

    fn hand_to_stack(&mut self, stack: &mut Netstack, header: &VnetHeader) {
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

    /// Writes what there is to send. A packet that a device refuses is lost, as on any link.
    pub(super) fn write(&mut self, pod: &Pod) -> Progress {
        if let Some(outer) = pod.outer() {
            while let Some((side, frame)) = outer.crossing.poll_write() {
                let queue = match side {
                    Side::Pod => Some(&self.queue),
                    Side::Wire => self.wire.as_ref(),
                };
                forward(queue, &frame);
            }
        }
        let mut stack = pod.stack();
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
                tracing::debug!(pod = %pod.name(), %error, "the TUN took no packet");
            }
        }
        Progress::More
    }
}

fn watched(queue: TunQueue) -> io::Result<AsyncFd<TunQueue>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; a TunQueue owns its descriptor and keeps the same one"
    )]
    AsyncFd::new(queue)
}

/// The next frame, into `frame`; `None` where the device turned out to have none.
fn receive(
    cx: &mut Context<'_>,
    queue: &AsyncFd<TunQueue>,
    frame: &mut Vec<u8>,
) -> io::Result<Poll<Option<VnetHeader>>> {
    let Poll::Ready(guard) = queue.poll_read_ready(cx) else {
        return Ok(Poll::Pending);
    };
    match guard?.try_io(|queue| queue.get_ref().recv(frame)) {
        Err(_would_block) => Ok(Poll::Ready(None)),
        Ok(header) => header.map(|header| Poll::Ready(Some(header))),
    }
}

fn forward(queue: Option<&AsyncFd<TunQueue>>, frame: &[u8]) {
    if let Some(queue) = queue
        && let Err(error) = queue.get_ref().forward(frame)
    {
        tracing::debug!(%error, "a device took no packet that passes through");
    }
}
