//! Puts the agent between a pod and its interface, and takes it away again.
//!
//! Every function here runs in a process of its own ([`task`](super::task)), goes to P and to O as it needs, and asks
//! the kernel before each step whether it was taken already: so any of them can be run again from the start after it was
//! interrupted anywhere. The order keeps two promises. Open connections of the pod keep their address: P always has it on
//! one of the two interfaces. And no packet meets a half-made O, which would answer with a reset: the rules are there
//! before the interface comes.

mod inner;
mod outer;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use adit_link::{TunConfig, TunError, create_tun};

use super::failure::{Failure, refused};
use super::journal::Entry;
use super::namespace;
use crate::codes::Code;
use crate::netlink::{Link, Rtnetlink};

pub(super) use outer::open_port_rules;

/// The TUN device in O.
pub(super) const WIRE_TUN: &str = "out0";

/// The TUN device in P while the real interface has its name there.
pub(super) const POD_TUN: &str = "adit0";

/// What the steps need besides the pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tools<'a> {
    /// Where O is pinned.
    pub(super) pin: &'a Path,
    /// The TUN device node.
    pub(super) tun_device: &'a Path,
    /// Called with the name of each step before it is taken.
    pub(super) on_step: fn(&'static str),
}

/// What a join leaves to the helper.
#[derive(Debug)]
pub(super) struct Interposed {
    pub(super) outer: OwnedFd,
    /// Each queue, unless another process holds it.
    pub(super) pod: Option<OwnedFd>,
    pub(super) wire: Option<OwnedFd>,
}

/// One of the two namespaces: to enter it, and to configure it without being there.
struct Side {
    namespace: OwnedFd,
    netlink: Rtnetlink,
}

impl Side {
    /// Enters a namespace and opens a socket there.
    fn enter(namespace: OwnedFd) -> io::Result<Self> {
        namespace::enter(&namespace)?;
        let netlink = Rtnetlink::open()?;
        Ok(Self { namespace, netlink })
    }

    /// The TUN device of this name, or the other kind of interface.
    fn find(&mut self, name: &str, tun: bool) -> io::Result<Option<Link>> {
        let links = self.netlink.links()?;
        Ok(links
            .into_iter()
            .find(|link| link.name == name && link.is_tun() == tun))
    }

    /// The pod's real interface, if it is on this side.
    fn real(&mut self, entry: &Entry) -> Result<Option<Link>, Failure> {
        self.find(&entry.interface.name, false)
            .map_err(step("listing interfaces"))
    }

    /// The same where it must be, after it was moved.
    fn real_here(&mut self, entry: &Entry) -> Result<Link, Failure> {
        self.real(entry)?.ok_or_else(|| {
            let nowhere = io::Error::other("it is neither in the pod nor in its outer namespace");
            step(format!("looking for {}", entry.interface.name))(nowhere)
        })
    }
}

/// Moves the pod's interface to O and puts a TUN device in its stead.
pub(super) fn join(entry: &Entry, tools: Tools<'_>) -> Result<Interposed, Failure> {
    let name = &entry.interface.name;
    if [WIRE_TUN, POD_TUN].contains(&name.as_str()) {
        return Err(Failure::new(
            Code::POD_INTERFACE,
            format!("the pod's interface is called {name}, which is a name that adit needs"),
        ));
    }
    let pod_namespace = pod_namespace(entry)?;
    (tools.on_step)("outer-namespace");
    let mut outer = outer::namespace(tools.pin)?;
    let wire = outer::prepare(&mut outer, entry, tools)?;
    let mut pod = Side::enter(pod_namespace).map_err(step("entering the pod's namespace"))?;
    let inner = inner::substitute(&mut pod, entry, tools)?;
    (tools.on_step)("move-out");
    if let Some(real) = pod.real(entry)? {
        pod.netlink
            .move_link(real.index, outer.namespace.as_fd())
            .map_err(step(format!("moving {name} out of the pod")))?;
    }
    let real = outer::receive(&mut outer, entry, tools)?;
    inner::refuse_uppers(&mut pod, &outer, &real)?;
    inner::take_name(&mut pod, entry, tools)?;
    (tools.on_step)("joined");
    Ok(Interposed {
        outer: outer.namespace,
        pod: inner,
        wire,
    })
}

/// Gives the pod its interface back and leaves nothing else, however far a join or an earlier attempt came.
pub(super) fn leave(entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    let mut pod = Side::enter(pod_namespace(entry)?).map_err(step("entering the pod's namespace"))?;
    let outer = outer::existing(tools.pin)?;
    inner::give_up_name(&mut pod, entry, tools)?;
    (tools.on_step)("move-back");
    let mut outer = match outer {
        Some(namespace) => Some(Side::enter(namespace).map_err(step("entering the outer namespace"))?),
        None => None,
    };
    if let Some(outer) = &mut outer {
        outer::send_back(outer, entry, &pod.namespace)?;
    }
    inner::restore(&mut pod, entry, tools)?;
    if let Some(outer) = &mut outer {
        outer::dismantle(outer, tools)?;
    }
    (tools.on_step)("release");
    release(tools.pin)
}

/// Clears away what is left of a pod whose own namespace is gone: its interface, for nobody else will, and O.
pub(super) fn clear(entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    if let Some(namespace) = outer::existing(tools.pin)? {
        let mut outer = Side::enter(namespace).map_err(step("entering the outer namespace"))?;
        (tools.on_step)("delete-interface");
        outer::delete_interface(&mut outer, entry)?;
        outer::dismantle(&mut outer, tools)?;
    }
    (tools.on_step)("release");
    release(tools.pin)
}

fn release(pin: &Path) -> Result<(), Failure> {
    namespace::release(pin).map_err(step(format!("releasing {}", pin.display())))
}

/// P, if it is still the one that the entry speaks of.
fn pod_namespace(entry: &Entry) -> Result<OwnedFd, Failure> {
    let path = entry.namespace.display();
    let found =
        namespace::at(&entry.namespace).map_err(refused(Code::POD_NAMESPACE, format!("opening {path}")))?;
    match found {
        Some((namespace, identity)) if identity == entry.identity => Ok(namespace),
        _ => Err(Failure::new(
            Code::POD_NAMESPACE,
            format!("the pod's network namespace is not at {path} any more"),
        )),
    }
}

/// Makes a TUN device in the namespace that the process is in, or attaches to the one of that name. `None` when another
/// process holds its queue, as an agent does that outlived the helper.
fn attach(device: &Path, name: &str) -> Result<Option<OwnedFd>, Failure> {
    let config = TunConfig {
        persist: true,
        segmentation: true,
        ..TunConfig::new(device, name)
    };
    match create_tun(&config) {
        Ok(tun) => Ok(tun.queues.into_iter().next().map(OwnedFd::from)),
        Err(TunError::Configure { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => Ok(None),
        Err(error @ TunError::Open { .. }) => Err(Failure::new(Code::TUN_OPEN, error.to_string())),
        Err(error) => Err(Failure::new(Code::TUN_CONFIGURE, error.to_string())),
    }
}

/// Names the step that the kernel refused.
fn step<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    refused(Code::INTERPOSE, what)
}

/// Writes settings of the network namespace that the process is in: `(path below /proc/sys/net, value)`.
fn settings(all: &[(&str, &str)]) -> Result<(), Failure> {
    for (name, value) in all {
        std::fs::write(Path::new("/proc/sys/net").join(name), value)
            .map_err(step(format!("setting net/{name} to {value:?}")))?;
    }
    Ok(())
}

/// Whether the kernel has IPv6 at all in the namespace that the process is in.
fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf").exists()
}
