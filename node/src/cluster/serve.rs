//! The helper's process: what it is given, and how it starts.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_link::{DEFAULT_TUN_DEVICE, SeqListener};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{FlockOperation, Mode};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;

use super::STEP_TIMEOUT;
use super::check;
use super::conflist::Conflist;
use super::members::{Ground, Members};
use super::server::Server;
use crate::codes::Code;
use crate::laptop::READY;
use crate::link::LinkChoice;
use crate::sys;

/// Connections that may wait to be accepted, on each socket.
const BACKLOG: i32 = 64;

/// What the helper keeps and doesn't start without: to enter namespaces and pin them; to configure networks and devices.
pub(super) const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::NET_ADMIN);

/// What it keeps besides: to open packet sockets. Where it lacks that, pods have TUN devices alone.
pub(super) const USED_IF_HELD: CapabilitySet = CapabilitySet::NET_RAW;

/// How often a lock that another process holds is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Names in the state folder.
const AGENT_FOLDER: &str = "agent";
const AGENT_SOCKET: &str = "agent.sock";
const PLUGIN_SOCKET: &str = "cni.sock";
const PINS: &str = "netns";
const JOURNAL: &str = "pods";
const LOCK: &str = "lock";

/// How the helper is to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The state folder, made if there is none. It must be on the host and mounted with propagation to it, so that what
    /// is mounted in it outlives the helper's container.
    pub state: PathBuf,
    /// The only user that may connect to the agent's socket.
    pub agent_uid: u32,
    /// Where the runtime mounts pods' network namespaces.
    pub namespaces: PathBuf,
    /// What the packets of a pod that joins go through. One that has joined keeps what it has.
    pub link: LinkChoice,
    /// The TUN device node.
    pub tun_device: PathBuf,
    /// MTU of the agent's device in a pod, in bytes: 1280 to 65,535.
    pub pod_mtu: u16,
    /// Namespaces whose pods start outside the mesh while no agent is connected.
    pub exempt: Vec<String>,
    /// Where to install the CNI plugin; nowhere, and pods join only when the agent says so.
    pub plugin: Option<PluginFolders>,
    /// Bounds.
    pub limits: Limits,
    /// Told about each event, one line each.
    pub log: fn(&dyn fmt::Display),
    /// Called, in the process that takes it, with the name of each step of a join or a leave before it is taken. What
    /// comes after a crash at any of them is tested with this.
    pub on_step: fn(&'static str),
}

/// Folders of the container runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFolders {
    /// Its CNI configuration; `/etc/cni/net.d` with most.
    pub configuration: PathBuf,
    /// Its CNI plugins; `/opt/cni/bin` with most.
    pub binaries: PathBuf,
}

/// Bounds of the helper's tables. What is over them is refused with a code, or closed and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pods behind the agent at a time. Each costs 3 descriptors.
    pub pods: usize,
    /// Connections at a time: the agent's few, and one for each pod that is starting or ending.
    pub clients: usize,
    /// Pods that wait for the agent's word at a time.
    pub waiting: usize,
}

impl Default for Limits {
    /// 1024 pods, 256 connections, 128 waiting.
    fn default() -> Self {
        Self {
            pods: 1024,
            clients: 256,
            waiting: 128,
        }
    }
}

impl Default for Options {
    /// What suits containerd and CRI-O, with an agent of uid 65532.
    fn default() -> Self {
        Self {
            state: "/run/adit".into(),
            agent_uid: 65_532,
            namespaces: "/var/run/netns".into(),
            link: LinkChoice::Auto,
            tun_device: DEFAULT_TUN_DEVICE.into(),
            pod_mtu: 65_520,
            exempt: vec!["adit-system".into(), "kube-system".into()],
            plugin: Some(PluginFolders {
                configuration: "/etc/cni/net.d".into(),
                binaries: "/opt/cni/bin".into(),
            }),
            limits: Limits::default(),
            log: |event| eprintln!("adit-node: {event}"),
            on_step: |_| {},
        }
    }
}

impl Options {
    /// The socket that the agent connects to, in a folder of its own: nothing else in there is for the agent.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.state.join(AGENT_FOLDER).join(AGENT_SOCKET)
    }

    pub(super) fn ground(&self) -> Ground {
        Ground {
            pins: self.state.join(PINS),
            link: self.link,
            tun_device: self.tun_device.clone(),
            pod_mtu: self.pod_mtu,
            limit: self.limits.pods,
            on_step: self.on_step,
        }
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.state.join(JOURNAL)
    }
}

/// The socket of the plugin, in a state folder.
pub(super) fn plugin_socket(state: &Path) -> PathBuf {
    state.join(PLUGIN_SOCKET)
}

