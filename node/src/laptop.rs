//! The helper on a machine where we are nobody in particular.
//!
//! [`run`] is the whole process: one thread, one poll loop. It lives exactly as long as its supervisor: the lifeline's
//! end, SIGTERM, or the parent's death end it, and with it go the pods (unless a program or the agent still holds
//! them) and the run directory. Signals from the terminal are not for it.

mod server;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_link::{DEFAULT_TUN_DEVICE, SeqListener};
use nix::sched::CloneFlags;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;

use crate::codes::Code;
use crate::link::LinkChoice;
use crate::sys;
use server::Server;

/// What is written to [`Options::ready`] once clients can connect.
pub const READY: &[u8] = b"ready\n";

/// How long making one pod may take.
pub const POD_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 32;

/// How the helper is to run.
#[derive(Debug)]
pub struct Options {
    /// Where to listen: in a folder of mode 0700 that belongs to the caller. The folder is hidden from programs in
    /// pods, so that they cannot ask the helper for anything.
    pub socket: PathBuf,
    /// Ends when the supervisor does: the read end of a pipe, or one end of a socket pair. The supervisor must also be
    /// the parent of the helper's process, which ends when its parent does.
    pub lifeline: OwnedFd,
    /// Gets [`READY`] once, and is closed.
    pub ready: Option<OwnedFd>,
    /// A folder to remove with all that is in it when the helper ends: the socket's own, or none.
    pub remove_on_exit: Option<PathBuf>,
    /// A folder above the socket's to hide from programs in its stead: one that holds all of a user's run directories,
    /// so that a program in one mesh cannot reach the helper of another.
    pub hide: Option<PathBuf>,
    /// What pods' packets go through.
    pub link: LinkChoice,
    /// The TUN device node.
    pub tun_device: PathBuf,
    /// Bounds.
    pub limits: Limits,
}

impl Options {
    /// The usual choices: a TUN device of [`DEFAULT_TUN_DEVICE`] or else a veth pair, the default bounds, nobody to tell, nothing to remove, and only the
    /// socket's folder to hide.
    #[must_use]
    pub fn new(socket: PathBuf, lifeline: OwnedFd) -> Self {
        Self {
            socket,
            lifeline,
            ready: None,
            remove_on_exit: None,
            hide: None,
            link: LinkChoice::Auto,
            tun_device: DEFAULT_TUN_DEVICE.into(),
            limits: Limits::default(),
        }
    }
}

/// Bounds of the helper's tables. What is over them is refused ([`Code::TOO_MANY`]) or closed, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pods at a time. Each costs 4 descriptors and one a queue.
    pub pods: usize,
    /// Connections at a time.
    pub clients: usize,
}

impl Default for Limits {
    /// 256 pods, 64 connections.
    fn default() -> Self {
        Self {
            pods: 256,
            clients: 64,
        }
    }
}

