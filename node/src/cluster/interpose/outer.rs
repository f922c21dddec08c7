//! What happens in O: the namespace itself, its rules, and the real interface in it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::devices::{Devices, First};
use super::wires::End;
use super::{Side, Tools, WIRE_LINK, has_ipv6, settings, step};
use crate::cluster::failure::Failure;
use crate::cluster::journal::Entry;
use crate::link;
use crate::netlink::{IpFamily, LOCAL_TABLE, Link, Rtnetlink, Rule};

/// The agent's end of the pair to O.
const AGENTS_END: &str = "wire";

/// The table that sends what is for the pod to the agent.
const POD_TABLE: u8 = 101;

/// Istio's port for HBONE.
const HBONE_PORT: u16 = 15008;

/// Source ports of connections that agents make: `ip_local_port_range` of every O. A rule can't name port 65535, which is
/// the kernel's word for no port.
const AGENT_PORTS: std::ops::RangeInclusive<u16> = 61440..=65534;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Goes to the pod's O, which is made and pinned if there is none.
pub(super) fn namespace(pin: &Path) -> Result<Side, Failure> {
    Side::at(pin).map_err(step(format!("making the outer namespace {}", pin.display())))
}

/// Everything that has to be there before the interface comes. The process is in O. Returns the agent's device there.
pub(super) fn prepare(outer: &mut Side, entry: &Entry, tools: Tools<'_>) -> Result<First, Failure> {
    (tools.on_step)("outer-settings");
    let ipv6 = entry.interface.has_ipv6();
    settings(&[
        // First: it resets others.
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/accept_redirects", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/ip_local_port_range", "61440 65534"),
        // The agent has no capability and listens on the pod's ports, 80 too.
        ("ipv4/ip_unprivileged_port_start", "0"),
    ])?;
    if ipv6 {
        settings(&[
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv6/conf/all/accept_ra", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            // The address was the pod's before; nobody else has it.
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/all/forwarding", "1"),
        ])?;
    }
    let netlink = &mut outer.netlink;
    let loopback = netlink.index("lo").map_err(step("finding lo"))?;
    netlink.set_up(loopback, None).map_err(step("bringing lo up"))?;

    let first = Devices::first(
        outer,
        End {
            name: WIRE_LINK,
            agents: AGENTS_END,
            // Apart from the real interface's, which is here as well.
            mac_address: link::mac_address(entry.interface.addresses.first().map(|address| address.ip)),
            mtu: entry.interface.mtu,
        },
        tools,
    )?;
    let netlink = &mut outer.netlink;
    // What the agent writes into it comes from the pod's address, which is an address of O as well.
    settings(&[("ipv4/conf/out0/accept_local", "1")])?;
    if has_ipv6() {
        // No link-local address, which would only bring multicast listener reports.
        settings(&[("ipv6/conf/out0/addr_gen_mode", "1")])?;
    }
    let index = netlink.index(WIRE_LINK).map_err(step("finding out0"))?;
    netlink
        .set_up(index, Some(entry.interface.mtu))
        .map_err(step(format!(
            "bringing out0 up with an MTU of {}",
            entry.interface.mtu
        )))?;

    (tools.on_step)("outer-rules");
    for address in &entry.interface.addresses {
        let gateway = link::gateway(first.devices.kind(), address.ip);
        if let Some(gateway) = gateway {
            netlink
                .set_neighbour(index, &link::neighbour(gateway))
                .map_err(step("telling out0 its gateway"))?;
        }
        netlink
            .ensure_host_route(index, address.ip, gateway, POD_TABLE)
            .map_err(step(format!("routing {} to out0", address.ip)))?;
    }
    for family in families(ipv6) {
        make_rules(netlink, &entry.interface.name, family).map_err(step("adding a rule"))?;
    }
    for port in &entry.ports {
        open_port_rules(netlink, entry, *port, true)?;
    }
    Ok(first)
}

