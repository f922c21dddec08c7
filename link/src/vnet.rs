//! The virtio-net header that precedes each frame on a TUN queue opened with `IFF_VNET_HDR`, and on a packet socket with
//! `PACKET_VNET_HDR`.
//!
//! Virtio 1.2, section 5.1.6, in the legacy layout of ten bytes (`TUNSETVNETHDRSZ` 10, and all that a packet socket has
//! unless `PACKET_VNET_HDR_SZ` says otherwise: no `num_buffers`, which only means something with merged receive buffers), in
//! the byte order of the machine, which is what TUN speaks unless `TUNSETVNETLE` says otherwise, and packet sockets always:
//!
//! ```text
//! 0      1         2        4         6           8            10
//! flags  gso_type  hdr_len  gso_size  csum_start  csum_offset
//! ```
//!
//! What the kernel does with it, measured, because the standard was written for a hypervisor: from the pod, a TCP or
//! UDP frame arrives with [`Checksum::Partial`], from a TUN device once checksum offload is on, from a veth pair always. To
//! the pod, `Partial` makes the kernel take the frame as good without summing it, *and* fill in the sum should it ever leave
//! the machine; [`Checksum::Verified`] (`DATA_VALID`) is honoured by neither kind: a frame with a wrong sum is dropped all the
//! same. Offsets count from the packet's first byte here; on a packet socket they count from the Ethernet header's, which
//! [`PacketQueue`](crate::PacketQueue) takes off and puts on.

use thiserror::Error;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const RSC_INFO: u8 = 4;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What is known about the transport checksum of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Checksum {
    /// The frame carries a full checksum that nobody has looked at.
    #[default]
    Complete,
    /// The field holds the pseudo-header's sum only; the rest of the sum is still to be added over the bytes from
    /// `start` to the end of the frame and written at `start + offset`. Both count bytes, `start` from the first byte
    /// of the IP header. For TCP `offset` is 16, for UDP 6.
    Partial {
        /// First byte to sum: where the transport header begins.
        start: u16,
        /// Where the checksum field is, from `start`.
        offset: u16,
    },
    /// The frame carries a full checksum that the sender has verified. TUN ignores this on frames written to it.
    Verified,
}

/// The kind of super-packet that a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP to be cut by IP fragmentation (UFO); kernels before 6.2 may still say so.
    UdpFragment,
    /// UDP to be cut into datagrams (USO).
    UdpSegment,
}

/// How a super-packet is to be cut before it meets a link that is too small for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gso {
    /// Which protocol's headers are repeated.
    pub kind: GsoKind,
    /// TCP: the first segment carries CWR (RFC 3168), the others must not.
    pub ecn: bool,
    /// Payload bytes of each piece, headers not counted. For TCP that is the MSS. Never 0.
    pub segment: u16,
}

/// The header of one frame.
///
/// [`VnetHeader::default`] is right for any complete packet that is no larger than the link's MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VnetHeader {
    /// State of the transport checksum.
    pub checksum: Checksum,
    /// Present when the frame is larger than one packet.
    pub gso: Option<Gso>,
    /// Bytes of IP and transport header, a hint to the receiver; 0 when unknown.
    pub header_len: u16,
}

/// Ten bytes that are no header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum InvalidVnetHeader {
    /// A flag that no kernel sends.
    #[error("virtio-net header has flags {flags:#04x}, expected at most one of NEEDS_CSUM and DATA_VALID")]
    Flags {
        /// The flags byte.
        flags: u8,
    },
    /// A kind of super-packet that was never asked for.
    #[error("virtio-net header has gso type {gso_type:#04x}, expected none, TCPv4, TCPv6 or UDP")]
    GsoType {
        /// The type byte, ECN bit included.
        gso_type: u8,
    },
    /// A super-packet of pieces of zero bytes.
    #[error("virtio-net header has a gso type but a gso size of 0")]
    GsoSize,
}

impl VnetHeader {
    /// Bytes of a header on the queue.
    pub const LEN: usize = 10;

