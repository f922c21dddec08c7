//! Connections, each with a number that is never used again.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use adit_link::SeqPacket;

/// Which socket somebody came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Agent,
    Plugin,
}

/// The table of connections.
#[derive(Debug)]
pub(super) struct Peers {
    limit: usize,
    next: u64,
    table: BTreeMap<u64, (Role, SeqPacket)>,
}

impl Peers {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            next: 0,
            table: BTreeMap::new(),
        }
    }

    /// Takes a connection, unless the table is full, or half full of agents: an agent gone wrong must not keep plugins
    /// away. It is closed then.
    pub(super) fn add(&mut self, role: Role, socket: SeqPacket) -> bool {
        let full = self.table.len() >= self.limit
            || (role == Role::Agent && self.agents() >= self.limit.div_ceil(2));
        if full {
            return false;
        }
        self.next += 1;
        self.table.insert(self.next, (role, socket));
        true
    }

    pub(super) fn get(&self, id: u64) -> Option<(Role, &SeqPacket)> {
        self.table.get(&id).map(|(role, socket)| (*role, socket))
    }

    /// Closes a connection. Returns whether it was the last one of agents.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let removed = self.table.remove(&id);
        matches!(removed, Some((Role::Agent, _))) && self.agents() == 0
    }

    fn agents(&self) -> usize {
        let roles = self.table.values().map(|(role, _)| role);
        roles.filter(|role| **role == Role::Agent).count()
    }

    /// In the order of [`descriptors`](Self::descriptors).
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.table.keys().copied()
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.table.values().map(|(_, socket)| socket.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_leave_half_of_the_table_to_plugins() {
        let mut peers = Peers::new(4);
        let mut add = |role| peers.add(role, SeqPacket::pair().unwrap().0);
        let agents: Vec<_> = (0..3).map(|_| add(Role::Agent)).collect();
        assert_eq!(agents, [true, true, false]);
        let plugins: Vec<_> = (0..3).map(|_| add(Role::Plugin)).collect();
        assert_eq!(plugins, [true, true, false]);
    }

    #[test]
    fn the_last_agent_is_told_from_others() {
        let mut peers = Peers::new(8);
        for role in [Role::Agent, Role::Plugin, Role::Agent] {
            assert!(peers.add(role, SeqPacket::pair().unwrap().0));
        }
        assert_eq!([1, 2, 3].map(|id| peers.remove(id)), [false, false, true]);
        assert!(!peers.remove(1), "nobody was there");
    }
}
