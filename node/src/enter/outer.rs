//! The process that the caller sees: it enters the pod, makes init, and stands for the program towards everyone else.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use adit_link::SeqPacket;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use rustix::process::Pid;
use rustix::thread::CapabilitySet;

use super::message::{self, Order, Report};
use super::terminal::{ControllingTerminal, may_change_foreground};
use super::{Error, Exit, Finished, Options, Program, Terminal, init};
use crate::{Namespaces, sys};

/// Signals that are passed on to the program.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// `si_code` of a signal that the kernel made, such as the terminal's: `SI_KERNEL` in `asm-generic/siginfo.h`.
const FROM_KERNEL: i32 = 0x80;

/// Runs a program in a pod and waits for it. The calling process must have one thread and be new: it is in the pod's
/// namespaces afterwards, without capabilities, and its only use is to exit with [`Exit::code`].
///
/// # Errors
/// [`Error`]; [`Error::exit_code`] is what to exit with then.
pub fn run(namespaces: &Namespaces, program: &Program, options: Options) -> Result<Finished, Error> {
    let process = |step| move |source| Error::Process { step, source };
    if !sys::single_threaded().map_err(process("counting threads in /proc/self/task"))? {
        return Err(Error::Threads);
    }
    if program.argv.first().is_none_or(|name| name.is_empty()) {
        return Err(Error::NoProgram);
    }
    let directory = match &program.directory {
        Some(directory) => std::path::absolute(directory),
        None => std::env::current_dir(),
    }
    .map_err(Error::CurrentDirectory)?;
    if let Some(lifeline) = &options.lifeline {
        sys::set_close_on_exec(lifeline).map_err(process("adopting the lifeline"))?;
    }
    let terminal = match options.terminal {
        Terminal::Keep => ControllingTerminal::to_oneself(),
        Terminal::Detach => None,
    };
    let mask = SigSet::thread_get_mask().map_err(|error| process("reading the signal mask")(error.into()))?;
    let signals = watch_signals().map_err(process("watching for signals"))?;
    let ids = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    enter(namespaces)?;

    let (ours, theirs) = SeqPacket::pair().map_err(process("opening a socket"))?;
    let task = Task {
        program,
        directory,
        ids,
        mask,
        detach: options.terminal == Terminal::Detach,
    };
    let lifeline = options.lifeline;
    let init = sys::fork_child(|| init::run(&task, &theirs, lifeline.as_ref(), terminal.as_ref()))
        .map_err(process("starting a pid namespace"))?;
    drop((theirs, lifeline));
    // All that was needed of the pod is done; init keeps what it needs for itself.
    sys::keep_capabilities(CapabilitySet::empty()).map_err(process("dropping capabilities"))?;
    Outer {
        init,
        control: ours,
        signals,
        terminal,
        warnings: Vec::new(),
        stop: 0,
        resuming: false,
    }
    .follow()
}

/// What init is to do.
pub(super) struct Task<'a> {
    pub(super) program: &'a Program,
    /// Absolute.
    pub(super) directory: PathBuf,
    /// The caller's uid and gid, which the program shall see as its own.
    pub(super) ids: (u32, u32),
    /// The caller's signal mask, likewise.
    pub(super) mask: SigSet,
    pub(super) detach: bool,
}

