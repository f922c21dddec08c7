//! The system calls of packet sockets that no crate wraps: all the `unsafe` of them.
#![expect(
    unsafe_code,
    reason = "no safe wrapper exists for the options and addresses of packet sockets"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc::{self, c_int, socklen_t};

use crate::ethernet::MacAddress;

/// Has frames come and go with a virtio-net header of ten bytes.
pub(super) fn set_vnet_header(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::PACKET_VNET_HDR, 1)
}

/// Keeps out what the outer namespace's own kernel sends.
pub(super) fn ignore_outgoing(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::PACKET_IGNORE_OUTGOING, 1)
}

/// Hands what is sent to the device at once. The queueing discipline, which a veth device doesn't need, is put in some
/// time after the other end came up, and until then drops everything.
pub(super) fn skip_queueing(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::PACKET_QDISC_BYPASS, 1)
}

pub(super) fn has_vnet_header(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(get(fd, libc::PACKET_VNET_HDR)? != [0])
}

/// Frames dropped since this was last asked (`struct tpacket_stats`).
pub(super) fn take_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let [_packets, drops] = get(fd, libc::PACKET_STATISTICS)?;
    Ok(drops)
}

/// Receives every frame of one device, and sends there.
pub(super) fn bind(fd: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: bind reads as many bytes as it is told, which is the size of what the pointer is of and outlives the call.
    // JUSTIFICATION: neither rustix nor nix can make a `sockaddr_ll`.
    let outcome = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as socklen_t,
        )
    };
    checked(outcome)
}

/// Shares the device's frames with the other sockets of the namespace that do so, by a hash of the flow.
pub(super) fn join_others(fd: BorrowedFd<'_>) -> io::Result<()> {
    const GROUP: c_int = 0;
    set(
        fd,
        libc::PACKET_FANOUT,
        GROUP | (libc::PACKET_FANOUT_HASH as c_int) << 16,
    )
}

/// The address of the Ethernet device that the socket is bound to.
pub(super) fn bound_to(fd: BorrowedFd<'_>) -> io::Result<Option<MacAddress>> {
    // SAFETY: all zeros are a valid `sockaddr_ll`, which is nothing but numbers.
    // JUSTIFICATION: it has no constructor, and naming its fields would say the same seven times.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as socklen_t;
    // SAFETY: getsockname writes at most `len` bytes, which is the size of what the pointer is of, and then `len`.
    // JUSTIFICATION: nix refuses an address that is shorter than the whole struct, as the kernel's is.
    let outcome = unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
    checked(outcome)?;
    let is_ethernet = address.sll_hatype == libc::ARPHRD_ETHER && address.sll_halen == 6;
    let [a, b, c, d, e, f, ..] = address.sll_addr;
    Ok((address.sll_ifindex > 0 && is_ethernet).then_some(MacAddress([a, b, c, d, e, f])))
}

fn set(fd: BorrowedFd<'_>, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: setsockopt reads one `int`, as it is told, which outlives the call.
    // JUSTIFICATION: no crate has the options of packet sockets.
    let outcome = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as socklen_t,
        )
    };
    checked(outcome)
}

/// An option that is `N` numbers.
fn get<const N: usize>(fd: BorrowedFd<'_>, option: c_int) -> io::Result<[u32; N]> {
    let mut value = [0_u32; N];
    let mut len = size_of_val(&value) as socklen_t;
    // SAFETY: getsockopt writes at most `len` bytes, which is the size of `value`, and any bytes are numbers. What it
    // leaves out stays as it was.
    // JUSTIFICATION: as above.
    let outcome = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    checked(outcome).map(|()| value)
}

fn checked(outcome: c_int) -> io::Result<()> {
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
