//! Which ports of a pod have listeners, and the SYNs that wait for one. Pure.

use std::collections::HashMap;

use adit_flow::DropReason;

/// Original ports that one pod may have open; each is a rule and a listener.
const PORTS_LIMIT: usize = 256;

/// SYNs kept for a port while it's being opened. More are dropped: their kernels repeat them.
const HELD_LIMIT: usize = 64;

/// The table; a port that isn't in it has no listener.
#[derive(Debug, Default)]
pub(super) struct Ports(HashMap<u16, Port>);

#[derive(Debug)]
enum Port {
    /// Being opened; these frames wait for it.
    Opening(Vec<Vec<u8>>),
    /// It has a listener.
    Open,
}

/// What is to be done about a SYN.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its port has to be opened: it waits for that.
    Open,
    /// Its port has its listener, and the packet came all the same: either it came early, or the helper has closed the port,
    /// as it does when it believes that the agent is gone. It waits until the port is reached again.
    OpenAgain,
    /// It waits with others.
    Wait,
    /// There is no room for it.
    Drop(DropReason),
}

impl Ports {
    /// Takes a frame with a SYN for `port`, and keeps it unless the answer is to drop it.
    pub(super) fn take(&mut self, port: u16, frame: &[u8]) -> Step {
        let full = self.0.len() >= PORTS_LIMIT;
        match self.0.get_mut(&port) {
            Some(Port::Opening(held)) if held.len() < HELD_LIMIT => {
                held.push(frame.to_owned());
                Step::Wait
            }
            Some(Port::Opening(_)) => Step::Drop(DropReason::QueueFull),
            Some(open) => {
                *open = Port::Opening(vec![frame.to_owned()]);
                Step::OpenAgain
            }
            None if full => Step::Drop(DropReason::TableFull),
            None => {
                self.0.insert(port, Port::Opening(vec![frame.to_owned()]));
                Step::Open
            }
        }
    }

    /// A port is being opened that nobody has asked for yet.
    pub(super) fn open(&mut self, port: u16) {
        self.0.insert(port, Port::Opening(Vec::new()));
    }

    /// The frames that waited. The port is open from now on, or not in the table; one that was forgotten meanwhile stays
    /// so.
    pub(super) fn settle(&mut self, port: u16, is_open: bool) -> Vec<Vec<u8>> {
        let Some(Port::Opening(held)) = self.0.get_mut(&port) else {
            return Vec::new();
        };
        let held = std::mem::take(held);
        match is_open {
            true => drop(self.0.insert(port, Port::Open)),
            false => drop(self.0.remove(&port)),
        }
        held
    }

    /// The port's listener is gone, and what waited for it is lost.
    pub(super) fn forget(&mut self, port: u16) {
        self.0.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syns_wait_for_their_port_and_come_back_once() {
        let mut ports = Ports::default();
        assert_eq!(ports.take(80, b"one"), Step::Open);
        assert_eq!(ports.take(80, b"two"), Step::Wait);
        assert_eq!(ports.take(81, b"other"), Step::Open);
        assert_eq!(ports.settle(80, true), [b"one", b"two"]);
        assert!(ports.settle(80, true).is_empty());
        assert_eq!(ports.settle(81, false), [b"other"]);
        assert_eq!(
            ports.take(81, b"again"),
            Step::Open,
            "it was refused, and may listen now"
        );
    }

    #[test]
    fn an_open_port_is_opened_again_by_what_comes_all_the_same() {
        let mut ports = Ports::default();
        ports.open(80);
        assert_eq!(ports.take(80, b"early"), Step::Wait);
        assert_eq!(ports.settle(80, true), [b"early"]);
        assert_eq!(ports.take(80, b"closed"), Step::OpenAgain);
        assert_eq!(ports.take(80, b"more"), Step::Wait);
        assert_eq!(ports.settle(80, true).len(), 2);
    }

    #[test]
    fn a_port_whose_listener_went_meanwhile_is_not_open() {
        let mut ports = Ports::default();
        ports.open(80);
        ports.settle(80, true);
        assert_eq!(ports.take(80, b"late"), Step::OpenAgain);
        ports.forget(80);
        assert!(ports.settle(80, true).is_empty());
        assert_eq!(ports.take(80, b"later"), Step::Open);
    }

    #[test]
    fn both_bounds_hold() {
        let mut ports = Ports::default();
        for _ in 0..HELD_LIMIT {
            ports.take(1, b"syn");
        }
        assert_eq!(ports.take(1, b"syn"), Step::Drop(DropReason::QueueFull));
        for port in 1..=PORTS_LIMIT as u16 {
            ports.take(port, b"syn");
        }
        assert_eq!(ports.take(9999, b"syn"), Step::Drop(DropReason::TableFull));
    }
}
