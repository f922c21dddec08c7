//! Can this host be a node? Tried out, not guessed.
//!
//! A pod that nobody else knows joins and leaves, once behind TUN devices and once behind veth pairs, by the same code as the
//! helper's, in namespaces of a process that takes them with it ([`trial`]); the runtime's folders are written to as the helper
//! writes, under names that are nobody's ([`folders`]); the helper, if there is one, is asked. What comes of it is judged apart
//! from all this ([`judge`]). Files are a check's own, and its successor's to remove if it was killed ([`claim`]).

mod claim;
mod folders;
mod judge;
mod trial;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_link::LinkKind;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use rustix::thread::CapabilitySet;

use super::failure::{Failure, refused};
use super::probe::say;
use super::protocol::plugin::{PluginReply, PluginRequest};
use super::serve::{self, Options};
use crate::client::ClientError;
use crate::codes::Code;
use crate::link::LinkChoice;
use crate::probe::{self, Error, Finding, Machine};
use crate::sys;
use claim::Claim;
use folders::{Binaries, Configuration};

/// What the helper doesn't serve without, by name. It lacks packet sockets without another, which shows where one is opened.
const NEEDED: [(&str, CapabilitySet); 2] = [
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
];

/// How long a helper may take to answer: it may be at a step of its own.
const PATIENCE: Duration = Duration::from_secs(25);

/// All that was seen of this host.
#[derive(Debug)]
struct Host {
    root: bool,
    /// Names of capabilities that aren't there.
    lacking: Vec<&'static str>,
    /// Root of the machine, not of a user namespace below it.
    initial_user_namespace: bool,
    machine: Machine,
    /// How a pod with IPv4 fared behind TUN devices, and one behind veth pairs; `None` for a kind that isn't to be used.
    tun: Option<Tried>,
    packet: Option<Tried>,
    /// How one with both kinds of address fared, behind the devices that pods will have; `None` when the kernel has no IPv6.
    dual_stack_pod: Option<Tried>,
    /// `None` where the helper is to install no plugin.
    plugin: Option<Plugin>,
    helper: Helper,
}

/// How something went, and if not well, why.
type Tried = Result<(), Failure>;

/// What the helper's plugin would find.
#[derive(Debug)]
struct Plugin {
    configuration: Configuration,
    binaries: Binaries,
    /// What of ours is there already: lists with our entry, and our file.
    remains: Vec<PathBuf>,
}

/// What became of a question to the helper.
#[derive(Debug)]
enum Helper {
    /// Nobody listens.
    Absent,
    Ready,
    /// It answers, and says why it isn't ready.
    NotReady {
        code: Code,
        message: String,
    },
    /// There is a socket, and no answer.
    Silent {
        code: Code,
        message: String,
    },
}

/// Tries out what a helper with these options would need of this host: one finding for each thing, in the order in which
/// they build on each other. Nothing that is made is left behind, and no list of the runtime's is touched.
///
/// The calling process must have one thread: call this before any runtime starts. It takes 30 s and the time that a stuck
/// helper is waited for (25 s) at most; signals that end the process wait as long.
///
/// # Errors
/// [`Error`]; what the host lacks is a [`Finding`] and never an error.
pub fn check(options: &Options) -> Result<Vec<Finding>, Error> {
    if !sys::single_threaded().map_err(Error::Process)? {
        return Err(Error::Threads);
    }
    let _undisturbed = Undisturbed::begin().map_err(Error::Process)?;
    let host = Host::look(options).map_err(Error::Process)?;
    Ok(judge::judge(&host, options))
}

/// Takes away what checks that were killed have left where a helper with these options works.
pub(super) fn sweep(options: &Options) {
    let folders = options.plugin.as_ref();
    let folders = folders.map(|folders| folders::written(folders, options));
    let folders = folders.iter().flatten().map(PathBuf::as_path);
    claim::sweep(&options.state, &folders.collect::<Vec<_>>());
}

