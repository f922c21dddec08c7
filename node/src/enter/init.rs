//! pid 1 of a run: it prepares what needs the pod's root, starts the program as the caller, and reaps.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use adit_link::SeqPacket;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::mount::MountFlags;
use rustix::process::{Pid, WaitOptions};
use rustix::thread::CapabilitySet;

use super::message::{self, Order, Report};
use super::outer::Task;
use super::terminal::ControllingTerminal;
use super::{Exit, Program, StartFailure};
use crate::sys;

/// What init ends with; only its end matters, the program's status has been reported.
const DONE: u8 = 0;

/// A failed step: what kind, and the message for the caller.
type Failed = (StartFailure, String);

/// The life of pid 1.
pub(super) fn run(
    task: &Task<'_>,
    control: &SeqPacket,
    lifeline: Option<&OwnedFd>,
    terminal: Option<&ControllingTerminal>,
) -> u8 {
    match start(task, control, terminal) {
        Ok((program, signals)) => Init {
            program,
            control,
            signals,
            lifeline,
            terminal,
            stop: 0,
        }
        .serve(),
        Err((failure, message)) => report(control, &Report::Failed { failure, message }),
    }
    DONE
}

fn report(control: &SeqPacket, report: &Report) {
    // Without a reader there is nobody to tell, and the next poll ends us.
    let _ = control.send(&report.encode(), &[]);
}

fn start(
    task: &Task<'_>,
    control: &SeqPacket,
    terminal: Option<&ControllingTerminal>,
) -> Result<(Pid, SignalFd), Failed> {
    let failed =
        |step: &'static str| move |error: io::Error| (StartFailure::Process, format!("{step}: {error}"));
    // The race that this has by nature, a parent that died before it, is closed by the control socket: it is at its
    // end then.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| failed("asking to die with the parent")(error.into()))?;
    if task.detach {
        rustix::process::setsid().map_err(|error| failed("starting a session")(error.into()))?;
    }
    if let Err(error) = mount_proc() {
        let text = format!("/proc shows the machine's processes, the kernel refused a fresh one: {error}");
        report(control, &Report::Warning(text));
    }
    if task.ids.0 == 0
        && let Err(error) = protect_settings()
    {
        let text = format!("kernel settings under /proc/sys are not read-only, the kernel refused: {error}");
        report(control, &Report::Warning(text));
    }
    let children = sys::block_signals(&[Signal::SIGCHLD]).map_err(failed("watching for children"))?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| failed("watching for children")(error.into()))?;
    let program = spawn(task, terminal)?;
    sys::keep_capabilities(CapabilitySet::empty()).map_err(failed("dropping capabilities"))?;
    Ok((program, signals))
}

/// A /proc of this pid namespace, over the one that was there.
pub(crate) fn mount_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", "/proc", "proc", flags, None)?)
}

/// Makes /proc/sys read-only: the kernel lets uid 0 write much of it without any capability, the pod's network settings
/// and the machine's own alike.
fn protect_settings() -> io::Result<()> {
    rustix::mount::mount_bind("/proc/sys", "/proc/sys")?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount_remount("/proc/sys", flags, c"")?)
}

/// Starts the program and returns once it runs, or with what kept it from running.
fn spawn(task: &Task<'_>, terminal: Option<&ControllingTerminal>) -> Result<Pid, Failed> {
    let failed = |error: io::Error| (StartFailure::Process, format!("starting a process: {error}"));
    // Closed by a successful exec; a failure is written to it.
    let (ours, theirs) = SeqPacket::pair().map_err(failed)?;
    let program = sys::fork_child(|| {
        let (failure, message) = become_program(task, terminal);
        report(&theirs, &Report::Failed { failure, message });
        DONE
    })
    .map_err(failed)?;
    drop(theirs);
    let mut buffer = [0; message::MAX];
    let received = ours
        .recv(&mut buffer)
        .map_err(|error| failed(io::Error::other(error)))?;
    match Report::decode(&buffer[..received.len]) {
        Some(Report::Failed { failure, message }) => Err((failure, message)),
        _ => Ok(program),
    }
}

/// Turns this process into the program. Returns only if that fails.
fn become_program(task: &Task<'_>, terminal: Option<&ControllingTerminal>) -> Failed {
    let failed = |failure, step: String| move |error: io::Error| (failure, format!("{step}: {error}"));
    let prepare = || -> Result<(), Failed> {
        if task.detach || terminal.is_some() {
            rustix::process::setpgid(None, None).map_err(|error| {
                failed(StartFailure::Process, "starting a process group".into())(error.into())
            })?;
        }
        if let Some(terminal) = terminal {
            terminal.give_to(rustix::process::getpgrp());
        }
        give_up_the_pod(task.ids).map_err(failed(
            StartFailure::IdMap,
            format!("becoming uid {} again", task.ids.0),
        ))?;
        std::env::set_current_dir(&task.directory).map_err(failed(
            StartFailure::Directory,
            format!("entering the working directory {}", task.directory.display()),
        ))
    };
    match prepare() {
        // The terminal was given away above, for which a signal had to be blocked.
        Ok(()) => match task.mask.thread_set_mask() {
            Ok(()) => execute(task),
            Err(error) => failed(StartFailure::Process, "restoring the signal mask".into())(error.into()),
        },
        Err(failed) => failed,
    }
}

