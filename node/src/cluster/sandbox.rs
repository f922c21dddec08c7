//! Pods whose sandbox has a network stack of its own, as gVisor's has.
//!
//! When it starts, such a sandbox takes the addresses off the interfaces that it finds in P, and has a packet socket on each,
//! by which it reads and writes frames itself. What becomes of P later it doesn't notice: another interface in the place
//! of that one is nobody's, and P's kernel, given an address, would answer for the pod, with resets. So such a pod joins
//! before its sandbox starts, and stays until it ends.
//!
//! It is known by what it leaves: an interface without an address, with a packet socket on it. Programs that capture packets
//! have a socket as well, and leave the addresses. A pod with `CAP_NET_ADMIN` and `CAP_NET_RAW` can look like one; all it gets
//! by that is to stay behind the agent.

use std::fs;
use std::io;

use crate::netlink::{Link, Rtnetlink};

/// Whether a sandbox has taken over a link of the namespace that the process is in.
pub(super) fn has_taken(netlink: &mut Rtnetlink, link: &Link) -> io::Result<bool> {
    let addresses = netlink.addresses()?;
    Ok(!addresses.iter().any(|(index, _)| *index == link.index) && is_read(link.index)?)
}

/// Whether a packet socket of the namespace that the process is in is bound to an interface.
pub(super) fn is_read(index: u32) -> io::Result<bool> {
    let sockets = fs::read_to_string("/proc/self/net/packet")?;
    Ok(is_bound(&sockets, index))
}

fn is_bound(sockets: &str, index: u32) -> bool {
    // sk RefCnt Type Proto Iface R Rmem User Inode
    let mut interfaces = sockets
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(4)?.parse::<u32>().ok());
    interfaces.any(|bound| bound == index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_sockets_are_told_by_the_interface_in_the_kernels_list() {
        let sockets = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                       ffff8ec841f2a000 3      3    0003   2     1 0      0      30433 \n\
                       0000000000000000 3      3    0003   12    1 4352   65532  30434 \n";
        assert!(is_bound(sockets, 2) && is_bound(sockets, 12));
        assert!(!is_bound(sockets, 1) && !is_bound(sockets, 3));
        assert!(!is_bound(sockets.lines().next().unwrap(), 2));
    }
}
