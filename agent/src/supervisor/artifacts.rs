//! What is kept of a run that ends with a test: a folder that a CI system keeps.
//!
//! ```text
//! DIR/junit.xml               the test as one case
//! DIR/flows.jsonl             the record of each flow, one a line, as `adit flows --json` prints them
//! DIR/dump.json               the agent's state and counters as the test ended, as `adit dump` prints them, and the workloads
//! DIR/check.json              what `adit check --json` found before the start
//! DIR/logs/NAMESPACE/NAME.log what each workload printed
//! DIR/logs/adit.log           what adit, its agent and its helper had to say
//! ```
//!
//! Every file is opened before anything is started ([`Artifacts::open`]), so that a folder that can't be written costs
//! nothing but a message. From then on a full disk costs lines, which are counted, and never a workload's progress.

mod flows;
mod log;
mod report;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_flow::WorkloadName;
use serde_json::{Value, json};

use super::{Ended, UpError};
use crate::admin::{AgentClient, ClientError, PsReport};
use crate::rundir::RunPaths;
use crate::sink::{self, LineSink, SinkThread};
pub(super) use flows::FlowLog;
pub(super) use log::Log;

/// Why a run can't be kept.
#[derive(Debug, thiserror::Error)]
#[error("[ADIT-A080] --artifacts: {step} {}: {source}", path.display())]
pub struct ArtifactsError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The folder of a run, with every file in it open.
#[derive(Debug)]
pub struct Artifacts {
    junit: Kept,
    flows: Kept,
    dump: Kept,
    check: Kept,
    adit: Kept,
    logs: BTreeMap<WorkloadName, Kept>,
}

/// An open file, and its name for messages.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: File,
}

impl Artifacts {
    /// Makes the folder `dir` if there is none, and opens a file for each thing that is kept of the run of `test` and of
    /// each of `workloads`. Files that another run left under these names are replaced; others stay as they are.
    ///
    /// # Errors
    /// [`ArtifactsError`]: the folder can't be made, or a file in it can't be written.
    pub fn open(
        dir: &Path,
        mesh: &str,
        test: &WorkloadName,
        workloads: impl IntoIterator<Item = WorkloadName>,
    ) -> Result<Self, ArtifactsError> {
        let logs = dir.join("logs");
        folder(&logs)?;
        let mut junit = Kept::open(dir.join("junit.xml"))?;
        // What a reader finds of a run that was killed, the machine's end included.
        junit.replace(&report::unfinished(mesh, test))?;
        Ok(Self {
            junit,
            flows: Kept::open(dir.join("flows.jsonl"))?,
            dump: Kept::open(dir.join("dump.json"))?,
            check: Kept::open(dir.join("check.json"))?,
            adit: Kept::open(logs.join("adit.log"))?,
            logs: workloads
                .into_iter()
                .map(|name| {
                    let below = logs.join(&name.namespace);
                    folder(&below)?;
                    let file = Kept::open(below.join(format!("{}.log", name.name)))?;
                    Ok((name, file))
                })
                .collect::<Result<_, ArtifactsError>>()?,
        })
    }

    /// Keeps what was found out about this machine.
    ///
    /// # Errors
    /// [`ArtifactsError`]: it can't be written.
    pub fn keep_check(&mut self, findings: &Value) -> Result<(), ArtifactsError> {
        self.check.replace(&pretty(findings))
    }
}

impl Kept {
    fn open(path: PathBuf) -> Result<Self, ArtifactsError> {
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(ArtifactsError {
                step: "opening",
                path,
                source,
            }),
        }
    }

    /// Replaces what stands in it.
    fn replace(&mut self, text: &str) -> Result<(), ArtifactsError> {
        let written = (self.file.set_len(0))
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .and_then(|_| self.file.write_all(text.as_bytes()));
        written.map_err(|source| ArtifactsError {
            step: "writing",
            path: self.path.clone(),
            source,
        })
    }
}

fn folder(path: &Path) -> Result<(), ArtifactsError> {
    fs::create_dir_all(path).map_err(|source| ArtifactsError {
        step: "making the folder",
        path: path.to_owned(),
        source,
    })
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value with text keys is JSON");
    text.push('\n');
    text
}

/// Artifacts as they come to be.
#[derive(Debug)]
pub(super) struct Recording {
    junit: Kept,
    dump: RefCell<Kept>,
    flows: FlowLog,
    adit: Log,
    logs: BTreeMap<WorkloadName, Log>,
    threads: Vec<SinkThread>,
    /// What isn't as it should be of the workloads beside the test as it ended.
    troubles: RefCell<Vec<String>>,
}

impl Recording {
    /// Starts the threads that write: one a file that grows.
    ///
    /// # Errors
    /// [`ArtifactsError`]: no thread can be made.
    pub(super) fn start(artifacts: Artifacts) -> Result<Self, ArtifactsError> {
        let Artifacts {
            junit,
            flows,
            dump,
            // Written before.
            check: _,
            adit,
            logs,
        } = artifacts;
        let mut threads = Vec::new();
        let mut log = |kept: Kept| -> Result<Log, ArtifactsError> {
            let (sink, thread) = started(kept, LineSink::start)?;
            threads.push(thread);
            Ok(Log::new(sink))
        };
        let adit = log(adit)?;
        let logs = logs
            .into_iter()
            .map(|(name, kept)| Ok((name, log(kept)?)))
            .collect::<Result<_, ArtifactsError>>()?;
        let (sink, thread) = started(flows, LineSink::start_without_notes)?;
        threads.push(thread);
        Ok(Self {
            junit,
            dump: RefCell::new(dump),
            flows: FlowLog::new(sink),
            adit,
            logs,
            threads,
            troubles: RefCell::default(),
        })
    }

