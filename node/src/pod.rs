//! Making one pod, in a process of its own.
//!
//! A child makes the namespaces by leaving the helper's, sets everything up from inside, sends the descriptors back
//! and ends. So the helper itself never changes namespace, a failure at any step leaves nothing to undo (the kernel
//! drops what no descriptor or process holds), and a step that hangs can be killed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags};
use thiserror::Error;

use crate::codes::Code;
use crate::link::{self, Link, LinkChoice, LinkError};
use crate::netlink::Rtnetlink;
use crate::protocol::{PodFile, PodInfo, PodSpec};
use crate::sys;

/// The pod's only interface besides the loopback.
const INTERFACE: &str = "eth0";

/// Where the C library's lookups would be answered by a daemon of the machine, past the pod's own resolver.
const RESOLVER_SOCKETS: [&str; 2] = ["/run/nscd", "/var/run/nscd"];

/// What to use while making it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Environment<'a> {
    /// What its packets go through.
    pub link: LinkChoice,
    /// The TUN device node.
    pub tun_device: &'a Path,
    /// A folder that programs in the pod must not reach: the helper's socket is in it.
    pub hidden: &'a Path,
}

/// A pod as its maker sees it.
#[derive(Debug)]
pub(crate) struct Built {
    pub info: PodInfo,
    /// net, mnt, uts, ipc.
    pub namespaces: [OwnedFd; 4],
    pub queues: Vec<OwnedFd>,
}

/// Which step the kernel refused.
#[derive(Debug, Error)]
pub(crate) enum BuildError {
    #[error("creating network, mount, UTS and IPC namespaces: {0}")]
    Namespaces(#[source] io::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{step}: {source}")]
    Network { step: String, source: io::Error },
    #[error("{step}: {source}")]
    Mount { step: String, source: io::Error },
    #[error("opening the pod's namespaces: {0}")]
    Open(#[source] io::Error),
}

impl BuildError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Namespaces(_) => Code::NAMESPACES,
            Self::Link(error) => error.code(),
            Self::Network { .. } => Code::NETWORK,
            Self::Mount { .. } => Code::MOUNT,
            Self::Open(_) => Code::DESCRIPTORS,
        }
    }
}

/// Makes the pod in the calling process, which is in the new namespaces afterwards and should end.
///
/// The process must be root of the user namespace that is to own the pod.
pub(crate) fn build(spec: &PodSpec, environment: &Environment<'_>) -> Result<Built, BuildError> {
    nix::sched::unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .map_err(|error| BuildError::Namespaces(error.into()))?;
    let mut warnings = Vec::new();
    rustix::system::sethostname(spec.hostname.as_bytes()).map_err(|error| BuildError::Network {
        step: format!("setting the host name {:?}", spec.hostname),
        source: error.into(),
    })?;
    let ipv6 = configure_kernel(&mut warnings);
    let link = make_interfaces(spec, environment, ipv6)?;
    warnings.extend(link.warning());
    make_mounts(spec, environment.hidden, &mut warnings)?;
    let open = |kind| sys::open_namespace(kind).map_err(BuildError::Open);
    let namespaces = [open("net")?, open("mnt")?, open("uts")?, open("ipc")?];
    let info = PodInfo {
        name: spec.name.clone(),
        queues: spec.queues,
        mtu: spec.mtu,
        ipv6,
        link: link.kind,
        checksum_offload: link.checksum_offload,
        queue_bytes: link.queue_bytes,
        warnings,
    };
    Ok(Built {
        info,
        namespaces,
        queues: link.queues,
    })
}

/// Writes the settings of the new network namespace, and says whether it has IPv6.
fn configure_kernel(warnings: &mut Vec<String>) -> bool {
    let mut set = |name: &str, value: &str| {
        if let Err(error) = fs::write(Path::new("/proc/sys/net").join(name), value) {
            warnings.push(format!(
                "kernel setting net/{name} could not be set to {value:?}: {error}"
            ));
        }
    };
    // A workload's port 80 needs no privilege: the port belongs to the pod, not to the machine.
    set("ipv4/ip_unprivileged_port_start", "0");
    // Group 0 here is the caller's own group, the only one that exists inside.
    set("ipv4/ping_group_range", "0 0");
    // The pod's link is memory: it has one hop, loses nothing, and its queue is the agent's window. What the host
    // chose for its network, BBR say, would pace segments with timers here. Reno is in every kernel.
    set("ipv4/tcp_congestion_control", "reno");
    let ipv6 = Path::new("/proc/sys/net/ipv6/conf").exists();
    if ipv6 {
        // Before the device exists, so that it starts out quiet: no router on the link will ever answer.
        for scope in ["all", "default"] {
            set(&format!("ipv6/conf/{scope}/disable_ipv6"), "0");
            set(&format!("ipv6/conf/{scope}/accept_ra"), "0");
            set(&format!("ipv6/conf/{scope}/accept_dad"), "0");
        }
        set("ipv6/conf/default/dad_transmits", "0");
        set("ipv6/conf/default/router_solicitations", "0");
        // 1: no link-local address, which would only bring multicast listener reports.
        set("ipv6/conf/default/addr_gen_mode", "1");
    }
    ipv6
}

