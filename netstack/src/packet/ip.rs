//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_flow::DropReason;
use bytes::Bytes;

use super::address::Address;
use super::checksum::Sum;
use super::{be16, be32, put16};

/// Protocol numbers (IANA).
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// What the IP headers of a packet or of a fragment say, once checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Source address.
    pub(crate) src: Address,
    /// Destination address.
    pub(crate) dst: Address,
    /// Whether it's IPv6.
    pub(crate) is_v6: bool,
    /// The protocol of the payload, extension headers skipped. In a fragment other than the first it's what the fragment
    /// header says, which may be another extension header.
    pub(crate) protocol: u8,
    /// Bytes of the packet; what follows them is padding.
    pub(crate) length: usize,
    /// Bytes from the start to the payload, no more than `length`.
    pub(crate) payload_at: usize,
    /// IPv4's "don't fragment". Nobody fragments IPv6 on its way.
    pub(crate) dont_fragment: bool,
    /// What part of a packet it is, if it isn't whole.
    pub(crate) fragment: Option<Fragment>,
}

/// The place of a fragment in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// The same in all fragments of a packet; 16 bits in IPv4.
    pub(crate) ident: u32,
    /// Bytes of the packet's payload before this one's.
    pub(crate) offset: usize,
    /// What the fragment header names as next (IPv6), or the protocol: the same in all fragments of a packet.
    pub(crate) next: u8,
}

impl Header {
    /// Reads the IP headers at the start of `frame`.
    #[inline]
    pub(crate) fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        match frame.first().ok_or(DropReason::Truncated)? >> 4 {
            4 => Self::parse_v4(frame),
            6 => Self::parse_v6(frame),
            _ => Err(DropReason::Malformed),
        }
    }

    /// Source address.
    pub(crate) fn src(&self) -> IpAddr {
        self.address(self.src)
    }

    /// Destination address.
    pub(crate) fn dst(&self) -> IpAddr {
        self.address(self.dst)
    }

    fn address(&self, address: Address) -> IpAddr {
        if self.is_v6 {
            IpAddr::V6(address.to_v6())
        } else {
            IpAddr::V4(address.to_v4())
        }
    }

    /// Whether both addresses are of its version: one of IPv4 in IPv6's clothes has no place on a wire.
    #[inline]
    pub(crate) fn has_plain_addresses(&self) -> bool {
        !(self.is_v6 && (self.src.is_v4() || self.dst.is_v4()))
    }

    /// Reads the IP headers of a packet that an ICMP error quotes. The quote is cut, so the packet's length says more than
    /// there is; `length` is that of the quote.
    pub(crate) fn of_quote(quote: &[u8]) -> Option<Self> {
        match quote.first()? >> 4 {
            4 => {
                let header = Self::v4(quote.first_chunk()?, quote.len());
                (V4_HEADER..=quote.len())
                    .contains(&header.payload_at)
                    .then_some(header)
            }
            6 => Self::v6(quote, quote.len()).ok(),
            _ => None,
        }
    }

    #[inline]
    fn parse_v4(frame: &[u8]) -> Result<Self, DropReason> {
        let bytes = frame.first_chunk().ok_or(DropReason::Truncated)?;
        let header = Self::v4(bytes, usize::from(be16(bytes, 2)));
        if header.payload_at < V4_HEADER || header.length < header.payload_at {
            return Err(DropReason::Malformed);
        }
        let packet = frame.get(..header.length).ok_or(DropReason::Truncated)?;
        if !Sum::default().add(&packet[..header.payload_at]).is_valid() {
            return Err(DropReason::BadChecksum);
        }
        Ok(header)
    }

    #[inline]
    fn parse_v6(frame: &[u8]) -> Result<Self, DropReason> {
        let header = frame.get(..V6_HEADER).ok_or(DropReason::Truncated)?;
        let length = V6_HEADER + usize::from(be16(header, 4));
        let packet = frame.get(..length).ok_or(DropReason::Truncated)?;
        Self::v6(packet, length)
    }

    #[inline]
    fn v4(header: &[u8; V4_HEADER], length: usize) -> Self {
        let place = be16(header, 6);
        let fragment = (place & (V4_MORE_FRAGMENTS | V4_OFFSET_MASK) != 0).then(|| Fragment {
            ident: be16(header, 4).into(),
            offset: usize::from(place & V4_OFFSET_MASK) * 8,
            next: header[9],
        });
        Self {
            src: Address::v4(be32(header, 12)),
            dst: Address::v4(be32(header, 16)),
            is_v6: false,
            protocol: header[9],
            length,
            payload_at: usize::from(header[0] & 0x0f) * 4,
            dont_fragment: place & V4_DONT_FRAGMENT != 0,
            fragment,
        }
    }

    #[inline]
    fn v6(packet: &[u8], length: usize) -> Result<Self, DropReason> {
        let header: &[u8; V6_HEADER] = packet.first_chunk().ok_or(DropReason::Truncated)?;
        let address = |at: usize| {
            let octets = header[at..at + 16].try_into();
            Address::v6(octets.expect("the slice has 16 bytes"))
        };
        let chain = Chain::walk(packet, header[6])?;
        Ok(Self {
            src: address(8),
            dst: address(24),
            is_v6: true,
            protocol: chain.protocol,
            length,
            payload_at: chain.payload_at,
            dont_fragment: true,
            fragment: chain.fragment,
        })
    }
}

