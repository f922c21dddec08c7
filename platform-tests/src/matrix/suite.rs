//! A Debian suite's kernel and root file system as a virtual machine, and the cells that are run in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cell::Cell;
use super::outcome::{Attempt, Ended, Outcome};

/// The programs that go into the machine: they bring all that they need with them.
#[derive(Clone, Debug)]
pub struct Programs {
    /// adit.
    pub adit: PathBuf,
    /// adit-load.
    pub load: PathBuf,
    /// adit-cells.
    pub cells: PathBuf,
}

/// One start of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The Debian suite.
    pub suite: String,
    /// What the kernel is told besides.
    pub parameter: Option<&'static str>,
    /// What is run in it, in this order.
    pub cells: Vec<Cell>,
}

/// Why a machine didn't run.
#[derive(Debug)]
pub struct BootError {
    /// The suite.
    pub suite: String,
    /// What was tried, and what was said.
    pub reason: String,
}

impl std::fmt::Display for BootError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.suite, self.reason)
    }
}

impl std::error::Error for BootError {}

/// Fetches and makes what a suite's machine starts from, once: a minute. Installs qemu and others where they are missing.
///
/// # Errors
/// What can't be had.
pub fn prepare(suite: &str) -> Result<(), BootError> {
    let output = vm_script().args(["prepare", suite]).output();
    let output = output.map_err(|error| BootError::of(suite, error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(BootError::of(suite, String::from_utf8_lossy(&output.stderr))),
    }
}

/// The starts of a suite's machine that these cells take: one for each kernel parameter.
pub fn boots(suite: &str, cells: &[Cell]) -> Vec<Boot> {
    let mut by_parameter: BTreeMap<_, Vec<Cell>> = BTreeMap::new();
    for cell in cells {
        let of_parameter = by_parameter.entry(cell.condition.kernel_parameter());
        of_parameter.or_default().push(*cell);
    }
    let boots = by_parameter.into_iter().map(|(parameter, cells)| Boot {
        suite: suite.to_owned(),
        parameter,
        cells,
    });
    boots.collect()
}

impl Boot {
    /// Starts the machine and runs the cells. One that the machine didn't come to has hung.
    ///
    /// # Errors
    /// The machine can't be started.
    pub fn run(&self, programs: &Programs, folder: &Path) -> Result<Vec<Outcome>, BootError> {
        let failed =
            |what: &str, error: std::io::Error| BootError::of(&self.suite, format!("{what}: {error}"));
        let payload = folder.join("payload");
        let results = folder.join("results");
        self.pack(programs, &payload)
            .map_err(|error| failed("packing the payload", error))?;
        let status = vm_script()
            .args(["run", &self.suite])
            .args([&payload, &results])
            .args(self.parameter)
            .stdout(Stdio::null())
            .status()
            .map_err(|error| failed("vm.sh", error))?;
        let said = fs::read_to_string(&results).unwrap_or_default();
        if said.is_empty() && !status.success() {
            return Err(BootError::of(
                &self.suite,
                "the machine ended before the first cell did",
            ));
        }
        Ok(complete(&self.cells, &said))
    }

    fn pack(&self, programs: &Programs, payload: &Path) -> std::io::Result<()> {
        let _ = fs::remove_dir_all(payload);
        fs::create_dir_all(payload)?;
        for (program, name) in [
            (&programs.adit, "adit"),
            (&programs.load, "adit-load"),
            (&programs.cells, "adit-cells"),
        ] {
            fs::copy(program, payload.join(name))?;
        }
        let names = self.cells.iter().map(Cell::to_string).collect::<Vec<_>>();
        let script = format!(
            "#!/bin/sh\nexec ./adit-cells all --adit /payload/adit --load /payload/adit-load --out /dev/ttyS1 {}\n",
            names.join(" ")
        );
        let run = payload.join("run");
        fs::write(&run, script)?;
        fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o755))
    }
}

/// An outcome for each cell, in their order.
fn complete(cells: &[Cell], said: &str) -> Vec<Outcome> {
    let seen = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Outcome>(line).ok());
    let seen = seen
        .map(|outcome| (outcome.cell, outcome))
        .collect::<BTreeMap<_, _>>();
    let missing = |cell: Cell| {
        let hung = || Attempt::of(Ended::Hung, "the machine ended before this cell did");
        Outcome {
            cell,
            kernel: String::new(),
            sha256: String::new(),
            check: hung(),
            real: hung(),
            millis: 0,
        }
    };
    let outcomes = cells
        .iter()
        .map(|cell| seen.get(cell).cloned().unwrap_or_else(|| missing(*cell)));
    outcomes.collect()
}

impl BootError {
    fn of(suite: &str, reason: impl Into<String>) -> Self {
        Self {
            suite: suite.to_owned(),
            reason: reason.into().trim().to_owned(),
        }
    }
}

fn vm_script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("matrix/vm.sh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_a_kernel_parameter_have_a_boot_of_their_own() {
        let boots = boots("sid", &Cell::all());
        assert_eq!(boots.len(), 2);
        assert_eq!((boots[0].parameter, boots[0].cells.len()), (None, 32));
        assert_eq!(boots[1].parameter, Some("ipv6.disable=1"));
    }

    #[test]
    fn a_cell_that_nothing_was_heard_of_has_hung() {
        let cells = ["laptop/tun/root", "laptop/tun/user"].map(|name| name.parse().unwrap());
        let seen = Outcome {
            cell: cells[1],
            kernel: "6.1".into(),
            sha256: String::new(),
            check: Attempt::yes(""),
            real: Attempt::yes(""),
            millis: 1,
        };
        let said = format!("noise\n{}\n", serde_json::to_string(&seen).unwrap());
        let all = complete(&cells, &said);
        assert_eq!(all[0].real.ended, Ended::Hung);
        assert_eq!(all[1], seen);
    }
}
