//! Addresses as plain words, for what looks at every packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of either version, IPv4 in its mapped form (RFC 4291 §2.5.5.2).
///
/// An [`IpAddr`] is a tag with bytes behind it: to put one together and move it at once holds the processor up for as long as a
/// cache miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) high: u64,
    pub(crate) low: u64,
}

impl Address {
    #[inline]
    pub(crate) fn v4(bits: u32) -> Self {
        Self {
            high: 0,
            low: V4_MAPPED | u64::from(bits),
        }
    }

    #[inline]
    pub(crate) fn v6(octets: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(octets);
        Self {
            high: (bits >> 64) as u64,
            low: bits as u64,
        }
    }

    /// The address as one of IPv4: its last 32 bits.
    pub(crate) fn to_v4(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.low as u32)
    }

    pub(crate) fn to_v6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from(self.high) << 64 | u128::from(self.low))
    }

    #[inline]
    pub(crate) fn is_v4(self) -> bool {
        self.high == 0 && self.low >> 32 == V4_MAPPED >> 32
    }

    /// Whether it may be an end of a flow: neither multicast, broadcast, loopback nor unspecified.
    #[inline]
    pub(crate) fn is_routable(self) -> bool {
        if self.is_v4() {
            let bits = self.low as u32;
            let is_loopback = bits >> 24 == 127;
            let is_multicast = bits >> 28 == 14;
            !(bits == 0 || is_loopback || is_multicast || bits == u32::MAX)
        } else {
            let is_multicast = self.high >> 56 == 0xff;
            let is_unspecified_or_loopback = self.high == 0 && self.low <= 1;
            !(is_multicast || is_unspecified_or_loopback)
        }
    }
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address.to_bits()),
            IpAddr::V6(address) => Self::v6(address.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Self::V4(address.to_v4())
        } else {
            Self::V6(address.to_v6())
        }
    }
}

/// `::ffff:0:0`.
const V4_MAPPED: u64 = 0xffff_0000_0000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_routable(address: IpAddr) -> bool {
        let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
    }

    proptest! {
        #[test]
        fn an_address_is_what_it_was_made_of(v4: u32, high: u64, low: u64) {
            for address in [IpAddr::V4(v4.into()), IpAddr::V6((u128::from(high) << 64 | u128::from(low)).into())] {
                prop_assert_eq!(IpAddr::from(Address::from(address)), address);
                prop_assert_eq!(Address::from(address).is_routable(), is_routable(address));
            }
        }
    }

    #[test]
    fn special_addresses_are_told() {
        for address in [
            "0.0.0.0",
            "0.0.0.1",
            "127.9.9.9",
            "223.255.255.255",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(
                Address::from(address).is_routable(),
                is_routable(address),
                "{address}"
            );
        }
        for address in [
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "ff02::1",
            "fe80::1",
            "fd00::1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(
                Address::from(address).is_routable(),
                is_routable(address),
                "{address}"
            );
        }
    }
}
