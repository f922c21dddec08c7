//! Which devices stand between a pod's namespaces and the agent: TUN devices, or veth pairs where there are none.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use adit_link::{LinkKind, TunConfig, TunError, create_tun};

use super::wires::{self, End};
use super::{Side, Tools, WIRE_LINK, step};
use crate::cluster::failure::Failure;
use crate::codes::Code;
use crate::link::{LinkChoice, tun_code};
use crate::netlink::Link;

/// The devices of one pod: both are of one kind.
pub(super) enum Devices {
    /// Persistent TUN devices with one queue each.
    Tun,
    /// Pairs, whose other ends are here.
    Pairs(Side),
}

/// The first of them, the one in O.
pub(super) struct First {
    pub(super) devices: Devices,
    /// Unless another process holds it.
    pub(super) queue: Option<OwnedFd>,
    /// Why it isn't a TUN device, if that was tried.
    pub(super) instead_of: Option<Failure>,
}

impl Devices {
    pub(super) fn kind(&self) -> LinkKind {
        match self {
            Self::Tun => LinkKind::Tun,
            Self::Pairs(_) => LinkKind::Packet,
        }
    }

    /// Makes the device in O of the kind that was begun with, or else of the kind that is chosen. The process is in O.
    ///
    /// The kernel remembers the kind: a helper that comes back with another choice goes on with what there is.
    pub(super) fn first(outer: &mut Side, end: End<'_>, tools: Tools<'_>) -> Result<First, Failure> {
        let choice = if wires::existing(tools.pin)?.is_some() {
            LinkChoice::Only(LinkKind::Packet)
        } else if outer
            .find(WIRE_LINK, true)
            .map_err(step("listing the interfaces of O"))?
            .is_some()
        {
            LinkChoice::Only(LinkKind::Tun)
        } else {
            tools.link
        };
        let refusal = match choice {
            LinkChoice::Only(LinkKind::Packet) => return pairs(outer, end, tools),
            LinkChoice::Only(LinkKind::Tun) => return tun(end, tools),
            LinkChoice::Auto => match tun(end, tools) {
                Ok(first) => return Ok(first),
                Err(refusal) => refusal,
            },
        };
        match pairs(outer, end, tools) {
            Ok(first) => Ok(First {
                instead_of: Some(refusal),
                ..first
            }),
            Err(other) => Err(Failure::new(
                Code::NO_LINK,
                format!(
                    "neither a TUN device ({refusal}, {}) nor a veth pair ({other}, {})",
                    refusal.code, other.code
                ),
            )),
        }
    }

    /// Makes the one in `side`, which knows where pairs lead and where the process is, or takes hold of it. `None` when another
    /// process holds its queue.
    pub(super) fn second(
        &mut self,
        side: &mut Side,
        end: End<'_>,
        tools: Tools<'_>,
    ) -> Result<Option<OwnedFd>, Failure> {
        match self {
            Self::Tun => attach(tools.tun_device, end.name),
            Self::Pairs(wires) => wires::connect(wires, side, end),
        }
    }
}

/// What a link of ours is of.
pub(super) fn kind_of(link: &Link) -> LinkKind {
    match link.is_tun() {
        true => LinkKind::Tun,
        false => LinkKind::Packet,
    }
}

fn tun(end: End<'_>, tools: Tools<'_>) -> Result<First, Failure> {
    (tools.on_step)("wire-tun");
    Ok(First {
        devices: Devices::Tun,
        queue: attach(tools.tun_device, end.name)?,
        instead_of: None,
    })
}

fn pairs(outer: &mut Side, end: End<'_>, tools: Tools<'_>) -> Result<First, Failure> {
    (tools.on_step)("wires-namespace");
    let mut wires = wires::namespace(tools.pin)?;
    outer.knows(&wires)?;
    outer.go().map_err(step("coming back to the outer namespace"))?;
    (tools.on_step)("wire-pair");
    let queue = wires::connect(&mut wires, outer, end)?;
    Ok(First {
        devices: Devices::Pairs(wires),
        queue,
        instead_of: None,
    })
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
        Err(error) => Err(Failure::new(tun_code(&error), error.to_string())),
    }
}
