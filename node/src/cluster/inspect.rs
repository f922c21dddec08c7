//! Finds a pod's network namespace and its interface, and writes down what that interface has. Changes nothing.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use adit_link::ethernet::GATEWAY;

use super::failure::{Failure, refused};
use super::interface::Interface;
use super::namespace::{self, Identity};
use super::sandbox;
use super::task::{self, Output};
use crate::codes::Code;
use crate::netlink::{Link, Lower, Neighbour, Rtnetlink};
use crate::protocol::codec::{Reader, Writer};
use crate::protocol::{InvalidMessage, MAX_PATH};

const FOUND: u8 = 65;

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// In one namespace, for the interface of this name: the runtime says so.
    At { path: &'a Path, interface: &'a str },
    /// In all that are mounted in a folder, for the interface that has all of the addresses.
    Among {
        folder: &'a Path,
        addresses: &'a [IpAddr],
        /// Namespaces of pods that are behind the agent already: they are not looked into.
        known: &'a [Identity],
    },
}

/// A pod's real interface, where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) namespace: PathBuf,
    pub(super) identity: Identity,
    pub(super) interface: Interface,
}

/// Looks, in a process of its own.
pub(super) fn run(place: Place<'_>) -> Result<Found, Failure> {
    let output = task::run(|| {
        Ok(Output {
            bytes: look(place)?.encode(),
            ..Output::default()
        })
    })?;
    Found::decode(&output.bytes)
        .map_err(|error| Failure::new(Code::PROTOCOL, format!("what was found of a pod: {error}")))
}

fn look(place: Place<'_>) -> Result<Found, Failure> {
    let home = namespace::identity_at(Path::new("/proc/self/ns/net"));
    match place {
        Place::At { path, interface } => {
            let wanted = |link: &Link, _: &[IpAddr]| link.name == interface;
            look_at(path, home, wanted)?.ok_or_else(|| {
                Failure::new(
                    Code::POD_NAMESPACE,
                    format!("{} has no interface {interface}", path.display()),
                )
            })
        }
        Place::Among {
            folder,
            addresses,
            known,
        } => search(folder, home, addresses, known),
    }
}

/// The one namespace of the folder that has all of the addresses on one interface.
///
/// A pod that may configure its own network can give itself another's address. So it is found twice then, and neither is
/// taken for the other. One that is behind the agent already can't even get in the way.
fn search(
    folder: &Path,
    home: Option<Identity>,
    addresses: &[IpAddr],
    known: &[Identity],
) -> Result<Found, Failure> {
    let failed = || refused::<io::Error>(Code::POD_NAMESPACE, format!("listing {}", folder.display()));
    let list = addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    let wanted =
        |link: &Link, its: &[IpAddr]| !link.loopback && addresses.iter().all(|address| its.contains(address));
    let mut found = None::<Found>;
    for file in fs::read_dir(folder).map_err(failed())? {
        let path = file.map_err(failed())?.path();
        if namespace::identity_at(&path).is_some_and(|identity| known.contains(&identity)) {
            continue;
        }
        match (look_at(&path, home, wanted), &found) {
            // One namespace may be mounted twice.
            (Ok(Some(another)), Some(first)) if another.identity != first.identity => {
                let (first, another) = (first.namespace.display(), another.namespace.display());
                return Err(Failure::new(
                    Code::POD_NAMESPACE,
                    format!("both {first} and {another} have {}", list.join(" and ")),
                ));
            }
            (Ok(Some(another)), None) => found = Some(another),
            (Err(failure), _) if failure.code == Code::POD_INTERFACE => return Err(failure),
            // Not its own, or one that goes while we look.
            (Ok(_) | Err(_), _) => {}
        }
    }
    found.ok_or_else(|| {
        let missing = format!("no namespace in {} has {}", folder.display(), list.join(" and "));
        match sandboxed(folder, home, known) {
            None => Failure::new(Code::POD_NAMESPACE, missing),
            Some((path, interface)) => Failure::new(
                Code::POD_SANDBOX,
                format!(
                    "{missing}; {interface} of {} has no address and is read by a packet socket, as of a pod whose sandbox has a network stack of its own: one that runs can't join",
                    path.display()
                ),
            ),
        }
    })
}

