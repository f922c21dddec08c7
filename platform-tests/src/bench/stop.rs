//! Signals that end a run early: what it has started goes with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit status after the second signal.
const IMPATIENT: i32 = 130;

/// Whether a run is to end before it's done.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// A run ended before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Stop {
    /// From now on the first SIGHUP, SIGINT or SIGTERM asks for the end. The second ends this process at once, and leaves
    /// behind what it has started.
    ///
    /// # Errors
    /// The kernel doesn't take the handlers.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            // In this order: the first one finds the flag down.
            flag::register_conditional_shutdown(signal, IMPATIENT, Arc::clone(&stop.0))?;
            flag::register(signal, Arc::clone(&stop.0))?;
        }
        Ok(stop)
    }

    /// To be asked between two pieces of work.
    pub(super) fn check(&self) -> Result<(), Stopped> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Stopped),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "ended by a signal before it was done: all that it had started is gone, and there is no report",
        )
    }
}

impl std::error::Error for Stopped {}
