//! Everything that runs, and the one task that owns what is known of it: it takes events one after another.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Instant;

use adit_control::FileSource;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::agent_keeper::{AgentKeeper, Applied};
use super::artifacts::Recording;
use super::helper::{self, Helper};
use super::members::{self, Ask, Door};
use super::notice::Notices;
use super::once::{self, Ended, Test};
use super::output::{Lines, Prefix};
use super::process::{self, Kept};
use super::replica::{Console, Replica};
use super::signals::Signals;
use super::table::{Around, Desired, Table};
use super::{Event, Options, Stop, UpError, display_names, pods, saved};
use crate::admin::{self, PsReport};
use crate::rundir::{RunDir, RunPaths};

/// Everything that runs.
pub(super) struct Supervisor {
    pub(super) table: Table,
    test: Option<Test>,
    foreground: bool,
    pub(super) notices: Notices,
    warned: BTreeSet<String>,
    /// Lives as long as the mesh runs.
    _watch: Option<FileSource>,
    helper_process: Kept,
    helper: Helper,
    events: mpsc::UnboundedReceiver<Event>,
    /// Where new tasks report.
    reports: mpsc::UnboundedSender<Event>,
    pub(super) desired: watch::Sender<Desired>,
    applied: watch::Receiver<Applied>,
    stop_programs: watch::Sender<Stop>,
    stop_agent: watch::Sender<Stop>,
    replicas: JoinSet<()>,
    agent: JoinHandle<()>,
    pub(super) paths: RunPaths,
}

impl Supervisor {
    /// Starts the agent and every local workload, and opens the supervisor's socket.
    pub(super) fn start(
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
        let watch = saved::watch(&options, &reports);
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
    pub(super) async fn follow(&mut self, signals: &mut Signals) -> Result<Ended, UpError> {
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

    pub(super) fn report(&self) -> PsReport {
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
    pub(super) async fn stop(self, signals: &mut Signals) {
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

fn helper_died(ended: io::Result<ExitStatus>) -> UpError {
    UpError::HelperDied {
        how: ended.map_or_else(|error| error.to_string(), process::in_words),
    }
}

/// The time of `--timeout` was over.
const TIMED_OUT: &str = "ADIT-A084";
/// Different warnings that are shown, at most.
const WARNING_LIMIT: usize = 50;