/// A namespace of the folder whose sandbox has taken over an interface. Which of its addresses that had, nobody can see.
fn sandboxed(folder: &Path, home: Option<Identity>, known: &[Identity]) -> Option<(PathBuf, String)> {
    let is_elsewhere = |identity| home != Some(identity) && !known.contains(&identity);
    let taken_in = |path: PathBuf| {
        let (file, _) = namespace::at(&path)
            .ok()?
            .filter(|(_, identity)| is_elsewhere(*identity))?;
        namespace::enter(&file).ok()?;
        let mut netlink = Rtnetlink::open().ok()?;
        let links = netlink.links().ok()?;
        let mut taken = links
            .into_iter()
            .filter(|link| !link.loopback && sandbox::has_taken(&mut netlink, link).unwrap_or(false));
        taken.next().map(|link| (path, link.name))
    };
    fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|file| file.path())
        .find_map(taken_in)
}

fn look_at(
    path: &Path,
    home: Option<Identity>,
    wanted: impl Fn(&Link, &[IpAddr]) -> bool,
) -> Result<Option<Found>, Failure> {
    let failed = |what: &str| refused::<io::Error>(Code::POD_NAMESPACE, format!("{what} {}", path.display()));
    let Some((file, identity)) = namespace::at(path).map_err(failed("opening"))? else {
        return Err(Failure::new(
            Code::POD_NAMESPACE,
            format!("{} is no namespace", path.display()),
        ));
    };
    // Some runtimes name namespaces by processes, whose numbers are others' in the helper's container; and whoever asks
    // for an address may ask for the node's. The node's own interface is nobody's to move.
    if home == Some(identity) {
        return Err(Failure::new(
            Code::POD_NAMESPACE,
            format!("{} is the node's own network namespace", path.display()),
        ));
    }
    namespace::enter(&file).map_err(failed("entering"))?;
    let mut netlink = Rtnetlink::open().map_err(failed("opening an rtnetlink socket in"))?;
    let links = netlink.links().map_err(failed("listing the interfaces of"))?;
    let addresses = netlink.addresses().map_err(failed("listing the addresses of"))?;
    let chosen = links.iter().find(|link| {
        let its = addresses.iter().filter(|(index, _)| *index == link.index);
        let its = its.map(|(_, address)| address.ip).collect::<Vec<_>>();
        wanted(link, &its)
    });
    let Some(link) = chosen else {
        return Ok(None);
    };
    if link.is_tun() {
        return Err(behind_already(link, path, "a TUN device"));
    }
    let lower = Lower {
        index: link.index,
        namespace: None,
    };
    if let Some(upper) = links.iter().find(|other| other.lower == Some(lower)) {
        return Err(stands_on(&upper.name, &link.name));
    }
    let interface = Interface::of(link, &mut netlink).map_err(refused(
        Code::POD_INTERFACE,
        format!("reading {} of {}", link.name, path.display()),
    ))?;
    if interface.addresses.is_empty() {
        return Err(Failure::new(
            Code::POD_INTERFACE,
            format!("{} of {} has no address", link.name, path.display()),
        ));
    }
    let by_us = |neighbour: &Neighbour| neighbour.link_address == GATEWAY.0;
    if interface.neighbours.iter().any(by_us) {
        return Err(behind_already(link, path, "the end of an agent's veth pair"));
    }
    Ok(Some(Found {
        namespace: path.to_owned(),
        identity,
        interface,
    }))
}

/// A pod that another agent has, or ours by a journal that is lost.
fn behind_already(link: &Link, path: &Path, kind: &str) -> Failure {
    Failure::new(
        Code::POD_INTERFACE,
        format!(
            "{} of {} is {kind}, so the pod is behind an agent already, but not by this helper's journal",
            link.name,
            path.display()
        ),
    )
}

/// An interface that goes round the one that is to be taken away: what it sends doesn't pass the routes of its namespace.
pub(super) fn stands_on(upper: &str, lower: &str) -> Failure {
    Failure::new(
        Code::POD_INTERFACE,
        format!(
            "{upper} stands on {lower} and would go round the agent; a pod with other interfaces on its own can't join"
        ),
    )
}

impl Found {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::open(FOUND);
        writer.content(self.namespace.as_os_str().as_bytes());
        writer.u64(self.identity.device);
        writer.u64(self.identity.inode);
        self.interface.write(&mut writer);
        writer.close()
    }

    fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let (kind, mut reader) = Reader::open(bytes)?;
        if kind != FOUND {
            return Err(InvalidMessage::Kind { kind });
        }
        let found = Self {
            namespace: OsStr::from_bytes(reader.content("path", MAX_PATH)?).into(),
            identity: Identity {
                device: reader.u64("device")?,
                inode: reader.u64("inode")?,
            },
            interface: Interface::read(&mut reader)?,
        };
        reader.close()?;
        Ok(found)
    }
}
