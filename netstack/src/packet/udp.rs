//! UDP (RFC 768).

use std::net::SocketAddr;

use adit_flow::DropReason;

use super::checksum::Sum;
use super::ip::{self, IpPacket};
use super::{be16, put16};

/// Bytes of a header.
pub(crate) const HEADER: usize = 8;

/// Bytes from the start of the header to the checksum.
pub(crate) const CHECKSUM_AT: usize = 6;

/// A datagram whose header was checked.
pub(crate) struct Datagram<'a> {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads the datagram in `packet`; `verify` says whether its checksum must be right.
    pub(crate) fn parse(packet: &IpPacket<'a>, verify: bool) -> Result<Self, DropReason> {
        let bytes = packet.payload();
        let header = bytes.get(..HEADER).ok_or(DropReason::Truncated)?;
        let length = usize::from(be16(header, 4));
        let payload = bytes.get(HEADER..length).ok_or(if length < HEADER {
            DropReason::Malformed
        } else {
            DropReason::Truncated
        })?;
        // Zero means that the sender made none, which only IPv4 allows (RFC 8200 §8.1).
        let unchecked = be16(header, CHECKSUM_AT) == 0 && packet.src.is_ipv4();
        if verify && !unchecked {
            let sum = Sum::default().add_pseudo_header(packet.src, packet.dst, ip::UDP, length);
            if !sum.add(&bytes[..length]).is_valid() {
                return Err(DropReason::BadChecksum);
            }
        }
        let src = SocketAddr::new(packet.src, be16(header, 0));
        let dst = SocketAddr::new(packet.dst, be16(header, 2));
        if dst.port() == 0 {
            return Err(DropReason::Malformed);
        }
        Ok(Self { src, dst, payload })
    }
}

/// An IP packet whose checksum field holds the pseudo-header's sum. The caller has checked versions and length.
pub(crate) fn emit(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = HEADER + payload.len();
    let mut out = Vec::with_capacity(ip::header_len(src.ip()) + length);
    ip::push_header(&mut out, src.ip(), dst.ip(), ip::UDP, length);
    push_header(&mut out, src, dst, length);
    out.extend_from_slice(payload);
    out
}

/// Appends a header for a datagram of `length` bytes with the header.
pub(crate) fn push_header(out: &mut Vec<u8>, src: SocketAddr, dst: SocketAddr, length: usize) {
    let mut header = [0; HEADER];
    put16(&mut header, 0, src.port());
    put16(&mut header, 2, dst.port());
    put16(&mut header, 4, length as u16);
    let sum = Sum::default().add_pseudo_header(src.ip(), dst.ip(), ip::UDP, length);
    put16(&mut header, CHECKSUM_AT, sum.folded());
    out.extend_from_slice(&header);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (src, dst) = ("[fd00::1]:9".parse().unwrap(), "[fd00::2]:53".parse().unwrap());
        let frame = emit(src, dst, b"query");
        let packet = IpPacket::parse(&frame).unwrap();
        let datagram = Datagram::parse(&packet, false).unwrap();
        assert_eq!(
            (datagram.src, datagram.dst, datagram.payload),
            (src, dst, &b"query"[..])
        );
        assert_eq!(
            Datagram::parse(&packet, true).err(),
            Some(DropReason::BadChecksum),
            "only a partial sum"
        );
    }

    #[test]
    fn a_completed_checksum_is_valid_and_zero_is_for_ipv4_only() {
        let (src, dst) = ("10.0.0.1:9".parse().unwrap(), "10.0.0.2:53".parse().unwrap());
        let mut frame = emit(src, dst, b"query");
        let sum = Sum::default().add(&frame[ip::V4_HEADER..]).finish();
        put16(&mut frame, ip::V4_HEADER + CHECKSUM_AT, sum);
        assert!(Datagram::parse(&IpPacket::parse(&frame).unwrap(), true).is_ok());
        put16(&mut frame, ip::V4_HEADER + CHECKSUM_AT, 0);
        assert!(Datagram::parse(&IpPacket::parse(&frame).unwrap(), true).is_ok());
        let mut frame = emit(
            "[fd00::1]:9".parse().unwrap(),
            "[fd00::2]:53".parse().unwrap(),
            b"query",
        );
        put16(&mut frame, ip::V6_HEADER + CHECKSUM_AT, 0);
        let packet = IpPacket::parse(&frame).unwrap();
        assert_eq!(
            Datagram::parse(&packet, true).err(),
            Some(DropReason::BadChecksum)
        );
    }

    #[test]
    fn lengths_are_checked() {
        let (src, dst) = ("10.0.0.1:9".parse().unwrap(), "10.0.0.2:53".parse().unwrap());
        for (length, reason) in [(7, DropReason::Malformed), (14, DropReason::Truncated)] {
            let mut frame = emit(src, dst, b"query");
            put16(&mut frame, ip::V4_HEADER + 4, length);
            assert_eq!(
                Datagram::parse(&IpPacket::parse(&frame).unwrap(), false).err(),
                Some(reason)
            );
        }
    }
}