/// A packet whose IP headers were checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpPacket<'a> {
    /// Source address.
    pub(crate) src: IpAddr,
    /// Destination address.
    pub(crate) dst: IpAddr,
    /// The protocol of the payload, extension headers skipped.
    pub(crate) protocol: u8,
    /// Whether IPv6 extension headers lie between the header and the payload.
    pub(crate) extended: bool,
    /// The packet, without what follows its own length.
    packet: &'a [u8],
    payload_at: usize,
    /// The frame, if it may be kept.
    origin: Option<&'a Bytes>,
}

impl<'a> IpPacket<'a> {
    /// As [`parse`](Self::parse); parts of the payload can be [kept](Self::keep) without a copy.
    pub(crate) fn parse_bytes(frame: &'a Bytes) -> Result<Self, DropReason> {
        let packet = Self::parse(frame)?;
        Ok(Self {
            origin: Some(frame),
            ..packet
        })
    }

    /// Reads the IP headers of `frame`, which must hold a whole packet.
    pub(crate) fn parse(frame: &'a [u8]) -> Result<Self, DropReason> {
        let header = Header::parse(frame)?;
        if header.fragment.is_some() {
            return Err(DropReason::Fragment);
        }
        Ok(Self {
            src: header.src(),
            dst: header.dst(),
            protocol: header.protocol,
            extended: header.is_v6 && header.payload_at != V6_HEADER,
            packet: &frame[..header.length],
            payload_at: header.payload_at,
            origin: None,
        })
    }

    /// The last `count` bytes of the payload, without a copy, if the frame may be kept.
    pub(crate) fn keep(&self, count: usize) -> Option<Bytes> {
        let payload = self.payload();
        let origin = self.origin?;
        Some(origin.slice_ref(&payload[payload.len() - count..]))
    }

    /// The transport header and what follows it.
    pub(crate) fn payload(&self) -> &'a [u8] {
        &self.packet[self.payload_at..]
    }

    /// The whole packet.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.packet
    }

    /// Whether the transport checksum over pseudo-header and payload is right.
    pub(crate) fn has_valid_checksum(&self) -> bool {
        let payload = self.payload();
        Sum::default()
            .add_pseudo_header(self.src, self.dst, self.protocol, payload.len())
            .add(payload)
            .is_valid()
    }
}

/// The extension headers that a host may add to a packet (RFC 8200 §4), and what's behind them.
struct Chain {
    protocol: u8,
    payload_at: usize,
    fragment: Option<Fragment>,
}

