//! Pods as names: what the SNI of a tunnel between agents says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The name by which a client asks, with SNI, for the pod that has `address`: where one listener serves all pods
/// of a node, the certificate to present depends on it. `internal` is reserved for private use.
pub(crate) fn server_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08x}.v4.pod.adit.internal", address.to_bits()),
        IpAddr::V6(address) => format!("{:032x}.v6.pod.adit.internal", address.to_bits()),
    }
}

/// The address in a [`server_name`].
pub(crate) fn pod_address(name: &str) -> Option<IpAddr> {
    let (digits, rest) = name.split_once('.')?;
    let exact = |length| digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match rest {
        "v4.pod.adit.internal" if exact(8) => {
            Some(Ipv4Addr::from_bits(u32::from_str_radix(digits, 16).ok()?).into())
        }
        "v6.pod.adit.internal" if exact(32) => {
            Some(Ipv6Addr::from_bits(u128::from_str_radix(digits, 16).ok()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_survives_its_server_name(address: IpAddr) {
            prop_assert_eq!(pod_address(&server_name(address)), Some(address));
        }

        #[test]
        fn any_other_name_is_no_address(name in "[a-z0-9.]{0,40}") {
            prop_assert_eq!(pod_address(&name), None);
        }
    }
}
