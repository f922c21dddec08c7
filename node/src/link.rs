//! What carries a pod's packets: a TUN device, or a veth pair with a packet socket at its outer end.
//!
//! Either is made in the pod's network namespace, which the caller is in, down and without addresses. The outer end of a
//! pair is in a namespace of its own that nobody but the socket's holders keep: it goes with the last of them, and the
//! pair with it, as a TUN device does with its last queue.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use adit_link::ethernet::{GATEWAY, MacAddress};
use adit_link::{LinkKind, PacketError, TunConfig, TunError, create_tun, open_packet};
use nix::sched::CloneFlags;
use thiserror::Error;

use crate::codes::Code;
use crate::netlink::{Neighbour, Rtnetlink, VethEnd};
use crate::protocol::PodSpec;
use crate::sys;

/// The outer end of a pod's pair, alone in its namespace.
const OUTER_END: &str = "adit0";

/// Which kind of link pods are to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkChoice {
    /// A TUN device, or where none can be had a veth pair.
    #[default]
    Auto,
    /// One kind and no other.
    Only(LinkKind),
}

impl LinkChoice {
    /// The choice for a pod that needs an Ethernet interface, as sandboxes with a network stack of their own may.
    pub(crate) fn by_ethernet(self) -> Self {
        match self {
            Self::Auto => Self::Only(LinkKind::Packet),
            Self::Only(_) => self,
        }
    }
}

impl fmt::Display for LinkChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(kind) => kind.fmt(f),
        }
    }
}

impl FromStr for LinkChoice {
    type Err = InvalidLink;

    fn from_str(text: &str) -> Result<Self, InvalidLink> {
        let known = [
            Self::Auto,
            Self::Only(LinkKind::Packet),
            Self::Only(LinkKind::Tun),
        ];
        let found = known.into_iter().find(|choice| choice.to_string() == text);
        found.ok_or_else(|| InvalidLink {
            text: text.to_owned(),
        })
    }
}

/// A text that names no link.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no link, expected auto, packet or tun")]
pub struct InvalidLink {
    /// The text.
    pub text: String,
}

/// A link that was made.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) kind: LinkKind,
    pub(crate) queues: Vec<OwnedFd>,
    pub(crate) checksum_offload: bool,
    /// Bytes that may wait in each queue; `None` where the kernel counts frames instead.
    pub(crate) queue_bytes: Option<u32>,
    /// Why it isn't a TUN device, if that was to be tried first.
    pub(crate) instead_of: Option<TunError>,
}

/// Why there is none.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error(transparent)]
    Pair(#[from] PairError),
    #[error("neither a TUN device ({tun}) nor a veth pair ({pair})")]
    Neither { tun: TunError, pair: PairError },
}

/// Why there is no pair.
#[derive(Debug, Error)]
pub(crate) enum PairError {
    #[error("{step} for the outer end of a veth pair: {source}")]
    Namespace { step: &'static str, source: io::Error },
    #[error("{step} of a veth pair: {source}")]
    Pair { step: &'static str, source: io::Error },
    #[error(transparent)]
    Socket(#[from] PacketError),
}

impl LinkError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Tun(error) => tun_code(error),
            Self::Pair(error) => error.code(),
            Self::Neither { .. } => Code::NO_LINK,
        }
    }
}

impl PairError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Namespace { .. } => Code::NAMESPACES,
            Self::Pair { .. } => Code::VETH_PAIR,
            Self::Socket(PacketError::Open(_)) => Code::PACKET_OPEN,
            Self::Socket(_) => Code::PACKET_CONFIGURE,
        }
    }
}

/// Whether a refusal is about the link itself, and not about the rest of a pod.
pub(crate) fn is_of_link(code: Code) -> bool {
    [
        Code::TUN_OPEN,
        Code::TUN_CONFIGURE,
        Code::VETH_PAIR,
        Code::PACKET_OPEN,
        Code::PACKET_CONFIGURE,
        Code::LINK_SILENT,
    ]
    .contains(&code)
}

