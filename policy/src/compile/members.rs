//! Whose an address is: pods by exact address, network sets by prefix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use adit_flow::WorkloadName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::addresses::{AddressMap, Key as _, Resident};

/// A pod as a verdict needs it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: WorkloadName,
    /// The class that its labels put it in.
    pub(crate) class: u32,
    /// Its service account: the last part of its identity.
    pub(crate) account: Arc<str>,
    /// The ports that it declares, by their id among the shared.
    pub(crate) ports: u32,
    pub(crate) node_addresses: Box<[IpAddr]>,
}

impl Member {
    /// A bit for each of the node's addresses: one whose bit is missing isn't among them.
    pub(crate) fn node_filter(&self) -> u32 {
        self.node_addresses
            .iter()
            .copied()
            .map(filter_bit)
            .fold(0, |all, bit| all | bit)
    }
}

/// Pods by address. A copy shares all of it; changing one address copies a few cache lines' worth.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    v4: AddressMap<u32>,
    v6: AddressMap<u128>,
}

impl Members {
    /// What a verdict needs of the pod at `address`.
    #[inline]
    pub(crate) fn find(&self, address: IpAddr) -> Option<Resident> {
        match address {
            IpAddr::V4(address) => self.v4.get(address.to_bits()),
            IpAddr::V6(address) => self.v6.get(address.to_bits()),
        }
    }

    /// The pod that was found at `address`.
    pub(crate) fn resident(&self, address: IpAddr, found: Resident) -> Option<&Arc<Member>> {
        match address {
            IpAddr::V4(_) => self.v4.pod(found.index),
            IpAddr::V6(_) => self.v6.pod(found.index),
        }
    }

    pub(crate) fn get(&self, address: IpAddr) -> Option<&Arc<Member>> {
        self.resident(address, self.find(address)?)
    }

    pub(crate) fn insert(&mut self, address: IpAddr, member: Arc<Member>) {
        match address {
            IpAddr::V4(address) => self.v4.insert(address.to_bits(), member),
            IpAddr::V6(address) => self.v6.insert(address.to_bits(), member),
        }
    }

    pub(crate) fn remove(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.v4.remove(address.to_bits()),
            IpAddr::V6(address) => self.v6.remove(address.to_bits()),
        }
    }

    /// All pods with their addresses, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, &Arc<Member>)> {
        let v4 = self.v4.iter().map(|(bits, pod)| (IpAddr::V4(bits.into()), pod));
        let v6 = self.v6.iter().map(|(bits, pod)| (IpAddr::V6(bits.into()), pod));
        v4.chain(v6)
    }
}

/// The bit of an address in [`Member::node_filter`].
#[inline]
pub(crate) fn filter_bit(address: IpAddr) -> u32 {
    let folded = match address {
        IpAddr::V4(address) => address.to_bits().folded(),
        IpAddr::V6(address) => address.to_bits().folded(),
    };
    1 << (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59)
}

/// Network sets by prefix: the longest prefix that holds an address knows all sets that do.
#[derive(Clone, Debug, Default)]
pub(crate) struct SetIndex {
    v4: PrefixMap<Ipv4Net, Box<[u32]>>,
    v6: PrefixMap<Ipv6Net, Box<[u32]>>,
}

impl SetIndex {
    /// Indexes prefixes with the class of the set that each belongs to.
    pub(crate) fn new<'a>(prefixes: impl Iterator<Item = (&'a IpNet, u32)>) -> Self {
        let mut v4: PrefixMap<Ipv4Net, Vec<u32>> = PrefixMap::new();
        let mut v6: PrefixMap<Ipv6Net, Vec<u32>> = PrefixMap::new();
        for (net, class) in prefixes {
            match net {
                IpNet::V4(net) => v4.entry(net.trunc()).or_default().push(class),
                IpNet::V6(net) => v6.entry(net.trunc()).or_default().push(class),
            }
        }
        Self {
            v4: covered(&v4),
            v6: covered(&v6),
        }
    }

    /// The classes of the sets that hold `address`.
    pub(crate) fn covering(&self, address: IpAddr) -> &[u32] {
        let longest = match address {
            IpAddr::V4(address) => self.v4.get_lpm(&host_v4(address)).map(|(_, classes)| classes),
            IpAddr::V6(address) => self.v6.get_lpm(&host_v6(address)).map(|(_, classes)| classes),
        };
        longest.map_or(&[], |classes| classes)
    }
}

fn host_v4(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

fn host_v6(address: Ipv6Addr) -> Ipv6Net {
    Ipv6Net::from(address)
}

/// Adds to each prefix the sets of the prefixes around it.
fn covered<P: prefix_trie::Prefix + Copy>(map: &PrefixMap<P, Vec<u32>>) -> PrefixMap<P, Box<[u32]>> {
    map.iter()
        .map(|(prefix, _)| {
            let mut classes: Vec<u32> = map
                .cover(&prefix)
                .flat_map(|(_, classes)| classes.iter().copied())
                .collect();
            classes.sort_unstable();
            classes.dedup();
            (prefix, classes.into_boxed_slice())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_knows_the_sets_around_it() {
        let nets: Vec<(IpNet, u32)> = [
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 2),
            ("10.1.2.3/32", 3),
            ("0.0.0.0/0", 4),
        ]
        .map(|(net, class)| (net.parse().unwrap(), class))
        .into();
        let index = SetIndex::new(nets.iter().map(|(net, class)| (net, *class)));
        for (address, classes) in [
            ("10.1.2.3", &[1, 2, 3, 4][..]),
            ("10.1.9.9", &[1, 2, 4]),
            ("10.9.9.9", &[1, 4]),
            ("192.0.2.1", &[4]),
            ("fd00::1", &[]),
        ] {
            assert_eq!(index.covering(address.parse().unwrap()), classes, "{address}");
        }
    }

    #[test]
    fn addresses_are_found_and_forgotten() {
        let member = Arc::new(Member {
            name: WorkloadName::new("a", "b"),
            class: 0,
            account: "default".into(),
            ports: 0,
            node_addresses: Box::default(),
        });
        let mut members = Members::default();
        let addresses: Vec<IpAddr> = (0..5_000u32)
            .map(|low| IpAddr::V4((0x0a00_0000 + low).into()))
            .collect();
        for address in &addresses {
            members.insert(*address, Arc::clone(&member));
        }
        let v6: IpAddr = "fd00::7".parse().unwrap();
        members.insert(v6, Arc::clone(&member));
        assert!(members.get(v6).is_some() && members.find("fd00::8".parse().unwrap()).is_none());
        members.remove(addresses[7]);
        assert!(members.get(addresses[7]).is_none() && members.get(addresses[8]).is_some());
        assert_eq!(members.iter().count(), 5_000);
    }

    #[test]
    fn a_node_address_passes_its_own_filter() {
        let member = Member {
            name: WorkloadName::new("a", "b"),
            class: 0,
            account: "default".into(),
            ports: 0,
            node_addresses: ["192.0.2.1", "fd00::1"].map(|text| text.parse().unwrap()).into(),
        };
        for address in &member.node_addresses {
            assert_ne!(member.node_filter() & filter_bit(*address), 0);
        }
        let passing =
            (0..1_000u32).filter(|low| member.node_filter() & filter_bit(IpAddr::V4((*low).into())) != 0);
        assert!(passing.count() < 200, "two bits of 32 are set");
    }
}
