//! One replica, from its pod to its end.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use adit_control::{Probe, ProbeAction, RestartPolicy};
use adit_node::protocol::PodSpec;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::agent_keeper::Applied;
use super::helper::Helper;
use super::notice::Notices;
use super::output::{self, Lines};
use super::probe::Readiness;
use super::process::Kept;
use super::restart::{self, Backoff};
use super::table::{Change, Pod};
use super::{Event, Stop, process, stopping};
use crate::rundir::RunPaths;

/// A replica and everything it takes to run it.
pub(super) struct Replica {
    pub(super) pod: Pod,
    pub(super) spec: PodSpec,
    /// The program and its arguments; never empty.
    pub(super) argv: Vec<String>,
    /// Environment variables besides our own.
    pub(super) env: Vec<(String, String)>,
    pub(super) directory: PathBuf,
    pub(super) restart: RestartPolicy,
    /// The generation of the mesh in which its program may start, once there is one; `None` starts as soon as it can.
    pub(super) start: Option<watch::Receiver<Option<u64>>>,
    pub(super) probe: Option<Probe>,
    pub(super) console: Console,
    /// How long the program may take to end after SIGTERM.
    pub(super) grace: Duration,
    pub(super) paths: RunPaths,
    pub(super) helper: Helper,
    pub(super) applied: watch::Receiver<Applied>,
    pub(super) stop: watch::Receiver<Stop>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) notices: Notices,
}

/// Where a program's standard streams lead.
#[derive(Clone, Debug)]
pub(super) enum Console {
    /// Input from nowhere; output line by line, named, into the sink.
    Lines(Lines),
    /// The terminal, or whatever ours are.
    Ours,
}

/// How a run ended.
enum Run {
    Ended(ExitStatus),
    Stopped(ExitStatus),
}

