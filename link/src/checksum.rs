//! Checksums of packets: those that a kernel left undone and we have to finish, and that of neighbour discovery.

/// The ones' complement sum (RFC 1071), as it grows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes, as if an odd number of them were followed by a zero: so only the last addition may be odd.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let whole = pairs
            .iter()
            .map(|pair| u64::from(u16::from_be_bytes(*pair)))
            .sum::<u64>();
        let last = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
        Self(self.0 + whole + last)
    }

    pub(crate) fn add_number(self, number: u32) -> Self {
        Self(self.0 + u64::from(number))
    }

    /// Folded to 16 bits and inverted, as it stands in a header. Over bytes with a right checksum among them it is 0.
    pub(crate) fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

/// The ones' complement sum of `bytes` (RFC 1071), folded to 16 bits and not inverted: what stands in a checksum field whose
/// sum is to be finished, if the bytes are the pseudo-header's. An odd number of them is taken as if a zero followed.
#[must_use]
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    !Sum::default().add(bytes).finish()
}

/// Finishes the sum that [`Checksum::Partial`](crate::Checksum::Partial) describes: the field has the pseudo-header's and
/// gets the whole one. `None` when the field isn't inside the packet, which is left as it is.
pub(crate) fn finish(packet: &mut [u8], start: u16, offset: u16) -> Option<()> {
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    packet.get(field..field + 2)?;
    let sum = match Sum::default().add(packet.get(start..)?).finish() {
        // UDP has no checksum of 0: that says that there is none (RFC 768). Either is the same number in this arithmetic.
        0 => 0xffff,
        sum => sum,
    };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Finishes the checksum of an SCTP packet, a CRC32c (RFC 9260, appendix A). `None` when it has no room for one.
pub(crate) fn finish_sctp(packet: &mut [u8]) -> Option<()> {
    let (before, rest) = (packet.get(..SCTP_FIELD.start)?, packet.get(SCTP_FIELD.end..)?);
    let sum = crc32c::crc32c(before);
    let sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, &[0; 4]), rest);
    packet[SCTP_FIELD].copy_from_slice(&sum.to_le_bytes());
    Some(())
}

/// Where an SCTP packet has its checksum, least significant byte first.
pub(crate) const SCTP_FIELD: std::ops::Range<usize> = 8..12;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
        assert_eq!(ones_complement_sum(&[0xf2, 0x03, 0xf4, 0xf5, 0xf6]), 0xdcfa);
    }

    #[test]
    fn a_field_outside_of_the_packet_is_left_alone() {
        let mut packet = [1; 20];
        assert_eq!(finish(&mut packet, 10, 9), None);
        assert_eq!(finish(&mut packet, u16::MAX, u16::MAX), None);
        assert_eq!(packet, [1; 20]);
        assert_eq!(finish(&mut packet, 10, 8), Some(()));
    }

    #[test]
    fn an_sctp_packet_is_summed_as_if_its_field_were_zero() {
        // RFC 3720, appendix B.4: 32 bytes of zeros.
        let mut packet = [0; 32];
        packet[SCTP_FIELD].fill(7);
        assert_eq!(finish_sctp(&mut packet), Some(()));
        assert_eq!(packet[SCTP_FIELD], 0x8a91_36aa_u32.to_le_bytes());
        assert_eq!(finish_sctp(&mut [0; 11]), None);
    }

    proptest! {
        /// Whatever the pseudo-header's sum, and wherever the bytes are cut.
        #[test]
        fn a_finished_sum_verifies(
            pseudo: u16,
            mut packet in proptest::collection::vec(any::<u8>(), 8..200),
            cut in 0..100_usize,
        ) {
            packet[6..8].copy_from_slice(&pseudo.to_be_bytes());
            finish(&mut packet, 2, 4).unwrap();
            let summed = &packet[2..];
            let (head, tail) = summed.split_at(2 * (cut % (summed.len() / 2)));
            let sum = Sum::default().add_number(u32::from(pseudo)).add(head).add(tail);
            prop_assert_eq!(sum.finish(), 0);
            prop_assert_ne!(packet[6..8].to_vec(), [0, 0]);
        }
    }
}
