//! TUN devices: creation, and one frame at a time in and out of a queue.
//!
//! A queue here is always layer 3 (`IFF_TUN`), without the packet-information prefix (`IFF_NO_PI`), with a
//! ten-byte [`VnetHeader`] before each frame (`IFF_VNET_HDR`), and non-blocking.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use smallvec::{SmallVec, smallvec};
use thiserror::Error;

use crate::VnetHeader;
use crate::frame::USUAL_PARTS;

/// Where distributions put the TUN device node.
pub const DEFAULT_TUN_DEVICE: &str = "/dev/net/tun";

/// Bytes of the largest frame: an IPv6 header and the largest payload length it can state (RFC 8200, section 3). A
/// buffer of this size never truncates a frame, whatever the device's MTU.
pub const MAX_FRAME: usize = 40 + 65_535;

/// Most queues of one device; the kernel's own limit is 256.
pub const MAX_QUEUES: u16 = 32;

/// Longest interface name, in bytes: `IFNAMSIZ` less the terminating zero.
const MAX_NAME: usize = 15;

/// What device to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunConfig<'a> {
    /// The device node, normally [`DEFAULT_TUN_DEVICE`].
    pub device: &'a Path,
    /// Name of the interface, 1 to 15 bytes.
    pub name: &'a str,
    /// Queues, 1 to [`MAX_QUEUES`]. More than one makes a multi-queue device, whose flows the kernel spreads by hash.
    pub queues: u16,
    /// The device outlives its queues and is removed as a link, or with its namespace. Asked for again by its name, it
    /// is attached to; while another process holds its only queue that is `EBUSY`, a [`TunError::Configure`].
    pub persist: bool,
    /// Asks for TCP super-packets, whose header says how to cut them ([`Gso`](crate::Gso)): for a reader that passes them
    /// on as they are, header and all.
    pub segmentation: bool,
}

impl<'a> TunConfig<'a> {
    /// A device of one queue that goes with it, and whose frames are packets as large as the MTU at most.
    #[must_use]
    pub fn new(device: &'a Path, name: &'a str) -> Self {
        Self {
            device,
            name,
            queues: 1,
            persist: false,
            segmentation: false,
        }
    }
}

/// A device that was made. Unless it is [persistent](TunConfig::persist), it lives as long as one of its queues is open
/// anywhere.
#[derive(Debug)]
pub struct Tun {
    /// All its queues, as many as were asked for.
    pub queues: Vec<TunQueue>,
    /// What the kernel agreed to leave undone.
    pub offloads: Offloads,
}

/// What the kernel leaves to the reader of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// TCP and UDP frames arrive with [`Checksum::Partial`](crate::Checksum::Partial).
    pub checksum: bool,
    /// TCP frames may be super-packets of up to 64 KiB, cut by whoever needs them smaller. Never without `checksum`.
    pub segmentation: bool,
}

/// Why there is no device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TunError {
    /// The name does not fit an interface.
    #[error("interface name {name:?} is not 1 to 15 bytes without '/', space or zero")]
    Name {
        /// The name asked for.
        name: String,
    },
    /// More queues than a device may have, or none.
    #[error("{queues} TUN queues asked for, expected 1 to {MAX_QUEUES}")]
    Queues {
        /// The number asked for.
        queues: u16,
    },
    /// The device node cannot be opened: missing, not readable by this user, or refused by a sandbox.
    #[error("opening the TUN device node {}: {source}", device.display())]
    Open {
        /// The node.
        device: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused one configuration step.
    #[error("{step} on TUN interface {name:?}: {source}")]
    Configure {
        /// The interface.
        name: String,
        /// The ioctl.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// One queue of a TUN device.
#[derive(Debug)]
pub struct TunQueue {
    fd: OwnedFd,
}

impl TunQueue {
    /// Adopts a queue that [`create_tun`] made here or in another process, and makes it non-blocking.
    ///
    /// # Errors
    /// The descriptor is no TUN queue with the flags this type needs (`InvalidInput`), or the kernel's own error.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let flags = ioctl::interface_flags(fd.as_fd())?;
        let wanted = ioctl::IFF_TUN | ioctl::IFF_NO_PI | ioctl::IFF_VNET_HDR;
        if flags & (wanted | ioctl::IFF_TAP) != wanted {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("TUN queue has flags {flags:#06x}, expected IFF_TUN, IFF_NO_PI and IFF_VNET_HDR"),
            ));
        }
        let status = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// Takes the next frame: `buffer` holds [`VnetHeader::LEN`] bytes of its header after, and then the frame. What it held
    /// before is gone; its memory is used again, and grows to what the largest frame needs.
    ///
    /// # Errors
    /// `WouldBlock` when the queue is empty; `InvalidData` when the kernel handed out a header we don't know (the
    /// frame is gone, the queue is fine); `EBADFD` when the device was removed.
    pub fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<VnetHeader> {
        buffer.clear();
        buffer.reserve(VnetHeader::LEN + MAX_FRAME);
        // One buffer for both, since only this way nothing has to be written before the kernel does.
        rustix::io::read(&self.fd, rustix::buffer::spare_capacity(buffer))?;
        let Some(header) = buffer.first_chunk() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "TUN frame shorter than its header",
            ));
        };
        VnetHeader::parse(header).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Hands one frame to the kernel, whole or not at all. It may be in parts, at most 1,000.
    ///
    /// # Errors
    /// `InvalidInput` when the header's offsets do not fit the frame, or the parts are too many; `WouldBlock` and `ENOBUFS`
    /// when the kernel has no room; `EIO` while the interface is down; `EBADFD` when the device was removed.
    pub fn send<'a>(&self, header: &VnetHeader, frame: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        let header = header.emit();
        let mut parts: SmallVec<[_; USUAL_PARTS]> = smallvec![IoSlice::new(&header)];
        for part in frame {
            parts.push(IoSlice::new(part));
        }
        let written = rustix::io::writev(&self.fd, &parts)?;
        // TUN takes a frame as one packet or refuses it.
        debug_assert_eq!(written, parts.iter().map(|part| part.len()).sum::<usize>());
        Ok(())
    }

    /// Hands a frame on as [`recv`](Self::recv) left it in its buffer, header and all: one that may be a super-packet, or
    /// lack its checksum, is still the kernel's to finish.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn forward(&self, buffer: &[u8]) -> io::Result<()> {
        let written = rustix::io::write(&self.fd, buffer)?;
        debug_assert_eq!(written, buffer.len());
        Ok(())
    }

    /// A second descriptor for the same queue: whoever reads first gets the frame.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
        })
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for TunQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<TunQueue> for OwnedFd {
    fn from(queue: TunQueue) -> Self {
        queue.fd
    }
}

