//! Packets of a capture file: classic pcap, Ethernet, IPv4 and IPv6; what tcpdump writes of br0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What went over the wire, as far as the tests ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// What is in it.
    pub transport: Transport,
}

/// The part after the IP header. A later fragment, and what has IPv6 extension headers, is [`Transport::Other`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// Its source port.
        source: u16,
        /// Its destination port.
        destination: u16,
        /// Its bytes without the header.
        payload: Vec<u8>,
    },
    /// A UDP datagram.
    Udp {
        /// Its source port.
        source: u16,
        /// Its destination port.
        destination: u16,
        /// Its bytes without the header.
        payload: Vec<u8>,
    },
    /// Another protocol, by its number, with all that follows the IP header.
    Other {
        /// The protocol's number.
        protocol: u8,
        /// All of it.
        payload: Vec<u8>,
    },
}

/// A file is no capture that this reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidCapture {
    /// It doesn't begin as a little-endian pcap file with microseconds does.
    Magic,
    /// It's of another link type than Ethernet, which is 1.
    LinkType(u32),
    /// A packet was cut short, at this byte of the file: the capture needs a longer snapshot length.
    Truncated(usize),
}

const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;

/// The IP packets of a file; a packet that was being written when the capture ended is left out.
///
/// # Errors
/// It's no such file, or packets in it were cut.
pub fn packets(file: &[u8]) -> Result<Vec<Packet>, InvalidCapture> {
    if word(file, 0) != Some(MAGIC) {
        return Err(InvalidCapture::Magic);
    }
    match word(file, 20) {
        Some(ETHERNET) => {}
        other => return Err(InvalidCapture::LinkType(other.unwrap_or_default())),
    }
    let mut packets = Vec::new();
    let mut at = FILE_HEADER;
    while let (Some(kept), Some(length)) = (word(file, at + 8), word(file, at + 12)) {
        if kept < length {
            return Err(InvalidCapture::Truncated(at));
        }
        let begin = at + PACKET_HEADER;
        let Some(frame) = file.get(begin..begin + kept as usize) else {
            break;
        };
        packets.extend(ip(frame));
        at = begin + kept as usize;
    }
    Ok(packets)
}

fn word(file: &[u8], at: usize) -> Option<u32> {
    let bytes = file.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn ip(frame: &[u8]) -> Option<Packet> {
    match frame.get(12..14)? {
        [0x08, 0x00] => ipv4(&frame[14..]),
        [0x86, 0xdd] => ipv6(&frame[14..]),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Packet> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?).into());
    Some(Packet {
        source: address(12)?,
        destination: address(16)?,
        transport: transport(
            packet[9],
            u16::from_be_bytes([packet[6], packet[7]]),
            body(packet, header, length)?,
        ),
    })
}

fn ipv6(packet: &[u8]) -> Option<Packet> {
    const HEADER: usize = 40;
    let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
    let address =
        |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?).into());
    let end = if length == 0 { 0 } else { HEADER + length };
    Some(Packet {
        source: address(8)?,
        destination: address(24)?,
        transport: transport(packet[6], 0, body(packet, HEADER, end)?),
    })
}

/// What follows the header. A super-packet of segmentation offload may say 0 for its length; Ethernet's padding follows
/// short packets.
fn body(packet: &[u8], header: usize, length: usize) -> Option<&[u8]> {
    let end = if length == 0 {
        packet.len()
    } else {
        length.min(packet.len())
    };
    packet.get(header..end)
}

