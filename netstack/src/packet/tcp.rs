//! TCP headers (RFC 9293 §3.1): what the stack looks at itself, and segments that it writes itself.

use std::net::{IpAddr, SocketAddr};

use adit_flow::DropReason;

use super::checksum::{self, Sum};
use super::{be16, be32, ip, put16};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

/// Bytes from the start of the header to the flags.
pub(crate) const FLAGS_AT: usize = 13;

/// Bytes from the start of the header to the checksum.
pub(crate) const CHECKSUM_AT: usize = 16;

/// Bytes of a header without options.
pub(crate) const HEADER: usize = 20;

/// A segment whose header was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    /// As it stands in the header, not scaled.
    pub(crate) window: u16,
    /// Bytes of data.
    pub(crate) data_len: u32,
}

impl Segment {
    /// Reads the header at the start of `transport`, and walks its options.
    pub(crate) fn parse(transport: &[u8]) -> Result<Self, DropReason> {
        let header = transport.get(..HEADER).ok_or(DropReason::Truncated)?;
        let data_at = usize::from(header[12] >> 4) * 4;
        let options = transport.get(HEADER..data_at).ok_or(if data_at < HEADER {
            DropReason::Malformed
        } else {
            DropReason::Truncated
        })?;
        let segment = Self {
            src_port: be16(header, 0),
            dst_port: be16(header, 2),
            seq: be32(header, 4),
            ack: be32(header, 8),
            flags: header[13],
            window: be16(header, 14),
            data_len: (transport.len() - data_at) as u32,
        };
        // At most one of these makes sense; the engine would drop the rest without a count.
        let contradictory = (segment.flags & (FIN | SYN | RST)).count_ones() > 1;
        if contradictory
            || segment.src_port == 0
            || segment.dst_port == 0
            || Options::parse(options).is_none()
        {
            return Err(DropReason::Malformed);
        }
        Ok(segment)
    }

    pub(crate) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether it opens a connection: SYN without ACK.
    pub(crate) fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }

    /// The FIN alone, if all of the data before it is older than `receive_next` and it isn't.
    pub(crate) fn only_fin(&self, receive_next: u32) -> Option<Self> {
        let data_end = self.seq.wrapping_add(self.data_len);
        (self.is(FIN) && self.data_len > 0 && data_end == receive_next).then_some(Self {
            seq: receive_next,
            data_len: 0,
            ..*self
        })
    }

    /// How much sequence space it takes (SEG.LEN).
    pub(crate) fn length(&self) -> u32 {
        self.data_len + u32::from(self.is(SYN)) + u32::from(self.is(FIN))
    }

    /// The sequence number after it.
    pub(crate) fn end(&self) -> u32 {
        self.seq.wrapping_add(self.length())
    }
}

/// What a SYN's options say of the end that sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Maximum segment size; none means 536 or 1220 (RFC 9293 §3.7.1).
    pub(crate) mss: Option<u16>,
    /// Window scale (RFC 7323 §2); none means that neither end scales.
    pub(crate) window_scale: Option<u8>,
    /// Whether selective acknowledgements are understood (RFC 2018).
    pub(crate) sack: bool,
}

impl Options {
    /// Of the segment at the start of `transport`, which [`Segment::parse`] accepted.
    pub(crate) fn of(transport: &[u8]) -> Self {
        let data_at = usize::from(transport[12] >> 4) * 4;
        Self::parse(&transport[HEADER..data_at]).unwrap_or_default()
    }

    /// `None` if an option's length is wrong.
    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut options = Self::default();
        while let Some(&kind) = bytes.first() {
            match kind {
                END_OF_LIST => break,
                NO_OPERATION => bytes = &bytes[1..],
                _ => {
                    let length = usize::from(*bytes.get(1)?);
                    let value = bytes.get(2..length)?;
                    match (kind, value) {
                        (MSS, [high, low]) => options.mss = Some(u16::from_be_bytes([*high, *low])),
                        (WINDOW_SCALE, [shift]) => options.window_scale = Some((*shift).min(SCALE_LIMIT)),
                        (SACK_PERMITTED, []) => options.sack = true,
                        (MSS | WINDOW_SCALE | SACK_PERMITTED, _) => return None,
                        (SACK, blocks) if blocks.len() % 8 != 0 => return None,
                        (TIMESTAMPS, times) if times.len() != 8 => return None,
                        _ => {}
                    }
                    bytes = &bytes[length..];
                }
            }
        }
        Some(options)
    }

    /// In wire form, padded to a multiple of four.
    fn emit(self) -> ([u8; 12], usize) {
        let mut bytes = [NO_OPERATION; 12];
        let mut length = 0;
        if let Some(mss) = self.mss {
            bytes[..2].copy_from_slice(&[MSS, 4]);
            put16(&mut bytes, 2, mss);
            length += 4;
        }
        if let Some(shift) = self.window_scale {
            bytes[length + 1..length + 4].copy_from_slice(&[WINDOW_SCALE, 3, shift]);
            length += 4;
        }
        if self.sack {
            bytes[length + 2..length + 4].copy_from_slice(&[SACK_PERMITTED, 2]);
            length += 4;
        }
        (bytes, length)
    }
}