impl Chain {
    fn walk(packet: &[u8], first: u8) -> Result<Self, DropReason> {
        let mut chain = Self {
            protocol: first,
            payload_at: V6_HEADER,
            fragment: None,
        };
        for _ in 0..EXTENSION_LIMIT {
            let at = chain.payload_at;
            let mut length = 8;
            match chain.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                    let header = packet.get(at..at + 4).ok_or(DropReason::Truncated)?;
                    // With segments left it isn't for this destination yet (RFC 8200 §4.4).
                    if chain.protocol == ROUTING && header[3] != 0 {
                        return Err(DropReason::Unroutable);
                    }
                    length += usize::from(header[1]) * 8;
                }
                FRAGMENT => {
                    let header = packet.get(at..at + 8).ok_or(DropReason::Truncated)?;
                    if chain.fragment.is_some() {
                        return Err(DropReason::Malformed);
                    }
                    chain.fragment = Some(Fragment {
                        ident: be32(header, 4),
                        offset: usize::from(be16(header, 2) & V6_OFFSET_MASK),
                        next: header[0],
                    });
                }
                _ => return Ok(chain),
            }
            chain.protocol = packet[at];
            chain.payload_at = at + length;
            if chain.payload_at > packet.len() {
                return Err(DropReason::Truncated);
            }
            if chain.fragment.is_some_and(|fragment| fragment.offset != 0) {
                return Ok(chain);
            }
        }
        Err(DropReason::Malformed)
    }
}

/// Appends a header for `length` bytes of payload. Mixed versions are a mistake of the caller; the source's counts.
pub(crate) fn push_header(out: &mut Vec<u8>, src: IpAddr, dst: IpAddr, protocol: u8, length: usize) {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => push_v4_header(out, src, dst, protocol, length),
        (IpAddr::V6(src), IpAddr::V6(dst)) => push_v6_header(out, src, dst, protocol, length),
        _ => unreachable!("callers check that both addresses are of one version"),
    }
}

/// Length of the header that [`push_header`] writes.
pub(crate) fn header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { V4_HEADER } else { V6_HEADER }
}

fn push_v4_header(out: &mut Vec<u8>, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: usize) {
    let at = out.len();
    out.resize(at + V4_HEADER, 0);
    let header = &mut out[at..];
    header[0] = 0x45;
    put16(header, 2, (V4_HEADER + length) as u16);
    // The identification of an atomic packet means nothing (RFC 6864 §4.1): 0 with DF set.
    put16(header, 6, V4_DONT_FRAGMENT);
    header[8] = HOP_LIMIT;
    header[9] = protocol;
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let sum = Sum::default().add(header).finish();
    put16(header, 10, sum);
}

fn push_v6_header(out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, length: usize) {
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&(length as u16).to_be_bytes());
    out.extend_from_slice(&[protocol, HOP_LIMIT]);
    out.extend_from_slice(&src.octets());
    out.extend_from_slice(&dst.octets());
}

