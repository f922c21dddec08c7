//! A pod's queue, whichever kind of device is behind it.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, sockopt};

use crate::packet::FromPod;
use crate::{Checksum, Frame, PacketQueue, TunQueue, VnetHeader, checksum};

/// What carries a pod's packets to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// A veth pair with a packet socket at its outer end.
    Packet,
    /// A TUN device.
    Tun,
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packet => "packet",
            Self::Tun => "tun",
        })
    }
}

/// One queue of a pod's device: packets with their virtio-net headers, of either kind of device the same.
#[derive(Debug)]
pub struct Queue {
    device: Device,
    /// The kernel refused to sum what it was handed: since then it gets packets with their sums.
    sums: Cell<bool>,
    counters: Cell<QueueCounters>,
}

#[derive(Debug)]
enum Device {
    Packet(PacketQueue),
    Tun(TunQueue),
}

/// What a queue has counted since it was adopted; what overflowed while nobody read it is in its first count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueCounters {
    /// Questions about addresses that were answered.
    pub questions_answered: u64,
    /// Talk of the link that needed no answer.
    pub asides: u64,
    /// Frames that were none of the link's.
    pub invalid: u64,
    /// Frames of the pod that found no room in the queue, as far as the kernel tells: TUN devices keep that to themselves.
    pub overflowed: u64,
    /// Packets to the pod that the kernel didn't take: it had no room, mostly.
    pub refused: u64,
    /// Packets to the pod that were summed here because the kernel refused to.
    pub summed: u64,
    /// Frames of the pod that the kernel could not describe, and dropped: super-packets of a kind that its virtio-net
    /// headers don't know.
    pub undescribed: u64,
}

/// How [`Queue::send`] went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// As ever.
    Usual,
    /// The kernel refused, for the first time, to finish the checksum, and took the packet with it finished: so it gets all
    /// of them from here on.
    OffloadDropped,
}

