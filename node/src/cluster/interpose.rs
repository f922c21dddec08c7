//! Puts the agent between a pod and its interface, and takes it away again.
//!
//! Every function here runs in a process of its own ([`task`](super::task)), goes to P and to O as it needs, and asks
//! the kernel before each step whether it was taken already: so any of them can be run again from the start after it was
//! interrupted anywhere. The order keeps two promises. Open connections of the pod keep their address: P always has it on
//! one of the two interfaces. And no packet meets a half-made O, which would answer with a reset: the rules are there
//! before the interface comes.

mod devices;
mod inner;
mod outer;
mod wires;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::failure::{Failure, refused};
use super::journal::Entry;
use super::namespace;
use super::task::Output;
use crate::codes::Code;
use crate::link::LinkChoice;
use crate::netlink::{Link, Rtnetlink};
use crate::protocol::codec::{Reader, Writer};
use crate::protocol::{InvalidMessage, MAX_TEXT, cut};
use devices::Devices;

pub(super) use outer::open_port_rules;

/// The agent's device in O, as O's kernel sees it.
pub(super) const WIRE_LINK: &str = "out0";

/// The agent's device in P while the real interface has its name there.
pub(super) const POD_LINK: &str = "adit0";

/// The kind of message that a join ends with, apart from all on the sockets.
const INTERPOSED: u8 = 66;

/// What the steps need besides the pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tools<'a> {
    /// Where O is pinned.
    pub(super) pin: &'a Path,
    /// Which devices to take for a pod that has none yet.
    pub(super) link: LinkChoice,
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
    /// Why they are of veth pairs, if TUN devices were tried first.
    pub(super) instead_of: Option<Failure>,
}

impl Interposed {
    /// Whether both queues are here.
    pub(super) fn has_queues(&self) -> bool {
        self.pod.is_some() && self.wire.is_some()
    }

    /// As it's brought back from the process that took the steps.
    pub(super) fn into_output(self) -> Output {
        let mut writer = Writer::open(INTERPOSED);
        writer.u8(u8::from(self.pod.is_some()));
        writer.u8(u8::from(self.wire.is_some()));
        writer.u8(u8::from(self.instead_of.is_some()));
        if let Some(failure) = &self.instead_of {
            writer.u16(failure.code.to_wire());
            writer.text(cut(&failure.message, MAX_TEXT));
        }
        let queues = [self.pod, self.wire].into_iter().flatten();
        Output {
            bytes: writer.close(),
            descriptors: [self.outer].into_iter().chain(queues).collect(),
        }
    }

    /// Reads what [`into_output`](Self::into_output) wrote.
    pub(super) fn from_output(output: Output) -> Result<Self, InvalidMessage> {
        let mut descriptors = output.descriptors.into_iter();
        let mut take = |present: bool| match present {
            true => descriptors
                .next()
                .map(Some)
                .ok_or(InvalidMessage::Truncated { field: "descriptors" }),
            false => Ok(None),
        };
        let (kind, mut reader) = Reader::open(&output.bytes)?;
        if kind != INTERPOSED {
            return Err(InvalidMessage::Kind { kind });
        }
        let [pod, wire] = [reader.flag("pod queue")?, reader.flag("wire queue")?];
        let instead_of = match reader.flag("second choice")? {
            true => Some(Failure {
                code: Code::from_wire(reader.u16("code")?),
                message: reader.text("message", MAX_TEXT)?,
            }),
            false => None,
        };
        reader.close()?;
        let outer = take(true)?.ok_or(InvalidMessage::Truncated { field: "descriptors" })?;
        Ok(Self {
            outer,
            pod: take(pod)?,
            wire: take(wire)?,
            instead_of,
        })
    }
}

/// One of the pod's namespaces: to enter it, and to configure it without being there.
struct Side {
    namespace: OwnedFd,
    netlink: Rtnetlink,
    /// W, if there is one: what leads there is ours.
    wires: Option<OwnedFd>,
}

impl Side {
    /// Enters a namespace and opens a socket there.
    fn enter(namespace: OwnedFd, wires: Option<OwnedFd>) -> io::Result<Self> {
        namespace::enter(&namespace)?;
        let netlink = Rtnetlink::open()?;
        Ok(Self {
            namespace,
            netlink,
            wires,
        })
    }

    /// Goes to the namespace that is pinned there. It's made and pinned if there is none.
    fn at(pin: &Path) -> io::Result<Self> {
        if let Some((namespace, _)) = namespace::at(pin)? {
            return Self::enter(namespace, None);
        }
        namespace::create(pin)?;
        match namespace::at(pin)? {
            Some((namespace, _)) => Self::enter(namespace, None),
            None => Err(io::Error::other("what was mounted is no namespace")),
        }
    }

