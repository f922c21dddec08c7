//! `adit up` and `adit run`: one process that starts everything, keeps it running, and ends it.
//!
//! ```text
//! supervisor ─┬─ adit node    makes pods; holds their TUNs     ends: by its lifeline. It dying ends everything
//!             ├─ adit agent   carries their traffic            ends: by its lifeline. It dying resets flows; started again
//!             └─ adit enter   one a program, in its pod        ends: by signal, then by its lifeline
//! ```
//!
//! One task owns the state (`table::Table`) and takes events one after another; every other task owns one process
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
mod signals;
mod table;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_control::{FileSource, Loaded, Report, Style, Update};
use adit_flow::WorkloadName;
use adit_node::LinkChoice;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet, LocalSet};

use crate::admin::{self, Fault, PsReport};
use crate::agent::policies;
use crate::rundir::{Base, RunDir};
use crate::sink::{self, LineSink, SinkThread};
use agent_keeper::{AgentKeeper, Applied};
pub use artifacts::{Artifacts, ArtifactsError};
use artifacts::{Log, Recording};
pub use error::UpError;
use helper::Helper;
use log_file::LogFile;
use members::{Ask, Door};
use notice::Notices;
pub use once::Once;
use once::{Ended, Test};
use output::{Lines, Prefix};
pub use process::AgentArguments;
use process::Kept;
use replica::{Console, Replica};
use signals::Signals;
pub use table::Source;
use table::{Around, Change, Desired, Replaced, Table, policy_texts};

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

/// Everything that runs.
struct Supervisor {
    table: Table,
    test: Option<Test>,
    foreground: bool,
    notices: Notices,
    warned: BTreeSet<String>,
    /// Lives as long as the mesh runs.
    _watch: Option<FileSource>,
    helper_process: Kept,
    helper: Helper,
    events: mpsc::UnboundedReceiver<Event>,
    /// Where new tasks report.
    reports: mpsc::UnboundedSender<Event>,
    desired: watch::Sender<Desired>,
    applied: watch::Receiver<Applied>,
    stop_programs: watch::Sender<Stop>,
    stop_agent: watch::Sender<Stop>,
    replicas: JoinSet<()>,
    agent: JoinHandle<()>,
    paths: crate::rundir::RunPaths,
}