    /// Where the lines of a workload go, if it is one of those that run here.
    pub(super) fn of(&self, workload: &WorkloadName) -> Option<Log> {
        self.logs.get(workload).cloned()
    }

    /// Where adit's own lines go.
    pub(super) fn of_adit(&self) -> Log {
        self.adit.clone()
    }

    /// Where the records of flows go.
    pub(super) fn flows(&self) -> FlowLog {
        self.flows.clone()
    }

    /// Keeps how everything is now. An agent that can't be asked, mostly since it has ended, leaves its reason.
    pub(super) async fn keep_state(&self, paths: &RunPaths, report: PsReport) {
        let asked = tokio::time::timeout(ASKING, async {
            let mut agent = AgentClient::connect(&paths.agent_socket()).await?;
            Ok::<_, ClientError>((agent.dump().await?, agent.counters().await?))
        });
        let (state, counters) = match asked.await {
            Ok(Ok((state, counters))) => (state, json!(counters)),
            Ok(Err(error)) => (json!({ "error": error.to_string() }), Value::Null),
            Err(_) => (json!({ "error": "the agent didn't answer" }), Value::Null),
        };
        let dump = json!({
            "counters": counters, "files": report.files, "state": state, "workloads": report.workloads,
        });
        *self.troubles.borrow_mut() = report::troubles(&report);
        if let Err(error) = self.dump.borrow_mut().replace(&pretty(&dump)) {
            self.adit.send_now(error.to_string().as_bytes());
        }
    }

    /// Writes the report, once everything has ended, and waits for what is still to be written.
    ///
    /// # Errors
    /// [`ArtifactsError`]: the report can't be written.
    pub(super) fn finish(
        self,
        mesh: &str,
        test: &WorkloadName,
        outcome: &Result<Ended, UpError>,
        took: Duration,
    ) -> Result<(), ArtifactsError> {
        let Self {
            mut junit,
            flows,
            adit,
            logs,
            threads,
            troubles,
            ..
        } = self;
        let mut troubles = troubles.into_inner();
        troubles.retain(|trouble| !trouble.starts_with(&format!("{test}:")));
        let story = report::Story {
            mesh,
            test,
            outcome,
            took,
            lines: logs.get(test).map(Log::last_lines).unwrap_or_default(),
            denied: flows.denied(),
            troubles,
        };
        let text = report::junit(&story);
        for note in flows.lost() {
            adit.send_now(note.as_bytes());
        }
        drop((flows, adit, logs));
        for thread in threads {
            thread.finish(LAST_LINES);
        }
        junit.replace(&text)
    }
}

fn started(
    kept: Kept,
    start: impl FnOnce(usize, File) -> io::Result<(LineSink, SinkThread)>,
) -> Result<(LineSink, SinkThread), ArtifactsError> {
    start(sink::QUEUE_LIMIT, kept.file).map_err(|source| ArtifactsError {
        step: "starting the thread that writes",
        path: kept.path,
        source,
    })
}

/// How long the agent may take to tell its state.
const ASKING: Duration = Duration::from_secs(2);
/// How long a disk may take for the last lines of one file.
const LAST_LINES: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WorkloadName {
        text.parse().unwrap()
    }

    #[test]
    fn a_folder_that_is_a_file_is_named() {
        let file = std::env::temp_dir().join(format!("adit-artifacts-{}", std::process::id()));
        fs::write(&file, "in the way").unwrap();
        let opened = Artifacts::open(&file, "shop", &name("shop/e2e"), []);
        fs::remove_file(&file).unwrap();
        let said = opened.unwrap_err().to_string();
        assert!(
            said.starts_with("[ADIT-A080] --artifacts: making the folder"),
            "{said}"
        );
        assert!(said.contains(&*file.to_string_lossy()), "{said}");
    }

    #[test]
    fn a_run_that_is_killed_leaves_a_report_that_says_so() {
        let folder = std::env::temp_dir().join(format!("adit-artifacts-dir-{}", std::process::id()));
        let mut opened = Artifacts::open(
            &folder,
            "shop",
            &name("shop/e2e"),
            [name("shop/web"), name("shop/e2e")],
        )
        .unwrap();
        opened.keep_check(&json!([])).unwrap();
        let junit = fs::read_to_string(folder.join("junit.xml")).unwrap();
        let check = fs::read_to_string(folder.join("check.json")).unwrap();
        let logs =
            ["adit.log", "shop/web.log", "shop/e2e.log"].map(|log| folder.join("logs").join(log).exists());
        fs::remove_dir_all(&folder).unwrap();
        assert!(
            junit.contains("<error") && junit.contains("adit was killed"),
            "{junit}"
        );
        assert_eq!((check.as_str(), logs), ("[]\n", [true; 3]));
    }
}
