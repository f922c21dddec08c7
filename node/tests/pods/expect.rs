//! A pseudo-terminal with somebody typing on it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetpgrp;

use crate::world::World;

/// Turns of a wait for output, each at most [`TURN`].
const TURNS: u32 = 100;
const TURN: Duration = Duration::from_millis(100);

/// A program on a terminal of its own.
pub(crate) struct Screen {
    terminal: File,
    program: Child,
    seen: String,
}

impl Screen {
    /// Starts `argv` as the leader of a session on a new terminal.
    pub(crate) fn new(world: &World, argv: &[&str]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        let program = world
            .role("as-session")
            .args(["--terminal", &name, "--"])
            .args(argv)
            .env("PS1", "$ ")
            .env_remove("ENV")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            terminal: File::from(terminal),
            program,
            seen: String::new(),
        }
    }

    /// Types, control characters as they are.
    pub(crate) fn types(&mut self, text: &str) -> &mut Self {
        self.terminal.write_all(text.as_bytes()).unwrap();
        self
    }

    /// Waits until `text` appears after what was seen so far.
    #[track_caller]
    pub(crate) fn sees(&mut self, text: &str) -> &mut Self {
        for _ in 0..TURNS {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return self;
            }
            self.read_some();
        }
        panic!("expected {text:?} on the terminal, got {:?}", self.seen);
    }

    /// The process group that has the terminal.
    pub(crate) fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.terminal).ok()
    }

    /// Waits until `job` has the terminal: a Ctrl-C before that is the shell's.
    #[track_caller]
    pub(crate) fn gives_terminal_to(&mut self, job: Option<Pid>) -> &mut Self {
        for _ in 0..TURNS {
            if self.foreground() == job {
                return self;
            }
            self.read_some();
        }
        panic!(
            "expected {job:?} in the foreground, got {:?}; seen {:?}",
            self.foreground(),
            self.seen
        );
    }

    fn read_some(&mut self) {
        let turn = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(TURN.subsec_nanos()),
        };
        let mut polled = [PollFd::from_borrowed_fd(self.terminal.as_fd(), PollFlags::IN)];
        poll(&mut polled, Some(&turn)).unwrap();
        if polled[0].revents().contains(PollFlags::IN) {
            let mut bytes = [0; 4096];
            // EIO: nobody has the terminal open any more; what is expected will not come, and the turns run out.
            let len = self.terminal.read(&mut bytes).unwrap_or(0);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
    }

    /// Hangs up, as closing the window does, and waits for the session's leader.
    pub(crate) fn hang_up(self) {
        let Self {
            terminal,
            mut program,
            ..
        } = self;
        drop(terminal);
        program.wait().unwrap();
    }
}
