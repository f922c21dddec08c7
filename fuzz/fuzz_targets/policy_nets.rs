//! Lists of CIDRs against a look at each of them: what is in the union, and what is left of a difference.
#![no_main]

use std::net::IpAddr;

use adit_policy::net::Nets;
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (Vec<(u128, u8, bool)>, Vec<(u128, u8, bool)>, Vec<(u128, bool)>)| {
    let (nets, holes, addresses) = texts;
    let nets: Vec<IpNet> = nets.into_iter().take(64).filter_map(net).collect();
    let holes: Vec<IpNet> = holes.into_iter().take(64).filter_map(net).collect();
    let (union, other) = (Nets::new(&nets), Nets::new(&holes));
    let rest = union.without(&other);
    // The ends of each block are where a mistake would show.
    let ends = nets.iter().chain(&holes).flat_map(|net| [net.network(), net.broadcast()]);
    let drawn = addresses.into_iter().map(|(bits, is_v4)| address(bits, is_v4));
    for address in drawn.chain(ends) {
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        assert_eq!(union.contains(address), within(&nets), "{address} in {nets:?}");
        assert_eq!(rest.contains(address), within(&nets) && !within(&holes), "{address} in {nets:?} less {holes:?}");
    }
});

fn net((bits, length, is_v4): (u128, u8, bool)) -> Option<IpNet> {
    let most = if is_v4 { 32 } else { 128 };
    IpNet::new(address(bits, is_v4), length % (most + 1)).ok()
}

fn address(bits: u128, is_v4: bool) -> IpAddr {
    if is_v4 {
        IpAddr::V4((bits as u32).into())
    } else {
        IpAddr::V6(bits.into())
    }
}
