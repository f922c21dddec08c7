//! SCTP (RFC 9260), as far as carrying it takes: the common header, the checksum, and the ABORT that turns one away.

use std::net::SocketAddr;

use adit_flow::DropReason;

use super::ip::{self, IpPacket};
use super::{be16, put16};

/// An SCTP packet without its IP header: the common header, which has the ports, and the chunks. It has been checked as
/// far as it's looked at here; what associations make of it is up to their ends.
#[derive(Clone, PartialEq, Eq)]
pub struct SctpPacket {
    bytes: Vec<u8>,
}

impl SctpPacket {
    /// Reads the packet in `packet`, with its source and destination. `verify` says whether its checksum must be right; if
    /// not it's made here, since nobody on the way does it for SCTP.
    pub(crate) fn parse(
        packet: &IpPacket<'_>,
        verify: bool,
    ) -> Result<(SocketAddr, SocketAddr, Self), DropReason> {
        let bytes = packet.payload();
        if bytes.len() < HEADER + CHUNK_HEADER {
            return Err(DropReason::Truncated);
        }
        let src = SocketAddr::new(packet.src, be16(bytes, 0));
        let dst = SocketAddr::new(packet.dst, be16(bytes, 2));
        // RFC 9260 §3.1: neither is ever 0.
        if src.port() == 0 || dst.port() == 0 {
            return Err(DropReason::Malformed);
        }
        if verify && bytes[CHECKSUM_AT..HEADER] != checksum(bytes) {
            return Err(DropReason::BadChecksum);
        }
        let mut packet = Self {
            bytes: bytes.to_vec(),
        };
        if !verify {
            packet.complete();
        }
        Ok((src, dst, packet))
    }

    /// Bytes of chunks: what is behind the common header.
    #[expect(clippy::len_without_is_empty, reason = "a packet has a chunk")]
    pub fn len(&self) -> usize {
        self.bytes.len() - HEADER
    }

    /// As an IP packet from `src` to `dst`. Where a port isn't the packet's own it is written over, and the checksum made
    /// anew; else the sender's checksum stays, and protects the packet from end to end. The caller has checked versions
    /// and length.
    pub(crate) fn emit(mut self, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
        if (be16(&self.bytes, 0), be16(&self.bytes, 2)) != (src.port(), dst.port()) {
            put16(&mut self.bytes, 0, src.port());
            put16(&mut self.bytes, 2, dst.port());
            self.complete();
        }
        let mut out = Vec::with_capacity(ip::header_len(src.ip()) + self.bytes.len());
        ip::push_header(&mut out, src.ip(), dst.ip(), ip::SCTP, self.bytes.len());
        out.extend_from_slice(&self.bytes);
        out
    }

    /// With header: what counts against a device's limit.
    pub(crate) fn wire_len(&self) -> usize {
        self.bytes.len()
    }

    /// The ABORT with which an end answers that has no such association and listens on no such port (RFC 9260 §8.4).
    /// `None` where it must not answer.
    pub(crate) fn abort(&self) -> Option<Self> {
        let ends = |kind: u8| matches!(kind, ABORT | COOKIE_ACK | ERROR | SHUTDOWN_COMPLETE);
        if self.chunk_kinds().any(ends) {
            return None;
        }
        // The tag is the one that the sender takes packets by: an INIT says which, anything else carries ours, and the flag
        // says that it was sent back.
        let (tag, flags) = if self.bytes[HEADER] == INIT {
            let tag = self.bytes.get(INIT_TAG_AT..INIT_TAG_AT + 4)?;
            (Some(tag).filter(|tag| *tag != [0; 4])?, 0)
        } else {
            (&self.bytes[TAG_AT..TAG_AT + 4], TAG_REFLECTED)
        };
        let mut bytes = Vec::with_capacity(HEADER + CHUNK_HEADER);
        bytes.extend_from_slice(&self.bytes[2..4]);
        bytes.extend_from_slice(&self.bytes[0..2]);
        bytes.extend_from_slice(tag);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&[ABORT, flags, 0, CHUNK_HEADER as u8]);
        let mut abort = Self { bytes };
        abort.complete();
        Some(abort)
    }

    /// The types of the chunks, up to the first that is longer than the packet.
    fn chunk_kinds(&self) -> impl Iterator<Item = u8> {
        let mut rest = &self.bytes[HEADER..];
        std::iter::from_fn(move || {
            let header = rest.get(..CHUNK_HEADER)?;
            let length = usize::from(be16(header, 2)).max(CHUNK_HEADER);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(header[0])
        })
    }

    fn complete(&mut self) {
        let sum = checksum(&self.bytes);
        self.bytes[CHECKSUM_AT..HEADER].copy_from_slice(&sum);
    }
}