/// A segment to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Template {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Options,
}

impl Template {
    /// Replaces `out` by an IP packet whose checksum field holds the pseudo-header's sum.
    pub(crate) fn emit(&self, out: &mut Vec<u8>, data: &[u8]) {
        self.emit_header(out, data.len());
        out.extend_from_slice(data);
    }

    /// As [`emit`](Self::emit) without data, with a complete checksum.
    pub(crate) fn emit_complete(&self, out: &mut Vec<u8>) {
        self.emit(out, b"");
        let transport = &mut out[ip::header_len(self.src.ip())..];
        let sum = Sum::default().add(transport).finish();
        put16(transport, CHECKSUM_AT, sum);
    }

    /// As [`emit`](Self::emit), but for the `count` bytes of data, which are left to be appended.
    pub(crate) fn emit_header(&self, out: &mut Vec<u8>, count: usize) {
        let (options, options_len) = self.options.emit();
        let length = HEADER + options_len + count;
        out.clear();
        ip::push_header(out, self.src.ip(), self.dst.ip(), ip::TCP, length);
        out.extend_from_slice(&self.src.port().to_be_bytes());
        out.extend_from_slice(&self.dst.port().to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.ack.to_be_bytes());
        out.extend_from_slice(&[((HEADER + options_len) as u8 / 4) << 4, self.flags]);
        out.extend_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&pseudo_sum(self.src.ip(), self.dst.ip(), length).to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&options[..options_len]);
    }

    /// The reset that answers `segment` when nobody knows its connection (RFC 9293 §3.10.7.1).
    pub(crate) fn reset(src: SocketAddr, dst: SocketAddr, segment: &Segment) -> Self {
        let (seq, ack, flags) = if segment.is(ACK) {
            (segment.ack, 0, RST)
        } else {
            (0, segment.end(), RST | ACK)
        };
        Self {
            src,
            dst,
            seq,
            ack,
            flags,
            window: 0,
            options: Options::default(),
        }
    }
}

/// What the checksum field holds until somebody completes it.
pub(crate) fn pseudo_sum(src: IpAddr, dst: IpAddr, length: usize) -> u16 {
    Sum::default()
        .add_pseudo_header(src, dst, ip::TCP, length)
        .folded()
}

/// Puts `shift` in the place of the window scale of the SYN at the start of `transport`, if it has one.
pub(crate) fn replace_window_scale(transport: &mut [u8], shift: u8) {
    if let Some(at) = option_value(transport, WINDOW_SCALE) {
        transport[at] = shift;
    }
}

/// Lowers the MSS of the SYN at the start of `transport` to `limit`, if it announces a larger one; whether it did. Its
/// checksum is kept right, unless it's `partial`: then it covers the pseudo-header alone.
pub(crate) fn clamp_mss(transport: &mut [u8], limit: u16, partial: bool) -> bool {
    let Some(at) = option_value(transport, MSS).filter(|at| at + 2 <= transport.len()) else {
        return false;
    };
    let old = be16(transport, at);
    if old <= limit {
        return false;
    }
    put16(transport, at, limit);
    if !partial {
        let sum = be16(transport, CHECKSUM_AT);
        // At an odd offset the bytes weigh the other way round.
        let word = |value: u16| if at % 2 == 0 { value } else { value.swap_bytes() };
        put16(
            transport,
            CHECKSUM_AT,
            checksum::updated(sum, word(old), word(limit)),
        );
    }
    true
}

/// Where the value of the option `kind` of the segment at the start of `transport` begins, which [`Segment::parse`] accepted.
fn option_value(transport: &[u8], kind: u8) -> Option<usize> {
    let data_at = usize::from(transport[12] >> 4) * 4;
    let mut at = HEADER;
    while at + 2 < data_at {
        match transport[at] {
            END_OF_LIST => return None,
            NO_OPERATION => at += 1,
            found if found == kind => return Some(at + 2),
            _ => at += usize::from(transport[at + 1]).max(2),
        }
    }
    None
}