/// Leaves the user namespace that owns the pod for one below it, in which the caller has its own numbers again.
///
/// Whatever the program is allowed there, root's capabilities if the caller is root, it is allowed nothing over the
/// pod's network, mounts and processes, which belong to the namespace above.
pub(crate) fn give_up_the_pod(ids: (u32, u32)) -> io::Result<()> {
    let outside = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
    sys::map_ids(ids, outside)?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}

fn execute(task: &Task<'_>) -> Failed {
    let [name, arguments @ ..] = &task.program.argv[..] else {
        return (StartFailure::ProgramNotFound, "no program given".into());
    };
    let mut command = Command::new(name);
    command.args(arguments);
    if let Some(environment) = &task.program.environment {
        command
            .env_clear()
            .envs(environment.iter().map(|(key, value)| (key, value)));
    }
    // SIGPIPE, which Rust ignores in itself, is back at its default here; std sees to it.
    let error = command.exec();
    let shown = name.display();
    let by_path = name.as_encoded_bytes().contains(&b'/');
    let not_found = |what| (StartFailure::ProgramNotFound, format!("{shown}: {what}"));
    match error.kind() {
        io::ErrorKind::NotFound if by_path => not_found("no such file, or its interpreter is missing"),
        io::ErrorKind::NotFound => not_found("not found in PATH"),
        // A folder of PATH that we may not look into makes it "permission denied", although there may be nothing.
        io::ErrorKind::PermissionDenied if !by_path && !is_in_path(name, task.program) => {
            not_found("not found in PATH")
        }
        _ => (StartFailure::ProgramNotExecutable, format!("{shown}: {error}")),
    }
}

/// Whether a file of this name, of whatever mode, is in one of the program's folders of programs.
fn is_in_path(name: &OsStr, program: &Program) -> bool {
    let path = match &program.environment {
        Some(given) => given
            .iter()
            .rfind(|(key, _)| key == "PATH")
            .map(|(_, value)| value.clone()),
        None => std::env::var_os("PATH"),
    };
    path.is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

struct Init<'a> {
    program: Pid,
    control: &'a SeqPacket,
    signals: SignalFd,
    lifeline: Option<&'a OwnedFd>,
    terminal: Option<&'a ControllingTerminal>,
    /// Number of the program's last stop, modulo 256.
    stop: u8,
}

impl Init<'_> {
    /// Until the program, the lifeline or outer ends. The kernel kills what is left.
    fn serve(&mut self) {
        // Without a lifeline the control socket is polled twice, which is harmless.
        let lifeline = self.lifeline.map_or_else(|| self.control.as_fd(), AsFd::as_fd);
        loop {
            let watched = [self.signals.as_fd(), self.control.as_fd(), lifeline];
            let Ok([child, order, life]) = sys::wait_readable(watched, None) else {
                return;
            };
            if self
                .lifeline
                .is_some_and(|lifeline| life && sys::lifeline_ended(lifeline.as_fd()))
            {
                return;
            }
            if child && self.reap() {
                return;
            }
            if order && !self.obey() {
                return;
            }
        }
    }

    /// Reaps whatever has ended, the program's orphans too, and reports on the program. True when it has ended.
    fn reap(&mut self) -> bool {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = rustix::process::wait(options) {
            if pid != self.program {
                continue;
            }
            let foreground = self
                .terminal
                .is_some_and(ControllingTerminal::is_of_this_namespace);
            let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(byte(code)),
                (None, Some(signal)) => Exit::Signal(byte(signal)),
                (None, None) => {
                    self.stop = self.stop.wrapping_add(1);
                    report(
                        self.control,
                        &Report::Stopped {
                            stop: self.stop,
                            foreground,
                        },
                    );
                    continue;
                }
            };
            report(self.control, &Report::Ended { exit, foreground });
            return true;
        }
        false
    }

    /// Does one thing that outer asks for. False when outer is gone.
    fn obey(&self) -> bool {
        let mut buffer = [0; message::MAX];
        match self.control.recv(&mut buffer) {
            Ok(message) if message.len > 0 => match Order::decode(&buffer[..message.len]) {
                Some(Order::Continue { stop, foreground }) if stop == self.stop => {
                    self.continue_program(foreground)
                }
                // It has stopped again meanwhile, and outer is about to hear of it.
                Some(Order::Continue { .. }) => {}
                Some(Order::Signal(number)) => self.signal_program(number),
                None => debug_assert!(false, "outer is of the same build"),
            },
            _ => return false,
        }
        true
    }

    fn continue_program(&self, foreground: bool) {
        if let Some(terminal) = self.terminal.filter(|_| foreground) {
            terminal.give_to(self.program);
        }
        // A program that has just ended is reported by the next turn.
        let _ = rustix::process::kill_process_group(self.program, rustix::process::Signal::CONT);
    }

    fn signal_program(&self, number: u8) {
        if let Ok(signal) = Signal::try_from(i32::from(number)) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(self.program.as_raw_nonzero().get()),
                signal,
            );
        }
    }
}