impl std::fmt::Debug for SctpPacket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds: Vec<u8> = self.chunk_kinds().collect();
        f.debug_struct("SctpPacket")
            .field("chunks", &kinds)
            .field("len", &self.len())
            .finish()
    }
}

/// CRC32c of the packet with zeros in the checksum's place, as its bytes lie there (RFC 9260 §6.8 and appendix A).
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let sum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    crc32c::crc32c_append(sum, &bytes[HEADER..]).to_le_bytes()
}

/// Ports, verification tag, checksum.
const HEADER: usize = 12;
const TAG_AT: usize = 4;
const CHECKSUM_AT: usize = 8;
/// Type, flags, length.
const CHUNK_HEADER: usize = 4;
/// The initiate tag of an INIT, which comes alone.
const INIT_TAG_AT: usize = HEADER + CHUNK_HEADER;

const INIT: u8 = 1;
const ABORT: u8 = 6;
const ERROR: u8 = 9;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
/// The T bit of an ABORT.
const TAG_REFLECTED: u8 = 1;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::super::checksum::Sum;
    use super::*;

    pub(crate) const TAG: [u8; 4] = [1, 2, 3, 4];

    /// An IP packet with these chunks, each a type and a value, and a right checksum.
    pub(crate) fn frame(src: SocketAddr, dst: SocketAddr, chunks: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
        bytes.extend(TAG);
        bytes.extend([0; 4]);
        for (kind, value) in chunks {
            bytes.extend([*kind, 0]);
            bytes.extend(((CHUNK_HEADER + value.len()) as u16).to_be_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let mut packet = SctpPacket { bytes };
        packet.complete();
        packet.emit(src, dst)
    }

    fn parse(frame: &[u8], verify: bool) -> Result<(SocketAddr, SocketAddr, SctpPacket), DropReason> {
        SctpPacket::parse(&IpPacket::parse(frame).unwrap(), verify)
    }

    fn ends() -> (SocketAddr, SocketAddr) {
        ("10.0.0.1:5000".parse().unwrap(), "10.0.0.2:7".parse().unwrap())
    }

    #[test]
    fn the_checksum_is_crc32c_least_byte_first() {
        // RFC 3720 B.4 gives the sums of 32 zeros and of 32 ones; here the field itself counts as zeros.
        let mut zeros = [0; 32];
        assert_eq!(checksum(&zeros), [0xaa, 0x36, 0x91, 0x8a]);
        zeros[CHECKSUM_AT..HEADER].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(checksum(&zeros), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn ports_are_written_over_with_a_right_checksum_and_nothing_else_changes() {
        for (src, dst, other) in [
            ("10.0.0.1:5000", "10.0.0.2:7", "10.0.0.3:7777"),
            ("[fd00::1]:5000", "[fd00::2]:7", "[fd00::3]:7777"),
        ] {
            let [src, dst, other] = [src, dst, other].map(|text| text.parse().unwrap());
            let sent = frame(src, dst, &[(0, b"data")]);
            let (from, to, packet) = parse(&sent, true).unwrap();
            assert_eq!((from, to, packet.len()), (src, dst, 8));
            assert_eq!(packet.clone().emit(src, dst), sent);
            let moved = packet.clone().emit(src, other);
            let (from, to, arrived) = parse(&moved, true).unwrap();
            assert_eq!((from, to), (src, other));
            assert_eq!(arrived.bytes[HEADER..], packet.bytes[HEADER..]);
            assert_eq!(arrived.bytes[TAG_AT..CHECKSUM_AT], TAG);
        }
    }

    #[test]
    fn a_packet_keeps_the_checksum_that_its_sender_made() {
        let (src, dst) = ends();
        let mut sent = frame(src, dst, &[(0, b"data")]);
        let (_, _, mut packet) = parse(&sent, true).unwrap();
        *packet.bytes.last_mut().unwrap() ^= 1;
        assert_eq!(
            parse(&packet.emit(src, dst), true).err(),
            Some(DropReason::BadChecksum),
            "what breaks in here is seen by the receiver"
        );
        *sent.last_mut().unwrap() ^= 1;
        assert_eq!(parse(&sent, true).err(), Some(DropReason::BadChecksum));
        let (_, _, completed) = parse(&sent, false).unwrap();
        assert!(parse(&completed.emit(src, dst), true).is_ok());
    }

    #[test]
    fn what_is_no_sctp_packet_is_dropped() {
        let (src, dst) = ends();
        let whole = frame(src, dst, &[(0, b"data")]);
        let with_port = |at: usize| {
            let mut frame = whole.clone();
            put16(&mut frame, ip::V4_HEADER + at, 0);
            frame
        };
        assert_eq!(parse(&with_port(0), false).err(), Some(DropReason::Malformed));
        assert_eq!(parse(&with_port(2), false).err(), Some(DropReason::Malformed));
        assert_eq!(
            parse(&frame(src, dst, &[]), true).err(),
            Some(DropReason::Truncated)
        );
    }

    proptest! {
        #[test]
        fn any_chunks_are_carried_and_turned_away(
            chunks in proptest::collection::vec(any::<u8>(), 0..60),
            ports in any::<(u16, u16)>(),
        ) {
            let (src, dst) = ends();
            let mut sent = frame(src, dst, &[]);
            sent.extend(&chunks);
            let length = sent.len() as u16;
            put16(&mut sent, 2, length);
            put16(&mut sent, 10, 0);
            let sum = Sum::default().add(&sent[..ip::V4_HEADER]).finish();
            put16(&mut sent, 10, sum);
            let Ok((from, to, packet)) = parse(&sent, false) else {
                prop_assert!(chunks.len() < CHUNK_HEADER);
                return Ok(());
            };
            prop_assert_eq!((from, to, packet.len()), (src, dst, chunks.len()));
            let moved = (SocketAddr::new(src.ip(), ports.0 | 1), SocketAddr::new(dst.ip(), ports.1 | 1));
            let (from, to, arrived) = parse(&packet.clone().emit(moved.0, moved.1), true).unwrap();
            prop_assert_eq!((from, to), moved);
            prop_assert_eq!(&arrived.bytes[HEADER..], &chunks[..]);
            if let Some(abort) = packet.abort() {
                prop_assert!(parse(&abort.clone().emit(dst, src), true).is_ok());
                prop_assert_eq!(abort.abort(), None, "no two stacks abort each other without end");
            }
        }
    }

    #[test]
    fn an_abort_has_the_tag_that_its_receiver_takes() {
        let (src, dst) = ends();
        let answer = |chunks: &[(u8, &[u8])]| {
            let (_, _, packet) = parse(&frame(src, dst, chunks), true).unwrap();
            packet.abort().map(|abort| abort.bytes)
        };
        let mut value = [0; 16];
        value[..4].copy_from_slice(&[9, 8, 7, 6]);
        let init = answer(&[(INIT, &value)]).unwrap();
        assert_eq!(init[..8], [0, 7, 0x13, 0x88, 9, 8, 7, 6]);
        assert_eq!(init[HEADER..], [ABORT, 0, 0, 4]);
        assert_eq!(init[CHECKSUM_AT..HEADER], checksum(&init));
        let data = answer(&[(0, b"data"), (3, b"odd")]).unwrap();
        assert_eq!(data[..8], [0, 7, 0x13, 0x88, 1, 2, 3, 4]);
        assert_eq!(data[HEADER..], [ABORT, TAG_REFLECTED, 0, 4]);
        for quiet in [ABORT, ERROR, COOKIE_ACK, SHUTDOWN_COMPLETE] {
            assert_eq!(answer(&[(0, b"d"), (quiet, b"")]), None, "{quiet}");
        }
        for untold in [&b""[..], &[0; 16]] {
            assert_eq!(answer(&[(INIT, untold)]), None, "it doesn't say by which tag");
        }
    }
}
