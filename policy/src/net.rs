//! Sets of addresses: sorted, disjoint ranges, so that a look-up is a binary search whatever the list's length.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of IPv4 and IPv6 addresses, made from CIDRs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Nets {
    v4: Box<[Range<u32>]>,
    v6: Box<[Range<u128>]>,
}

/// First and last address, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Range<T> {
    first: T,
    last: T,
}

impl Nets {
    /// The union of `nets`. Host bits are ignored, as Kubernetes and Calico do.
    pub fn new(nets: &[IpNet]) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push(Range {
                    first: net.network().to_bits(),
                    last: net.broadcast().to_bits(),
                }),
                IpNet::V6(net) => v6.push(Range {
                    first: net.network().to_bits(),
                    last: net.broadcast().to_bits(),
                }),
            }
        }
        Self {
            v4: merged(v4, |last, first| {
                last.checked_add(1).is_none_or(|next| first <= next)
            }),
            v6: merged(v6, |last, first| {
                last.checked_add(1).is_none_or(|next| first <= next)
            }),
        }
    }

    /// Whether `address` is in the set. An IPv4-mapped IPv6 address is an IPv6 address here.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => holds(&self.v4, address.to_bits()),
            IpAddr::V6(address) => holds(&self.v6, address.to_bits()),
        }
    }

    /// The addresses of this set that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        Self {
            v4: subtracted(
                &self.v4,
                &other.v4,
                |value| value.checked_sub(1),
                |value| value.checked_add(1),
            ),
            v6: subtracted(
                &self.v6,
                &other.v6,
                |value| value.checked_sub(1),
                |value| value.checked_add(1),
            ),
        }
    }

    /// Whether the set has any IPv4 address.
    pub fn has_v4(&self) -> bool {
        !self.v4.is_empty()
    }

    /// Whether the set has any IPv6 address.
    pub fn has_v6(&self) -> bool {
        !self.v6.is_empty()
    }

    /// Whether the set has any address of the same IP version as `like`.
    pub fn has_version_of(&self, like: IpAddr) -> bool {
        match like {
            IpAddr::V4(_) => !self.v4.is_empty(),
            IpAddr::V6(_) => !self.v6.is_empty(),
        }
    }
}

/// Whether one of the disjoint, sorted ranges holds `value`.
fn holds<T: Ord + Copy>(ranges: &[Range<T>], value: T) -> bool {
    let after = ranges.partition_point(|range| range.first <= value);
    after > 0 && ranges[after - 1].last >= value
}

/// Sorts ranges and joins those that overlap or touch.
fn merged<T: Ord + Copy>(mut ranges: Vec<Range<T>>, touches: impl Fn(T, T) -> bool) -> Box<[Range<T>]> {
    ranges.sort_unstable_by_key(|range| range.first);
    let mut out: Vec<Range<T>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(previous) if touches(previous.last, range.first) => {
                previous.last = previous.last.max(range.last);
            }
            _ => out.push(range),
        }
    }
    out.into_boxed_slice()
}

/// What is left of `ranges` outside of `holes`; both are sorted and disjoint.
fn subtracted<T: Ord + Copy>(
    ranges: &[Range<T>],
    holes: &[Range<T>],
    before: impl Fn(T) -> Option<T>,
    after: impl Fn(T) -> Option<T>,
) -> Box<[Range<T>]> {
    let mut out = Vec::new();
    for range in ranges {
        let mut rest = Some(range.first);
        for hole in holes {
            let Some(first) = rest.filter(|first| *first <= range.last) else {
                break;
            };
            if hole.last < first || hole.first > range.last {
                continue;
            }
            if let Some(last) = before(hole.first).filter(|last| *last >= first) {
                out.push(Range { first, last });
            }
            rest = after(hole.last);
        }
        if let Some(first) = rest.filter(|first| *first <= range.last) {
            out.push(Range {
                first,
                last: range.last,
            });
        }
    }
    out.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (0u32..64, 24u8..=32)
            .prop_map(|(low, bits)| IpNet::new(IpAddr::V4((0x0a00_0000 + low * 5).into()), bits).unwrap());
        let wide =
            (any::<u32>(), 0u8..=8).prop_map(|(bits, len)| IpNet::new(IpAddr::V4(bits.into()), len).unwrap());
        let v6 = (0u128..64, 120u8..=128).prop_map(|(low, bits)| {
            IpNet::new(IpAddr::V6(((0xfd00 << 112) | (low * 5)).into()), bits).unwrap()
        });
        prop_oneof![4 => v4, 1 => wide, 3 => v6]
    }

    proptest! {
        #[test]
        fn membership_is_that_of_some_net(
            nets in proptest::collection::vec(net(), 0..12),
            low in 0u32..600,
        ) {
            let set = Nets::new(&nets);
            for address in [
                IpAddr::V4((0x0a00_0000 + low).into()),
                IpAddr::V6(((0xfd00u128 << 112) | u128::from(low)).into()),
            ] {
                prop_assert_eq!(set.contains(address), nets.iter().any(|net| net.contains(&address)));
            }
        }
    }

    proptest! {
        #[test]
        fn a_difference_is_in_the_one_and_not_in_the_other(
            nets in proptest::collection::vec(net(), 0..8),
            holes in proptest::collection::vec(net(), 0..8),
            low in 0u32..600,
        ) {
            let (set, other) = (Nets::new(&nets), Nets::new(&holes));
            let rest = set.without(&other);
            for address in [
                IpAddr::V4((0x0a00_0000 + low).into()),
                IpAddr::V6(((0xfd00u128 << 112) | u128::from(low)).into()),
            ] {
                prop_assert_eq!(rest.contains(address), set.contains(address) && !other.contains(address));
            }
        }
    }

    #[test]
    fn the_whole_space_is_one_range() {
        let all = Nets::new(&["0.0.0.0/0".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
        assert_eq!(all.v4.len(), 1);
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        assert!(!all.has_version_of("::1".parse().unwrap()));
    }
}
