//! What an Ethernet device at the other end of the wire says besides IP packets, and what to answer. Pure.
//!
//! A pod behind a veth pair, unlike one behind a TUN device, has a link with addresses: it may ask who has an IP address
//! (ARP, RFC 826; neighbour discovery, RFC 4861) before it sends there. Everything is behind the agent, so the answer is
//! always the same: the [gateway's address](GATEWAY). The exceptions are questions whose answer would do harm:
//! whoever asks for an address with no address of its own wants to know whether the address is taken (RFC 5227, RFC
//! 4862), and it is not.

mod arp;
mod neighbour;

use std::fmt;

/// Bytes of an Ethernet header: destination, source, EtherType.
pub const ETHERNET_HEADER: usize = 14;

/// Who every other address on a pod's wire belongs to: locally administered, the letters "adit" and a 1.
pub const GATEWAY: MacAddress = MacAddress([0x02, 0x61, 0x64, 0x69, 0x74, 0x01]);

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether it is for several (the group bit), the broadcast address among them.
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a frame from a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// An IP packet, after [`ETHERNET_HEADER`] bytes.
    Packet,
    /// A question about an address, and the frame that answers it.
    Question(Answer),
    /// Talk of the link that needs no answer, and that nobody beyond the link is meant to hear: probes for duplicate
    /// addresses, announcements, router solicitations, reports of multicast listeners.
    Aside,
    /// Nothing that belongs on the link: another EtherType, a VLAN tag, too short for its kind.
    Invalid,
}

/// A whole Ethernet frame that answers a question.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    bytes: [u8; Self::LONGEST],
    len: usize,
}

impl Answer {
    /// A neighbour advertisement: Ethernet, IPv6, ICMPv6 with one option.
    const LONGEST: usize = ETHERNET_HEADER + 40 + 32;

    /// The frame.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// From the gateway to whoever asked. What is longer than the longest answer is cut, and there is none.
    fn new(to: MacAddress, ethertype: u16, content: &[u8]) -> Self {
        let mut bytes = [0; Self::LONGEST];
        bytes[..ETHERNET_HEADER].copy_from_slice(&header(to, GATEWAY, ethertype));
        let room = &mut bytes[ETHERNET_HEADER..];
        let len = content.len().min(room.len());
        room[..len].copy_from_slice(&content[..len]);
        Self {
            bytes,
            len: ETHERNET_HEADER + len,
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answer").field(&self.as_bytes()).finish()
    }
}

/// Says what a frame is. `frame` begins with the Ethernet header; its IP packet, if it is one, is not looked into further
/// than to find talk of the link.
#[must_use]
pub fn examine(frame: &[u8]) -> Arrival {
    let Some((header, content)) = frame.split_first_chunk::<ETHERNET_HEADER>() else {
        return Arrival::Invalid;
    };
    let [.., s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let source = MacAddress([s0, s1, s2, s3, s4, s5]);
    if source.is_multicast() {
        return Arrival::Invalid; // nobody's address: an answer to it would go to many
    }
    let version = content.first().map(|byte| byte >> 4);
    match (u16::from_be_bytes([t0, t1]), version) {
        (IPV4, Some(4)) => Arrival::Packet,
        (IPV6, Some(6)) => neighbour::examine(source, content),
        (ARP, _) => arp::examine(source, content),
        _ => Arrival::Invalid,
    }
}

/// The header of a frame that carries `packet` to a pod; of IPv4 unless it says that it is IPv6.
pub(crate) fn header_for(pod: MacAddress, version: Option<u8>) -> [u8; ETHERNET_HEADER] {
    let ethertype = if version.is_some_and(|byte| byte >> 4 == 6) {
        IPV6
    } else {
        IPV4
    };
    header(pod, GATEWAY, ethertype)
}

fn header(to: MacAddress, from: MacAddress, ethertype: u16) -> [u8; ETHERNET_HEADER] {
    let mut header = [0; ETHERNET_HEADER];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}

#[cfg(test)]
mod tests;