pub(crate) fn tun_code(error: &TunError) -> Code {
    match error {
        TunError::Open { .. } => Code::TUN_OPEN,
        _ => Code::TUN_CONFIGURE,
    }
}

impl Link {
    /// What to tell of a link that isn't the first choice.
    pub(crate) fn warning(&self) -> Option<String> {
        let error = self.instead_of.as_ref()?;
        let (code, why) = (Code::INSTEAD_OF_TUN, tun_code(error));
        Some(format!(
            "[{code}] packets go through a veth pair instead of a TUN device: {error} ({why})"
        ))
    }
}

/// Makes a pod's link of the chosen kind as `interface`.
pub(crate) fn make(
    choice: LinkChoice,
    tun_device: &Path,
    interface: &str,
    spec: &PodSpec,
) -> Result<Link, LinkError> {
    match choice {
        LinkChoice::Only(LinkKind::Packet) => Ok(make_pair(interface, spec)?),
        LinkChoice::Only(LinkKind::Tun) => Ok(make_tun(tun_device, interface, spec)?),
        LinkChoice::Auto => {
            let tun = match make_tun(tun_device, interface, spec) {
                Ok(link) => return Ok(link),
                Err(error) => error,
            };
            match make_pair(interface, spec) {
                Ok(link) => Ok(Link {
                    instead_of: Some(tun),
                    ..link
                }),
                Err(pair) => Err(LinkError::Neither { tun, pair }),
            }
        }
    }
}

fn make_tun(device: &Path, interface: &str, spec: &PodSpec) -> Result<Link, TunError> {
    let tun = create_tun(&TunConfig {
        queues: spec.queues,
        ..TunConfig::new(device, interface)
    })?;
    Ok(Link {
        kind: LinkKind::Tun,
        queues: tun.queues.into_iter().map(OwnedFd::from).collect(),
        checksum_offload: tun.offloads.checksum,
        queue_bytes: None,
        instead_of: None,
    })
}

/// Makes the pair from its outer end, since a packet socket belongs to the namespace in which it is made.
fn make_pair(interface: &str, spec: &PodSpec) -> Result<Link, PairError> {
    let pod = sys::open_namespace("net").map_err(|source| PairError::Namespace {
        step: "opening /proc/self/ns/net",
        source,
    })?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|error| PairError::Namespace {
        step: "creating a network namespace",
        source: error.into(),
    })?;
    let made = make_pair_here(pod.as_fd(), interface, spec);
    // Back in any case: the caller may have another kind of link to try, or something to say of the pod.
    nix::sched::setns(&pod, CloneFlags::CLONE_NEWNET).map_err(|error| PairError::Namespace {
        step: "coming back to the pod's network namespace",
        source: error.into(),
    })?;
    made
}

fn make_pair_here(
    pod: std::os::fd::BorrowedFd<'_>,
    interface: &str,
    spec: &PodSpec,
) -> Result<Link, PairError> {
    let failed = |step| move |source| PairError::Pair { step, source };
    silence_ipv6().map_err(failed("disabling IPv6 at the outer end"))?;
    let mut route = Rtnetlink::open().map_err(failed("opening an rtnetlink socket"))?;
    let address = mac_address(spec.addresses.first().map(|address| address.ip));
    let end = |name, segments| VethEnd {
        name,
        mac_address: address,
        mtu: spec.mtu,
        segments,
    };
    route
        .create_wire(&end(OUTER_END, None), &end(interface, Some(1)), pod)
        .map_err(failed("creation"))?;
    let index = route.index(OUTER_END).map_err(failed("finding the outer end"))?;
    route
        .set_up(index, None)
        .map_err(failed("bringing up the outer end"))?;
    let queues = open_packet(OUTER_END, spec.queues)?;
    let any = queues.first();
    let room = any.and_then(|queue| queue.receive_buffer().ok());
    Ok(Link {
        kind: LinkKind::Packet,
        // From the pod they are left out in any case.
        checksum_offload: any.is_some_and(|queue| queue.send_offloads().checksum),
        queues: queues.into_iter().map(OwnedFd::from).collect(),
        queue_bytes: room.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
        instead_of: None,
    })
}

