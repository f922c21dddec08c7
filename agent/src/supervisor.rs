//! `adit up` and `adit run`: one process that starts everything, keeps it running, and ends it.
//!
//! ```text
//! supervisor ─┬─ adit node    makes pods; holds their TUNs     ends: by its lifeline. It dying ends everything
//!             ├─ adit agent   carries their traffic            ends: by its lifeline. It dying resets flows; started again
//!             └─ adit enter   one a program, in its pod        ends: by signal, then by its lifeline
//! ```
//!
//! One task owns the state (`table::Table`) and takes events one after another (`running`); every other task owns one process
//! and reports. The agent is told by a value of which only the latest counts (`agent_keeper`). See
//! `docs/lifecycle.md` for what happens when which process dies.

mod agent_keeper;
mod artifacts;
mod error;
mod helper;
mod log_file;
mod members;
mod notice;
mod once;
mod output;
mod pods;
pub mod probe;
mod process;
mod replica;
mod restart;
mod running;
mod saved;
mod signals;
mod table;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_control::Update;
use adit_flow::WorkloadName;
use adit_node::LinkChoice;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::rundir::{Base, RunDir};
use crate::sink::{self, LineSink, SinkThread};
pub use artifacts::{Artifacts, ArtifactsError};
use artifacts::{Log, Recording};
pub use error::UpError;
use log_file::LogFile;
use members::Ask;
use notice::Notices;
use once::Ended;
pub use once::Once;
pub use process::AgentArguments;
use running::Supervisor;
use signals::Signals;
use table::Change;
pub use table::Source;

/// What to run and how.
#[derive(Debug)]
pub struct Options {
    /// The mesh.
    pub source: Source,
    /// Where run directories are.
    pub base: Base,
    /// What pods' packets go through.
    pub link: LinkChoice,
    /// The TUN device node.
    pub tun_device: PathBuf,
    /// How the agent is to run.
    pub agent: AgentArguments,
    /// The workload whose end is the end of everything; its exit code is ours.
    pub once: Option<Once>,
    /// Whether to follow the mesh file and its policy files as they change.
    pub watch: bool,
    /// Whether the one workload has the terminal, as under `adit run`.
    pub foreground: bool,
    /// The file that standard output and error are, to be kept within bounds; `None` where they are somebody else's to look after.
    pub log: Option<PathBuf>,
    /// How long programs may take to end after SIGTERM.
    pub grace: Duration,
}

/// How far everything is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    Gently,
    Now,
}

/// Waits until everything is to stop at least as far as `far`. Safe to drop.
async fn stopping(stop: &watch::Receiver<Stop>, far: Stop) {
    // A sender that is gone has stopped everything. The guard that comes back must not live on: it is a lock.
    let _ = stop.clone().wait_for(|stop| *stop >= far).await;
}

/// What the tasks report.
#[derive(Debug)]
enum Event {
    /// There is no agent and there won't be one.
    AgentFailed(String),
    /// The mesh file or one of its policy files was saved.
    FileChanged(Box<Update>),
    /// Somebody asks on the supervisor's socket.
    Asked(Ask),
    /// A workload's state changed.
    Changed { name: WorkloadName, change: Change },
    /// A workload's program ended and isn't started again.
    Finished { name: WorkloadName, code: u8 },
    /// A workload can't be run at all.
    PodFailed { name: WorkloadName, reason: String },
    /// Something that isn't as it should be and keeps nothing from running.
    Warning(String),
}

/// Runs the mesh until it is told to stop, or until the workload ends that it is run for.
///
/// The result is what to exit with: that workload's code, 124 when its time was over, 128 and the signal's number after a
/// signal, or 0. Call it from the main thread: processes are started that end with the thread that started them.
///
/// # Errors
/// See [`UpError`]. Everything that was started has ended then.
pub fn up(mut options: Options) -> Result<u8, UpError> {
    let began = Instant::now();
    let artifacts = options.once.as_mut().and_then(|once| once.artifacts.take());
    let recording = artifacts.map(Recording::start).transpose()?;
    let story = (
        options.source.mesh.name.clone(),
        options.once.as_ref().map(|once| once.test.clone()),
    );
    let outcome = run(options, recording.as_ref());
    let (Some(recording), (mesh, Some(test))) = (recording, story) else {
        return outcome.map(|ended| ended.code());
    };
    let kept = recording.finish(&mesh, &test, &outcome, began.elapsed());
    let code = outcome?.code();
    match kept {
        // What the test says counts more than what is kept of it.
        Err(error) if code != 0 => eprintln!("adit: {error}"),
        Err(error) => return Err(error.into()),
        Ok(()) => {}
    }
    Ok(code)
}