/// Whether `a` comes before `b` in sequence space (RFC 9293 §3.4).
pub(crate) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

const END_OF_LIST: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
/// RFC 7323 §2.3.
const SCALE_LIMIT: u8 = 14;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(flags: u8, options: Options) -> Template {
        Template {
            src: "10.0.0.1:1000".parse().unwrap(),
            dst: "10.0.0.2:80".parse().unwrap(),
            seq: 7,
            ack: 9,
            flags,
            window: 512,
            options,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            mss in proptest::option::of(1_u16..),
            window_scale in proptest::option::of(0_u8..=14),
            sack: bool,
            data in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let options = Options { mss, window_scale, sack };
            let mut frame = Vec::new();
            template(SYN | ACK, options).emit(&mut frame, &data);
            let segment = Segment::parse(&frame[ip::V4_HEADER..]).unwrap();
            prop_assert_eq!((segment.seq, segment.ack, segment.flags, segment.window), (7, 9, SYN | ACK, 512));
            prop_assert_eq!(segment.data_len as usize, data.len());
            prop_assert_eq!(Options::of(&frame[ip::V4_HEADER..]), options);
            replace_window_scale(&mut frame[ip::V4_HEADER..], 3);
            prop_assert_eq!(Options::of(&frame[ip::V4_HEADER..]).window_scale, window_scale.map(|_| 3));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if Segment::parse(&bytes).is_ok() {
                Options::of(&bytes);
            }
        }
    }

    proptest! {
        #[test]
        fn a_clamped_mss_keeps_the_checksum_right(
            mss in 1_u16..,
            limit in 1_u16..,
            shifted: bool,
            data in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            let options = Options { mss: Some(mss), window_scale: Some(7), sack: true };
            let mut frame = Vec::new();
            template(SYN, options).emit(&mut frame, &data);
            let transport = &mut frame[ip::V4_HEADER..];
            if shifted {
                // NOP, MSS at an odd offset.
                let [high, low] = mss.to_be_bytes();
                transport[HEADER..HEADER + 8].copy_from_slice(&[NO_OPERATION, MSS, 4, high, low, 1, 1, 1]);
            }
            let pseudo = be16(transport, CHECKSUM_AT);
            let sum = Sum::default().add(transport).finish();
            put16(transport, CHECKSUM_AT, sum);
            prop_assert_eq!(clamp_mss(transport, limit, false), mss > limit);
            prop_assert_eq!(Options::of(transport).mss, Some(mss.min(limit)));
            let packet = ip::IpPacket::parse(&frame).unwrap();
            prop_assert!(packet.has_valid_checksum());
            let transport = &mut frame[ip::V4_HEADER..];
            put16(transport, CHECKSUM_AT, pseudo);
            clamp_mss(transport, 0, true);
            prop_assert_eq!(be16(transport, CHECKSUM_AT), pseudo);
        }
    }

    #[test]
    fn contradictory_flags_and_bad_options_are_malformed() {
        for flags in [SYN | FIN, SYN | RST, FIN | RST, SYN | FIN | RST] {
            let mut frame = Vec::new();
            template(flags, Options::default()).emit(&mut frame, b"");
            assert_eq!(
                Segment::parse(&frame[ip::V4_HEADER..]),
                Err(DropReason::Malformed)
            );
        }
        let mut frame = Vec::new();
        template(
            SYN,
            Options {
                mss: Some(1460),
                ..Options::default()
            },
        )
        .emit(&mut frame, b"");
        for length in [0, 1, 3, 5, 200] {
            frame[ip::V4_HEADER + HEADER + 1] = length;
            assert_eq!(
                Segment::parse(&frame[ip::V4_HEADER..]),
                Err(DropReason::Malformed),
                "option length {length}"
            );
        }
    }

    #[test]
    fn resets_are_those_of_the_rfc() {
        let (ours, theirs) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:1000".parse().unwrap());
        let segment = |flags| Segment {
            src_port: 1000,
            dst_port: 80,
            seq: 5,
            ack: 70,
            flags,
            window: 0,
            data_len: 3,
        };
        let with_ack = Template::reset(ours, theirs, &segment(ACK));
        assert_eq!((with_ack.seq, with_ack.flags), (70, RST));
        let without = Template::reset(ours, theirs, &segment(SYN));
        assert_eq!((without.seq, without.ack, without.flags), (0, 9, RST | ACK));
    }

    #[test]
    fn sequence_numbers_wrap() {
        assert!(before(u32::MAX, 0) && !before(0, u32::MAX) && !before(4, 4));
    }
}
