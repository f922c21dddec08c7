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

/// The CRC32c of an SCTP packet (RFC 9260, appendix A), whose own field counts as zero.
pub(crate) fn sctp(packet: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in packet.iter().enumerate() {
        let byte = if SCTP_FIELD.contains(&at) { 0 } else { *byte };
        crc = CRC32C[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    }
    !crc
}

/// Where an SCTP packet has its checksum, least significant byte first.
pub(crate) const SCTP_FIELD: std::ops::Range<usize> = 8..12;

const CRC32C: [u32; 256] = {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                POLYNOMIAL ^ (crc >> 1)
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
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
    fn crc32c_is_that_of_rfc_3720() {
        // Appendix B.4: 32 bytes of zeros, and 32 of ones with the field for the sum put in as zeros.
        assert_eq!(sctp(&[0; 32]), 0x8a91_36aa);
        let mut packet = [0xff; 32];
        packet[SCTP_FIELD].fill(7);
        let mut zeroed = packet;
        zeroed[SCTP_FIELD].fill(0);
        assert_eq!(sctp(&packet), sctp(&zeroed));
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