impl Supervisor {
    /// Starts the agent and every local workload, and opens the supervisor's socket.
    fn start(
        options: Options,
        run_dir: &RunDir,
        notices: Notices,
        helper_process: Kept,
        helper: Helper,
        recording: Option<&Recording>,
    ) -> Result<Self, UpError> {
        let table = Table::new(options.source.clone(), Instant::now());
        let (reports, events) = mpsc::unbounded_channel();
        let (stop_programs, stop) = watch::channel(Stop::No);
        let (stop_agent, agent_stop) = watch::channel(Stop::No);
        let (desired, desired_by_agent) = watch::channel(table.desired());
        let (applied_by_agent, applied) = watch::channel(Applied::default());
        let paths = run_dir.paths().clone();
        let keeper = AgentKeeper {
            paths: paths.clone(),
            arguments: options.agent.clone(),
            desired: desired_by_agent,
            applied: applied_by_agent,
            stop: agent_stop,
            events: reports.clone(),
            notices: notices.clone(),
            flows: recording.map(Recording::flows),
        };
        let agent = tokio::task::spawn_local(keeper.run());
        let listener = admin::bind(&paths.supervisor_socket()).map_err(|source| UpError::System {
            step: "binding the supervisor's socket",
            source,
        })?;
        tokio::spawn(admin::serve_supervisor(
            listener,
            Arc::new(Door::new(reports.clone(), stop.clone())),
        ));
        let watch = watch(&options, &reports);
        let test = options.once.as_ref().map(Test::new);
        let mut replicas = JoinSet::new();
        let snapshot = table.snapshot();
        for (index, (name, shown)) in display_names(&options).into_iter().enumerate() {
            let spec = options
                .source
                .mesh
                .replicas()
                .find(|replica| replica.name == name);
            let spec = spec.expect("the names are those of the mesh's replicas").spec;
            let console = match &notices {
                Notices::Kept(_) => Console::Ours,
                Notices::Shown {
                    sink,
                    width,
                    coloured,
                    ..
                } => Console::Lines(Lines {
                    prefix: Prefix::new(&shown, *width, index, *coloured),
                    sink: sink.clone(),
                    log: recording.and_then(|recording| recording.of(&name)),
                }),
            };
            let start = test.as_ref().and_then(|test| test.gate(&name));
            let replica = Replica {
                pod: table.pod(&name).expect("the table has every replica"),
                spec: pods::spec(&snapshot, &name).expect("the snapshot has every replica"),
                argv: spec.command.iter().chain(&spec.args).cloned().collect(),
                env: spec.env.clone(),
                directory: spec.working_dir.clone(),
                restart: match start {
                    Some(_) => adit_control::RestartPolicy::Never,
                    None => spec.restart,
                },
                start,
                probe: spec.readiness.clone(),
                console,
                grace: options.grace,
                paths: paths.clone(),
                helper: helper.clone(),
                applied: applied.clone(),
                stop: stop.clone(),
                events: reports.clone(),
                notices: notices.clone(),
            };
            replicas.spawn_local(replica.run());
        }
        Ok(Self {
            table,
            test,
            foreground: options.foreground,
            notices,
            warned: BTreeSet::new(),
            _watch: watch,
            helper_process,
            helper,
            events,
            reports,
            desired,
            applied,
            stop_programs,
            stop_agent,
            replicas,
            agent,
            paths,
        })
    }