/// Why the helper did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another helper is at work.
    #[error("the state folder {} is in use by another node helper", state.display())]
    Busy {
        /// The folder.
        state: PathBuf,
    },
    /// The CNI plugin could not be installed or removed.
    #[error("{message}")]
    Conflist {
        /// Which step, and the system's answer.
        message: String,
    },
    /// The socket could not be made.
    #[error("listening on {}: {source}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The process may not do what a helper does.
    #[error("the node helper needs to be root with CAP_SYS_ADMIN and CAP_NET_ADMIN; this process {lacks}")]
    NotRoot {
        /// What it is, or doesn't have.
        lacks: String,
    },
    /// A probe's answer is no.
    #[error("{message}")]
    Probe {
        /// What kind of no.
        code: Code,
        /// What isn't so.
        message: String,
    },
    /// Adit is not off the node.
    #[error("adit is not off this node: {reason}")]
    Remaining {
        /// What is still there, and why.
        reason: String,
    },
    /// The state folder can't be used.
    #[error("state folder {}: {step}: {source}", state.display())]
    State {
        /// The folder.
        state: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A step that only fails when the system is out of something, or the process has too little privilege.
    #[error("{step}: {source}")]
    System {
        /// The step.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The process has several threads.
    #[error("the node helper must be started in a process with one thread")]
    Threads,
}

impl Error {
    /// The code of `adit explain`.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Busy { .. } | Self::State { .. } => Code::JOURNAL,
            Self::Conflist { .. } => Code::CONFLIST,
            Self::Listen { .. } => Code::RUN_DIRECTORY,
            Self::NotRoot { .. } => Code::NOT_ROOT,
            Self::Probe { code, .. } => *code,
            Self::Remaining { .. } => Code::STILL_INSTALLED,
            Self::System { .. } => Code::PROCESS,
            Self::Threads => Code::THREADS,
        }
    }
}

/// Runs the helper until SIGTERM. Pods stay behind the agent then: the next helper finds them by the journal.
///
/// The calling process must be root of the node and have one thread. `ready` gets [`READY`] once clients can connect.
///
/// # Errors
/// [`Error`] when it could not start, or when the kernel refuses to let it wait for events. A client's or a pod's trouble
/// is never one.
pub fn serve(options: Options, ready: Option<OwnedFd>) -> Result<(), Error> {
    if !sys::single_threaded().map_err(system("counting threads in /proc/self/task"))? {
        return Err(Error::Threads);
    }
    check_privileges()?;
    let signals = watch_signals().map_err(system("watching for signals"))?;
    raise_descriptor_limit();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    make_folders(&options)?;
    let lock = lock(&options.state, Instant::now() + STEP_TIMEOUT)?;
    check::sweep(&options);
    let conflist = options.plugin.as_ref().map(|folders| {
        let conflist = Conflist::new(folders, &options.state, &options.exempt);
        // While the process may still write to a folder that isn't root's.
        conflist.install_binary().map(|()| conflist)
    });
    let conflist = conflist.transpose().map_err(|failure| Error::Conflist {
        message: failure.message,
    })?;
    let held = rustix::thread::capabilities(None)
        .map_err(|error| system("reading capabilities")(error.into()))?
        .permitted;
    sys::keep_capabilities(NEEDED | held & USED_IF_HELD).map_err(system("dropping capabilities"))?;
    let (members, unreadable) = Members::load(options.ground(), options.journal())
        .map_err(state(&options.state, "reading the journal"))?;
    let agents = listen(&options.agent_socket(), 0o666)?;
    let plugins = listen(&plugin_socket(&options.state), 0o600)?;
    let mut server = Server::new(options, signals, agents, plugins, members, conflist);
    server.resume(unreadable);
    if let Some(ready) = ready {
        // Somebody who doesn't want to know any more is no reason to stop.
        let _ = File::from(ready).write_all(READY);
    }
    let served = server.serve();
    drop(lock);
    served.map_err(system("waiting for events"))
}

/// Before anything is touched: without them the first step that fails would be any, with a reason that leads nowhere.
fn check_privileges() -> Result<(), Error> {
    let held =
        rustix::thread::capabilities(None).map_err(|error| system("reading capabilities")(error.into()))?;
    let lacks = match rustix::process::geteuid() {
        uid if !uid.is_root() => format!("is uid {}", uid.as_raw()),
        _ if !held.permitted.contains(NEEDED) => "lacks one of them".to_owned(),
        _ => return Ok(()),
    };
    Err(Error::NotRoot { lacks })
}

/// Takes the one lock of a state folder. Processes that the helper starts hold it too, so that a helper that is started
/// again waits for what its predecessor's child was doing.
pub(super) fn lock(folder: &Path, deadline: Instant) -> Result<OwnedFd, Error> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(LOCK))
        .map_err(state(folder, "opening the lock"))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file.into()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Busy {
                    state: folder.to_owned(),
                });
            }
            Err(error) => return Err(state(folder, "locking")(error.into())),
        }
    }
}

pub(super) fn make_folders(options: &Options) -> Result<(), Error> {
    let failed = || state(&options.state, "making it");
    // The agent's folder is for every user to look into; the rest is for root.
    for (folder, mode) in [
        (options.state.clone(), 0o711),
        (options.state.join(AGENT_FOLDER), 0o755),
    ] {
        fs::create_dir_all(&folder).map_err(failed())?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).map_err(failed())?;
    }
    Ok(())
}

/// Listens where a predecessor may have listened: the lock says that nobody does any more.
fn listen(path: &Path, mode: u32) -> Result<SeqListener, Error> {
    let failed = |source| Error::Listen {
        path: path.to_owned(),
        source,
    };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = SeqListener::bind(path, BACKLOG).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// SIGTERM ends the helper; those of a terminal and of broken pipes mean nothing to it.
pub(super) fn watch_signals() -> io::Result<SignalFd> {
    sys::block_signals(&[Signal::SIGHUP, Signal::SIGPIPE])?;
    let ours = sys::block_signals(&[Signal::SIGTERM, Signal::SIGINT])?;
    Ok(SignalFd::with_flags(
        &ours,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// As many descriptors as the process may have: each pod needs a few.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // When it is refused, pods are refused later, each with its own message.
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

pub(super) fn state(folder: &Path, step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::State {
        state: folder.to_owned(),
        step,
        source,
    }
}

pub(super) fn system(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { step, source }
}
