//! Properties of the forwarder, from the outside.

mod anything;
mod map;

use std::time::Instant;

use adit_netstack::{ForwardConfig, Forwarder, Side};
use proptest::prelude::*;

/// A forwarder for the pod 10.0.0.1, and the time that it begins with.
fn forwarder(config: ForwardConfig) -> (Forwarder, Instant) {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to have an Instant; only differences count"
    )]
    let epoch = Instant::now();
    let addresses = vec![[10, 0, 0, 1].into()];
    let config = ForwardConfig { addresses, ..config };
    (Forwarder::new(config, 7, epoch), epoch)
}

/// An IPv4 packet between the pod and 10.9.9.9.
fn packet(from: Side, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = match from {
        Side::Pod => ([10, 0, 0, 1], [10, 9, 9, 9]),
        Side::Wire => ([10, 9, 9, 9], [10, 0, 0, 1]),
    };
    let length = 20 + payload.len() as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend([src, dst].concat());
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Pod), Just(Side::Wire)]
}