    /// A header for a frame whose transport checksum field holds the pseudo-header's sum only.
    #[must_use]
    pub fn partial_checksum(start: u16, offset: u16) -> Self {
        Self {
            checksum: Checksum::Partial { start, offset },
            ..Self::default()
        }
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`InvalidVnetHeader`] for what neither a TUN device of Linux nor its packet sockets send. Whether the offsets lie inside the frame is for
    /// the reader of the frame to check.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, InvalidVnetHeader> {
        let [flags, gso_type, fields @ ..] = *bytes;
        let [h0, h1, g0, g1, s0, s1, o0, o1] = fields;
        let checksum = match flags & !RSC_INFO {
            0 => Checksum::Complete,
            NEEDS_CSUM => Checksum::Partial {
                start: u16::from_ne_bytes([s0, s1]),
                offset: u16::from_ne_bytes([o0, o1]),
            },
            DATA_VALID => Checksum::Verified,
            _ => return Err(InvalidVnetHeader::Flags { flags }),
        };
        let gso = parse_gso(gso_type, u16::from_ne_bytes([g0, g1]))?;
        Ok(Self {
            checksum,
            gso,
            header_len: u16::from_ne_bytes([h0, h1]),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LEN] {
        let (flags, start, offset) = match self.checksum {
            Checksum::Complete => (0, 0, 0),
            Checksum::Partial { start, offset } => (NEEDS_CSUM, start, offset),
            Checksum::Verified => (DATA_VALID, 0, 0),
        };
        let (gso_type, gso_size) = match self.gso {
            None => (GSO_NONE, 0),
            Some(gso) => (gso.kind.wire() | if gso.ecn { GSO_ECN } else { 0 }, gso.segment),
        };
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = gso_size.to_ne_bytes();
        let [s0, s1] = start.to_ne_bytes();
        let [o0, o1] = offset.to_ne_bytes();
        [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

impl GsoKind {
    fn wire(self) -> u8 {
        match self {
            Self::TcpV4 => GSO_TCPV4,
            Self::TcpV6 => GSO_TCPV6,
            Self::UdpFragment => GSO_UDP,
            Self::UdpSegment => GSO_UDP_L4,
        }
    }
}

fn parse_gso(gso_type: u8, gso_size: u16) -> Result<Option<Gso>, InvalidVnetHeader> {
    let kind = match gso_type & !GSO_ECN {
        GSO_NONE => return Ok(None),
        GSO_TCPV4 => GsoKind::TcpV4,
        GSO_TCPV6 => GsoKind::TcpV6,
        GSO_UDP => GsoKind::UdpFragment,
        GSO_UDP_L4 => GsoKind::UdpSegment,
        _ => return Err(InvalidVnetHeader::GsoType { gso_type }),
    };
    if gso_size == 0 {
        return Err(InvalidVnetHeader::GsoSize);
    }
    Ok(Some(Gso {
        kind,
        ecn: gso_type & GSO_ECN != 0,
        segment: gso_size,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(flags: u8, gso_type: u8, fields: [u16; 4]) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[0] = flags;
        bytes[1] = gso_type;
        for (chunk, field) in bytes[2..].chunks_exact_mut(2).zip(fields) {
            chunk.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_plain_frame_is_ten_zeros() {
        assert_eq!(VnetHeader::default().emit(), [0; 10]);
        assert_eq!(VnetHeader::parse(&[0; 10]), Ok(VnetHeader::default()));
    }

    #[test]
    fn tcp_over_ipv4_leaves_the_sum_to_the_receiver() {
        let header = VnetHeader::partial_checksum(20, 16);
        assert_eq!(header.emit(), wire(1, 0, [0, 0, 20, 16]));
        assert_eq!(VnetHeader::parse(&header.emit()), Ok(header));
    }

    #[test]
    fn a_tcp_super_packet_names_its_mss() {
        let header = VnetHeader::parse(&wire(1, 0x81, [52, 1448, 20, 16])).unwrap();
        assert_eq!(
            header.gso,
            Some(Gso {
                kind: GsoKind::TcpV4,
                ecn: true,
                segment: 1448
            })
        );
        assert_eq!(header.header_len, 52);
    }

    #[test]
    fn what_no_kernel_sends_is_refused() {
        assert_eq!(
            VnetHeader::parse(&wire(8, 0, [0; 4])),
            Err(InvalidVnetHeader::Flags { flags: 8 })
        );
        assert_eq!(
            VnetHeader::parse(&wire(3, 0, [0; 4])),
            Err(InvalidVnetHeader::Flags { flags: 3 })
        );
        assert_eq!(
            VnetHeader::parse(&wire(0, 2, [0, 1, 0, 0])),
            Err(InvalidVnetHeader::GsoType { gso_type: 2 })
        );
        assert_eq!(
            VnetHeader::parse(&wire(1, 1, [0; 4])),
            Err(InvalidVnetHeader::GsoSize)
        );
    }

    proptest! {
        /// What was read is written back so that it reads the same: a forwarded frame loses nothing that matters.
        #[test]
        fn parse_then_emit_is_stable(bytes: [u8; 10]) {
            if let Ok(header) = VnetHeader::parse(&bytes) {
                prop_assert_eq!(VnetHeader::parse(&header.emit()), Ok(header));
            }
        }
    }
}