pub(crate) const V4_HEADER: usize = 20;
pub(crate) const V6_HEADER: usize = 40;
const V4_MORE_FRAGMENTS: u16 = 0x2000;
const V4_DONT_FRAGMENT: u16 = 0x4000;
const V4_OFFSET_MASK: u16 = 0x1fff;
/// In units of 8 bytes above three other bits: masked, it's in bytes.
const V6_OFFSET_MASK: u16 = 0xfff8;
const HOP_LIMIT: u8 = 64;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// RFC 8200 §4.1 has each header at most once, destination options twice; more is nonsense.
const EXTENSION_LIMIT: usize = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        push_header(
            &mut frame,
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
            UDP,
            payload.len(),
        );
        frame.extend_from_slice(payload);
        frame
    }

    fn v6(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        push_header(
            &mut frame,
            "fd00::1".parse().unwrap(),
            "fd00::2".parse().unwrap(),
            first,
            payload.len(),
        );
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn what_is_written_is_read() {
        let frame = v4(b"abc");
        let packet = IpPacket::parse(&frame).unwrap();
        assert_eq!((packet.protocol, packet.payload()), (UDP, &b"abc"[..]));
        assert_eq!(packet.src.to_string(), "10.0.0.1");
        let frame = v6(UDP, b"abc");
        let packet = IpPacket::parse(&frame).unwrap();
        assert_eq!(
            (packet.protocol, packet.payload(), packet.extended),
            (UDP, &b"abc"[..], false)
        );
        assert_eq!(packet.dst.to_string(), "fd00::2");
    }

    #[test]
    fn bytes_after_the_packet_are_padding() {
        let mut frame = v4(b"abc");
        frame.extend_from_slice(&[0; 9]);
        assert_eq!(IpPacket::parse(&frame).unwrap().payload(), b"abc");
    }

    #[test]
    fn each_defect_has_its_reason() {
        let broken = |change: fn(&mut Vec<u8>)| {
            let mut frame = v4(b"abc");
            change(&mut frame);
            let sum = Sum::default()
                .add(&frame[..10])
                .add(&[0, 0])
                .add(&frame[12..20.min(frame.len())])
                .finish();
            put16(&mut frame, 10, sum);
            IpPacket::parse(&frame).unwrap_err()
        };
        assert_eq!(broken(|frame| frame[0] = 0x55), DropReason::Malformed);
        assert_eq!(broken(|frame| frame[0] = 0x44), DropReason::Malformed);
        assert_eq!(broken(|frame| frame[3] = 19), DropReason::Malformed);
        assert_eq!(broken(|frame| frame[3] = 24), DropReason::Truncated);
        assert_eq!(broken(|frame| frame[6] = 0x20), DropReason::Fragment);
        assert_eq!(broken(|frame| frame[7] = 1), DropReason::Fragment);
        let mut frame = v4(b"abc");
        frame[12] ^= 1;
        assert_eq!(IpPacket::parse(&frame).unwrap_err(), DropReason::BadChecksum);
        assert_eq!(IpPacket::parse(&[]).unwrap_err(), DropReason::Truncated);
        assert_eq!(IpPacket::parse(&frame[..19]).unwrap_err(), DropReason::Truncated);
    }

    #[test]
    fn ipv4_options_are_skipped() {
        let mut frame = v4(b"");
        frame[0] = 0x46;
        frame.extend_from_slice(&[1, 1, 1, 0]);
        frame.extend_from_slice(b"data");
        put16(&mut frame, 2, 28);
        put16(&mut frame, 10, 0);
        let sum = Sum::default().add(&frame[..24]).finish();
        put16(&mut frame, 10, sum);
        assert_eq!(IpPacket::parse(&frame).unwrap().payload(), b"data");
    }

    #[test]
    fn ipv6_extension_headers_are_walked() {
        let hop_by_hop = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0];
        let destination = [UDP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let payload = [&hop_by_hop[..], &destination, b"abc"].concat();
        let frame = v6(HOP_BY_HOP, &payload);
        let packet = IpPacket::parse(&frame).unwrap();
        assert_eq!(
            (packet.protocol, packet.payload(), packet.extended),
            (UDP, &b"abc"[..], true)
        );
    }

    #[test]
    fn ipv6_extension_headers_are_bounded() {
        let endless: Vec<u8> = [HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0].repeat(20);
        assert_eq!(
            IpPacket::parse(&v6(HOP_BY_HOP, &endless)).unwrap_err(),
            DropReason::Malformed
        );
        assert_eq!(
            IpPacket::parse(&v6(FRAGMENT, &[UDP, 0, 0, 1, 0, 0, 0, 0])).unwrap_err(),
            DropReason::Fragment
        );
        assert_eq!(
            IpPacket::parse(&v6(HOP_BY_HOP, &[UDP])).unwrap_err(),
            DropReason::Truncated
        );
        assert_eq!(
            IpPacket::parse(&v6(HOP_BY_HOP, &[UDP, 9, 0, 0, 0, 0, 0, 0])).unwrap_err(),
            DropReason::Truncated
        );
        let routed = [UDP, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(
            IpPacket::parse(&v6(ROUTING, &routed)).unwrap_err(),
            DropReason::Unroutable
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(packet) = IpPacket::parse(&bytes) {
                prop_assert!(packet.payload().len() <= bytes.len());
            }
        }
    }
}