fn run(options: Options, recording: Option<&Recording>) -> Result<Ended, UpError> {
    let system = |step| move |source| UpError::System { step, source };
    let run_dir = RunDir::create(&options.base, &options.source.mesh.name)?;
    // The runtime's signals need one, and it panics where that is refused.
    UnixStream::pair().map_err(system("making a pair of sockets"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("making a runtime"))?;
    let printer = match options.foreground {
        true => None,
        false => Some(printer(options.log.as_deref()).map_err(system("starting the thread that prints"))?),
    };
    let (notices, printer) = notices(&options, printer, recording.map(Recording::of_adit));
    let outcome = LocalSet::new().block_on(&runtime, supervise(options, &run_dir, &notices, recording));
    if outcome.is_err() {
        notices.take_kept().iter().for_each(|line| eprintln!("{line}"));
    }
    // Whoever watches the run directory or a connection to us sees the end only when nothing is left.
    let removed = run_dir.remove();
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(notices);
    if let Some(printer) = printer {
        printer.finish(LAST_LINES);
    }
    let ended = outcome?;
    removed?;
    Ok(ended)
}

/// Prints to standard output, or to the file that it is.
fn printer(log: Option<&Path>) -> io::Result<(LineSink, SinkThread)> {
    match log {
        Some(path) => LineSink::start(sink::QUEUE_LIMIT, LogFile::of_process(path)?),
        None => LineSink::start(sink::QUEUE_LIMIT, io::stdout()),
    }
}

fn notices(
    options: &Options,
    printer: Option<(LineSink, SinkThread)>,
    log: Option<Log>,
) -> (Notices, Option<SinkThread>) {
    let Some((sink, thread)) = printer else {
        return (Notices::kept(), None);
    };
    let width = display_names(options)
        .iter()
        .map(|(_, shown)| shown.len())
        .max()
        .unwrap_or(0)
        .max("agent".len());
    (
        Notices::Shown {
            sink,
            width,
            coloured: output::coloured(),
            log,
        },
        Some(thread),
    )
}

/// Each local replica and how it is called before its lines: without the namespace where there is only one.
fn display_names(options: &Options) -> Vec<(WorkloadName, String)> {
    let Source { mesh, node, .. } = &options.source;
    let names: Vec<_> = mesh
        .replicas_on(node.as_deref())
        .map(|replica| replica.name)
        .collect();
    let namespaces: BTreeSet<_> = names.iter().map(|name| &name.namespace).collect();
    let shown = |name: &WorkloadName| {
        if namespaces.len() == 1 {
            name.name.clone()
        } else {
            name.to_string()
        }
    };
    names.iter().map(|name| (name.clone(), shown(name))).collect()
}

async fn supervise(
    options: Options,
    run_dir: &RunDir,
    notices: &Notices,
    recording: Option<&Recording>,
) -> Result<Ended, UpError> {
    let mut signals = Signals::new().map_err(|source| UpError::System {
        step: "watching for signals",
        source,
    })?;
    check_once(&options)?;
    let (helper_process, helper) =
        helper::start(run_dir.paths(), options.link, &options.tun_device, notices).await?;
    let mut supervisor = Supervisor::start(
        options,
        run_dir,
        notices.clone(),
        helper_process,
        helper,
        recording,
    )?;
    let outcome = supervisor.follow(&mut signals).await;
    if let Some(recording) = recording {
        // As things are now, before what runs besides is stopped.
        recording.keep_state(&supervisor.paths, supervisor.report()).await;
    }
    supervisor.stop(&mut signals).await;
    outcome
}

fn check_once(options: &Options) -> Result<(), UpError> {
    let Some(wanted) = options.once.as_ref().map(|once| &once.test) else {
        return Ok(());
    };
    let names = display_names(options);
    if names.iter().any(|(name, _)| name == wanted) {
        return Ok(());
    }
    let known = names
        .iter()
        .map(|(name, _)| name.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    Err(UpError::UnknownOnce {
        wanted: wanted.clone(),
        known,
    })
}

/// How long a terminal that takes no more is waited for at the end.
const LAST_LINES: Duration = Duration::from_secs(2);
