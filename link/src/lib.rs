//! The devices that carry a pod's packets, and the sockets that carry the devices.
//!
//! * [`VnetHeader`]: the ten bytes before each frame, which let the kernel leave checksums to us and us to it. Pure.
//! * [`TunQueue`]: one queue of a TUN device, read and written one frame at a time without a copy of our own.
//! * [`create_tun`]: makes such a device in the caller's network namespace; needs `CAP_NET_ADMIN` there.
//! * [`SeqPacket`], [`SeqListener`]: bounded messages and file descriptors between the helper that makes devices
//!   and the agent that serves them.
//!
//! This is the crate where `unsafe` is allowed: for the five ioctls that TUN devices are configured with, and for
//! adopting an inherited descriptor by its number ([`inherit_descriptor`]). Every descriptor is an [`OwnedFd`](std::os::fd::OwnedFd) from the system
//! call on, and every one is close-on-exec.

mod inherit;
mod seqpacket;
mod tun;
mod vnet;

pub use inherit::inherit_descriptor;
pub use seqpacket::{MAX_DESCRIPTORS, PeerCredentials, ReceiveError, Received, SeqListener, SeqPacket};
pub use tun::{
    DEFAULT_TUN_DEVICE, MAX_FRAME, MAX_QUEUES, Offloads, Tun, TunConfig, TunError, TunQueue, create_tun,
};
pub use vnet::{Checksum, Gso, GsoKind, InvalidVnetHeader, VnetHeader};
