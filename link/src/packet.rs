//! Packet sockets: the outer end of a veth pair, one frame at a time.
//!
//! For machines on which nobody may open a TUN device, and for pods that need an Ethernet device. The pod has one end of
//! the pair; the other is in a network namespace where nothing else is, with an `AF_PACKET` socket bound to it. Frames come
//! with the same ten-byte [`VnetHeader`] as from a TUN queue (`PACKET_VNET_HDR`), and an Ethernet header between it and the
//! packet, which is taken off and put on here without moving the packet: it is read over, and written as one more part.
//!
//! ```text
//! read:    header 10   Ethernet 14             packet          write:  header 10   Ethernet 14   packet, in its parts
//! kept:                └ 4 ┘ header 10         packet
//! ```
//!
//! Both ends have the pod's Ethernet address, so whoever holds the socket knows whom to write to by asking the socket. Since
//! the pod sends to the [gateway's](ethernet::GATEWAY), the kernel of the outer namespace takes its frames for somebody else's and
//! lets them be.

mod kernel;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use smallvec::{SmallVec, smallvec};
use thiserror::Error;

use crate::ethernet::{self, Answer, Arrival, ETHERNET_HEADER, MacAddress};
use crate::frame::USUAL_PARTS;
use crate::{Checksum, Frame, Gso, GsoKind, MAX_FRAME, MAX_QUEUES, VnetHeader, checksum};

/// Bytes of frames that may wait in a packet socket, each with the kernel's own notes on it, and of those on their way
/// to the pod. A socket gets as much as `net.core.rmem_max` and `wmem_max` allow, or all of it with `CAP_NET_ADMIN` over
/// the machine. What finds no room is dropped and [counted](PacketQueue::take_drops): the pod repeats it.
pub const PACKET_BUFFER: usize = 4 << 20;

/// IP protocol number.
const SCTP: u8 = 132;

/// Why there is no packet socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PacketError {
    /// The kernel has no packet sockets, or a sandbox forbids them.
    #[error("opening a packet socket: {0}")]
    Open(#[source] io::Error),
    /// More sockets than a device may have, or none.
    #[error("{queues} packet sockets asked for, expected 1 to {MAX_QUEUES}")]
    Queues {
        /// The number asked for.
        queues: u16,
    },
    /// The kernel refused one configuration step.
    #[error("{step} for the packet socket on {interface}: {source}")]
    Configure {
        /// The interface that it is for.
        interface: String,
        /// The step.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// A packet socket on one end of a veth pair.
#[derive(Debug)]
pub struct PacketQueue {
    fd: OwnedFd,
    pod: MacAddress,
}

/// What the kernel finishes of the packets that it is handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendOffloads {
    /// Checksums that were left out ([`Checksum::Partial`]).
    pub checksum: bool,
    /// TCP super-packets, which are cut where they don't fit ([`Gso`]).
    pub segmentation: bool,
}

/// What came from the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromPod {
    /// A packet, with its header.
    Packet(VnetHeader),
    /// A question of the link, which is for [`PacketQueue::answer`].
    Question(Answer),
    /// Talk of the link that concerns nobody.
    Aside,
    /// Nothing that is a frame of the link.
    Invalid,
}