impl Host {
    fn look(options: &Options) -> io::Result<Self> {
        let held = rustix::thread::capabilities(None)?.permitted;
        let lacking = NEEDED
            .into_iter()
            .filter(|(_, capability)| !held.contains(*capability));
        sweep(options);
        let claim = Claim::begin(&options.state).map_err(refused(
            Code::NAMESPACES,
            format!("making {}", claim::folder(&options.state).display()),
        ));
        let run = |kind, ipv6| {
            let only = Options {
                link: LinkChoice::Only(kind),
                ..options.clone()
            };
            let claim = claim.as_ref().map_err(Clone::clone)?;
            in_scratch(&claim.path("trial"), |folder| trial::run(&only, folder, ipv6))
        };
        let is_wanted = |kind| [LinkChoice::Auto, LinkChoice::Only(kind)].contains(&options.link);
        let tried = |kind| is_wanted(kind).then(|| run(kind, false));
        let (tun, packet) = (tried(LinkKind::Tun), tried(LinkKind::Packet));
        let chosen = match &tun {
            Some(Ok(())) => LinkKind::Tun,
            _ => LinkKind::Packet,
        };
        let dual_stack_pod = trial::has_ipv6().then(|| run(chosen, true));
        let plugin = match &options.plugin {
            Some(folders) => Some(Plugin {
                configuration: sys::with_capabilities(kept(), || folders::configuration(folders, options))?,
                binaries: folders::binaries(&folders.binaries),
                remains: folders::remains(folders, options),
            }),
            None => None,
        };
        Ok(Self {
            root: rustix::process::geteuid().is_root(),
            lacking: lacking.map(|(name, _)| name).collect(),
            initial_user_namespace: maps_all_users(&fs::read_to_string("/proc/self/uid_map")?),
            machine: Machine::read(&probe::Options {
                tun_device: options.tun_device.clone(),
                ..probe::Options::default()
            }),
            tun,
            packet,
            dual_stack_pod,
            plugin,
            helper: ask(&options.state),
        })
    }
}

/// What the helper keeps when it serves, of what it has.
fn kept() -> CapabilitySet {
    serve::NEEDED | serve::USED_IF_HELD
}

/// Whether this is the `uid_map` of the user namespace that the machine starts with: each user is itself.
fn maps_all_users(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn ask(state: &Path) -> Helper {
    match say(state, &PluginRequest::Probe, PATIENCE) {
        Ok(PluginReply::Refused { code, message }) => Helper::NotReady { code, message },
        Ok(_) => Helper::Ready,
        Err(ClientError::Connect { source, .. })
            if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&source.kind()) =>
        {
            Helper::Absent
        }
        Err(error) => Helper::Silent {
            code: error.code(),
            message: error.to_string(),
        },
    }
}

/// Gives a folder of the check's own to `body`, and takes it away again with all that is in it.
fn in_scratch(folder: &Path, body: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
    let path = folder.display();
    let made = DirBuilder::new().mode(0o700).create(folder);
    made.map_err(refused(Code::NAMESPACES, format!("making {path}")))?;
    let outcome = body(folder);
    // What was mounted in it was mounted for a process that has ended.
    let removed = fs::remove_dir_all(folder);
    let removed = removed.map_err(refused(Code::NAMESPACES, format!("removing {path}")));
    outcome.and(removed)
}

/// Keeps signals that would end this process from ending it before it has taken away what it made.
struct Undisturbed(SigSet);

impl Undisturbed {
    fn begin() -> io::Result<Self> {
        let before = SigSet::thread_get_mask()?;
        sys::block_signals(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGPIPE, Signal::SIGTERM])?;
        Ok(Self(before))
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        // It can only fail for a mask that is none.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_namespace_of_the_machine_is_told_from_others() {
        assert!(maps_all_users("         0          0 4294967295\n"));
        for other in ["0 1000 1\n", "0 100000 65536\n", "0 0 1\n1 1 5\n", ""] {
            assert!(!maps_all_users(other), "{other}");
        }
    }

    #[test]
    fn a_folder_goes_whatever_came_of_what_was_done_in_it() {
        let top = std::env::temp_dir().join(format!("adit-check-{}", std::process::id()));
        let seen = in_scratch(&top, |folder| {
            fs::write(folder.join("file"), []).unwrap();
            Err(Failure::new(Code::INTERPOSE, "no"))
        });
        assert_eq!(seen, Err(Failure::new(Code::INTERPOSE, "no")));
        assert!(!top.exists());
    }
}
