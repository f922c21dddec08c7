//! Running a program in a pod so that it cannot tell from running it directly, apart from the network.
//!
//! Four processes, each with a reason:
//!
//! ```text
//! caller's shell or supervisor
//!  └─ outer  (run() is called here)  caller's pid namespace. Is stopped, continued and signalled by others; passes it on.
//!      └─ init                       pid 1 of a new pid namespace. Reaps; when it ends the kernel kills the namespace.
//!          └─ program                caller's uid and gid again, no capability over the pod, no-new-privileges.
//! ```
//!
//! **Nothing survives.** init ends when the program does, when the lifeline ends, or when outer is gone (its socket
//! closes; the parent-death signal is the backup), and with pid 1 the kernel kills everything in its namespace:
//! background processes that the program left too. outer does not return before that is done.
//!
//! **The terminal.** A program on a terminal is a member of its user's job. Its process group is the caller's, though,
//! which has no number inside the new pid namespace: a shell that asks for it, to give the terminal back later, gets
//! 0 and fails. So when the program has the terminal to itself (standard input and output are the terminal, and our
//! job is in the foreground) it becomes a process group of its own in the foreground, and outer does for the caller's
//! job what a shell does: when the program stops, it takes the terminal back and stops the job; when the job is
//! continued in the foreground, it hands the terminal over and continues the program; when the program dies of
//! Ctrl-C, the rest of the job gets SIGINT as well. Otherwise (in a pipe, in the background) the program stays in the
//! caller's group, where the terminal's signals reach it as they reach its neighbours.
//!
//! **Signals.** TERM, INT, HUP, QUIT, USR1, USR2 and WINCH sent to outer are passed on to the program, except those that
//! the terminal sends to a group that the program is in: the kernel has given them to it already. A detached program
//! gets what processes send, and nothing from the terminal.
//!
//! **The exit status** is the program's. Killed by signal N it is 128+N, as shells count; outer does not kill itself
//! by the same signal, because a core dump or a report of *its* death would be a lie.

mod init;
mod message;
mod outer;
mod terminal;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::codes::Code;

pub(crate) use init::{give_up_the_pod, mount_proc};
pub use outer::run;

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// The program, looked for in `PATH` unless it contains a slash, and its arguments. Not empty.
    pub argv: Vec<OsString>,
    /// All of its environment; `None` is the caller's.
    pub environment: Option<Vec<(OsString, OsString)>>,
    /// Where it starts; `None` is where the caller is.
    pub directory: Option<PathBuf>,
}

/// How to run it.
#[derive(Debug, Default)]
pub struct Options {
    /// When this ends, the program and all it started are killed.
    pub lifeline: Option<OwnedFd>,
    /// What it has to do with the caller's terminal.
    pub terminal: Terminal,
}

/// What a program has to do with the caller's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Terminal {
    /// Nothing: it runs in a session of its own, where no key reaches it.
    Detach,
    /// What it would have, were it run directly.
    #[default]
    Keep,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl Exit {
    /// What a shell shows as `$?`: the code, or 128 + the signal's number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// A run that came to its end, with what was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// How the program ended.
    pub exit: Exit,
    /// What could not be had but did not keep the program from running, one sentence each.
    pub warnings: Vec<String>,
}

/// Why the program did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process has several threads.
    #[error("a program must be run in a pod from a process with one thread")]
    Threads,
    /// There is nothing to run.
    #[error("no program given")]
    NoProgram,
    /// The caller's own working directory is gone or unreadable.
    #[error("finding the working directory: {0}")]
    CurrentDirectory(#[source] io::Error),
    /// The kernel refused to enter one of the pod's namespaces.
    #[error("entering the pod's {kind} namespace: {source}")]
    Enter {
        /// Which.
        kind: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A process could not be made or watched.
    #[error("{step}: {source}")]
    Process {
        /// The step.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A step inside the pod failed before the program was started.
    #[error("{message}")]
    Start {
        /// What kind of step.
        failure: StartFailure,
        /// Which step, on what, and the kernel's answer.
        message: String,
    },
    /// pid 1 of the pod's processes was killed: by the out-of-memory killer, or by somebody's hand.
    #[error("the pod's init process was killed before the program ended")]
    InitKilled,
}

/// What kept a program from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFailure {
    /// The working directory cannot be entered.
    Directory,
    /// The kernel refused to give the program its user back.
    IdMap,
    /// A process could not be made.
    Process,
    /// The file is there but cannot be executed.
    ProgramNotExecutable,
    /// There is no such program.
    ProgramNotFound,
}

impl Error {
    /// The code of `adit explain`.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Threads => Code::THREADS,
            Self::NoProgram => Code::PROGRAM_NOT_FOUND,
            Self::CurrentDirectory(_) => Code::WORKING_DIRECTORY,
            Self::Enter { .. } => Code::ENTER,
            Self::Process { .. } | Self::InitKilled => Code::PROCESS,
            Self::Start { failure, .. } => match failure {
                StartFailure::Directory => Code::WORKING_DIRECTORY,
                StartFailure::IdMap => Code::ID_MAP,
                StartFailure::Process => Code::PROCESS,
                StartFailure::ProgramNotExecutable => Code::PROGRAM_NOT_EXECUTABLE,
                StartFailure::ProgramNotFound => Code::PROGRAM_NOT_FOUND,
            },
        }
    }

    /// What the process that called [`run`] should exit with: 127 when the program is not found, 126 when it cannot be
    /// executed, 137 when all was killed, 125 when the failure is ours and the program has nothing to do with it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start {
                failure: StartFailure::ProgramNotFound,
                ..
            } => 127,
            Self::Start {
                failure: StartFailure::ProgramNotExecutable,
                ..
            } => 126,
            Self::InitKilled => 137,
            _ => 125,
        }
    }
}
