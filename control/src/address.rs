//! Who gets which address.
//!
//! Addresses are a pure function of the mesh file, so two nodes that read one file agree without talking, also
//! after one of them restarted and the other only reloaded. A name is hashed to a *slot* of its range and moves
//! on to the next free one if the slot is taken; names are placed in the order of the file. Hence:
//!
//! * adding at the end of the file never moves anybody;
//! * adding elsewhere, or removing, moves somebody only where two names hash to one slot: with the default
//!   ranges, one change in 300 in a mesh of 100 workloads. Whoever runs workloads sees that their addresses
//!   changed and restarts them, as for any other change.
//!
//! Counting names up in order would move half of a mesh on each change, and remembering the former allocation
//! would let two nodes disagree about whose an address is, which is worse than a restart.
//!
//! A slot is one number for both IP versions: slot 77 is 10.77.0.77 and fd77:6164:6974:77::4d. The pods range is
//! cut in two: the lower half for the workloads of the file, the upper half for those that join at run time,
//! itself cut into equal shares, one for each node, so that nodes which don't talk never give out one address twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_flow::WorkloadName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The most slots a range has, however large its prefix: a table of them must fit in memory.
const MAX_SLOTS: u32 = 1 << 24;
/// The slot of the service range that answers DNS queries, where Kubernetes' clusters have it too.
const DNS_SLOT: u32 = 10;
/// The slot of the pods range that is no workload's: the next hop.
const GATEWAY_SLOT: u32 = 1;
/// The most nodes that share the upper half of the pods range.
const MAX_NODES: u32 = 64;
/// The least that a node's share of joined workloads is cut down to by sharing.
const MIN_SHARE: u32 = 16;

/// Where the addresses of a mesh come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Addresses of workloads.
    pub pods: AddressRange,
    /// Addresses of services and of the DNS responder.
    pub services: AddressRange,
}

/// A range of one or both IP versions. At least one is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The IPv4 part, /8 to /27.
    pub v4: Option<Ipv4Net>,
    /// The IPv6 part, /32 to /123.
    pub v6: Option<Ipv6Net>,
}

/// The addresses of every replica and service in a mesh file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    pods: BTreeMap<WorkloadName, Vec<IpAddr>>,
    services: BTreeMap<WorkloadName, Vec<IpAddr>>,
}

/// A range with fewer addresses than are needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {needed} addresses are needed and the range has {available}")]
pub struct RangeExhausted {
    /// What the addresses are for: workloads, services, workloads that join on one node.
    pub what: &'static str,
    /// How many are needed.
    pub needed: usize,
    /// How many there are.
    pub available: usize,
}

impl Default for Ranges {
    fn default() -> Self {
        // "adit" in ASCII makes the 40 bits that RFC 4193 section 3.2.2 wants random: the mesh is never routed
        // to another, and a fixed value keeps the addresses of one file the same everywhere.
        let v6 = |subnet| Ipv6Net::new_assert(Ipv6Addr::new(0xfd77, 0x6164, 0x6974, subnet, 0, 0, 0, 0), 64);
        let v4 = |second| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 16);
        Self {
            pods: AddressRange {
                v4: Some(v4(77)),
                v6: Some(v6(0x77)),
            },
            services: AddressRange {
                v4: Some(v4(78)),
                v6: Some(v6(0x78)),
            },
        }
    }
}

impl Ranges {
    /// The DNS responder's address of each IP version: the tenth of the services range.
    pub fn dns(&self) -> Vec<IpAddr> {
        self.services.at(DNS_SLOT)
    }

    /// The next hop of each IP version that workloads may be given: the first of the pods range, nobody's own.
    pub fn gateway(&self) -> Vec<IpAddr> {
        self.pods.at(GATEWAY_SLOT)
    }

    /// Whether `address` is one of the mesh's, given out or not.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.pods.contains(address) || self.services.contains(address)
    }

    /// The slots for the workloads of the file.
    fn file_slots(&self) -> std::ops::Range<u32> {
        GATEWAY_SLOT + 1..self.pods.slots() / 2
    }

    /// How many nodes the upper half of the pods range can be shared between.
    pub fn max_nodes(&self) -> usize {
        self.shares() as usize
    }

    fn shares(&self) -> u32 {
        // By the range alone: a node added to the file must not move the others' shares.
        (self.pods.slots() / 2 / MIN_SHARE).clamp(1, MAX_NODES)
    }

    /// The slots for workloads that join on the node at `index`, counted from 0 in the order of the file.
    fn joined_slots(&self, index: usize) -> std::ops::Range<u32> {
        let half = self.pods.slots() / 2;
        let share = half / self.shares();
        let index = u32::try_from(index).unwrap_or(u32::MAX).min(self.shares() - 1);
        let start = half + index * share;
        // The last slot of an IPv4 range is its broadcast address.
        start..(start + share).min(self.pods.slots() - 1)
    }

    fn service_slots(&self) -> std::ops::Range<u32> {
        DNS_SLOT + 1..self.services.slots() - 1
    }
}