impl PacketQueue {
    /// Adopts a socket that [`open_packet`] made here or in another process, and makes it non-blocking.
    ///
    /// # Errors
    /// The descriptor is no packet socket with virtio-net headers, or not bound to an Ethernet device (`InvalidInput`), or
    /// the kernel's own error.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let refused = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        if sockopt::socket_domain(&fd)? != AddressFamily::PACKET {
            return Err(refused("descriptor is no packet socket"));
        }
        if !kernel::has_vnet_header(fd.as_fd())? {
            return Err(refused("packet socket has no PACKET_VNET_HDR"));
        }
        let pod = kernel::bound_to(fd.as_fd())?
            .ok_or_else(|| refused("packet socket is bound to no Ethernet device"))?;
        let status = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK)?;
        Ok(Self { fd, pod })
    }

    /// The pod's Ethernet address, which both ends of its wire have.
    #[must_use]
    pub fn mac_address(&self) -> MacAddress {
        self.pod
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; `InvalidInput` when the kernel had one that a virtio-net header can't describe (it is
    /// gone, the socket is fine); `ENETDOWN` when the device was removed or brought down.
    pub(crate) fn recv(&self, frame: &mut Frame) -> io::Result<FromPod> {
        // The header goes where the Ethernet header ends, so that header and packet are one piece.
        frame.fill(ETHERNET_HEADER, |bytes| {
            bytes.clear();
            bytes.reserve(VnetHeader::LEN + ETHERNET_HEADER + MAX_FRAME);
            rustix::io::read(&self.fd, rustix::buffer::spare_capacity(bytes))?;
            let Some((header, rest)) = bytes.split_first_chunk_mut::<{ VnetHeader::LEN }>() else {
                return Ok(FromPod::Invalid);
            };
            match ethernet::examine(rest) {
                Arrival::Question(answer) => return Ok(FromPod::Question(answer)),
                Arrival::Aside => return Ok(FromPod::Aside),
                Arrival::Invalid => return Ok(FromPod::Invalid),
                Arrival::Packet => {}
            }
            let Ok(header) = VnetHeader::parse(header) else {
                return Ok(FromPod::Invalid);
            };
            let Some(mut header) = without_ethernet(header) else {
                return Ok(FromPod::Invalid);
            };
            finish_sctp(&mut header, &mut rest[ETHERNET_HEADER..]);
            rest[ETHERNET_HEADER - VnetHeader::LEN..ETHERNET_HEADER].copy_from_slice(&header.emit());
            Ok(FromPod::Packet(header))
        })
    }

    /// Hands one packet to the pod, whole or not at all. It may be in parts, at most 1,000.
    ///
    /// # Errors
    /// `InvalidInput` when the kernel won't do what the header asks for, or the parts are too many; `EMSGSIZE` for what is
    /// longer than the MTU; `WouldBlock` and `ENOBUFS` when the kernel has no room; `ENETDOWN` while the device is down;
    /// `ENXIO` when it was removed.
    pub(crate) fn send<'a>(
        &self,
        header: &VnetHeader,
        packet: impl IntoIterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let mut packet = packet.into_iter().peekable();
        let version = packet.peek().and_then(|part| part.first().copied());
        let (header, ethernet) = (
            with_ethernet(header).emit(),
            ethernet::header_for(self.pod, version),
        );
        let mut parts: SmallVec<[_; USUAL_PARTS]> = smallvec![IoSlice::new(&header), IoSlice::new(&ethernet)];
        for part in packet {
            parts.push(IoSlice::new(part));
        }
        rustix::io::writev(&self.fd, &parts)?;
        Ok(())
    }

    /// Answers a question. One that finds no room is asked again.
    pub(crate) fn answer(&self, answer: &Answer) -> io::Result<()> {
        let header = VnetHeader::default().emit();
        let parts = [IoSlice::new(&header), IoSlice::new(answer.as_bytes())];
        rustix::io::writev(&self.fd, &parts)?;
        Ok(())
    }

    /// Which offloads the kernel takes, found out by two frames to an Ethernet address that isn't the pod's: whoever gets them
    /// drops them. The device has to be up; whether anybody is at the other end makes no difference.
    pub fn send_offloads(&self) -> SendOffloads {
        let tcp = VnetHeader::partial_checksum(trial::TRANSPORT, trial::CHECKSUM);
        let cut = VnetHeader {
            gso: Some(Gso {
                kind: GsoKind::TcpV4,
                ecn: false,
                segment: trial::SEGMENT,
            }),
            header_len: trial::HEADERS,
            ..tcp
        };
        SendOffloads {
            checksum: self.takes(&tcp),
            segmentation: self.takes(&cut),
        }
    }

    /// Whether a header is understood. That there is no room, or nobody at the other end, is said after that.
    fn takes(&self, header: &VnetHeader) -> bool {
        let header = with_ethernet(header).emit();
        let ethernet = ethernet::header_for(ethernet::GATEWAY, None);
        let packet = trial::packet();
        let parts = [&header[..], &ethernet, &packet].map(IoSlice::new);
        rustix::io::writev(&self.fd, &parts) != Err(Errno::INVAL)
    }

    /// How many of the pod's frames found no room since this was last asked, by anyone who holds the socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take_drops(&self) -> io::Result<u32> {
        kernel::take_drops(self.fd.as_fd())
    }

    /// Bytes that may wait to be read, with the kernel's own notes on them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        Ok(sockopt::socket_recv_buffer_size(&self.fd)?)
    }
}

