//! What happens in P: a TUN device that takes the real interface's place, and gives it up again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::{POD_TUN, Side, Tools, attach, has_ipv6, settings, step};
use crate::cluster::failure::Failure;
use crate::cluster::inspect;
use crate::cluster::interface::Interface;
use crate::cluster::journal::Entry;
use crate::netlink::{Link, Lower};

/// Metric of the default routes through the TUN device: while the real interface's are there too, they win.
const LAST_RESORT: u32 = 4096;

/// Makes the TUN device beside the real interface, under a name of its own, with the same addresses. The process is in P.
/// Returns its queue.
pub(super) fn substitute(
    pod: &mut Side,
    entry: &Entry,
    tools: Tools<'_>,
) -> Result<Option<OwnedFd>, Failure> {
    (tools.on_step)("pod-tun");
    let name = &entry.interface.name;
    let renamed = pod
        .find(name, true)
        .map_err(step("listing the pod's interfaces"))?;
    let queue = match &renamed {
        Some(_) => attach(tools.tun_device, name)?,
        None => {
            let queue = attach(tools.tun_device, POD_TUN)?;
            if has_ipv6() {
                settings(&[("ipv6/conf/adit0/addr_gen_mode", "1")])?;
            }
            queue
        }
    };
    (tools.on_step)("pod-addresses");
    let current = if renamed.is_some() { name } else { POD_TUN };
    let index = pod
        .netlink
        .index(current)
        .map_err(step(format!("finding {current}")))?;
    bring_up(pod, index, &entry.interface, entry.pod_mtu)
        .map_err(step(format!("giving {current} the pod's addresses")))?;
    Ok(queue)
}

/// Refuses a pod that has put another interface on its own after it was inspected. Now that the real one is elsewhere, no
/// other can be: so this look is the last.
pub(super) fn refuse_uppers(pod: &mut Side, outer: &Side, real: &Link) -> Result<(), Failure> {
    let listing = || step::<io::Error>("listing the pod's interfaces");
    // In this order: the kernel numbers a namespace when it lists a link that leads there.
    let links = pod.netlink.links().map_err(listing())?;
    let Some(namespace) = pod
        .netlink
        .number_of(outer.namespace.as_fd())
        .map_err(listing())?
    else {
        return Ok(());
    };
    let lower = Lower {
        index: real.index,
        namespace: Some(namespace),
    };
    match links.iter().find(|link| link.lower == Some(lower)) {
        Some(upper) => Err(inspect::stands_on(&upper.name, &real.name)),
        None => Ok(()),
    }
}

/// Gives the TUN device the name that the real interface had, which is elsewhere now.
pub(super) fn take_name(pod: &mut Side, entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    (tools.on_step)("pod-rename");
    rename(pod, entry, POD_TUN, &entry.interface.name)
}

/// Gives the TUN device its own name again, so that the real interface can have its.
pub(super) fn give_up_name(pod: &mut Side, entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    (tools.on_step)("pod-rename-back");
    rename(pod, entry, &entry.interface.name, POD_TUN)
}

/// Gives the real interface, which has come back, all that it had, and then takes the TUN device away.
pub(super) fn restore(pod: &mut Side, entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    (tools.on_step)("pod-interface");
    let real = pod.real_here(entry)?;
    entry
        .interface
        .apply(&mut pod.netlink, real.index, true)
        .map_err(step(format!("configuring {} in the pod", real.name)))?;
    (tools.on_step)("delete-pod-tun");
    match pod
        .find(POD_TUN, true)
        .map_err(step("listing the pod's interfaces"))?
    {
        Some(tun) => pod
            .netlink
            .delete_link(tun.index)
            .map_err(step(format!("deleting {POD_TUN}"))),
        None => Ok(()),
    }
}

/// Renames the TUN device, if it has the first of the names.
fn rename(pod: &mut Side, entry: &Entry, from: &str, to: &str) -> Result<(), Failure> {
    let Some(tun) = pod
        .find(from, true)
        .map_err(step("listing the pod's interfaces"))?
    else {
        return Ok(());
    };
    let failed = || step::<io::Error>(format!("renaming {from} to {to}"));
    match pod.netlink.rename(tun.index, to) {
        // Kernels before 6.2. Down, the link loses its routes and its IPv6 addresses.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            pod.netlink.set_down(tun.index).map_err(failed())?;
            pod.netlink.rename(tun.index, to).map_err(failed())?;
            bring_up(pod, tun.index, &entry.interface, entry.pod_mtu).map_err(failed())
        }
        other => other.map_err(failed()),
    }
}

/// The pod's addresses, and everything that has no better way goes through here. What is there stays.
fn bring_up(pod: &mut Side, index: u32, interface: &Interface, mtu: u16) -> io::Result<()> {
    for address in &interface.addresses {
        pod.netlink.ensure_bare_address(index, address)?;
    }
    pod.netlink.set_up(index, Some(mtu))?;
    let first = |v4: bool| {
        let mut addresses = interface.addresses.iter().map(|address| address.ip);
        addresses.find(|ip| ip.is_ipv4() == v4)
    };
    for source in [first(true), first(false)].into_iter().flatten() {
        pod.netlink.ensure_default_route(index, source, LAST_RESORT)?;
    }
    Ok(())
}
