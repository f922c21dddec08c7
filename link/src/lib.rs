//! The devices that carry a pod's packets, and the sockets that carry the devices.
//!
//! * [`VnetHeader`]: the ten bytes before each frame of either kind, which let the kernel leave checksums to us and us to it.
//!   Pure.
//! * [`Queue`]: a pod's queue, read and written one packet at a time without a copy of our own. It is one of two kinds:
//!   * [`TunQueue`], of a TUN device. [`create_tun`] makes it in the caller's network namespace; needs `CAP_NET_ADMIN` there.
//!   * [`PacketQueue`], the outer end of a veth pair, where a TUN device can't be had or an Ethernet device is needed.
//!     [`open_packet`] opens it; needs `CAP_NET_RAW`. [`ethernet`] is what its pods say besides packets. Pure.
//! * [`SeqPacket`], [`SeqListener`]: bounded messages and file descriptors between the helper that makes devices
//!   and the agent that serves them.
//!
//! This is the crate where `unsafe` is allowed: for the five ioctls that TUN devices are configured with, for the options
//! and addresses of packet sockets, and for adopting an inherited descriptor by its number ([`inherit_descriptor`]). Every
//! descriptor is an [`OwnedFd`](std::os::fd::OwnedFd) from the system call on, and every one is close-on-exec.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "adit runs on Linux alone: it is made of network namespaces, TUN devices and packet sockets. \
     On macOS and Windows build and run it inside a Linux virtual machine or WSL 2; docs/platforms.md has the ways"
);

mod checksum;
pub mod ethernet;
mod frame;
mod inherit;
mod packet;
mod queue;
mod seqpacket;
mod tun;
mod vnet;

pub use checksum::ones_complement_sum;
pub use frame::Frame;
pub use inherit::inherit_descriptor;
pub use packet::{PACKET_BUFFER, PacketError, PacketQueue, SendOffloads, open_packet};
pub use queue::{LinkKind, Queue, QueueCounters, Sent};
pub use seqpacket::{MAX_DESCRIPTORS, PeerCredentials, ReceiveError, Received, SeqListener, SeqPacket};
pub use tun::{
    DEFAULT_TUN_DEVICE, MAX_FRAME, MAX_QUEUES, Offloads, Tun, TunConfig, TunError, TunQueue, create_tun,
};
pub use vnet::{Checksum, Gso, GsoKind, InvalidVnetHeader, VnetHeader};
