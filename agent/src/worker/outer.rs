//! A captured pod's outer side: its device and its listeners in the namespace that has the pod's real interface.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use adit_link::Queue;

use super::crossing::Crossing;
use super::doors::{Doors, Outcome};
use crate::cluster::PodSockets;

/// What a pod on a node has besides its TUN queue.
#[derive(Debug)]
pub(crate) struct WireSide {
    /// The queue of the device in its outer namespace.
    pub(crate) queue: Queue,
    /// MTU of its real interface, in bytes.
    pub(crate) mtu: u16,
    /// Sockets at its address.
    pub(crate) sockets: Arc<PodSockets>,
}

/// The outer side as the pod's tasks see it; the driver has the queue.
pub(crate) struct Outer {
    /// What passes through.
    pub(super) crossing: Crossing,
    /// What listens.
    pub(super) doors: Doors,
    passing: Cell<bool>,
    /// The driver holds it.
    queue: Weak<Queue>,
}

impl WireSide {
    /// The queue for the driver, and the rest.
    pub(super) fn open(self, addresses: &[IpAddr], seed: u64) -> (Rc<Queue>, Outer) {
        let queue = Rc::new(self.queue);
        let outer = Outer {
            crossing: Crossing::new(addresses, self.mtu, seed),
            doors: Doors::new(self.sockets, addresses),
            passing: Cell::new(false),
            queue: Rc::downgrade(&queue),
        };
        (queue, outer)
    }
}

impl Outer {
    /// The queue, while it is served.
    pub(super) fn queue(&self) -> Option<Rc<Queue>> {
        self.queue.upgrade()
    }

    /// Has new flows pass through, or be taken again.
    pub(super) fn let_pass(&self, passing: bool) {
        self.passing.set(passing);
    }

    /// Whether new flows pass through: the pod is leaving the mesh, or has just joined it.
    pub(super) fn lets_pass(&self) -> bool {
        self.passing.get()
    }

    /// What waited for `port` goes on, or is answered.
    pub(super) fn answer_syns(&self, port: u16, outcome: &Outcome) {
        for mut frame in self.doors.settle(port, outcome) {
            match outcome {
                Outcome::Open => self.crossing.to_kernel(frame),
                Outcome::Refused => self.crossing.refuse(&mut frame),
                Outcome::Unknown => {}
            }
        }
    }
}