impl AsFd for PacketQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<PacketQueue> for OwnedFd {
    fn from(queue: PacketQueue) -> Self {
        queue.fd
    }
}

/// Opens packet sockets on an Ethernet device of the caller's network namespace, which is up: as many as `queues`, over
/// which the kernel spreads flows by hash. Needs `CAP_NET_RAW` there.
///
/// # Errors
/// [`PacketError`].
pub fn open_packet(interface: &str, queues: u16) -> Result<Vec<PacketQueue>, PacketError> {
    if !(1..=MAX_QUEUES).contains(&queues) {
        return Err(PacketError::Queues { queues });
    }
    (0..queues).map(|_| open_one(interface, queues > 1)).collect()
}

fn open_one(interface: &str, is_shared: bool) -> Result<PacketQueue, PacketError> {
    let refused = |step: &'static str| {
        move |source: io::Error| PacketError::Configure {
            interface: interface.to_owned(),
            step,
            source,
        }
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0: nothing is received before it is bound to one device.
    let fd = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
        .map_err(|error| PacketError::Open(error.into()))?;
    kernel::set_vnet_header(fd.as_fd()).map_err(refused("PACKET_VNET_HDR"))?;
    kernel::ignore_outgoing(fd.as_fd()).map_err(refused("PACKET_IGNORE_OUTGOING"))?;
    kernel::skip_queueing(fd.as_fd()).map_err(refused("PACKET_QDISC_BYPASS"))?;
    set_buffers(&fd).map_err(refused("SO_RCVBUF and SO_SNDBUF"))?;
    let index = rustix::net::netdevice::name_to_index(&fd, interface)
        .map_err(|error| refused("SIOCGIFINDEX")(error.into()))?;
    kernel::bind(fd.as_fd(), index).map_err(refused("bind"))?;
    if is_shared {
        kernel::join_others(fd.as_fd()).map_err(refused("PACKET_FANOUT"))?;
    }
    PacketQueue::from_fd(fd).map_err(refused("getsockname"))
}

/// As much room as is to be had.
fn set_buffers(fd: &OwnedFd) -> io::Result<()> {
    match sockopt::set_socket_recv_buffer_size_force(fd, PACKET_BUFFER) {
        Err(Errno::PERM) => sockopt::set_socket_recv_buffer_size(fd, PACKET_BUFFER)?,
        other => other?,
    }
    Ok(sockopt::set_socket_send_buffer_size(fd, PACKET_BUFFER)?)
}

/// The header as it counts from the packet's first byte; `None` when it points into the Ethernet header.
fn without_ethernet(header: VnetHeader) -> Option<VnetHeader> {
    const ETHERNET: u16 = ETHERNET_HEADER as u16;
    let checksum = match header.checksum {
        Checksum::Partial { start, offset } => Checksum::Partial {
            start: start.checked_sub(ETHERNET)?,
            offset,
        },
        other => other,
    };
    Some(VnetHeader {
        checksum,
        header_len: header.header_len.saturating_sub(ETHERNET),
        ..header
    })
}

/// The header as it counts from the Ethernet header's first byte.
fn with_ethernet(header: &VnetHeader) -> VnetHeader {
    const ETHERNET: u16 = ETHERNET_HEADER as u16;
    let checksum = match header.checksum {
        Checksum::Partial { start, offset } => Checksum::Partial {
            start: start.saturating_add(ETHERNET),
            offset,
        },
        other => other,
    };
    let header_len = match header.header_len {
        0 => 0,
        len => len.saturating_add(ETHERNET),
    };
    VnetHeader {
        checksum,
        header_len,
        ..*header
    }
}

/// A veth device, unlike a TUN one, also takes SCTP packets without their checksum, which is of another kind than
/// [`Checksum::Partial`] speaks of.
fn finish_sctp(header: &mut VnetHeader, packet: &mut [u8]) {
    let Checksum::Partial { start, offset } = header.checksum else {
        return;
    };
    let protocol = match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(9),
        _ => packet.get(6),
    }
    .copied();
    let Some(content) = ip_len(packet).and_then(|len| packet.get_mut(usize::from(start)..len)) else {
        return;
    };
    let is_sctp = protocol == Some(SCTP) && usize::from(offset) == checksum::SCTP_FIELD.start;
    if is_sctp && checksum::finish_sctp(content).is_some() {
        header.checksum = Checksum::Complete;
    }
}

