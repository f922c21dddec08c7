//! ARP: who has an IPv4 address (RFC 826).

use std::net::Ipv4Addr;

use super::{ARP, Answer, Arrival, GATEWAY, MacAddress};

/// Ethernet (1), IPv4, addresses of 6 and 4 bytes.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Bytes of a message: the kind, the operation, and twice an Ethernet and an IP address.
const LEN: usize = 28;

pub(super) fn examine(source: MacAddress, content: &[u8]) -> Arrival {
    let Some(message) = content.first_chunk::<LEN>() else {
        return Arrival::Invalid;
    };
    if message[..6] != KIND {
        return Arrival::Invalid;
    }
    let (sender, target) = (ip(message, 14), ip(message, 24));
    // A probe has no sender's address, an announcement has its own for a target (RFC 5227, sections 2.1.1 and 2.3).
    let is_question = message[6..8] == REQUEST && !sender.is_unspecified() && sender != target;
    if !is_question || target.is_unspecified() || target.is_multicast() || target.is_broadcast() {
        return Arrival::Aside;
    }
    let mut reply = [0; LEN];
    reply[..6].copy_from_slice(&KIND);
    reply[6..8].copy_from_slice(&REPLY);
    reply[8..14].copy_from_slice(&GATEWAY.0);
    reply[14..18].copy_from_slice(&target.octets());
    reply[18..24].copy_from_slice(&source.0);
    reply[24..].copy_from_slice(&sender.octets());
    Arrival::Question(Answer::new(source, ARP, &reply))
}

fn ip(message: &[u8; LEN], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(message[at], message[at + 1], message[at + 2], message[at + 3])
}