/// Makes or removes the rules that let connections to one port of the pod through to the kernel of O: agents' alone, but to
/// Istio's port everybody's, for ztunnel's own have any source port.
pub(in crate::cluster) fn open_port_rules(
    netlink: &mut Rtnetlink,
    entry: &Entry,
    port: u16,
    open: bool,
) -> Result<(), Failure> {
    for family in families(entry.interface.has_ipv6()) {
        let (priority, source_ports) = match port {
            HBONE_PORT => (10, None),
            _ => (12, Some(AGENT_PORTS)),
        };
        let rule = Rule {
            source_ports,
            destination_ports: Some(port..=port),
            ..to_kernel(&entry.interface.name, family, priority)
        };
        match open {
            true => netlink
                .ensure_rule(&rule)
                .map_err(step(format!("opening port {port}")))?,
            false => netlink
                .remove_rule(&rule)
                .map_err(step(format!("closing port {port}")))?,
        }
    }
    Ok(())
}

/// What comes in through the interface is for agents' sockets, or goes to the agent as packets.
fn make_rules(netlink: &mut Rtnetlink, interface: &str, family: IpFamily) -> io::Result<()> {
    // Answers to connections that the agent made.
    netlink.ensure_rule(&Rule {
        destination_ports: Some(AGENT_PORTS),
        ..to_kernel(interface, family, 11)
    })?;
    let protocols: &[u8] = match family {
        IpFamily::V4 => &[TCP, UDP, ICMP, SCTP],
        // ICMPv6 is how neighbours find each other; it stays with the kernel of O.
        IpFamily::V6 => &[TCP, UDP, SCTP],
    };
    for protocol in protocols {
        netlink.ensure_rule(&Rule {
            protocol: Some(*protocol),
            table: u32::from(POD_TABLE),
            ..to_kernel(interface, family, 20)
        })?;
    }
    // The rule of the host's own addresses is before all others by default, and would leave nothing to them.
    let local = |priority| Rule {
        family,
        priority,
        input: None,
        protocol: None,
        source_ports: None,
        destination_ports: None,
        table: LOCAL_TABLE,
    };
    netlink.ensure_rule(&local(100))?;
    netlink.remove_rule(&local(0))
}

/// A rule that leaves TCP packets from the interface to the kernel of O.
fn to_kernel(interface: &str, family: IpFamily, priority: u32) -> Rule<'_> {
    Rule {
        family,
        priority,
        input: Some(interface),
        protocol: Some(TCP),
        source_ports: None,
        destination_ports: None,
        table: LOCAL_TABLE,
    }
}

fn families(ipv6: bool) -> impl Iterator<Item = IpFamily> {
    [Some(IpFamily::V4), ipv6.then_some(IpFamily::V6)]
        .into_iter()
        .flatten()
}

/// Gives the interface, which has come, all that it had in the pod.
pub(super) fn receive(outer: &mut Side, entry: &Entry, tools: Tools<'_>) -> Result<Link, Failure> {
    (tools.on_step)("outer-interface");
    let real = outer.real_here(entry)?;
    // The main table only: no rule of O leads to another.
    let applied = entry.interface.apply(&mut outer.netlink, real.index, false);
    applied.map_err(step(format!("configuring {} in the outer namespace", real.name)))?;
    Ok(real)
}

/// Moves the interface back to the pod, if it is here.
pub(super) fn send_back(outer: &mut Side, entry: &Entry, pod: &OwnedFd) -> Result<(), Failure> {
    let Some(real) = outer.real(entry)? else {
        return Ok(());
    };
    let moved = outer.netlink.move_link(real.index, pod.as_fd());
    moved.map_err(step(format!("moving {} back to the pod", real.name)))
}

/// Deletes the pod's interface, if it is here and software made it: hardware goes back by itself when O ends.
pub(super) fn delete_interface(outer: &mut Side, entry: &Entry) -> Result<(), Failure> {
    let Some(real) = outer.real(entry)? else {
        return Ok(());
    };
    match outer.netlink.delete_link(real.index) {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => {
            Err(step(format!("deleting {}", real.name))(error))
        }
        _ => Ok(()),
    }
}

/// Deletes the agent's device in O: its queue ends. Sockets of the agent may keep the namespace for a while.
pub(super) fn dismantle(outer: &mut Side, tools: Tools<'_>) -> Result<(), Failure> {
    (tools.on_step)("dismantle");
    match outer
        .find(WIRE_LINK, true)
        .map_err(step("listing the interfaces of O"))?
    {
        Some(link) => outer
            .netlink
            .delete_link(link.index)
            .map_err(step("deleting out0")),
        None => Ok(()),
    }
}
