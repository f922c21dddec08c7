//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// A sum in one's complement that is not folded yet. 64 bits hold the sum of any packet without overflow.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even offset of what is summed.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let mut sum = self.0;
        // Four bytes at a time: a one's complement sum may be taken in wider words (RFC 1071 §2 (C)).
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_be_bytes(*word));
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Self(sum + u64::from(u32::from_be_bytes(last)))
    }

    /// Adds the pseudo-header of RFC 9293 §3.1 or RFC 8200 §8.1. Addresses of mixed versions can't occur: a
    /// packet has one.
    pub(crate) fn add_pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> Self {
        let addresses = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.add(&src.octets()).add(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.add(&src.octets()).add(&dst.octets()),
            _ => self,
        };
        Self(addresses.0 + u64::from(protocol) + length as u64)
    }

    /// Folded to 16 bits, not complemented: what a checksum field holds that is to be completed later.
    pub(crate) fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum.
    pub(crate) fn finish(self) -> u16 {
        !self.folded()
    }

    /// Whether a sum that includes a correct checksum comes out right.
    pub(crate) fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The checksum after a 16-bit word at an even offset of what it covers changed from `old` to `new` (RFC 1624 §3, eqn. 3).
pub(crate) fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = Sum(u64::from(!checksum) + u64::from(!old) + u64::from(new));
    sum.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §1 word by word.
    fn model(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            let word = u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum += word;
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn sums_as_the_rfc_does(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Sum::default().add(&bytes).finish(), model(&bytes));
        }
    }

    proptest! {
        #[test]
        fn an_update_is_as_good_as_a_new_sum(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..40),
            at in 0..2_usize,
            new: u16,
        ) {
            let before = Sum::default().add(&bytes).finish();
            let word = &mut bytes[2 * at..2 * at + 2];
            let old = u16::from_be_bytes([word[0], word[1]]);
            word.copy_from_slice(&new.to_be_bytes());
            let updated = updated(before, old, new);
            // Zero has two forms.
            let zeros = [0, 0xffff];
            let expected = model(&bytes);
            prop_assert!(updated == expected || (zeros.contains(&updated) && zeros.contains(&expected)));
        }
    }

    #[test]
    fn sums_the_rfc_example() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }
}
