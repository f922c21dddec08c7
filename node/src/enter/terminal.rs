//! The controlling terminal, and whose job has it.

use std::fs::File;
use std::os::fd::AsFd;

use nix::sys::signal::Signal;
use rustix::process::Pid;

use crate::sys;

/// The controlling terminal of this process, opened while its path still means what it means to the caller.
#[derive(Debug)]
pub(super) struct ControllingTerminal {
    device: File,
}

impl ControllingTerminal {
    /// The terminal, if a program started now would have it to itself: standard input and output are terminals, there
    /// is a controlling one, and our process group is in its foreground.
    pub(super) fn to_oneself() -> Option<Self> {
        let terminals =
            rustix::termios::isatty(std::io::stdin()) && rustix::termios::isatty(std::io::stdout());
        let device = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let terminal = Self { device };
        (terminals && terminal.is_ours()).then_some(terminal)
    }

    /// Whether this process's group is in the foreground.
    pub(super) fn is_ours(&self) -> bool {
        self.foreground() == Some(rustix::process::getpgrp())
    }

    /// Whether a group of this process's pid namespace is in the foreground. Groups outside have no number here.
    pub(super) fn is_of_this_namespace(&self) -> bool {
        self.foreground().is_some()
    }

    /// Puts a process group into the foreground.
    ///
    /// A failure means that the terminal is gone or was given to another session: nothing that could be done better.
    pub(super) fn give_to(&self, group: Pid) {
        let _ = rustix::termios::tcsetpgrp(self.device.as_fd(), group);
    }

    /// Takes the terminal back for this process's group.
    pub(super) fn take_back(&self) {
        self.give_to(rustix::process::getpgrp());
    }

    fn foreground(&self) -> Option<Pid> {
        rustix::termios::tcgetpgrp(self.device.as_fd()).ok()
    }
}

/// Lets this process change the foreground group from the background, where the kernel would stop it.
pub(super) fn may_change_foreground() -> std::io::Result<()> {
    sys::block_signals(&[Signal::SIGTTOU]).map(drop)
}
