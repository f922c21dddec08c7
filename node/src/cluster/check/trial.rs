//! A pod of our own that joins and leaves as any other does.
//!
//! All of it happens in one process with a network and a mount namespace of its own, which play the node: whatever it made
//! there goes when it ends, however it ends. It has the capabilities that the helper keeps, and no other.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use adit_link::LinkKind;
use nix::sched::CloneFlags;
use rustix::mount::{MountPropagationFlags, mount_change};

use super::super::failure::{Failure, refused};
use super::super::inspect::{self, Place};
use super::super::members::{Gone, Ground, Members};
use super::super::protocol::{Family, Kind, PodRef};
use super::super::serve::Options;
use super::super::task::{self, Output};
use super::super::{interface::Interface, namespace};
use super::kept;
use crate::codes::Code;
use crate::link::LinkChoice;
use crate::netlink::Rtnetlink;
use crate::sys;

const UID: &str = "check";
const INTERFACE: &str = "eth0";
const PEER: &str = "check0";

/// Bytes, as pods have where the network of nodes isn't larger.
const MTU: u16 = 1500;

/// Addresses for documentation (RFC 5737, RFC 3849): they are reached from nowhere.
const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// A port that is opened and closed.
const PORT: u16 = 8080;

/// Whether the kernel has IPv6.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf").exists()
}

/// Has a pod join and leave, with its files in `folder`. `ADIT-N003` is about the namespaces, everything else about what
/// is done in them.
pub(super) fn run(options: &Options, folder: &Path, ipv6: bool) -> Result<(), Failure> {
    task::run(|| {
        become_node()?;
        let pod = Pod::make(folder, ipv6)?;
        join_and_leave(options, folder, &pod)?;
        Ok(Output::default())
    })
    .map(drop)
}

/// Leaves the machine for namespaces of our own, with what the helper would have.
fn become_node() -> Result<(), Failure> {
    let held = rustix::thread::capabilities(None).map_err(apart("reading capabilities"))?;
    sys::keep_capabilities(held.permitted & kept()).map_err(apart("dropping capabilities"))?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(apart("making a mount namespace"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(apart("keeping mounts to ourselves"))
}

/// Names the step of being apart from the machine that the kernel refused.
fn apart<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    refused(Code::NAMESPACES, what)
}

/// Names the step of making a pod that the kernel refused.
fn step<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    refused(Code::INTERPOSE, what)
}

/// A network namespace with one interface.
struct Pod {
    path: PathBuf,
    addresses: Vec<IpAddr>,
}

impl Pod {
    /// Does what a runtime and a CNI plugin do. The process is in the node's namespace afterwards.
    fn make(folder: &Path, ipv6: bool) -> Result<Self, Failure> {
        let path = folder.join("pod");
        namespace::create(&path).map_err(apart(format!(
            "pinning a network namespace at {}",
            path.display()
        )))?;
        let found = namespace::at(&path).map_err(apart(format!("opening {}", path.display())))?;
        let Some((inside, _)) = found else {
            let message = format!("{} is no namespace after it was mounted", path.display());
            return Err(Failure::new(Code::NAMESPACES, message));
        };
        let mut addresses = vec![V4];
        addresses.extend(ipv6.then_some(V6));
        if ipv6 {
            fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0")
                .map_err(step("setting net/ipv6/conf/all/disable_ipv6 to \"0\" in the pod"))?;
        }
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(apart("making a network namespace"))?;
        let mut node = Rtnetlink::open().map_err(step("opening an rtnetlink socket"))?;
        node.create_veth(INTERFACE, PEER).map_err(step("making a veth"))?;
        let peer = node.index(PEER).map_err(step("finding the veth"))?;
        node.set_up(peer, Some(MTU))
            .map_err(step("bringing the veth up"))?;
        let end = node.index(INTERFACE).map_err(step("finding the veth"))?;
        node.move_link(end, inside.as_fd())
            .map_err(step("moving the veth into the pod"))?;
        task::run(|| {
            namespace::enter(&inside)
                .and_then(|()| configure(&addresses))
                .map_err(step("giving the pod its addresses"))?;
            Ok(Output::default())
        })?;
        Ok(Self { path, addresses })
    }

    fn reference(&self) -> PodRef {
        PodRef {
            uid: UID.into(),
            namespace: UID.into(),
            name: UID.into(),
            addresses: self.addresses.clone(),
        }
    }

    fn place(&self) -> Place<'_> {
        Place::At {
            path: &self.path,
            interface: INTERFACE,
        }
    }
}

fn configure(addresses: &[IpAddr]) -> io::Result<()> {
    let mut netlink = Rtnetlink::open()?;
    let index = netlink.index(INTERFACE)?;
    netlink.set_up(index, Some(MTU))?;
    for address in addresses {
        let bits = if address.is_ipv4() { 24 } else { 64 };
        netlink.add_address(index, *address, bits)?;
        netlink.add_default_route(index, *address, None)?;
    }
    Ok(())
}

/// What the helper does for a pod from its first word to its last, journal included.
fn join_and_leave(options: &Options, folder: &Path, pod: &Pod) -> Result<(), Failure> {
    let before = inspect::run(pod.place())?;
    let ground = Ground {
        pins: folder.join("netns"),
        limit: 1,
        ..options.ground()
    };
    let (mut members, _) = Members::load(ground, folder.join("pods")).map_err(refused(
        Code::JOURNAL,
        format!("opening a journal in {}", folder.display()),
    ))?;
    members.join(&pod.reference(), pod.place(), "", options.link)?;
    if members.get(UID).is_none_or(|held| held.queues().is_none()) {
        let code = match options.link {
            LinkChoice::Only(LinkKind::Packet) => Code::PACKET_CONFIGURE,
            _ => Code::TUN_CONFIGURE,
        };
        return Err(Failure::new(
            code,
            "the pod's devices came without their two queues",
        ));
    }
    for address in &pod.addresses {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        members.sockets(UID, family, Kind::Tcp, 1)?;
    }
    members.set_port(UID, PORT, true)?;
    members.set_port(UID, PORT, false)?;
    if members.remove(UID)? != Gone::Left {
        return Err(Failure::new(
            Code::POD_NAMESPACE,
            "the pod's network namespace went away meanwhile",
        ));
    }
    let after = inspect::run(pod.place())?;
    match same(&before.interface, &after.interface) {
        true => Ok(()),
        false => Err(Failure::new(
            Code::INTERPOSE,
            format!(
                "after leaving, the pod's interface has {:?}, expected {:?}",
                after.interface, before.interface
            ),
        )),
    }
}

/// Whether an interface has what it had. Its routes are as many: some of the kernel's own come back as ours.
fn same(before: &Interface, after: &Interface) -> bool {
    (&before.name, before.mtu, &before.addresses, before.routes.len())
        == (&after.name, after.mtu, &after.addresses, after.routes.len())
}
