//! Inside of a virtual machine: makes a cell's condition, asks `adit check`, does the real thing, and says what came of both.
//!
//! ```text
//! adit-cells all ── root of the machine: one cell after another, each with a limit
//!  └─ unshare: pid, mount and network namespaces of the cell's own; whatever it leaves goes with them
//!      └─ adit-cells cell NAME: makes the world (pods of a node), becomes the condition, and starts everything else
//! ```

mod api;
mod become_it;
mod laptop;
mod node;
mod run;

pub use run::{all, cell, in_network};

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::outcome::{Attempt, Ended};
use crate::process::{Finished, Running};

/// How long one command may take. Emulated, on a busy machine, the slowest takes some seconds.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long something may take that is waited for.
const WAIT_LIMIT: Duration = Duration::from_secs(45);
/// How long the whole of a cell may take.
const CELL_LIMIT: Duration = Duration::from_secs(180);

/// Where a cell keeps its files: the one place that is writable under every condition.
const FOLDER: &str = "/run/cell";

/// Ids of those who run things.
const USER: u32 = 1000;
const AGENT: u32 = 65_532;

/// The port of every server.
const PORT: u16 = 7000;

/// The programs that a cell runs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// adit.
    pub adit: PathBuf,
    /// adit-load.
    pub load: PathBuf,
}

impl Tools {
    fn adit(&self) -> Command {
        let mut command = Command::new(&self.adit);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

/// Runs a command to its end; what hangs is ended, and told as such.
fn finished(command: Command) -> Result<Finished, Attempt> {
    let line = format!("{command:?}");
    Running::spawn(command)
        .try_finish(COMMAND_LIMIT)
        .map_err(|running| {
            let said = format!(
                "still running after {COMMAND_LIMIT:?}: {line}; {}",
                last_words(&running)
            );
            Attempt::of(Ended::Hung, said)
        })
}

/// The same for one that has to succeed.
fn succeeded(command: Command) -> Result<Finished, Attempt> {
    let done = finished(command)?;
    match done.code() {
        0 => Ok(done),
        _ => Err(Attempt::no(shortened(&done.to_string()))),
    }
}

/// Looks until something is there, or says that it hangs.
fn waited<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>, Attempt>) -> Result<T, Attempt> {
    let until = Instant::now() + WAIT_LIMIT;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > until {
            return Err(Attempt::of(
                Ended::Hung,
                format!("waited {WAIT_LIMIT:?} for {what}"),
            ));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a program said that has ended, or is about to say more: what is under way is waited for, a little.
fn last_words(running: &Running) -> String {
    std::thread::sleep(Duration::from_millis(300));
    shortened(&format!("{} {}", running.stdout(), running.stderr()))
}

/// On one line, and its end where it's long: that's where reasons are.
fn shortened(text: &str) -> String {
    const MOST: usize = 1500;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let from = line.len().saturating_sub(MOST);
    let from = (from..=line.len())
        .find(|at| line.is_char_boundary(*at))
        .unwrap_or(0);
    line[from..].to_owned()
}