impl Queue {
    /// Adopts the queue of a TUN device, or a packet socket.
    ///
    /// # Errors
    /// As [`TunQueue::from_fd`] and [`PacketQueue::from_fd`].
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let is_packet = sockopt::socket_domain(&fd).is_ok_and(|domain| domain == AddressFamily::PACKET);
        let device = match is_packet {
            true => Device::Packet(PacketQueue::from_fd(fd)?),
            false => Device::Tun(TunQueue::from_fd(fd)?),
        };
        Ok(Self {
            device,
            sums: Cell::default(),
            counters: Cell::default(),
        })
    }

    /// What it is a queue of.
    pub fn kind(&self) -> LinkKind {
        match self.device {
            Device::Packet(_) => LinkKind::Packet,
            Device::Tun(_) => LinkKind::Tun,
        }
    }

    /// Bytes that may wait in it, with the kernel's own notes on them; `None` where the kernel counts frames instead.
    pub fn room(&self) -> Option<usize> {
        match &self.device {
            Device::Packet(queue) => queue.receive_buffer().ok(),
            Device::Tun(_) => None,
        }
    }

    /// What it counted.
    pub fn counters(&self) -> QueueCounters {
        if let Device::Packet(queue) = &self.device {
            // A socket that can't say has none to tell of.
            let drops = queue.take_drops().unwrap_or_default();
            self.count(|counters| counters.overflowed += u64::from(drops));
        }
        self.counters.get()
    }

    /// Takes the next frame. `None` is one that was for the link, and is dealt with, or one that made no sense, and is
    /// counted.
    ///
    /// # Errors
    /// `WouldBlock` when the queue is empty; the kernel's own otherwise: the device was removed, or its outer end brought
    /// down.
    pub fn recv(&self, frame: &mut Frame) -> io::Result<Option<VnetHeader>> {
        let queue = match &self.device {
            Device::Tun(queue) => {
                return match frame.fill(0, |bytes| queue.recv(bytes)) {
                    Ok(header) => Ok(Some(header)),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        self.count(|counters| counters.invalid += 1);
                        Ok(None)
                    }
                    Err(error) => Err(error),
                };
            }
            Device::Packet(queue) => queue,
        };
        match queue.recv(frame) {
            Ok(FromPod::Packet(header)) => return Ok(Some(header)),
            Ok(FromPod::Question(answer)) => match queue.answer(&answer) {
                Ok(()) => self.count(|counters| counters.questions_answered += 1),
                Err(_) => self.count(|counters| counters.asides += 1), // it will be asked again
            },
            Ok(FromPod::Aside) => self.count(|counters| counters.asides += 1),
            Ok(FromPod::Invalid) => self.count(|counters| counters.invalid += 1),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.count(|counters| counters.undescribed += 1);
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// Hands one packet to the pod, whole or not at all. It may be in parts, at most 1,000.
    ///
    /// A kernel that refuses to finish the checksum is given the packet finished, now and from here on.
    ///
    /// # Errors
    /// `InvalidInput` when the header's offsets do not fit the packet, or the parts are too many; `WouldBlock` and `ENOBUFS`
    /// when the kernel has no room; the kernel's own otherwise.
    pub fn send<'a>(
        &self,
        header: &VnetHeader,
        packet: impl IntoIterator<Item = &'a [u8]> + Clone,
    ) -> io::Result<Sent> {
        let send = |header: &VnetHeader, whole: Option<&[u8]>| match whole {
            Some(whole) => self.device.send(header, [whole]),
            None => self.device.send(header, packet.clone()),
        };
        let whole = || packet.clone().into_iter().collect::<Vec<_>>().concat();
        let first = !self.sums.get();
        let sent = send_as_taken(header, &self.sums, whole, send);
        let sent = sent.inspect_err(|_| self.count(|counters| counters.refused += 1))?;
        if sent == Taken::Finished {
            self.count(|counters| counters.summed += 1);
        }
        Ok(match first && self.sums.get() {
            true => Sent::OffloadDropped,
            false => Sent::Usual,
        })
    }

    /// Hands a frame on as [`recv`](Self::recv) left it in its buffer ([`Frame::whole`]), of a queue of either kind: one
    /// that may be a super-packet, or lack its checksum, is still the kernel's to finish.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn forward(&self, frame: &[u8]) -> io::Result<Sent> {
        if let Device::Tun(queue) = &self.device {
            let forwarded = queue.forward(frame).map(|()| Sent::Usual);
            return forwarded.inspect_err(|_| self.count(|counters| counters.refused += 1));
        }
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let Some((header, packet)) = frame.split_first_chunk() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let header = VnetHeader::parse(header).map_err(invalid)?;
        self.send(&header, [packet])
    }

    fn count(&self, change: impl FnOnce(&mut QueueCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

impl Device {
    fn send<'a>(&self, header: &VnetHeader, packet: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        match self {
            Self::Packet(queue) => queue.send(header, packet),
            Self::Tun(queue) => queue.send(header, packet),
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.device {
            Device::Packet(queue) => queue.as_fd(),
            Device::Tun(queue) => queue.as_fd(),
        }
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// How a packet was taken in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    AsAsked,
    /// With its checksum finished here.
    Finished,
}

/// Sends a packet, or where the kernel `sums` nothing, or turns out not to, the `whole` of it with its checksum finished.
fn send_as_taken(
    header: &VnetHeader,
    sums: &Cell<bool>,
    whole: impl FnOnce() -> Vec<u8>,
    send: impl Fn(&VnetHeader, Option<&[u8]>) -> io::Result<()>,
) -> io::Result<Taken> {
    let partial = match header.checksum {
        // Of a super-packet each piece has a sum of its own.
        Checksum::Partial { start, offset } if header.gso.is_none() => Some((start, offset)),
        _ => None,
    };
    let Some((start, offset)) = partial else {
        return send(header, None).map(|()| Taken::AsAsked);
    };
    if !sums.get() {
        match send(header, None) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            other => return other.map(|()| Taken::AsAsked),
        }
    }
    let mut packet = whole();
    checksum::finish(&mut packet, start, offset).ok_or(io::ErrorKind::InvalidInput)?;
    let complete = VnetHeader {
        checksum: Checksum::Complete,
        ..*header
    };
    send(&complete, Some(&packet))?;
    // Not before: what is refused either way is refused for another reason.
    sums.set(true);
    Ok(Taken::Finished)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gso, GsoKind};

    /// A UDP packet in which the pseudo-header's sum is 0x1234.
    fn packet() -> Vec<u8> {
        let mut packet = vec![0; 30];
        packet[0] = 0x45;
        packet[26..28].copy_from_slice(&[0x12, 0x34]);
        packet[28..].copy_from_slice(b"hi");
        packet
    }

    /// A kernel that takes packets with their checksums only, and how often it was asked.
    fn refusing(asked: &Cell<usize>) -> impl Fn(&VnetHeader, Option<&[u8]>) -> io::Result<()> {
        |header, _| {
            asked.set(asked.get() + 1);
            match header.checksum {
                Checksum::Partial { .. } => Err(io::ErrorKind::InvalidInput.into()),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn an_offload_that_the_kernel_refuses_is_asked_for_once() {
        let (sums, asked) = (Cell::default(), Cell::default());
        let header = VnetHeader::partial_checksum(20, 6);
        for (times, expected) in [(2, Taken::Finished), (3, Taken::Finished)] {
            let taken = send_as_taken(&header, &sums, packet, refusing(&asked)).unwrap();
            assert_eq!((taken, asked.get(), sums.get()), (expected, times, true));
        }
    }

    #[test]
    fn what_is_sent_instead_has_its_checksum() {
        let sums = Cell::new(true);
        let mut finished = packet();
        checksum::finish(&mut finished, 20, 6).unwrap();
        let send = |header: &VnetHeader, whole: Option<&[u8]>| {
            assert_eq!((*header, whole), (VnetHeader::default(), Some(&finished[..])));
            Ok(())
        };
        let header = VnetHeader::partial_checksum(20, 6);
        assert_eq!(
            send_as_taken(&header, &sums, packet, send).unwrap(),
            Taken::Finished
        );
    }

    #[test]
    fn other_refusals_drop_no_offload() {
        let sums = Cell::default();
        let never = || unreachable!("nothing is summed");
        let header = VnetHeader::partial_checksum(20, 6);
        let full = |_: &VnetHeader, _: Option<&[u8]>| Err(io::ErrorKind::WouldBlock.into());
        let error = send_as_taken(&header, &sums, never, full).unwrap_err();
        assert_eq!((error.kind(), sums.get()), (io::ErrorKind::WouldBlock, false));
        // Refused with its sum as well.
        let invalid = |_: &VnetHeader, _: Option<&[u8]>| Err(io::ErrorKind::InvalidInput.into());
        assert!(send_as_taken(&header, &sums, packet, invalid).is_err());
        // And with offsets that can't be right.
        let outside = VnetHeader::partial_checksum(20, 60);
        assert!(send_as_taken(&outside, &sums, packet, refusing(&Cell::default())).is_err());
        assert!(!sums.get());
    }

    #[test]
    fn super_packets_and_complete_packets_are_not_touched() {
        let sums = Cell::new(true);
        let gso = VnetHeader {
            gso: Some(Gso {
                kind: GsoKind::TcpV4,
                ecn: false,
                segment: 1448,
            }),
            ..VnetHeader::partial_checksum(20, 16)
        };
        for header in [gso, VnetHeader::default()] {
            let never = || unreachable!("nothing is summed");
            let same = |sent: &VnetHeader, whole: Option<&[u8]>| {
                assert_eq!((*sent, whole), (header, None));
                Ok(())
            };
            assert_eq!(
                send_as_taken(&header, &sums, never, same).unwrap(),
                Taken::AsAsked
            );
        }
    }
}