fn watch_signals() -> io::Result<SignalFd> {
    may_change_foreground()?;
    let watched = sys::block_signals(&[&PASSED_ON[..], &[Signal::SIGCONT]].concat())?;
    Ok(SignalFd::with_flags(
        &watched,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Enters the pod, with a mount namespace and a pid namespace of this run's own: its /proc shows its own processes.
fn enter(namespaces: &Namespaces) -> Result<(), Error> {
    for (kind, fd, flag) in [
        ("user", &namespaces.user, CloneFlags::CLONE_NEWUSER),
        ("mnt", &namespaces.mnt, CloneFlags::CLONE_NEWNS),
        ("net", &namespaces.net, CloneFlags::CLONE_NEWNET),
        ("uts", &namespaces.uts, CloneFlags::CLONE_NEWUTS),
        ("ipc", &namespaces.ipc, CloneFlags::CLONE_NEWIPC),
    ] {
        nix::sched::setns(fd, flag).map_err(|error| Error::Enter {
            kind,
            source: error.into(),
        })?;
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).map_err(|error| Error::Process {
        step: "creating mount and pid namespaces",
        source: error.into(),
    })
}

struct Outer {
    init: Pid,
    control: SeqPacket,
    signals: SignalFd,
    /// Present when the program has a process group of its own in the foreground of this terminal.
    terminal: Option<ControllingTerminal>,
    warnings: Vec<String>,
    /// Number of the last stop of the program that was reported.
    stop: u8,
    /// The job was continued, or could not be stopped: the program is to be continued.
    resuming: bool,
}

impl Outer {
    fn follow(mut self) -> Result<Finished, Error> {
        let outcome = self.follow_reports();
        // Returns only once the kernel has killed and reaped everything in the namespace.
        let reaped = sys::wait_for(self.init);
        let (exit, foreground) = outcome?;
        reaped.map_err(|source| Error::Process {
            step: "waiting for init",
            source,
        })?;
        if let Some(terminal) = self.terminal.as_ref().filter(|_| foreground) {
            terminal.take_back();
            if exit == Exit::Signal(Signal::SIGINT as u8) {
                // Run directly, the program would have shared its Ctrl-C with the rest of the job: a script around it
                // expects to end as well. We survive, the signal is blocked here.
                let _ = rustix::process::kill_current_process_group(rustix::process::Signal::INT);
            }
        }
        Ok(Finished {
            exit,
            warnings: self.warnings,
        })
    }

    /// Until init has no more to say.
    ///
    /// What init says comes before what others want: it tells the state that their signals are about.
    fn follow_reports(&mut self) -> Result<(Exit, bool), Error> {
        let broken = |source| Error::Process {
            step: "waiting for the program",
            source,
        };
        loop {
            let deadline = self.resuming.then(Instant::now);
            let watched = [self.control.as_fd(), self.signals.as_fd()];
            match sys::wait_readable(watched, deadline).map_err(broken)? {
                [true, _] => {
                    if let Some(ended) = self.take_report()? {
                        return Ok(ended);
                    }
                }
                [false, true] => self.take_signals(),
                [false, false] => self.resume(),
            }
        }
    }

    /// Acts on one report; returns how the program ended, once it has.
    fn take_report(&mut self) -> Result<Option<(Exit, bool)>, Error> {
        let mut buffer = [0; message::MAX];
        let received = self.control.recv(&mut buffer).map_err(|error| Error::Process {
            step: "waiting for the program",
            source: io::Error::other(error),
        })?;
        match Report::decode(&buffer[..received.len]) {
            Some(Report::Ended { exit, foreground }) => return Ok(Some((exit, foreground))),
            Some(Report::Failed { failure, message }) => return Err(Error::Start { failure, message }),
            Some(Report::Stopped { stop, foreground }) => self.stop_with_the_program(stop, foreground),
            Some(Report::Warning(text)) => self.warnings.push(text),
            // Its end closed: it was killed, or the lifeline ended.
            None => return Err(Error::InitKilled),
        }
        Ok(None)
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGCONT as u32 {
                self.resuming = true;
            } else if self.is_for_the_program(&signal) {
                self.order(Order::Signal(u8::try_from(signal.ssi_signo).unwrap_or(0)));
            }
        }
    }

    /// Not what we sent to our own group; and not what the terminal sent to it if the program is in it too.
    fn is_for_the_program(&self, signal: &siginfo) -> bool {
        let got_it_already = signal.ssi_code == FROM_KERNEL && self.terminal.is_none();
        !got_it_already && signal.ssi_pid != std::process::id()
    }

    /// Continues the program: with the terminal if the job was continued with `fg`, without it if with `bg`.
    fn resume(&mut self) {
        self.resuming = false;
        self.order(match &self.terminal {
            Some(terminal) => Order::Continue {
                stop: self.stop,
                foreground: terminal.is_ours(),
            },
            // Who continued the whole group has continued the program too, and once more is harmless.
            None => Order::Signal(Signal::SIGCONT as u8),
        });
    }

    /// The program has stopped: so does the job that it is part of for everyone outside.
    fn stop_with_the_program(&mut self, stop: u8, foreground: bool) {
        self.stop = stop;
        // Without a terminal of its own it shares the job's group, and whoever stopped that has stopped us too. And a
        // stop from before the job was continued is over.
        let Some(terminal) = self.terminal.as_ref().filter(|_| !self.resuming) else {
            return;
        };
        if foreground {
            terminal.take_back();
        }
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
        // Here again after SIGCONT, or at once if nobody could continue us: the kernel doesn't stop a job without a
        // shell above it, and then the program must not stay stopped either.
        self.resuming = true;
    }

    /// A failure means that init is gone, which the next read tells.
    fn order(&self, order: Order) {
        let _ = self.control.send(&order.encode(), &[]);
    }
}