    /// Enters it again.
    fn go(&self) -> io::Result<()> {
        namespace::enter(&self.namespace)
    }

    /// Learns where pairs lead.
    fn knows(&mut self, wires: &Self) -> Result<(), Failure> {
        let same = wires.namespace.try_clone();
        self.wires = Some(same.map_err(refused(Code::DESCRIPTORS, "duplicating a namespace"))?);
        Ok(())
    }

    /// The interface of this name that is ours, or that isn't. A pod's programs can make none that is taken for ours but a
    /// TUN device: no other end of theirs is in W.
    fn find(&mut self, name: &str, ours: bool) -> io::Result<Option<Link>> {
        // In this order: the kernel numbers a namespace when it lists a link that leads there.
        let links = self.netlink.links()?;
        let wires = match &self.wires {
            Some(wires) => self.netlink.number_of(wires.as_fd())?,
            None => None,
        };
        let leads_to_wires = |link: &Link| {
            let leads_to = link.lower.and_then(|lower| lower.namespace);
            wires.is_some() && leads_to == wires
        };
        let is_ours = |link: &Link| link.is_tun() || leads_to_wires(link);
        Ok(links
            .into_iter()
            .find(|link| link.name == name && is_ours(link) == ours))
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

/// Moves the pod's interface to O and puts a device of the agent's in its stead.
pub(super) fn join(entry: &Entry, tools: Tools<'_>) -> Result<Interposed, Failure> {
    let name = &entry.interface.name;
    if [WIRE_LINK, POD_LINK].contains(&name.as_str()) {
        return Err(Failure::new(
            Code::POD_INTERFACE,
            format!("the pod's interface is called {name}, which is a name that adit needs"),
        ));
    }
    let pod_namespace = pod_namespace(entry)?;
    (tools.on_step)("outer-namespace");
    let mut outer = outer::namespace(tools.pin)?;
    let first = outer::prepare(&mut outer, entry, tools)?;
    let mut devices = first.devices;
    let mut pod = Side::enter(pod_namespace, None).map_err(step("entering the pod's namespace"))?;
    if let Devices::Pairs(wires) = &devices {
        pod.knows(wires)?;
    }
    let inner = inner::substitute(&mut pod, &mut outer, &mut devices, entry, tools)?;
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
        wire: first.queue,
        instead_of: first.instead_of,
    })
}

/// Refuses a pod that can't leave while it runs.
pub(super) fn expect_leavable(entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    let wires = wires::existing(tools.pin)?;
    let mut pod = Side::enter(pod_namespace(entry)?, wires).map_err(step("entering the pod's namespace"))?;
    inner::refuse_sandbox(&mut pod, entry)
}

/// Gives the pod its interface back and leaves nothing else, however far a join or an earlier attempt came.
pub(super) fn leave(entry: &Entry, tools: Tools<'_>) -> Result<(), Failure> {
    let wires = wires::existing(tools.pin)?;
    let ours = || duplicate(wires.as_ref());
    let mut pod =
        Side::enter(pod_namespace(entry)?, ours()?).map_err(step("entering the pod's namespace"))?;
    let outer = existing(tools.pin)?;
    inner::give_up_name(&mut pod, entry, tools)?;
    (tools.on_step)("move-back");
    let mut outer = match outer {
        Some(namespace) => {
            Some(Side::enter(namespace, ours()?).map_err(step("entering the outer namespace"))?)
        }
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
    if let Some(namespace) = existing(tools.pin)? {
        let wires = wires::existing(tools.pin)?;
        let mut outer = Side::enter(namespace, wires).map_err(step("entering the outer namespace"))?;
        (tools.on_step)("delete-interface");
        outer::delete_interface(&mut outer, entry)?;
        outer::dismantle(&mut outer, tools)?;
    }
    (tools.on_step)("release");
    release(tools.pin)
}

/// O's pin last: without it nobody would look for W's.
fn release(pin: &Path) -> Result<(), Failure> {
    wires::release(pin)
        .and_then(|()| namespace::release(pin))
        .map_err(step(format!("releasing {}", pin.display())))
}

/// The namespace that is pinned there, if there is one.
fn existing(pin: &Path) -> Result<Option<OwnedFd>, Failure> {
    let found = namespace::at(pin).map_err(step(format!("opening {}", pin.display())))?;
    Ok(found.map(|(namespace, _)| namespace))
}

fn duplicate(namespace: Option<&OwnedFd>) -> Result<Option<OwnedFd>, Failure> {
    let same = namespace.map(OwnedFd::try_clone).transpose();
    same.map_err(refused(Code::DESCRIPTORS, "duplicating a namespace"))
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