impl AddressRange {
    /// Its parts.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.nets().any(|net| net.contains(&address))
    }

    /// How many slots it has: the smaller part decides.
    fn slots(&self) -> u32 {
        let of = |bits: u32| 1u32.checked_shl(bits).unwrap_or(MAX_SLOTS).min(MAX_SLOTS);
        self.nets()
            .map(|net| of(u32::from(net.max_prefix_len() - net.prefix_len())))
            .min()
            .unwrap_or(0)
    }

    /// The addresses of a slot, IPv4 first.
    fn at(&self, slot: u32) -> Vec<IpAddr> {
        let v4 = self
            .v4
            .map(|net| IpAddr::V4((u32::from(net.network()) | slot).into()));
        let v6 = self
            .v6
            .map(|net| IpAddr::V6((u128::from(net.network()) | u128::from(slot)).into()));
        v4.into_iter().chain(v6).collect()
    }
}

impl fmt::Display for AddressRange {
    /// The parts with `and` between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, net) in self.nets().enumerate() {
            write!(f, "{}{net}", if index > 0 { " and " } else { "" })?;
        }
        Ok(())
    }
}

impl Allocation {
    /// Addresses for `pods` and `services`, each in the order of the file.
    ///
    /// # Errors
    /// A range with fewer addresses than names.
    pub(crate) fn new(
        ranges: &Ranges,
        pods: impl IntoIterator<Item = WorkloadName>,
        services: impl IntoIterator<Item = WorkloadName>,
    ) -> Result<Self, RangeExhausted> {
        Ok(Self {
            pods: place("workloads", &ranges.pods, ranges.file_slots(), pods)?,
            services: place("services", &ranges.services, ranges.service_slots(), services)?,
        })
    }

    /// A replica's addresses, IPv4 first; empty if the mesh has no such replica.
    pub fn workload(&self, name: &WorkloadName) -> &[IpAddr] {
        self.pods.get(name).map_or(&[], Vec::as_slice)
    }

    /// A service's addresses, IPv4 first; empty if the mesh has no such service or it is headless.
    pub fn service(&self, name: &WorkloadName) -> &[IpAddr] {
        self.services.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Addresses for a workload that joins at run time on the node at `index`, apart from those in `taken`.
///
/// # Errors
/// The node's share is used up.
pub(crate) fn joined(
    ranges: &Ranges,
    index: usize,
    name: &WorkloadName,
    taken: impl IntoIterator<Item = IpAddr>,
) -> Result<Vec<IpAddr>, RangeExhausted> {
    let taken: BTreeSet<IpAddr> = taken.into_iter().collect();
    let slots = ranges.joined_slots(index);
    probe(&slots, name)
        .map(|slot| ranges.pods.at(slot))
        .find(|addresses| addresses.iter().all(|address| !taken.contains(address)))
        .ok_or_else(|| RangeExhausted {
            what: "workloads that join on one node",
            needed: slots.len() + 1,
            available: slots.len(),
        })
}

fn place(
    what: &'static str,
    range: &AddressRange,
    slots: std::ops::Range<u32>,
    names: impl IntoIterator<Item = WorkloadName>,
) -> Result<BTreeMap<WorkloadName, Vec<IpAddr>>, RangeExhausted> {
    let names: Vec<WorkloadName> = names.into_iter().collect();
    if names.len() > slots.len() {
        return Err(RangeExhausted {
            what,
            needed: names.len(),
            available: slots.len(),
        });
    }
    let mut used = BTreeSet::new();
    let mut placed = BTreeMap::new();
    for name in names {
        let slot = probe(&slots, &name).find(|slot| used.insert(*slot));
        let slot = slot.expect("there are no more names than slots, and probing visits every slot");
        placed.insert(name, range.at(slot));
    }
    Ok(placed)
}

/// Every slot once, beginning at the one that the name hashes to.
fn probe(slots: &std::ops::Range<u32>, name: &WorkloadName) -> impl Iterator<Item = u32> + use<> {
    let (start, len) = (slots.start, slots.end.saturating_sub(slots.start));
    let first = if len == 0 {
        0
    } else {
        (fnv1a(&name.to_string()) % u64::from(len)) as u32
    };
    (0..len).map(move |step| start + ((u64::from(first) + u64::from(step)) % u64::from(len)) as u32)
}

/// FNV-1a, 64 bits: the result is part of the format, so it can't be the standard library's hasher.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
