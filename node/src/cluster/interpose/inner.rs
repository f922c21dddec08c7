//! What happens in P: a device of the agent's that takes the real interface's place, and gives it up again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use adit_link::LinkKind;
use adit_link::ethernet::MacAddress;

use super::devices::{Devices, kind_of};
use super::wires::End;
use super::{POD_LINK, Side, Tools, has_ipv6, settings, step};
use crate::cluster::failure::Failure;
use crate::cluster::journal::Entry;
use crate::cluster::{inspect, sandbox};
use crate::codes::Code;
use crate::link;
use crate::netlink::{Link, Lower};

/// The agent's end of the pair to P.
const AGENTS_END: &str = "pod";

/// Metric of the default routes through the agent's device: while the real interface's are there too, they win.
const LAST_RESORT: u32 = 4096;

/// Makes the device beside the real interface, under a name of its own, with the same addresses, unless it's there and a
/// sandbox has taken them. The process is in P. Returns its queue.
pub(super) fn substitute(
    pod: &mut Side,
    outer: &mut Side,
    devices: &mut Devices,
    entry: &Entry,
    tools: Tools<'_>,
) -> Result<Option<OwnedFd>, Failure> {
    (tools.on_step)(match devices.kind() {
        LinkKind::Packet => "pod-pair",
        LinkKind::Tun => "pod-tun",
    });
    let name = &entry.interface.name;
    let renamed = pod
        .find(name, true)
        .map_err(step("listing the pod's interfaces"))?;
    let current = if renamed.is_some() { name } else { POD_LINK };
    let end = End {
        name: current,
        agents: AGENTS_END,
        mac_address: mac_address(pod, outer, entry)?,
        mtu: entry.pod_mtu,
    };
    let queue = devices.second(pod, end, tools)?;
    if renamed.is_none() && has_ipv6() {
        settings(&[("ipv6/conf/adit0/addr_gen_mode", "1")])?;
    }
    if let Some(link) = renamed
        && sandbox::has_taken(&mut pod.netlink, &link).map_err(step(format!("looking at {current}")))?
    {
        return Ok(queue);
    }
    (tools.on_step)("pod-addresses");
    let index = pod
        .netlink
        .index(current)
        .map_err(step(format!("finding {current}")))?;
    bring_up(pod, index, devices.kind(), entry)
        .map_err(step(format!("giving {current} the pod's addresses")))?;
    Ok(queue)
}

/// The link address of the real interface, wherever it is; where it has none of Ethernet, one that is made of the pod's
/// first address.
fn mac_address(pod: &mut Side, outer: &mut Side, entry: &Entry) -> Result<MacAddress, Failure> {
    let real = match pod.real(entry)? {
        Some(real) => Some(real),
        None => outer.real(entry)?,
    };
    let first = entry.interface.addresses.first().map(|address| address.ip);
    let its_own = real.and_then(|real| real.mac_address);
    Ok(its_own.unwrap_or_else(|| link::mac_address(first)))
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

/// Gives the device the name that the real interface had, which is elsewhere now.
pub(super) fn take_name(pod: &mut Side, entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    (tools.on_step)("pod-rename");
    rename(pod, entry, POD_LINK, &entry.interface.name)
}

/// Refuses a pod whose sandbox reads the agent's device: with any other it would be without network.
pub(super) fn refuse_sandbox(pod: &mut Side, entry: &Entry) -> Result<(), Failure> {
    let name = &entry.interface.name;
    let ours = pod
        .find(name, true)
        .map_err(step("listing the pod's interfaces"))?;
    let Some(link) = ours else {
        return Ok(());
    };
    let looking = step(format!("looking at {name}"));
    match sandbox::has_taken(&mut pod.netlink, &link).map_err(looking)? {
        false => Ok(()),
        true => Err(Failure::new(
            Code::POD_SANDBOX,
            format!(
                "the pod's sandbox has a network stack of its own, on {name} as it is now: the pod stays behind the agent until it ends"
            ),
        )),
    }
}

/// Gives the device its own name again, so that the real interface can have its.
pub(super) fn give_up_name(pod: &mut Side, entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    (tools.on_step)("pod-rename-back");
    rename(pod, entry, &entry.interface.name, POD_LINK)
}

/// Gives the real interface, which has come back, all that it had, and then takes the agent's device away.
pub(super) fn restore(pod: &mut Side, entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    (tools.on_step)("pod-interface");
    let real = pod.real_here(entry)?;
    entry
        .interface
        .apply(&mut pod.netlink, real.index, true)
        .map_err(step(format!("configuring {} in the pod", real.name)))?;
    (tools.on_step)("delete-pod-device");
    match pod
        .find(POD_LINK, true)
        .map_err(step("listing the pod's interfaces"))?
    {
        Some(link) => pod
            .netlink
            .delete_link(link.index)
            .map_err(step(format!("deleting {POD_LINK}"))),
        None => Ok(()),
    }
}

/// Renames the agent's device, if it has the first of the names.
fn rename(pod: &mut Side, entry: &Entry, from: &str, to: &str) -> Result<(), Failure> {
    let Some(link) = pod
        .find(from, true)
        .map_err(step("listing the pod's interfaces"))?
    else {
        return Ok(());
    };
    let failed = || step::<io::Error>(format!("renaming {from} to {to}"));
    match pod.netlink.rename(link.index, to) {
        // Kernels before 6.2. Down, the link loses its routes and its IPv6 addresses.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            pod.netlink.set_down(link.index).map_err(failed())?;
            pod.netlink.rename(link.index, to).map_err(failed())?;
            bring_up(pod, link.index, kind_of(&link), entry).map_err(failed())
        }
        other => other.map_err(failed()),
    }
}

/// The pod's addresses, and everything that has no better way goes through here. What is there stays.
fn bring_up(pod: &mut Side, index: u32, kind: LinkKind, entry: &Entry) -> io::Result<()> {
    for address in &entry.interface.addresses {
        pod.netlink.ensure_bare_address(index, address)?;
    }
    pod.netlink.set_up(index, Some(entry.pod_mtu))?;
    let first = |v4: bool| {
        let mut addresses = entry.interface.addresses.iter().map(|address| address.ip);
        addresses.find(|ip| ip.is_ipv4() == v4)
    };
    for source in [first(true), first(false)].into_iter().flatten() {
        let gateway = link::gateway(kind, source);
        if let Some(gateway) = gateway {
            pod.netlink.set_neighbour(index, &link::neighbour(gateway))?;
        }
        pod.netlink
            .ensure_default_route(index, source, gateway, LAST_RESORT)?;
    }
    Ok(())
}
