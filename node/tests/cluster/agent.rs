//! The least agent: it copies every frame from one queue to the other, header and all.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use adit_link::{Frame, Queue};
use adit_node::cluster::PodQueues;
use rustix::event::{PollFd, PollFlags, poll};

/// A thread that forwards until it is dropped or its queues end.
pub(crate) struct Forwarder {
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
}

/// Frames that were forwarded.
#[derive(Default)]
struct Counts {
    from_pod: AtomicU64,
    from_wire: AtomicU64,
    super_packets: AtomicU64,
}

impl Forwarder {
    pub(crate) fn start(queues: PodQueues) -> Self {
        let (wait, stop) = io::pipe().unwrap();
        let counts = Arc::new(Counts::default());
        let ours = Arc::clone(&counts);
        let thread = std::thread::spawn(move || forward(queues, wait.into(), &ours));
        Self {
            stop: Some(stop),
            thread: Some(thread),
            counts,
        }
    }

    /// Frames from the pod, and from the wire.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let Counts {
            from_pod, from_wire, ..
        } = &*self.counts;
        (
            from_pod.load(Ordering::Relaxed),
            from_wire.load(Ordering::Relaxed),
        )
    }

    /// Of those, the ones that the next link cuts.
    pub(crate) fn super_packets(&self) -> u64 {
        self.counts.super_packets.load(Ordering::Relaxed)
    }

    /// Waits for the queues to end, as they do when the pod leaves.
    pub(crate) fn ended(mut self) -> bool {
        let thread = self.thread.take().unwrap();
        crate::world::eventually(|| thread.is_finished())
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(queues: PodQueues, stop: OwnedFd, counts: &Counts) {
    // A packet socket whose pod has vanished meanwhile leads nowhere.
    let (Ok(pod), Ok(wire)) = (Queue::from_fd(queues.pod), Queue::from_fd(queues.wire)) else {
        return;
    };
    let mut frame = Frame::default();
    loop {
        let mut fds =
            [stop.as_fd(), pod.as_fd(), wire.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        if poll(&mut fds, None).is_err() || !fds[0].revents().is_empty() {
            return;
        }
        for (from, to, count) in [(&pod, &wire, &counts.from_pod), (&wire, &pod, &counts.from_wire)] {
            loop {
                match from.recv(&mut frame) {
                    Ok(Some(header)) => {
                        // What finds no room is lost, as on any wire.
                        let _ = to.forward(frame.whole());
                        count.fetch_add(1, Ordering::Relaxed);
                        let cut_later = u64::from(header.gso.is_some());
                        counts.super_packets.fetch_add(cut_later, Ordering::Relaxed);
                    }
                    Ok(None) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The device is gone.
                    Err(_) => return,
                }
            }
        }
    }
}
