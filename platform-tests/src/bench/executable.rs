//! The executable by itself: how large it is, and how long it takes to start.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::progress::tell;
use super::table::shown;
use super::targets::mib;
use crate::process::Finished;
use crate::sandbox::Sandbox;
use crate::stats::Spread;

/// How often each command is run: enough for a median of what takes a millisecond.
const RUNS: usize = 25;
const LIMIT: Duration = Duration::from_secs(60);

/// The executable that is measured, and what it takes to start it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Executable {
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether it needs no other file: it names no interpreter, which would load libraries.
    pub is_static: bool,
    /// Milliseconds from starting `adit --version` to its end.
    pub version: Spread,
    /// The same of `adit check --json`, as an ordinary user: it makes namespaces and devices, and sends packets.
    pub check: Spread,
}

impl Executable {
    /// That of `sandbox`, on this machine.
    ///
    /// # Panics
    /// If a command fails.
    #[track_caller]
    pub(super) fn measure(sandbox: &Sandbox) -> Self {
        tell("size and start of the executable");
        let adit = sandbox.adit();
        let version = || {
            // By itself: to become another user takes as long as this.
            let mut command = Command::new(&adit);
            command.arg("--version");
            command
        };
        let check = || {
            let mut command = sandbox.user().command(&adit);
            command.args(["check", "--json"]).env("ADIT_TUN", sandbox.tun());
            command
        };
        Self {
            bytes: std::fs::metadata(&adit).map_or(0, |found| found.len()),
            is_static: is_static(&adit),
            version: timed(version),
            check: timed(check),
        }
    }
}

#[track_caller]
fn timed(command: impl Fn() -> Command) -> Spread {
    let runs = (0..RUNS).map(|_| {
        let mut command = command();
        let begun = Instant::now();
        let output = command.output();
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        let output = output.unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        assert!(output.status.success(), "{command:?}: {output:?}");
        took
    });
    Spread::of(runs).expect("there are runs")
}

#[track_caller]
fn is_static(path: &Path) -> bool {
    let mut command = Command::new(crate::program("readelf", "binutils"));
    command.args(["--wide", "--segments"]).arg(path);
    !Finished::of(command, LIMIT).stdout().contains("INTERP")
}

impl fmt::Display for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bytes,
            version,
            check,
            ..
        } = self;
        let kind = if self.is_static {
            "static"
        } else {
            "with shared libraries"
        };
        let took = |Spread { min, median, max }: &Spread| {
            format!("{} ms [{} to {}]", shown(*median), shown(*min), shown(*max))
        };
        write!(
            f,
            "The executable has {} MiB, {kind}. `adit --version` takes {}, `adit check --json` {}.",
            shown(mib(*bytes)),
            took(version),
            took(check)
        )
    }
}