/// Keeps IPv6 off the links of the network namespace that the process is in: an outer end is a wire, which has no address,
/// and nothing to say. Without IPv6 there is nothing to write, and in a container whose /proc/sys is read-only it can't be
/// written: then the kernel there announces itself to the pod, which doesn't answer.
pub(crate) fn silence_ipv6() -> io::Result<()> {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    for scope in ["all", "default"] {
        match fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1") {
            Err(error) if !matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem) => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// A pod's Ethernet address: locally administered, with the pod's first address in it, so that programs which make unique
/// names of it do so.
pub(crate) fn mac_address(first: Option<IpAddr>) -> MacAddress {
    let [a, b, c, d] = match first {
        Some(IpAddr::V4(ip)) => ip.octets(),
        Some(IpAddr::V6(ip)) => {
            let [.., a, b, c, d] = ip.octets();
            [a, b, c, d]
        }
        None => [0; 4],
    };
    MacAddress([0x0a, 0x61, a, b, c, d])
}

/// By whom a pod's default routes go: on a TUN device by nobody, since whatever goes into it comes out of the other end.
///
/// On Ethernet every destination would be a neighbour of its own, in a table that all of the machine's namespaces share.
pub(crate) fn gateway(kind: LinkKind, family: IpAddr) -> Option<IpAddr> {
    match (kind, family) {
        (LinkKind::Tun, _) => None,
        (LinkKind::Packet, IpAddr::V4(_)) => Some(Ipv4Addr::new(169, 254, 1, 1).into()),
        (LinkKind::Packet, IpAddr::V6(_)) => Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into()),
    }
}

/// The gateway as a neighbour that is known for good: it must not be forgotten while an agent is started again.
pub(crate) fn neighbour(gateway: IpAddr) -> Neighbour {
    Neighbour {
        ip: gateway,
        link_address: GATEWAY.0.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_ethernet_addresses_of_their_own_that_are_nobody_elses() {
        let of = |ip: &str| mac_address(ip.parse().ok());
        let address = of("10.77.0.2");
        assert_eq!(address.to_string(), "0a:61:0a:4d:00:02");
        assert_eq!(of("fd00::1:2").to_string(), "0a:61:00:01:00:02");
        // Locally administered, for one, and not the gateway's whatever the pod's address.
        assert!(address.0[0] & 3 == 2 && address.0[..2] != GATEWAY.0[..2]);
    }

    #[test]
    fn a_link_of_second_choice_says_so_with_both_codes() {
        let tun = TunError::Open {
            device: "/dev/net/tun".into(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        let link = Link {
            kind: LinkKind::Packet,
            queues: Vec::new(),
            checksum_offload: true,
            queue_bytes: None,
            instead_of: Some(tun),
        };
        let warning = link.warning().unwrap();
        for part in ["[ADIT-N044]", "(ADIT-N004)", "/dev/net/tun"] {
            assert!(warning.contains(part), "{warning}");
        }
    }

    #[test]
    fn a_choice_reads_back_from_what_it_shows() {
        for text in ["auto", "packet", "tun"] {
            let choice = text.parse::<LinkChoice>().unwrap();
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("auto".parse(), Ok(LinkChoice::default()));
        assert!("TUN".parse::<LinkChoice>().is_err());
    }

    #[test]
    fn each_step_has_a_code() {
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let pair = || PairError::Pair {
            step: "creation",
            source: refused(),
        };
        let tun = TunError::Open {
            device: "/dev/net/tun".into(),
            source: refused(),
        };
        let neither = LinkError::Neither { tun, pair: pair() };
        let socket = PairError::from(PacketError::Open(refused()));
        let codes = [
            neither.code(),
            LinkError::from(pair()).code(),
            LinkError::from(socket).code(),
        ];
        assert_eq!(codes, [Code::NO_LINK, Code::VETH_PAIR, Code::PACKET_OPEN]);
        let text = neither.to_string();
        assert!(text.contains("/dev/net/tun") && text.contains("veth"), "{text}");
    }
}