/// Makes a TUN device in the caller's network namespace, down and without addresses.
///
/// Offloads are asked for and their refusal is not an error: see [`Tun::offloads`].
///
/// # Errors
/// [`TunError`]. Nothing is left behind: the device is made persistent last, and until then goes with its last queue.
pub fn create_tun(config: &TunConfig<'_>) -> Result<Tun, TunError> {
    let name = config.name;
    let valid = (1..=MAX_NAME).contains(&name.len())
        && !name
            .bytes()
            .any(|byte| byte == b'/' || byte == 0 || byte.is_ascii_whitespace());
    if !valid {
        return Err(TunError::Name {
            name: name.to_owned(),
        });
    }
    if !(1..=MAX_QUEUES).contains(&config.queues) {
        return Err(TunError::Queues {
            queues: config.queues,
        });
    }
    let queues = (0..config.queues)
        .map(|_| create_queue(config))
        .collect::<Result<Vec<_>, _>>()?;
    // Offloads and persistence belong to the device, not to the queue: any of them will do.
    let Some(any) = queues.first() else {
        return Err(TunError::Queues { queues: 0 });
    };
    let offloads = choose_offloads(any, config.segmentation);
    if config.persist {
        ioctl::set_persistent(any.as_fd()).map_err(refused(name, "TUNSETPERSIST"))?;
    }
    Ok(Tun { queues, offloads })
}

/// As much as was asked for and the kernel grants.
fn choose_offloads(queue: &TunQueue, segmentation: bool) -> Offloads {
    let granted = |features| ioctl::set_offload(queue.as_fd(), features).is_ok();
    if segmentation && granted(ioctl::TUN_F_CSUM | ioctl::TUN_F_TSO) {
        return Offloads {
            checksum: true,
            segmentation: true,
        };
    }
    Offloads {
        checksum: granted(ioctl::TUN_F_CSUM),
        segmentation: false,
    }
}

fn create_queue(config: &TunConfig<'_>) -> Result<TunQueue, TunError> {
    let open_flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(config.device, open_flags, Mode::empty()).map_err(|source| TunError::Open {
        device: config.device.to_owned(),
        source: source.into(),
    })?;
    let mut flags = ioctl::IFF_TUN | ioctl::IFF_NO_PI | ioctl::IFF_VNET_HDR;
    if config.queues > 1 {
        flags |= ioctl::IFF_MULTI_QUEUE;
    }
    ioctl::attach(fd.as_fd(), config.name, flags).map_err(refused(config.name, "TUNSETIFF"))?;
    ioctl::set_vnet_header_size(fd.as_fd(), VnetHeader::LEN as i32)
        .map_err(refused(config.name, "TUNSETVNETHDRSZ"))?;
    Ok(TunQueue { fd })
}

fn refused(name: &str, step: &'static str) -> impl FnOnce(Errno) -> TunError {
    move |source| TunError::Configure {
        name: name.to_owned(),
        step,
        source: source.into(),
    }
}

/// The five ioctls of TUN: all the `unsafe` of this crate.
#[expect(
    unsafe_code,
    reason = "no safe wrapper exists for the TUN ioctls with a choice of flags"
)]
mod ioctl {
    use std::os::fd::BorrowedFd;

