//! Neighbour discovery: who has an IPv6 address (RFC 4861).

use std::net::Ipv6Addr;

use super::{Answer, Arrival, GATEWAY, IPV6, MacAddress};
use crate::checksum::Sum;

const IP_HEADER: usize = 40;
const HOP_BY_HOP: u8 = 0;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Router solicitation to redirect: messages of the link alone.
const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// What every message of neighbour discovery has when it comes from the link (RFC 4861, section 7.1.1).
const HOP_LIMIT: u8 = 255;

/// Type, code, checksum, reserved, target.
const SOLICITATION_LEN: usize = 24;

/// An advertisement: the same, and the option that tells the link address.
const ADVERTISEMENT_LEN: usize = 32;

/// Router, solicited, override.
const FLAGS: u8 = 0b1110_0000;

/// `packet` says that it is IPv6.
pub(super) fn examine(source: MacAddress, packet: &[u8]) -> Arrival {
    let Some((header, content)) = packet.split_first_chunk::<IP_HEADER>() else {
        return Arrival::Invalid;
    };
    let (from, to) = (address(header, 8), address(header, 24));
    let next = header[6];
    let kind = content.first().copied().unwrap_or_default();
    if next != ICMPV6 || !DISCOVERY.contains(&kind) {
        // Reports of multicast listeners come after a hop-by-hop option, to the link's routers (RFC 3810, section 5).
        let to_link = to.segments()[0] == 0xff02;
        return match to_link && [ICMPV6, HOP_BY_HOP].contains(&next) {
            true => Arrival::Aside,
            false => Arrival::Packet,
        };
    }
    if kind != SOLICITATION {
        return Arrival::Aside;
    }
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let Some(content) = content.get(..len) else {
        return Arrival::Invalid;
    };
    let Some(message) = content.first_chunk::<SOLICITATION_LEN>() else {
        return Arrival::Invalid;
    };
    if header[7] != HOP_LIMIT || message[1] != 0 || checksum(from, to, content) != 0 {
        return Arrival::Invalid;
    }
    let target = address(message, 8);
    // From nobody: it is to find out whether the address is taken (RFC 4862, section 5.4.2).
    if from.is_unspecified() || target.is_multicast() || target.is_unspecified() {
        return Arrival::Aside;
    }
    Arrival::Question(Answer::new(source, IPV6, &advertisement(from, target)))
}

fn advertisement(to: Ipv6Addr, target: Ipv6Addr) -> [u8; IP_HEADER + ADVERTISEMENT_LEN] {
    let mut message = [0; ADVERTISEMENT_LEN];
    message[0] = ADVERTISEMENT;
    message[4] = FLAGS;
    message[8..24].copy_from_slice(&target.octets());
    // Target link-layer address, one unit of 8 bytes.
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..].copy_from_slice(&GATEWAY.0);
    let sum = checksum(target, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut packet = [0; IP_HEADER + ADVERTISEMENT_LEN];
    packet[0] = 6 << 4;
    packet[4..6].copy_from_slice(&(ADVERTISEMENT_LEN as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&[ICMPV6, HOP_LIMIT]);
    packet[8..24].copy_from_slice(&target.octets());
    packet[24..40].copy_from_slice(&to.octets());
    packet[IP_HEADER..].copy_from_slice(&message);
    packet
}

/// With the pseudo-header of RFC 8200, section 8.1.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    Sum::default()
        .add(&from.octets())
        .add(&to.octets())
        .add_number(message.len() as u32)
        .add_number(u32::from(ICMPV6))
        .add(message)
        .finish()
}

/// `at` is followed by 16 bytes in whatever it is called with.
fn address<const N: usize>(bytes: &[u8; N], at: usize) -> Ipv6Addr {
    let octets = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>());
    Ipv6Addr::from(*octets.unwrap_or(&[0; 16]))
}
