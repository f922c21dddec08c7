//! Doing what the helper and `enter` do, step by step, in a child process.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use adit_link::{LinkKind, Sent, SeqPacket};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::exchange::exchange;
use super::{Options, Refusal};
use crate::codes::Code;
use crate::laptop::POD_TIMEOUT;
use crate::link::LinkChoice;
use crate::pod::{self, Environment};
use crate::protocol::{MAX_MESSAGE, PodAddress, PodInfo, PodSpec, Reply};
use crate::{enter, laptop, sys};

/// How one step went: `Err` is what the kernel, or we, had to say.
pub type Outcome = Result<(), String>;

/// How each step went. `None` is a step that was not reached, because one before it failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trials {
    /// Starting an agent and confining it.
    pub agent: Option<Result<(), Refusal>>,
    /// Making a user namespace and becoming root in it.
    pub user_namespace: Option<Outcome>,
    /// What else the helper does before it serves.
    pub helper: Option<Result<(), Refusal>>,
    /// Making a pod in it with a TUN device, and sending packets through that.
    pub tun: Option<PodTrial>,
    /// The same with a veth pair and a packet socket.
    pub packet: Option<PodTrial>,
    /// Entering namespaces by their descriptors.
    pub enter: Option<Outcome>,
    /// A pid namespace.
    pub pid_namespace: Option<Outcome>,
    /// A fresh /proc in that.
    pub proc_mount: Option<Outcome>,
    /// Becoming the caller again, in a user namespace below, with no-new-privileges.
    pub nested_user: Option<Outcome>,
    /// An ICMP echo socket of the machine's own network.
    pub ping: Option<Outcome>,
}

/// How making a pod went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodTrial {
    /// It was made.
    Made {
        /// With IPv6.
        ipv6: bool,
        /// With checksum offload.
        checksum_offload: bool,
        /// With so many bytes of room in its queue; `None` where the kernel counts frames instead.
        queue_bytes: Option<u32>,
        /// Without some lesser things.
        warnings: Vec<String>,
    },
    /// It was not, with the code and reason that the helper would give.
    Refused {
        /// The code.
        code: Code,
        /// The reason.
        message: String,
    },
}

/// The steps by the byte that heads their message. What has a code reports with a [`Reply`], everything else with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Agent = b'a' as isize,
    Enter = b'e' as isize,
    Helper = b'h' as isize,
    UserNamespace = b'u' as isize,
    Tun = b't' as isize,
    Packet = b'p' as isize,
    PidNamespace = b'i' as isize,
    Proc = b'm' as isize,
    NestedUser = b'n' as isize,
}

/// Runs the steps.
pub(super) fn run(options: &Options) -> io::Result<Trials> {
    let (ours, theirs) = SeqPacket::pair()?;
    let child = sys::fork_child(|| attempt(options, &theirs))?;
    drop(theirs);
    let mut trials = Trials {
        ping: Some(ping()),
        ..Trials::default()
    };
    let mut buffer = vec![0; MAX_MESSAGE];
    let deadline = Some(Instant::now() + POD_TIMEOUT);
    while sys::wait_readable([ours.as_fd()], deadline)? == [true] {
        let received = ours.recv(&mut buffer).map_err(io::Error::other)?;
        let Some((step, rest)) = buffer[..received.len].split_first() else {
            break;
        };
        trials.record(*step, rest);
    }
    let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
    sys::wait_for(child)?;
    Ok(trials)
}

impl Trials {
    fn record(&mut self, step: u8, rest: &[u8]) {
        let outcome = || match rest {
            [] => Ok(()),
            text => Err(String::from_utf8_lossy(text).into_owned()),
        };
        match step {
            step if step == Step::Agent as u8 => self.agent = Some(read_refusal(rest)),
            step if step == Step::Helper as u8 => self.helper = Some(read_refusal(rest)),
            step if step == Step::Enter as u8 => self.enter = Some(outcome()),
            step if step == Step::UserNamespace as u8 => self.user_namespace = Some(outcome()),
            step if step == Step::Tun as u8 => self.tun = PodTrial::read(rest),
            step if step == Step::Packet as u8 => self.packet = PodTrial::read(rest),
            step if step == Step::PidNamespace as u8 => self.pid_namespace = Some(outcome()),
            step if step == Step::Proc as u8 => self.proc_mount = Some(outcome()),
            step if step == Step::NestedUser as u8 => self.nested_user = Some(outcome()),
            _ => debug_assert!(false, "the child is of the same build"),
        }
    }
}

/// Nothing is a success.
fn read_refusal(reply: &[u8]) -> Result<(), Refusal> {
    match Reply::decode(reply) {
        Ok(Reply::Refused { code, message }) => Err(Refusal { code, message }),
        _ => Ok(()),
    }
}

impl PodTrial {
    fn read(reply: &[u8]) -> Option<Self> {
        match Reply::decode(reply).ok()? {
            Reply::Created(info) => Some(Self::Made {
                ipv6: info.ipv6,
                checksum_offload: info.checksum_offload,
                queue_bytes: info.queue_bytes,
                warnings: info.warnings,
            }),
            Reply::Refused { code, message } => Some(Self::Refused { code, message }),
            _ => None,
        }
    }
}

/// An ICMP socket as the agent would open it, in the caller's own network.
fn ping() -> Outcome {
    rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(ipproto::ICMP),
    )
    .map(drop)
    .map_err(|error| io::Error::from(error).to_string())
}