fn transport(protocol: u8, fragment: u16, body: &[u8]) -> Transport {
    let other = || Transport::Other {
        protocol,
        payload: body.to_vec(),
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let first = fragment & 0x1fff == 0;
    match protocol {
        6 if first && body.len() >= 20 => Transport::Tcp {
            source: port(0),
            destination: port(2),
            payload: body
                .get(usize::from(body[12] >> 4) * 4..)
                .unwrap_or_default()
                .to_vec(),
        },
        17 if first && body.len() >= 8 => Transport::Udp {
            source: port(0),
            destination: port(2),
            payload: body[8..].to_vec(),
        },
        _ => other(),
    }
}

impl Packet {
    /// All bytes that a program may have said in it.
    pub fn payload(&self) -> &[u8] {
        match &self.transport {
            Transport::Tcp { payload, .. }
            | Transport::Udp { payload, .. }
            | Transport::Other { payload, .. } => payload,
        }
    }
}

impl std::fmt::Display for InvalidCapture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic => f.write_str("expected a little-endian pcap file with microseconds"),
            Self::LinkType(link) => write!(f, "expected Ethernet frames (link type 1), got link type {link}"),
            Self::Truncated(at) => write!(f, "the packet at byte {at} was cut short; capture with -s 0"),
        }
    }
}

impl std::error::Error for InvalidCapture {}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A capture with one TCP segment for each payload.
    pub(in crate::cluster) fn capture(segments: &[(IpAddr, u16, IpAddr, u16, &[u8])]) -> Vec<u8> {
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.extend([0; 16]);
        file.extend(ETHERNET.to_le_bytes());
        for &(source, source_port, destination, port, payload) in segments {
            let mut frame = vec![0; 12];
            let length = |header: usize| {
                let length = u16::try_from(header + 20 + payload.len()).expect("tests are short");
                length.to_be_bytes()
            };
            match (source, destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    frame.extend([0x08, 0x00, 0x45, 0]);
                    frame.extend(length(20));
                    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
                    frame.extend([source.octets(), destination.octets()].concat());
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                    frame.extend(length(0));
                    frame.extend([6, 64]);
                    frame.extend([source.octets(), destination.octets()].concat());
                }
                _ => panic!("{source} and {destination} are of two versions"),
            }
            frame.extend(source_port.to_be_bytes());
            frame.extend(port.to_be_bytes());
            frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
            frame.extend(payload);
            let kept = u32::try_from(frame.len()).expect("tests are short").to_le_bytes();
            file.extend([[0; 4], [0; 4], kept, kept].concat());
            file.extend(frame);
        }
        file
    }

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn segments_are_read_and_a_half_written_one_is_left_out() {
        let mut file = capture(&[(A, 1000, B, 80, b"hello"), (B, 80, A, 1000, b"")]);
        let all = packets(&file).expect("it is a capture");
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].source, all[0].destination), (A, B));
        assert_eq!(all[0].payload(), b"hello");
        assert!(
            matches!(all[1].transport, Transport::Tcp { source: 80, destination: 1000, ref payload } if payload.is_empty())
        );
        file.truncate(file.len() - 1);
        assert_eq!(packets(&file).map(|packets| packets.len()), Ok(1));
    }

    #[test]
    fn segments_of_ipv6_are_read() {
        let [a, b] = ["fd00::1", "fd00::2"].map(|text| text.parse().unwrap());
        let all = packets(&capture(&[(a, 1000, b, 80, b"hello")])).expect("it is a capture");
        assert_eq!((all[0].source, all[0].destination), (a, b));
        assert_eq!(all[0].payload(), b"hello");
        assert!(matches!(
            all[0].transport,
            Transport::Tcp {
                source: 1000,
                destination: 80,
                ..
            }
        ));
    }

    #[test]
    fn other_files_and_cut_packets_are_refused() {
        assert_eq!(packets(b"not a capture"), Err(InvalidCapture::Magic));
        let mut file = capture(&[(A, 1, B, 2, b"x")]);
        file[FILE_HEADER + 8] -= 1;
        assert_eq!(packets(&file), Err(InvalidCapture::Truncated(FILE_HEADER)));
        file[20] = 113;
        assert_eq!(packets(&file), Err(InvalidCapture::LinkType(113)));
    }
}