impl Replica {
    /// Makes the pod, and runs the program in it as its restart policy says, until told to stop.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let made = tokio::select! {
            made = self.make_pod() => made,
            () = stopping(&stop, Stop::Gently) => return,
        };
        if let Err(reason) = made {
            return self.tell(Event::PodFailed {
                name: self.pod.name.clone(),
                reason,
            });
        }
        tokio::select! {
            () = self.may_start() => {}
            () = stopping(&stop, Stop::Gently) => return,
        }
        let mut backoff = Backoff::new();
        loop {
            let started = Instant::now();
            let status = match self.run_once().await {
                Ok(Run::Ended(status)) => status,
                Ok(Run::Stopped(status)) => return self.finish(status),
                Err(error) => {
                    let reason = format!("starting `adit enter`: {error}");
                    return self.tell(Event::PodFailed {
                        name: self.pod.name.clone(),
                        reason,
                    });
                }
            };
            if !restart::starts_again(self.restart, status.success()) {
                return self.finish(status);
            }
            let pause = backoff.after(started.elapsed());
            self.exited(status, Some(pause));
            let name = &self.pod.name;
            let (how, seconds) = (process::in_words(status), pause.as_secs());
            self.notices.say(&format!(
                "{name} ended with {how}; it is started again in {seconds} s"
            ));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopping(&stop, Stop::Gently) => return self.finish(status),
            }
        }
    }

    /// Makes the pod and waits until the agent serves it.
    async fn make_pod(&mut self) -> Result<(), String> {
        let info = self.helper.create_pod(self.spec.clone()).await;
        let info = info.map_err(|error| format!("[{}] {error}", error.code()))?;
        let little_room = info.little_room();
        for warning in info.warnings.into_iter().chain(little_room) {
            self.tell(Event::Warning(warning));
        }
        self.change(Change::PodMade {
            pod: self.pod.clone(),
            link: info.link,
        });
        let pod = &self.pod;
        match self.applied.wait_for(|applied| applied.knows(pod)).await {
            Ok(applied) => applied
                .refused
                .get(pod)
                .map_or(Ok(()), |fault| Err(fault.to_string())),
            Err(_) => Err("the agent is gone".to_owned()),
        }
    }

    /// Completes when the program may start: at once, or when everything beside it is ready and the agent knows it.
    async fn may_start(&mut self) {
        let Some(start) = &mut self.start else {
            return;
        };
        // Both live as long as the mesh; when it ends, so does this.
        let Ok(generation) = start
            .wait_for(Option::is_some)
            .await
            .map(|generation| *generation)
        else {
            return;
        };
        let _ = self
            .applied
            .wait_for(|applied| Some(applied.generation) >= generation)
            .await;
    }

    async fn run_once(&self) -> std::io::Result<Run> {
        let (mut program, printers) = self.start()?;
        self.change(Change::Started {
            pid: program.pid().unwrap_or(0),
        });
        let run = tokio::select! {
            status = program.wait() => Run::Ended(status?),
            () = stopping(&self.stop, Stop::Gently) => {
                self.change(Change::Stopping);
                Run::Stopped(self.terminate(&mut program).await?)
            }
            () = self.check_again_and_again() => unreachable!("checks go on for ever"),
        };
        for mut printer in printers {
            if tokio::time::timeout(LAST_LINES, &mut printer).await.is_err() {
                printer.abort();
            }
        }
        Ok(run)
    }

    /// Asks `program` to end, and makes it when its time is over or everything has to go at once.
    async fn terminate(&self, program: &mut Kept) -> std::io::Result<ExitStatus> {
        program.signal(Signal::TERM);
        tokio::select! {
            status = program.wait() => return status,
            () = tokio::time::sleep(self.grace) => {
                let (name, seconds) = (&self.pod.name, self.grace.as_secs_f32());
                self.notices.say(&format!("{name} did not end within {seconds} s of SIGTERM and is killed"));
            }
            () = stopping(&self.stop, Stop::Now) => {}
        }
        program.end(KILL_LIMIT).await
    }

    /// Starts the program, and what prints its lines.
    fn start(&self) -> std::io::Result<(Kept, Vec<JoinHandle<()>>)> {
        let on_terminal = matches!(self.console, Console::Ours);
        let mut command = self.command(&self.argv, on_terminal);
        let Console::Lines(lines) = &self.console else {
            return Ok((Kept::start_on_terminal(command)?, Vec::new()));
        };
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = Kept::start(command)?;
        let (out, err) = program.streams();
        let out = out.map(|out| tokio::task::spawn_local(output::pump(out, lines.clone())));
        let err = err.map(|err| tokio::task::spawn_local(output::pump(err, lines.clone())));
        Ok((program, out.into_iter().chain(err).collect()))
    }

    fn command(&self, argv: &[String], on_terminal: bool) -> Command {
        let mut command = process::enter(&self.paths, &self.spec.name, &self.directory, on_terminal, argv);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs the readiness checks, if there are any. Never ends.
    async fn check_again_and_again(&self) {
        let Some(probe) = &self.probe else {
            return std::future::pending().await;
        };
        let mut readiness = Readiness::new(probe);
        tokio::time::sleep(probe.initial_delay).await;
        let mut period = tokio::time::interval(probe.period);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            period.tick().await;
            let passed = self.check(probe).await;
            if let Some(ready) = readiness.on_check(passed) {
                self.change(Change::Ready(ready));
            }
        }
    }

    /// One check, by a program in the pod: only from inside does it see what the pod's peers will see.
    async fn check(&self, probe: &Probe) -> bool {
        let argv = match &probe.action {
            ProbeAction::Exec(argv) => argv.clone(),
            ProbeAction::HttpGet { port, path } => match self.prober("http", *port) {
                Some(mut argv) => {
                    argv.extend(["--path".to_owned(), path.clone()]);
                    argv
                }
                None => return false,
            },
            ProbeAction::TcpSocket { port } => match self.prober("tcp", *port) {
                Some(argv) => argv,
                None => return false,
            },
        };
        let mut command = self.command(&argv, false);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut check) = Kept::start(command) else {
            return false;
        };
        match check.wait_for(probe.timeout + ENTERING).await {
            Some(status) => status.is_ok_and(|status| status.success()),
            None => {
                let _ = check.end(KILL_LIMIT).await;
                false
            }
        }
    }

    /// This program as the one that checks a port of the pod's own address, as its peers will use it.
    fn prober(&self, kind: &str, port: u16) -> Option<Vec<String>> {
        let adit = std::env::current_exe()
            .ok()?
            .into_os_string()
            .into_string()
            .ok()?;
        let address = std::net::SocketAddr::new(self.spec.addresses.first()?.ip, port);
        let timeout = self.probe.as_ref()?.timeout.as_secs();
        Some(vec![
            adit,
            "probe".to_owned(),
            kind.to_owned(),
            address.to_string(),
            "--timeout".to_owned(),
            format!("{timeout}s"),
        ])
    }

    fn finish(&self, status: ExitStatus) {
        self.exited(status, None);
        self.tell(Event::Finished {
            name: self.pod.name.clone(),
            code: process::shell_code(status),
        });
    }

    fn exited(&self, status: ExitStatus, retry_in: Option<Duration>) {
        let how = process::in_words(status);
        self.change(Change::Exited {
            how,
            succeeded: status.success(),
            retry_in,
        });
    }

    fn change(&self, change: Change) {
        self.tell(Event::Changed {
            name: self.pod.name.clone(),
            change,
        });
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more once everything stops.
        let _ = self.events.send(event);
    }
}

/// How long a program's last lines are waited for after its end.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long the kernel may take to end everything in a pod.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// What entering a pod may take on a busy machine, on top of a check's own timeout.
const ENTERING: Duration = Duration::from_secs(2);