fn make_interfaces(spec: &PodSpec, environment: &Environment<'_>, ipv6: bool) -> Result<Link, BuildError> {
    let failed = |step: String| move |source| BuildError::Network { step, source };
    let link = link::make(environment.link, environment.tun_device, INTERFACE, spec)?;
    let mut route = Rtnetlink::open().map_err(failed("opening an rtnetlink socket".into()))?;
    let loopback = route.index("lo").map_err(failed("finding lo".into()))?;
    route
        .set_up(loopback, None)
        .map_err(failed("bringing lo up".into()))?;
    // Last: whichever end of a pair comes up second is ready at once, and the pod's is the one that has to be.
    let index = route
        .index(INTERFACE)
        .map_err(failed(format!("finding {INTERFACE}")))?;
    route.set_up(index, Some(spec.mtu)).map_err(failed(format!(
        "bringing {INTERFACE} up with an MTU of {}",
        spec.mtu
    )))?;
    let usable = || {
        spec.addresses
            .iter()
            .filter(|address| ipv6 || address.ip.is_ipv4())
    };
    for address in usable() {
        let step = format!("adding {}/{} to {INTERFACE}", address.ip, address.prefix);
        route
            .add_address(index, address.ip, address.prefix)
            .map_err(failed(step))?;
    }
    if usable().next().is_none() {
        let step = "IPv6 is disabled in this kernel and the pod has no IPv4 address".to_owned();
        return Err(failed(step)(io::ErrorKind::Unsupported.into()));
    }
    let first = |v4: bool| usable().map(|address| address.ip).find(|ip| ip.is_ipv4() == v4);
    for source in [first(true), first(false)].into_iter().flatten() {
        let gateway = link::gateway(link.kind, source);
        let step = format!("routing everything from {source} through {INTERFACE}");
        route
            .add_default_route(index, source, gateway)
            .map_err(failed(step))?;
        if let Some(gateway) = gateway {
            let step = format!("writing down the neighbour {gateway} of {INTERFACE}");
            route
                .set_neighbour(index, &link::neighbour(gateway))
                .map_err(failed(step))?;
        }
    }
    Ok(link)
}

fn make_mounts(spec: &PodSpec, hidden: &Path, warnings: &mut Vec<String>) -> Result<(), BuildError> {
    let failed = |step: String| {
        move |source: rustix::io::Errno| BuildError::Mount {
            step,
            source: source.into(),
        }
    };
    // Downstream, not private: our mounts stay here, but when the user unmounts a disk it is gone here too, instead of
    // being kept busy by a namespace that nobody sees.
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(failed("setting mount propagation".into()))?;
    let hide = |place: &Path| {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", place, "tmpfs", flags, c"size=1m,mode=0755")
            .map_err(failed(format!("hiding {}", place.display())))
    };
    hide(hidden)?;
    for place in RESOLVER_SOCKETS.map(Path::new) {
        if place.is_dir()
            && !fs::symlink_metadata("/var/run")
                .is_ok_and(|var| var.is_symlink() && place.starts_with("/var"))
        {
            hide(place)?;
        }
    }
    for (number, file) in spec.files.iter().enumerate() {
        lay(file, &hidden.join(number.to_string()), warnings)?;
    }
    Ok(())
}

/// Mounts a file over the machine's own.
///
/// A path that doesn't exist is left alone with a warning: making it would change the machine's file system.
fn lay(file: &PodFile, source: &Path, warnings: &mut Vec<String>) -> Result<(), BuildError> {
    let failed = |source| BuildError::Mount {
        step: format!("laying a file over {}", file.path),
        source,
    };
    if !Path::new(&file.path).is_file() {
        warnings.push(format!("{} does not exist here, so the pod has none", file.path));
        return Ok(());
    }
    fs::write(source, &file.content).map_err(failed)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o444);
    fs::set_permissions(source, permissions).map_err(failed)?;
    rustix::mount::mount_bind(source, file.path.as_str()).map_err(|error| failed(error.into()))?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount_remount(file.path.as_str(), flags, c"").map_err(|error| failed(error.into()))?;
    // The mount keeps the file alive; its name was only a way to make it.
    fs::remove_file(source).map_err(failed)
}

/// Descriptors of a built pod in the order in which they are sent: net, mnt, uts, ipc, then the queues.
pub(crate) fn descriptors(built: &Built) -> Vec<std::os::fd::BorrowedFd<'_>> {
    built
        .namespaces
        .iter()
        .chain(&built.queues)
        .map(AsFd::as_fd)
        .collect()
}