/// Why the helper did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process has several threads.
    #[error("the node helper must be started in a process with one thread")]
    Threads,
    /// The kernel refused the user namespace.
    #[error("creating a user namespace: {0}")]
    UserNamespace(#[source] io::Error),
    /// The kernel refused the mapping of this user.
    #[error("mapping uid {uid} and gid {gid} into the new user namespace: {source}")]
    IdMap {
        /// The caller's uid.
        uid: u32,
        /// The caller's gid.
        gid: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The run directory is not one to trust.
    #[error("run directory {}: {problem}", path.display())]
    RunDirectory {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
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
    /// The kernel refused to take capabilities away, or the right to gain any.
    #[error("dropping capabilities: {0}")]
    Privileges(#[source] io::Error),
    /// A step that only fails when the system is out of something.
    #[error("{step}: {source}")]
    System {
        /// The step.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The code of `adit explain`.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Threads => Code::THREADS,
            Self::UserNamespace(_) => Code::USER_NAMESPACE,
            Self::IdMap { .. } => Code::ID_MAP,
            Self::RunDirectory { .. } | Self::Listen { .. } => Code::RUN_DIRECTORY,
            Self::Privileges(_) => Code::PRIVILEGES,
            Self::System { .. } => Code::PROCESS,
        }
    }
}

/// Runs the helper until its supervisor is gone.
///
/// The calling process must have one thread; it is "root" of a new user namespace afterwards and should end.
///
/// # Errors
/// [`Error`] when it could not start, or when the kernel refuses to let it wait for events. A client's or a pod's
/// trouble is never one. The run directory is removed in every case but one: when it isn't what it should be.
pub fn run(options: Options) -> Result<(), Error> {
    let run_directory = check_run_directory(&options.socket, options.remove_on_exit.as_deref())?;
    let remove = options.remove_on_exit.is_some().then(|| run_directory.clone());
    let started = start(options, run_directory).map(|mut server| (server.serve(), server));
    if let Some(directory) = remove {
        // Before the pods go, with whom the kernel takes its time: some 40 ms for each TUN device. When it fails nobody
        // is left to tell; the supervisor that told us to may have done it itself.
        let _ = fs::remove_dir_all(directory);
    }
    started?.0
}

fn start(options: Options, run_directory: PathBuf) -> Result<Server, Error> {
    let system = |step| move |source| Error::System { step, source };
    if !sys::single_threaded().map_err(system("counting threads in /proc/self/task"))? {
        return Err(Error::Threads);
    }
    let watch = server::Watch::new(options.lifeline).map_err(system("watching for signals"))?;
    let hidden = match &options.hide {
        Some(folder) => check_hidden(folder, &run_directory)?,
        None => run_directory,
    };
    raise_descriptor_limit();
    own_user_namespace()?;
    watch
        .follow_parent()
        .map_err(system("asking to be told of the parent's death"))?;
    give_up_privileges()?;
    let user = sys::open_namespace("user").map_err(system("opening /proc/self/ns/user"))?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let listener = SeqListener::bind(&options.socket, BACKLOG).map_err(|source| Error::Listen {
        path: options.socket.clone(),
        source,
    })?;
    // So that it doesn't keep a disk busy that the user wants to unmount.
    rustix::process::chdir("/").map_err(|error| system("leaving the working directory")(error.into()))?;
    if let Some(ready) = options.ready {
        // A supervisor that doesn't want to know any more will be noticed through the lifeline.
        let _ = File::from(ready).write_all(READY);
    }
    Ok(Server::new(
        listener,
        watch,
        user,
        options.limits,
        options.link,
        options.tun_device,
        hidden,
    ))
}

/// Keeps enough to make namespaces and mounts, to configure networks and to open packet sockets in them. Nothing that the
/// helper starts executes another program.
pub(crate) fn give_up_privileges() -> Result<(), Error> {
    sys::keep_capabilities(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW)
        .map_err(Error::Privileges)
}

/// Makes a user namespace in which the caller is root, over nothing but what will be made in it.
pub(crate) fn own_user_namespace() -> Result<(), Error> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| Error::UserNamespace(error.into()))?;
    sys::map_ids((0, 0), (uid, gid)).map_err(|source| Error::IdMap { uid, gid, source })
}

/// The folder of the socket, which must be ours alone: whoever could reach the socket could ask for anything.
fn check_run_directory(socket: &Path, remove: Option<&Path>) -> Result<PathBuf, Error> {
    let directory = socket.parent().unwrap_or_else(|| Path::new("/"));
    let wrong = |problem: String| Error::RunDirectory {
        path: directory.to_owned(),
        problem,
    };
    let metadata = fs::symlink_metadata(directory).map_err(|error| wrong(error.to_string()))?;
    let uid = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() {
        return Err(wrong("not a directory".into()));
    }
    if metadata.uid() != uid {
        return Err(wrong(format!(
            "belongs to uid {}, expected {uid}",
            metadata.uid()
        )));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(wrong(format!(
            "has mode {:04o}, expected 0700",
            metadata.mode() & 0o7777
        )));
    }
    if remove.is_some_and(|remove| remove != directory) {
        return Err(wrong("the folder to remove is another than the socket's".into()));
    }
    fs::canonicalize(directory).map_err(|error| wrong(error.to_string()))
}

/// The folder to hide, which must have the run directory in it or be it.
fn check_hidden(folder: &Path, run_directory: &Path) -> Result<PathBuf, Error> {
    let wrong = |problem: String| Error::RunDirectory {
        path: folder.to_owned(),
        problem,
    };
    let hidden = fs::canonicalize(folder).map_err(|error| wrong(error.to_string()))?;
    if !run_directory.starts_with(&hidden) || hidden == Path::new("/") {
        return Err(wrong(format!(
            "is to be hidden, but {} is not below it",
            run_directory.display()
        )));
    }
    Ok(hidden)
}

/// As many descriptors as the user may have: each pod needs a handful.
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