    use rustix::io::Errno;
    use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};

    pub(super) const IFF_TUN: u16 = 0x0001;
    pub(super) const IFF_TAP: u16 = 0x0002;
    pub(super) const IFF_MULTI_QUEUE: u16 = 0x0100;
    pub(super) const IFF_NO_PI: u16 = 0x1000;
    pub(super) const IFF_VNET_HDR: u16 = 0x4000;
    pub(super) const TUN_F_CSUM: usize = 0x01;
    /// IPv4, IPv6, and segments with CWR.
    pub(super) const TUN_F_TSO: usize = 0x02 | 0x04 | 0x08;

    const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
    const TUNSETPERSIST: Opcode = opcode::write::<i32>(b'T', 203);
    const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
    const TUNGETIFF: Opcode = opcode::read::<u32>(b'T', 210);
    const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);

    /// `struct ifreq` as the TUN driver reads it: a name, then flags in a union of 24 bytes.
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }

    /// Makes the interface, or one more queue of it. `name` is at most 15 bytes.
    pub(super) fn attach(fd: BorrowedFd<'_>, name: &str, flags: u16) -> Result<(), Errno> {
        let mut request = InterfaceRequest {
            name: [0; 16],
            flags,
            rest: [0; 22],
        };
        let room = request.name.len() - 1;
        for (to, from) in request.name[..room].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        // SAFETY: TUNSETIFF reads and writes exactly one `struct ifreq` (40 bytes on 64-bit Linux), which
        // `InterfaceRequest` matches in size and layout; it outlives the call, and any bytes are valid in it.
        // JUSTIFICATION: rustix has no typed wrapper for it, and the `tun` crate opens a fixed path only.
        unsafe { ioctl(fd, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }
    }

    /// The flags that the queue's interface was made with.
    pub(super) fn interface_flags(fd: BorrowedFd<'_>) -> Result<u16, Errno> {
        let mut request = InterfaceRequest {
            name: [0; 16],
            flags: 0,
            rest: [0; 22],
        };
        // SAFETY: as for TUNSETIFF; the driver writes one `struct ifreq`. On a descriptor of another kind the
        // opcode is unknown and nothing is written.
        // JUSTIFICATION: a passed descriptor must be checked before its reads are taken for frames.
        unsafe { ioctl(fd, Updater::<TUNGETIFF, InterfaceRequest>::new(&mut request)) }?;
        Ok(request.flags)
    }

    /// Lets the interface outlive its queues.
    pub(super) fn set_persistent(fd: BorrowedFd<'_>) -> Result<(), Errno> {
        // SAFETY: TUNSETPERSIST takes its argument by value and touches no memory of ours.
        // JUSTIFICATION: no crate wraps it without also owning the descriptor.
        unsafe { ioctl(fd, IntegerSetter::<TUNSETPERSIST>::new_usize(1)) }
    }

    /// Chooses what the reader of the queue is ready to do itself (`TUN_F_*`).
    pub(super) fn set_offload(fd: BorrowedFd<'_>, features: usize) -> Result<(), Errno> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
        // JUSTIFICATION: no crate wraps it without also owning the descriptor.
        unsafe { ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(features)) }
    }

    /// Bytes of the virtio-net header on this queue.
    pub(super) fn set_vnet_header_size(fd: BorrowedFd<'_>, size: i32) -> Result<(), Errno> {
        // SAFETY: TUNSETVNETHDRSZ reads one `int` through the pointer, which `Setter` keeps alive for the call.
        // JUSTIFICATION: as above.
        unsafe { ioctl(fd, Setter::<TUNSETVNETHDRSZ, i32>::new(size)) }
    }

    const _: () = assert!(size_of::<InterfaceRequest>() == 40);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, queues: u16) -> TunConfig<'_> {
        TunConfig {
            device: Path::new("/nonexistent/tun"),
            name,
            queues,
            persist: false,
            segmentation: false,
        }
    }

    #[test]
    fn names_that_are_no_interface_are_refused_before_the_kernel_sees_them() {
        for name in ["", "a/b", "a b", "sixteen-bytes-xx"] {
            assert!(
                matches!(create_tun(&config(name, 1)), Err(TunError::Name { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn queue_numbers_are_bounded() {
        assert!(matches!(
            create_tun(&config("eth0", 0)),
            Err(TunError::Queues { queues: 0 })
        ));
        assert!(matches!(
            create_tun(&config("eth0", MAX_QUEUES + 1)),
            Err(TunError::Queues { .. })
        ));
    }

    #[test]
    fn a_missing_device_node_is_named() {
        let error = create_tun(&config("eth0", 1)).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tun"), "{error}");
    }

    #[test]
    fn a_descriptor_of_another_kind_is_no_queue() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(TunQueue::from_fd(file.into()).is_err());
    }
}