/// The child: each step in the namespaces that the one before it left.
fn attempt(options: &Options, parent: &SeqPacket) -> u8 {
    let tell = |step: Step, rest: &[u8]| {
        // A parent that is gone has no use for the rest; the steps harm nobody.
        let _ = parent.send(&[&[step as u8], rest].concat(), &[]);
    };
    let told = |step: Step, outcome: Result<(), String>| {
        tell(
            step,
            outcome.as_ref().err().map_or(&[][..], |text| text.as_bytes()),
        );
        outcome.is_ok()
    };
    let refusal = |step: Step, outcome: Result<(), Refusal>| match outcome {
        Ok(()) => tell(step, &[]),
        Err(Refusal { code, message }) => tell(step, &Reply::Refused { code, message }.encode()),
    };
    if let Some(agent) = options.agent {
        apart(|| refusal(Step::Agent, agent()));
    }
    let ids = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let user = laptop::own_user_namespace().map_err(|error| error.to_string());
    if !told(Step::UserNamespace, user) {
        return 0;
    }
    apart(|| refusal(Step::Helper, be_helper()));
    let wanted = |kind| [LinkChoice::Auto, LinkChoice::Only(kind)].contains(&options.link);
    for (kind, step) in [(LinkKind::Tun, Step::Tun), (LinkKind::Packet, Step::Packet)] {
        if wanted(kind) {
            tell(step, &try_pod(kind, options).encode());
        }
    }
    told(Step::Enter, enter_again());
    // Again, because a pod may have failed before it, and because a run has a mount namespace of its own anyway.
    let pid = nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID);
    if !told(
        Step::PidNamespace,
        pid.map_err(|error| io::Error::from(error).to_string()),
    ) {
        return 0;
    }
    let init = sys::fork_child(|| {
        told(Step::Proc, enter::mount_proc().map_err(|error| error.to_string()));
        told(
            Step::NestedUser,
            enter::give_up_the_pod(ids).map_err(|error| error.to_string()),
        );
        0
    });
    match init.and_then(sys::wait_for) {
        Ok(_) => 0,
        Err(error) => u8::from(!told(Step::PidNamespace, Err(error.to_string()))),
    }
}

/// Does something that changes a process for good in one of its own, which ends when this one does. That it says nothing is
/// what is known of it if it can't be started or is killed.
fn apart(body: impl FnOnce()) {
    let child = sys::fork_child(|| {
        let signal = rustix::process::Signal::KILL;
        // Where this is refused the helper's own trial fails too.
        let _ = rustix::process::set_parent_process_death_signal(Some(signal));
        body();
        0
    });
    let _ = child.and_then(sys::wait_for);
}

/// What the helper does as root of its user namespace before it serves, in its order.
fn be_helper() -> Result<(), Refusal> {
    let refused = |code: Code, known: Code, step: &'static str| {
        move |error: io::Error| Refusal {
            code,
            message: format!("{step}: {error} ({known})"),
        }
    };
    let signals = || refused(Code::CHECK_PROCESSES, Code::PROCESS, "watching for signals");
    let watched = sys::block_signals(&[Signal::SIGTERM]).map_err(signals())?;
    SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC).map_err(|error| signals()(error.into()))?;
    rustix::thread::set_no_new_privs(true).map_err(|error| {
        let step = "setting no-new-privileges";
        refused(Code::CHECK_NO_NEW_PRIVILEGES, Code::PRIVILEGES, step)(error.into())
    })?;
    laptop::give_up_privileges().map_err(|error| Refusal {
        code: Code::CHECK_PRIVILEGES,
        message: format!("{error} ({})", error.code()),
    })
}

/// Goes to the namespaces that this process is in, as who enters a pod goes to the pod's.
fn enter_again() -> Result<(), String> {
    for (kind, flag) in [
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
    ] {
        let namespace =
            sys::open_namespace(kind).map_err(|error| format!("opening a {kind} namespace: {error}"))?;
        nix::sched::setns(&namespace, flag)
            .map_err(|error| format!("entering a {kind} namespace: {}", io::Error::from(error)))?;
    }
    Ok(())
}

/// Makes a pod with this kind of link, and sends packets through it. This process is in the pod's namespaces then.
fn try_pod(kind: LinkKind, options: &Options) -> Reply {
    let hidden = folder_to_hide();
    let environment = Environment {
        link: LinkChoice::Only(kind),
        tun_device: &options.tun_device,
        hidden: &hidden,
    };
    let refused = |code, message| Reply::Refused { code, message };
    let mut built = match pod::build(&trial_spec(), &environment) {
        Ok(built) => built,
        Err(error) => return refused(error.code(), error.to_string()),
    };
    let exchanged = match built.queues.pop() {
        Some(queue) => exchange(queue, POD_V4),
        None => Err("it has no queue".to_owned()),
    };
    match exchanged {
        Ok(sent) => Reply::Created(PodInfo {
            // What the kernel said when it was asked, and what it did.
            checksum_offload: built.info.checksum_offload && sent == Sent::Usual,
            ..built.info
        }),
        Err(message) => refused(Code::LINK_SILENT, message),
    }
}

/// Some folder that there is, since the helper's own isn't there yet: whatever is mounted on it is seen by this process alone.
fn folder_to_hide() -> PathBuf {
    let known = [std::env::temp_dir(), "/run".into(), "/dev".into(), "/etc".into()];
    let [first, ..] = &known;
    known
        .iter()
        .find(|folder| folder.is_dir())
        .unwrap_or(first)
        .clone()
}

/// The trial pod's address, of those that are for documentation (RFC 5737).
const POD_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The smallest pod with both kinds of address. They are never reachable: the device goes with the child.
fn trial_spec() -> PodSpec {
    PodSpec {
        name: "check".into(),
        hostname: "check".into(),
        addresses: vec![
            PodAddress {
                ip: POD_V4.into(),
                prefix: 32,
            },
            PodAddress {
                ip: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
                prefix: 128,
            },
        ],
        mtu: 65520,
        queues: 1,
        files: Vec::new(),
    }
}
