//! The wire formats, as far as the stack reads and writes them itself: IP, TCP headers, UDP, ICMP, what is
//! common to SCTP packets.
//!
//! Parsing never panics and reads nothing beyond the slice. A parsed view has been checked whole: its offsets lie
//! inside the frame.

pub(crate) mod address;
pub(crate) mod checksum;
pub(crate) mod icmp;
pub(crate) mod ip;
pub(crate) mod sctp;
pub(crate) mod tcp;
pub(crate) mod udp;

/// Reads a 16-bit field; the caller has checked the length.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a 32-bit field; the caller has checked the length.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a 16-bit field; the caller has checked the length.
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
