//! What a capture says of the traffic between two pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::pcap::{Packet, Transport};

/// The traffic from a client's pod to a server's, and back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Ports of the server that got a TLS ClientHello as the first bytes of a connection, with their number.
    pub client_hellos: BTreeMap<u16, usize>,
    /// Ports of the server that got other first bytes, with their number.
    pub others: BTreeMap<u16, usize>,
    /// Packets in which the marker could be read.
    pub plain: usize,
    /// Packets between the two with payload.
    pub packets: usize,
}

impl Wire {
    /// Looks at all packets between the two; `marker` is something that the programs said and others must not read. It
    /// must be short enough not to be split in two.
    pub fn between(packets: &[Packet], client: IpAddr, server: IpAddr, marker: &[u8]) -> Self {
        let mut wire = Self::default();
        let mut seen = std::collections::HashSet::new();
        for packet in packets {
            let there = (packet.source, packet.destination) == (client, server);
            let back = (packet.source, packet.destination) == (server, client);
            if !(there || back) || packet.payload().is_empty() {
                continue;
            }
            wire.packets += 1;
            if packet
                .payload()
                .windows(marker.len())
                .any(|bytes| bytes == marker)
            {
                wire.plain += 1;
            }
            if let (
                true,
                Transport::Tcp {
                    source,
                    destination,
                    payload,
                },
            ) = (there, &packet.transport)
                && seen.insert((*source, *destination))
            {
                let kind = if is_client_hello(payload) {
                    &mut wire.client_hellos
                } else {
                    &mut wire.others
                };
                *kind.entry(*destination).or_default() += 1;
            }
        }
        wire
    }

    /// What is wrong with it as the traffic of a mesh whose tunnels end at `port` of the server, if anything is.
    pub fn fault(&self, port: u16) -> Option<String> {
        if self.plain > 0 {
            return Some(format!("{} packets can be read by anybody: {self:?}", self.plain));
        }
        let expected = self.client_hellos.len() == 1 && self.client_hellos.contains_key(&port);
        if !expected || !self.others.is_empty() {
            return Some(format!("expected nothing but TLS to port {port}, got: {self:?}"));
        }
        None
    }
}

/// A handshake record of TLS with a ClientHello in it.
fn is_client_hello(payload: &[u8]) -> bool {
    matches!(payload, [0x16, 3, 1 | 3, _, _, 1, ..])
}

#[cfg(test)]
mod tests {
    use super::super::pcap::{packets, tests::capture};
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 2));
    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 2));
    const HELLO: &[u8] = &[0x16, 3, 1, 0, 100, 1, 0, 0];

    fn wire(segments: &[(IpAddr, u16, IpAddr, u16, &[u8])]) -> Wire {
        let packets = packets(&capture(segments)).expect("it is a capture");
        Wire::between(&packets, CLIENT, SERVER, b"marker")
    }

    #[test]
    fn tls_to_the_right_port_is_without_fault() {
        let tls = wire(&[
            (CLIENT, 62000, SERVER, 8080, HELLO),
            (SERVER, 8080, CLIENT, 62000, &[0x16, 3, 3, 0, 9, 2]),
            (CLIENT, 62000, SERVER, 8080, &[0x17, 3, 3, 0, 1, 9]),
        ]);
        assert_eq!(tls.fault(8080), None);
        assert_eq!(tls.packets, 3);
        assert!(tls.fault(15008).is_some(), "the wrong port");
    }

    #[test]
    fn nothing_plain_and_both_at_once_are_faults() {
        assert!(wire(&[]).fault(8080).is_some(), "nothing at all");
        let plain = (CLIENT, 40000, SERVER, 8080, b"GET /".as_slice());
        assert!(wire(&[plain]).fault(8080).is_some(), "plain");
        let hello = (CLIENT, 62000, SERVER, 8080, HELLO);
        assert!(wire(&[hello, plain]).fault(8080).is_some(), "plain beside TLS");
        let read = (SERVER, 8080, CLIENT, 62000, b"a marker".as_slice());
        assert!(wire(&[hello, read]).fault(8080).is_some(), "the marker");
    }
}