/// Bytes of an IP packet by its own word, which a frame may be longer than: Ethernet fills short ones up.
fn ip_len(packet: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        let bytes = packet.get(at..)?.first_chunk()?;
        Some(usize::from(u16::from_be_bytes(*bytes)))
    };
    match packet.first()? >> 4 {
        4 => number(2),
        _ => Some(40 + number(4)?),
    }
}

/// A TCP packet for [`PacketQueue::send_offloads`], from nobody to nobody (RFC 5737).
mod trial {
    /// Where TCP begins, and its checksum in it.
    pub(super) const TRANSPORT: u16 = 20;
    pub(super) const CHECKSUM: u16 = 16;
    /// Bytes of both headers.
    pub(super) const HEADERS: u16 = 40;
    /// Bytes of payload that a piece is to have.
    pub(super) const SEGMENT: u16 = 100;

    /// Two pieces. Its IP checksum is right, that of TCP is nobody's business.
    pub(super) fn packet() -> [u8; 240] {
        let mut packet = [0; 240];
        packet[..12].copy_from_slice(&[0x45, 0, 0, 240, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet[12..20].copy_from_slice(&[198, 51, 100, 1, 198, 51, 100, 2]);
        let sum = !crate::ones_complement_sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet[20..24].copy_from_slice(&[0, 9, 0, 9]);
        packet[32..34].copy_from_slice(&[0x50, 0x10]); // 20 bytes, ACK
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_other_kinds_are_no_packet_queue() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(
            PacketQueue::from_fd(file.into()).unwrap_err().raw_os_error(),
            Some(Errno::NOTSOCK.raw_os_error())
        );
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = PacketQueue::from_fd(socket.into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn offsets_count_from_the_packet_here_and_from_the_frame_there() {
        let header = VnetHeader {
            gso: Some(Gso {
                kind: GsoKind::TcpV4,
                ecn: false,
                segment: 1448,
            }),
            header_len: 52,
            ..VnetHeader::partial_checksum(20, 16)
        };
        let there = with_ethernet(&header);
        assert_eq!(
            there.checksum,
            Checksum::Partial {
                start: 34,
                offset: 16
            }
        );
        assert_eq!((there.header_len, there.gso), (66, header.gso));
        assert_eq!(without_ethernet(there), Some(header));
        assert_eq!(with_ethernet(&VnetHeader::default()), VnetHeader::default());
        assert_eq!(without_ethernet(VnetHeader::partial_checksum(13, 16)), None);
    }

    #[test]
    fn an_sctp_packet_gets_the_checksum_that_its_kernel_left_out() {
        let mut packet = vec![0; 20 + 32];
        packet[..4].copy_from_slice(&[0x45, 0, 0, 20 + 32]);
        packet[9] = SCTP;
        packet[20 + 8..20 + 12].fill(0xaa);
        let mut header = VnetHeader::partial_checksum(20, 8);
        finish_sctp(&mut header, &mut packet);
        assert_eq!(header.checksum, Checksum::Complete);
        assert_eq!(packet[28..32], 0x8a91_36aa_u32.to_le_bytes());

        // What fills a frame up is none of the packet.
        let mut padded = packet.clone();
        padded[28..32].fill(0);
        padded.extend([0xff; 8]);
        let mut header = VnetHeader::partial_checksum(20, 8);
        finish_sctp(&mut header, &mut padded);
        assert_eq!(padded[..52], packet[..]);
        // One that says to be longer than its frame is left to whoever drops it.
        padded[3] = 0xff;
        let mut header = VnetHeader::partial_checksum(20, 8);
        finish_sctp(&mut header, &mut padded);
        assert_eq!(header, VnetHeader::partial_checksum(20, 8));

        packet[9] = 6;
        let mut tcp = VnetHeader::partial_checksum(20, 16);
        let before = packet.clone();
        finish_sctp(&mut tcp, &mut packet);
        assert_eq!((tcp, packet), (VnetHeader::partial_checksum(20, 16), before));
    }

    #[test]
    fn the_length_of_a_packet_is_in_its_header() {
        let v6 = [&[0x60, 0, 0, 0, 0, 32][..], &[0; 66]].concat();
        assert_eq!(ip_len(&v6), Some(72));
        assert_eq!(ip_len(&trial::packet()), Some(240));
        assert_eq!((ip_len(&[0x45, 0, 0]), ip_len(&[])), (None, None));
    }
}
