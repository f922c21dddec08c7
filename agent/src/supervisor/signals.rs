//! The signals that end a mesh.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// The signals that tell us to stop.
pub(super) struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) const HUP: u8 = 1;
    pub(super) const INT: u8 = 2;
    pub(super) const QUIT: u8 = 3;
    pub(super) const TERM: u8 = 15;

    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The number of the next one. Safe to drop.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.hangup.recv() => Self::HUP,
            _ = self.interrupt.recv() => Self::INT,
            _ = self.quit.recv() => Self::QUIT,
            _ = self.terminate.recv() => Self::TERM,
        }
    }
}