    /// Takes events until something ends it all.
    async fn follow(&mut self, signals: &mut Signals) -> Result<Ended, UpError> {
        if let Some(error) = self.let_test_begin() {
            return Err(error);
        }
        let deadline = self.test.as_ref().and_then(Test::deadline);
        let mut reminder = self.test.as_ref().and_then(Test::reminder);
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => {
                    if let Some(outcome) = self.on_event(event) {
                        return outcome;
                    }
                }
                ended = self.helper_process.wait() => return Err(helper_died(ended)),
                number = signals.next() => match number {
                    // The terminal gave it to the program as well, whose answer to it decides.
                    Signals::INT | Signals::QUIT if self.foreground => {}
                    number => {
                        self.notices.say(&format!("stopping on signal {number}; a second one ends everything at once"));
                        return Ok(Ended::Signal(number));
                    }
                },
                () = once::at(deadline) => return Ok(self.time_is_over()),
                () = once::at(reminder) => {
                    reminder = None;
                    self.say_what_is_missing();
                }
            }
        }
    }

    /// Takes one event in; `Some` when it is the last.
    fn on_event(&mut self, event: Event) -> Option<Result<Ended, UpError>> {
        match event {
            Event::AgentFailed(reason) => return Some(Err(UpError::Agent { reason })),
            Event::Asked(Ask::Down { answer }) => {
                let _ = answer.send(());
                return Some(match &self.test {
                    Some(test) if !self.foreground => Err(UpError::Stopped {
                        test: test.name.clone(),
                    }),
                    _ => Ok(Ended::Down),
                });
            }
            Event::Asked(ask) => self.on_ask(ask),
            Event::Changed { name, change } => {
                if self.table.on_change(&name, change, Instant::now()) {
                    self.desired.send_replace(self.table.desired());
                }
                return self.let_test_begin().map(Err);
            }
            Event::FileChanged(update) => self.on_file(*update),
            Event::Finished { name, code } => {
                if self.test.as_ref().is_some_and(|test| test.name == name) {
                    let how = self.table.last_exit(&name).unwrap_or_default();
                    self.notices.say(&format!("the test {name} ended with {how}"));
                    return Some(Ok(Ended::Test { code, how }));
                }
            }
            Event::PodFailed { name, reason } => return Some(Err(UpError::Pod { name, reason })),
            Event::Warning(text) => {
                if self.warned.len() < WARNING_LIMIT && self.warned.insert(text.clone()) {
                    self.notices.say(&text);
                }
            }
        }
        None
    }

    /// Lets the test begin once everything beside it is ready, and the agent knows; `Some` if that can't come to be.
    fn let_test_begin(&self) -> Option<UpError> {
        let test = self.test.as_ref().filter(|test| !test.may_begin())?;
        match self.table.around(&test.name, Instant::now()) {
            Around::Failed { name, how } => Some(UpError::BeforeTest { name, how }),
            Around::Waiting(_) => None,
            Around::Ready => {
                test.let_begin(self.table.generation());
                None
            }
        }
    }

    fn say_what_is_missing(&self) {
        let missing = self.missing();
        if let (Some(test), false) = (&self.test, missing.is_empty()) {
            let (name, missing) = (&test.name, missing.join(", "));
            self.notices
                .say(&format!("the test {name} begins when this is ready: {missing}"));
        }
    }

    /// What keeps the test from beginning; nothing once it has begun.
    fn missing(&self) -> Vec<String> {
        let test = self.test.as_ref().filter(|test| !test.may_begin());
        match test.map(|test| self.table.around(&test.name, Instant::now())) {
            Some(Around::Waiting(missing)) => missing,
            _ => Vec::new(),
        }
    }

    fn time_is_over(&self) -> Ended {
        let limit = self.test.as_ref().and_then(|test| test.limit).unwrap_or_default();
        let ended = Ended::TimedOut {
            limit,
            missing: self.missing(),
        };
        self.notices.say(&format!("[{TIMED_OUT}] {ended}"));
        ended
    }

    /// A file that is wrong changes nothing, and people are told what is wrong with it.
    fn on_file(&mut self, update: Update) {
        match update {
            Update::Changed(loaded) => self.on_saved(*loaded),
            Update::Refused(report) => {
                let report = report.render(Style::Plain);
                self.refuse_file(
                    "the mesh file was saved and can't be used; the mesh goes on as it was",
                    &report,
                );
            }
        }
    }

    /// Says what is wrong with a saved file, and keeps it for `adit ps`.
    fn refuse_file(&mut self, outcome: &str, report: &str) {
        self.notices.say(&format!("[{REFUSED_FILE}] {outcome}"));
        for line in report.lines() {
            self.notices.say(line);
        }
        let first = report.lines().next().unwrap_or_default();
        self.table.refuse(Fault::new(REFUSED_FILE, first), Instant::now());
    }

    fn on_saved(&mut self, loaded: Loaded) {
        // The agent would refuse them, and with them every later change of the mesh.
        if let Err(error) = policies::check(&policy_texts(&loaded.mesh)) {
            let outcome =
                "a policy file was saved and can't be used; the mesh goes on with the policies that it had";
            return self.refuse_file(outcome, &error.to_string());
        }
        if loaded.mesh.trust_domain != *self.table.trust_domain() {
            let outcome = "the mesh file was saved with another trust domain; the mesh goes on as it was";
            let report = format!(
                "the trust domain of a running mesh can't change: expected {}, got {}; stop the mesh and start it again",
                self.table.trust_domain(),
                loaded.mesh.trust_domain
            );
            return self.refuse_file(outcome, &report);
        }
        let replaced = self.table.replace(loaded.mesh, loaded.text, Instant::now());
        self.desired.send_replace(self.table.desired());
        self.notices.say(match replaced {
            Replaced::Whole { restart_needed: false } => "the mesh file or a policy file was saved and took effect",
            Replaced::Whole { restart_needed: true } => {
                "the mesh file was saved and took effect, but for how programs are run: start the mesh again for that"
            }
            Replaced::Policies => {
                "the mesh file was saved with other workloads than run: only its policies took effect; start the mesh again for the rest"
            }
        });
        self.say_report(&loaded.warnings);
    }

    fn say_report(&self, report: &Report) {
        for line in report.render(Style::Plain).lines() {
            self.notices.say(line);
        }
    }

    fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Down { .. } => unreachable!("taken before"),
            Ask::Join { request, answer } => match self.table.join(request, Instant::now()) {
                Ok(pod) => {
                    self.desired.send_replace(self.table.desired());
                    let joining = members::Joining {
                        spec: pods::spec(&self.table.snapshot(), &pod.name).expect("it has just joined"),
                        pod,
                        paths: self.paths.clone(),
                        helper: self.helper.clone(),
                        applied: self.applied.clone(),
                        reports: self.reports.clone(),
                    };
                    tokio::task::spawn_local(joining.run(answer));
                }
                Err(error) => {
                    let _ = answer.send(Err(members::refusal(&error)));
                }
            },
            Ask::Leave { pod } => {
                if self.table.leave(&pod) {
                    self.desired.send_replace(self.table.desired());
                    self.helper.forget_pod(pod.name.to_string());
                }
            }
            Ask::Ps { answer } => {
                let _ = answer.send(self.report());
            }
        }
    }

    fn report(&self) -> PsReport {
        let applied = self.applied.borrow();
        PsReport {
            supervisor_pid: std::process::id(),
            agent_pid: applied.pid,
            agent_restarts: applied.restarts,
            lines_dropped: self.notices.dropped(),
            ..self.table.report(Instant::now())
        }
    }

    /// Ends everything: programs, then the agent, then the helper. Another signal, and it happens at once.
    async fn stop(self, signals: &mut Signals) {
        let Self {
            mut replicas,
            agent,
            mut helper_process,
            stop_programs,
            stop_agent,
            foreground,
            ..
        } = self;
        stop_programs.send_replace(Stop::Gently);
        let in_order = async {
            while replicas.join_next().await.is_some() {}
            stop_agent.send_replace(Stop::Gently.max(*stop_programs.borrow()));
            // It failed before or ends now; a panic in it was printed.
            let _ = agent.await;
            let _ = helper_process.end(helper::END_LIMIT).await;
        };
        let mut in_order = std::pin::pin!(in_order);
        loop {
            tokio::select! {
                () = &mut in_order => return,
                number = signals.next() => match number {
                    Signals::INT | Signals::QUIT if foreground => {}
                    _ => {
                        stop_programs.send_replace(Stop::Now);
                        stop_agent.send_modify(|stop| if *stop > Stop::No { *stop = Stop::Now });
                    }
                },
            }
        }
    }
}

/// Follows the files of the mesh. One that can't be watched is no reason not to run, but one to be told.
fn watch(options: &Options, reports: &mpsc::UnboundedSender<Event>) -> Option<FileSource> {
    if !options.watch {
        return None;
    }
    let source = &options.source;
    let changes = reports.clone();
    let watched = FileSource::watch(&source.path, (*source.mesh).clone(), move |update| {
        // Nobody takes it any more when everything is about to end.
        let _ = changes.send(Event::FileChanged(Box::new(update)));
    });
    watched
        .map_err(|error| {
            let _ = reports.send(Event::Warning(format!(
                "changes of files won't take effect: {error}"
            )));
        })
        .ok()
}

fn helper_died(ended: io::Result<ExitStatus>) -> UpError {
    UpError::HelperDied {
        how: ended.map_or_else(|error| error.to_string(), process::in_words),
    }
}

/// A saved file that can't be taken.
const REFUSED_FILE: &str = "ADIT-A019";
/// The time of `--timeout` was over.
const TIMED_OUT: &str = "ADIT-A084";
/// How long a terminal that takes no more is waited for at the end.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Different warnings that are shown, at most.
const WARNING_LIMIT: usize = 50;
