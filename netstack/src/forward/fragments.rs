//! Which flow the later fragments of a packet belong to: only the first has ports.
//!
//! A ring of the last first fragments that passed, and an index into it. What comes before its first fragment is dropped:
//! hosts send them in order, and to hold some back would need memory that anybody can fill.

use hashbrown::HashTable;

use crate::clock::Tick;
use crate::ends::Secret;
use crate::event::FlowId;
use crate::packet::address::Address;
use crate::packet::ip::{Fragment, Header};

/// Fragmented packets under way.
pub(super) struct Fragments {
    ring: Vec<Entry>,
    /// The place in the ring that is written next, once it's full.
    oldest: usize,
    index: HashTable<u32>,
    secret: Secret,
    limit: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    name: Name,
    flow: FlowId,
    expires: Tick,
}

/// What the fragments of a packet have in common (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    src: Address,
    dst: Address,
    ident: u32,
    next: u8,
}

impl Name {
    fn new(header: &Header, fragment: &Fragment) -> Self {
        Self {
            src: header.src,
            dst: header.dst,
            ident: fragment.ident,
            next: fragment.next,
        }
    }

    fn hash(&self, secret: Secret) -> u64 {
        secret.hash(
            self.src,
            self.dst,
            u64::from(self.next) << 32 | u64::from(self.ident),
        )
    }
}

impl Fragments {
    /// For at most `limit` packets.
    pub(super) fn new(limit: usize, secret: Secret) -> Self {
        Self {
            ring: Vec::new(),
            oldest: 0,
            index: HashTable::new(),
            secret,
            limit,
        }
    }

    /// Remembers that `fragment`, a packet's first, passed as one of `flow`. Whether another packet had to be forgotten before
    /// its time.
    pub(super) fn insert(
        &mut self,
        now: Tick,
        header: &Header,
        fragment: &Fragment,
        flow: FlowId,
        expires: Tick,
    ) -> bool {
        let name = Name::new(header, fragment);
        let entry = Entry { name, flow, expires };
        if let Some(at) = self.find(&name) {
            self.ring[at] = entry;
            return false;
        }
        let (at, evicts) = if self.ring.len() < self.limit {
            self.ring.push(entry);
            (self.ring.len() - 1, false)
        } else {
            let at = self.oldest;
            self.oldest = (at + 1) % self.limit;
            let old = std::mem::replace(&mut self.ring[at], entry);
            let is_old = |&other: &u32| other as usize == at;
            if let Ok(found) = self.index.find_entry(old.name.hash(self.secret), is_old) {
                found.remove();
            }
            (at, old.expires > now)
        };
        let (ring, secret) = (&self.ring, self.secret);
        self.index.insert_unique(name.hash(secret), at as u32, |&other| {
            ring[other as usize].name.hash(secret)
        });
        evicts
    }

    /// The flow whose packet `fragment` is a part of.
    pub(super) fn flow(&self, now: Tick, header: &Header, fragment: &Fragment) -> Option<FlowId> {
        let entry = self.ring[self.find(&Name::new(header, fragment))?];
        (now < entry.expires).then_some(entry.flow)
    }

    fn find(&self, name: &Name) -> Option<usize> {
        let is_it = |&at: &u32| self.ring[at as usize].name == *name;
        let at = self.index.find(name.hash(self.secret), is_it)?;
        Some(*at as usize)
    }
}
