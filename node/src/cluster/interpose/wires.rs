//! What happens in W: the agent's ends of a pod's two veth pairs, where no TUN devices are used.
//!
//! Both pairs lead from here, one to P and one to O. A packet socket sees what comes out of an end, and the kernel after it
//! would take what is addressed to the end as well: a program in P that may send frames of its own could have it routed.
//! So the ends are alone in a third namespace, which has no address, no route and no forwarding. It's pinned beside O, since a
//! pair, unlike a persistent TUN device, is nowhere without its namespaces.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use adit_link::ethernet::MacAddress;
use adit_link::{PacketQueue, open_packet};

use super::{Side, settings, step};
use crate::cluster::failure::{Failure, refused};
use crate::cluster::{namespace, sandbox};
use crate::codes::Code;
use crate::link::{PairError, silence_ipv6};
use crate::netlink::{Ethtool, VethEnd};

/// Super-packets that no virtio-net header tells apart from others, or none of a kernel before 6.2, and SCTP's checksum, which
/// none speaks of: the kernel finishes them before they leave the end. By the names of `ethtool -k`; all are as old as Linux
/// 5.10.
const UNDESCRIBED: [&str; 10] = [
    "tx-checksum-sctp",
    "tx-gre-csum-segmentation",
    "tx-gre-segmentation",
    "tx-gso-list",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-sctp-segmentation",
    "tx-udp-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "tx-udp_tnl-segmentation",
];

/// TCP super-packets, which pass as they are unless the kernel takes none from a packet socket.
const TCP: [&str; 4] = [
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
];

/// One end of a pair that is to be, in P or in O.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    /// Its name there.
    pub(super) name: &'a str,
    /// The name of the other one, in W.
    pub(super) agents: &'a str,
    /// Of both.
    pub(super) mac_address: MacAddress,
    /// Of both, in bytes.
    pub(super) mtu: u16,
}

/// Goes to the pod's W, which is made and pinned if there is none, and closed to everything.
pub(super) fn namespace(outer: &Path) -> Result<Side, Failure> {
    let side = Side::at(&pin(outer)).map_err(step("making the namespace of the agent's ends"))?;
    // A node forwards, and a new namespace does what the first one does.
    settings(&[("ipv4/ip_forward", "0")])?;
    silence_ipv6().map_err(step("disabling IPv6 for the agent's ends"))?;
    Ok(side)
}

/// The pod's W, if there is one.
pub(super) fn existing(outer: &Path) -> Result<Option<OwnedFd>, Failure> {
    super::existing(&pin(outer))
}

/// Takes W's pin away, if there is one.
pub(super) fn release(outer: &Path) -> io::Result<()> {
    namespace::release(&pin(outer))
}

/// Beside O's, under a name that is no pod's uid.
fn pin(outer: &Path) -> PathBuf {
    outer.with_extension("wires")
}

/// Makes a pair from W to `side`, unless there is one, and opens a packet socket on the agent's end. `None` when another
/// process has one, as an agent does that outlived the helper. The process is in `side`, before and after.
pub(super) fn connect(wires: &mut Side, side: &mut Side, end: End<'_>) -> Result<Option<OwnedFd>, Failure> {
    let there = side.find(end.name, true).map_err(step("listing interfaces"))?;
    if there.is_none() {
        let described = |name| VethEnd {
            name,
            mac_address: end.mac_address,
            mtu: end.mtu,
            segments: None,
        };
        wires
            .netlink
            .create_wire(
                &described(end.agents),
                &described(end.name),
                side.namespace.as_fd(),
            )
            .map_err(refused(
                Code::VETH_PAIR,
                format!("making the veth pair of {}", end.name),
            ))?;
    }
    namespace::enter(&wires.namespace).map_err(step("entering the namespace of the agent's ends"))?;
    let opened = open(wires, end.agents);
    namespace::enter(&side.namespace).map_err(step("leaving the namespace of the agent's ends"))?;
    let Some(queue) = opened? else {
        return Ok(None);
    };
    // What the socket would refuse must not come out of the other pair's end. They are of one kernel, which takes from both
    // sockets the same, so each answers for the other.
    let tcp = match queue.send_offloads().segmentation {
        true => &[][..],
        false => &TCP[..],
    };
    let index = side
        .netlink
        .index(end.name)
        .map_err(step(format!("finding {}", end.name)))?;
    Ethtool::open()
        .and_then(|mut ethtool| ethtool.turn_off(index, &[&UNDESCRIBED[..], tcp].concat()))
        .map_err(step(format!("turning off segmentation offloads of {}", end.name)))?;
    Ok(Some(queue.into()))
}

/// Brings an end up and opens a socket on it, unless somebody has one. The process is in W.
fn open(wires: &mut Side, name: &str) -> Result<Option<PacketQueue>, Failure> {
    let finding = || step::<io::Error>(format!("finding the agent's end {name}"));
    let index = wires.netlink.index(name).map_err(finding())?;
    wires
        .netlink
        .set_up(index, None)
        .map_err(step(format!("bringing up the agent's end {name}")))?;
    // Two sockets would see each packet, both.
    if sandbox::is_read(index).map_err(step("listing packet sockets in /proc/self/net/packet"))? {
        return Ok(None);
    }
    let opened = open_packet(name, 1).map_err(|error| {
        let error = PairError::from(error);
        Failure::new(error.code(), error.to_string())
    });
    Ok(opened?.into_iter().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_is_no_pods() {
        let pin = pin(Path::new("/run/adit/netns/0000-0002"));
        assert_eq!(pin, Path::new("/run/adit/netns/0000-0002.wires"));
        let name = pin.file_name().unwrap().to_str().unwrap();
        assert!(!crate::cluster::protocol::is_uid(name));
    }
}
