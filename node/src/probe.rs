//! Can this machine do it? Tried out, not guessed.
//!
//! [`run`] makes a pod in a child process, the same way as the helper does, and throws it away; then it looks at what
//! the kernel says about itself to tell *why* something was refused. The judgement is pure ([`judge()`]) and tested
//! against machines that we don't have.

pub mod environment;
mod exchange;
mod judge;
mod section;
mod trial;

use std::io;
use std::path::PathBuf;

use crate::codes::Code;
use crate::link::LinkChoice;
use crate::sys;

pub use judge::{Machine, judge};
pub(crate) use judge::{finding, tun_fix};
pub use section::Section;
pub use trial::{Outcome, PodTrial, Trials};

/// What an agent does before it reads its first packet, tried out: in a process of its own, which ends with it.
pub type AgentTrial = fn() -> Result<(), Refusal>;

/// What to try.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which links to try.
    pub link: LinkChoice,
    /// The TUN device node.
    pub tun_device: PathBuf,
    /// What the agent needs of the machine, which this crate doesn't know; not tried without it.
    pub agent: Option<AgentTrial>,
}

impl Default for Options {
    /// Either link, the TUN device with [`adit_link::DEFAULT_TUN_DEVICE`].
    fn default() -> Self {
        Self {
            link: LinkChoice::Auto,
            tun_device: adit_link::DEFAULT_TUN_DEVICE.into(),
            agent: None,
        }
    }
}

/// A step that the kernel refused: the finding that it belongs to, and what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code of the finding.
    pub code: Code,
    /// The step, the kernel's answer, and the code that the failing command would give.
    pub message: String,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// For `adit explain`.
    pub code: Code,
    /// How it went.
    pub status: Status,
    /// What was tried, in a few words.
    pub what: &'static str,
    /// What was found.
    pub reason: String,
    /// What to do about it; `None` when there is nothing to do.
    pub fix: Option<String>,
}

/// How a trial went, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// adit works, with less.
    Warn,
    /// adit doesn't work.
    Fail,
}

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process has several threads.
    #[error("the check must be started in a process with one thread")]
    Threads,
    /// The child process could not be made.
    #[error("starting a process to try things in: {0}")]
    Process(#[source] io::Error),
}

impl Error {
    /// The code of `adit explain`.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Threads => Code::THREADS,
            Self::Process(_) => Code::PROCESS,
        }
    }
}

/// Tries everything out, in a child process that takes all it made with it.
///
/// The calling process must have one thread: call this before any runtime starts.
///
/// # Errors
/// [`Error`]; what the machine lacks is a [`Finding`] and never an error.
pub fn run(options: &Options) -> Result<Vec<Finding>, Error> {
    if !sys::single_threaded().map_err(Error::Process)? {
        return Err(Error::Threads);
    }
    let trials = trial::run(options).map_err(Error::Process)?;
    Ok(judge(&Machine::read(options), &trials, options))
}
