//! Doing what the helper and `enter` do, step by step, in a child process.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use adit_link::SeqPacket;
use nix::sched::CloneFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::Options;
use crate::laptop::POD_TIMEOUT;
use crate::pod::{self, Environment};
use crate::protocol::{MAX_MESSAGE, PodAddress, PodSpec, Reply};
use crate::{enter, laptop, sys};

/// How one step went: `Err` is what the kernel, or we, had to say.
pub type Outcome = Result<(), String>;

/// How each step went. `None` is a step that was not reached, because one before it failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trials {
    /// Making a user namespace and becoming root in it.
    pub user_namespace: Option<Outcome>,
    /// Making a pod in it.
    pub pod: Option<PodTrial>,
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
        /// Without some lesser things.
        warnings: Vec<String>,
    },
    /// It was not, with the code and reason that the helper would give.
    Refused {
        /// The code.
        code: crate::codes::Code,
        /// The reason.
        message: String,
    },
}

/// The steps that report with a text, by the byte that heads their message. A pod reports with a [`Reply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    UserNamespace = b'u' as isize,
    Pod = b'p' as isize,
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
            step if step == Step::UserNamespace as u8 => self.user_namespace = Some(outcome()),
            step if step == Step::Pod as u8 => self.pod = PodTrial::read(rest),
            step if step == Step::PidNamespace as u8 => self.pid_namespace = Some(outcome()),
            step if step == Step::Proc as u8 => self.proc_mount = Some(outcome()),
            step if step == Step::NestedUser as u8 => self.nested_user = Some(outcome()),
            _ => debug_assert!(false, "the child is of the same build"),
        }
    }
}

impl PodTrial {
    fn read(reply: &[u8]) -> Option<Self> {
        match Reply::decode(reply).ok()? {
            Reply::Created(info) => Some(Self::Made {
                ipv6: info.ipv6,
                checksum_offload: info.checksum_offload,
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
    let ids = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let user = laptop::own_user_namespace().map_err(|error| error.to_string());
    if !told(Step::UserNamespace, user) {
        return 0;
    }
    let hidden = std::env::temp_dir();
    let environment = Environment {
        tun_device: &options.tun_device,
        hidden: &hidden,
    };
    let reply = match pod::build(&trial_spec(), &environment) {
        Ok(built) => Reply::Created(built.info),
        Err(error) => Reply::Refused {
            code: error.code(),
            message: error.to_string(),
        },
    };
    tell(Step::Pod, &reply.encode());
    // Again, because the pod may have failed before it, and because a run has a mount namespace of its own anyway.
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

/// The smallest pod with both kinds of address. They are never reachable: the device goes with the child.
fn trial_spec() -> PodSpec {
    PodSpec {
        name: "check".into(),
        hostname: "check".into(),
        addresses: vec![
            PodAddress {
                ip: [192, 0, 2, 1].into(),
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
