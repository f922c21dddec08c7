//! `adit up --detach`: the same command in the background, once everything in it is ready.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{CliError, block_on};
use crate::admin::{PsReport, SupervisorClient, WorkloadState};
use crate::rundir::Base;

/// Starts what this process was started for, without `--detach`, and returns once every workload of `mesh` that runs
/// here is ready or has ended well. Its output is appended to `log`, which it keeps within bounds.
///
/// Given up, by Ctrl-C or [`LIMIT`], the mesh goes on.
pub(super) fn detach(mesh: &str, log: &Path) -> Result<u8, CliError> {
    let system = |step| move |source| CliError::System { step, source };
    // As it's called when it is full and another is begun.
    let path = std::path::absolute(log).map_err(system("finding the working directory"))?;
    let output = File::options()
        .append(true)
        .create(true)
        .open(log)
        .map_err(system("opening the file for --detach"))?;
    let errors = output
        .try_clone()
        .map_err(system("opening the file for --detach"))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("adit")
        .args(without_detach(std::env::args_os().skip(1)))
        .arg("--detached")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        // Out of reach of this terminal's Ctrl-C.
        .process_group(0)
        .spawn()
        .map_err(system("starting adit in the background"))?;
    block_on(async {
        let deadline = Instant::now() + LIMIT;
        let mut waiting = "the supervisor".to_owned();
        while Instant::now() < deadline {
            if let Some(status) = child
                .try_wait()
                .map_err(system("waiting for adit in the background"))?
            {
                let how = status.to_string();
                return Err(CliError::EndedEarly {
                    mesh: mesh.to_owned(),
                    how,
                    log: log.to_owned(),
                });
            }
            if let Some(report) = ask(mesh, &child).await {
                waiting = not_ready(&report);
                if waiting.is_empty() {
                    return Ok(0);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(CliError::NotReady {
            mesh: mesh.to_owned(),
            waiting,
            log: log.to_owned(),
        })
    })
}

/// What runs, if it's ours that does: another mesh of that name may be there, and then ours ends.
async fn ask(mesh: &str, child: &Child) -> Option<PsReport> {
    let paths = Base::of_process().find(Some(mesh)).ok()?;
    let mut supervisor = SupervisorClient::connect(&paths.supervisor_socket()).await.ok()?;
    let report = supervisor.ps().await.ok()?;
    (report.supervisor_pid == child.id()).then_some(report)
}

/// The workloads of this node that are neither ready nor have ended well, with their states.
fn not_ready(report: &PsReport) -> String {
    let settled = |state: &WorkloadState| {
        matches!(
            state,
            WorkloadState::Completed | WorkloadState::Elsewhere { .. } | WorkloadState::Joined
        )
    };
    let rows = report
        .workloads
        .iter()
        .filter(|row| !row.ready && !settled(&row.state));
    rows.map(|row| format!("{} ({})", row.name, row.state))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The arguments without `--detach FILE` or `--detach=FILE`.
fn without_detach(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments;
    let mut kept = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == OPTION {
            // Its value.
            arguments.next();
        } else if !is_with_value(&argument) {
            kept.push(argument);
        }
    }
    kept
}

fn is_with_value(argument: &OsStr) -> bool {
    let rest = argument.as_encoded_bytes().strip_prefix(OPTION.as_bytes());
    rest.is_some_and(|rest| rest.starts_with(b"="))
}

const OPTION: &str = "--detach";
/// How long everything may take to be ready.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_and_its_value_are_left_out() {
        for line in [
            "up --detach log a.yaml --node x",
            "up a.yaml --detach=log --node x",
            "up a.yaml --node x",
        ] {
            let kept = without_detach(line.split(' ').map(OsString::from));
            assert_eq!(kept, ["up", "a.yaml", "--node", "x"], "{line}");
        }
    }
}
