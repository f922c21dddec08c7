//! A mesh that runs in a sandbox.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use adit_flow::{Direction, FlowRecord, Mode, MtlsState, WorkloadName};
use rustix::process::{Signal, kill_process, kill_process_group};
use serde::Deserialize;

use crate::process::{Finished, Running, pid, tail, wait_quietly, wait_until};
use crate::procfs::{Usage, usage};
use crate::sandbox::Sandbox;
use crate::spec::MeshSpec;

/// How long a mesh may take to come up, and to go.
const UP_LIMIT: Duration = Duration::from_secs(60);
const DOWN_LIMIT: Duration = Duration::from_secs(30);
/// How long a program in it may take unless a test says otherwise.
const RUN_LIMIT: Duration = Duration::from_secs(120);
const RECORD_LIMIT: Duration = Duration::from_secs(20);
const LOG_LINES: usize = 60;

/// A running `adit up`. Dropping it stops it and checks that it left nothing behind.
#[derive(Debug)]
pub struct Mesh<'a> {
    sandbox: &'a Sandbox,
    name: String,
    base: PathBuf,
    log: PathBuf,
    supervisor: Child,
    ended: bool,
}

/// Further options of `adit up`.
#[derive(Clone, Debug, Default)]
pub struct UpOptions {
    /// `--node` and `--listen`.
    pub node: Option<(String, SocketAddr)>,
    /// Everything else, as it stands.
    pub arguments: Vec<String>,
    /// Its standard output, where that isn't the log that the test reads.
    pub output: Option<Arc<OwnedFd>>,
}

/// What `adit ps --json` says of one mesh.
#[derive(Clone, Debug, Deserialize)]
pub struct Ps {
    /// The process of `adit up`.
    pub supervisor_pid: u32,
    /// The agent, while there is one.
    pub agent_pid: Option<u32>,
    /// How often it was started again.
    pub agent_restarts: u32,
    /// Lines that its standard output didn't take.
    pub lines_dropped: u64,
    /// The workloads.
    pub workloads: Vec<PsWorkload>,
}

/// One workload of it.
#[derive(Clone, Debug, Deserialize)]
pub struct PsWorkload {
    /// Namespace and name.
    pub name: WorkloadName,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// What its pod's packets go through: `tun` or `packet`.
    pub link: Option<String>,
    /// Whether services may send it flows.
    pub ready: bool,
    /// How often its program was started again.
    pub restarts: u32,
    state: PsState,
}

#[derive(Clone, Debug, Deserialize)]
struct PsState {
    state: String,
    pid: Option<u32>,
}

impl PsWorkload {
    /// Its state's name: `running`, `failed`, …
    pub fn state(&self) -> &str {
        &self.state.state
    }

    /// The process that carries it, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.state.pid
    }
}

impl<'a> Mesh<'a> {
    #[track_caller]
    pub(crate) fn up(sandbox: &'a Sandbox, spec: &MeshSpec, options: UpOptions) -> Self {
        let node = options.node.as_ref().map_or("", |(node, _)| node);
        let place = format!("{}{node}", spec.name());
        // One base for each: two nodes of one mesh would be one mesh to a host.
        let base = sandbox.folder(&format!("run/{place}"));
        let file = sandbox.file(&format!("{place}.yaml"), spec.text());
        let log = sandbox.file(&format!("{place}.log"), "");
        let mut command = sandbox.command(sandbox.adit());
        command
            .arg("up")
            .arg(&file)
            .args(&options.arguments)
            .env("ADIT_RUN_DIR", &base);
        if let Some((node, listen)) = &options.node {
            command.args(["--node", node, "--listen", &listen.to_string()]);
        }
        let out = || {
            File::options()
                .append(true)
                .open(&log)
                .expect("the log was just made")
        };
        let stdout = match options.output {
            Some(output) => output.try_clone().expect("descriptors are to be had").into(),
            None => Stdio::from(out()),
        };
        command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(out())
            .process_group(0);
        let supervisor = command
            .spawn()
            .unwrap_or_else(|error| panic!("starting adit up: {error}"));
        Self {
            sandbox,
            name: spec.name().to_owned(),
            base,
            log,
            supervisor,
            ended: false,
        }
    }

    /// Waits until every workload of this node is ready.
    ///
    /// # Panics
    /// If `adit up` ends, or after a minute.
    #[track_caller]
    pub fn wait_ready(&self) -> Ps {
        let ready = |ps: &Ps| {
            let here = ps
                .workloads
                .iter()
                .filter(|workload| workload.state() != "elsewhere");
            ps.agent_pid.is_some() && here.clone().all(|workload| workload.ready)
        };
        wait_until(
            &format!("every workload of mesh {} to be ready", self.name),
            UP_LIMIT,
            || {
                if !self.runs() {
                    panic!("adit up ended:\n{}", self.logs());
                }
                self.try_ps().ok().filter(ready)
            },
            || format!("{:?}\n{}", self.try_ps(), self.logs()),
        )
    }

    /// What `adit ps` says.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ps(&self) -> Ps {
        self.try_ps()
            .unwrap_or_else(|error| panic!("{error}\n{}", self.logs()))
    }

    fn try_ps(&self) -> Result<Ps, String> {
        let done = self.adit(["ps", "--json"]);
        if done.code() != 0 {
            return Err(done.to_string());
        }
        let all: Vec<Ps> =
            serde_json::from_str(&done.raw_stdout()).map_err(|error| format!("{error} in {done}"))?;
        all.into_iter().next().ok_or_else(|| "no mesh runs".to_owned())
    }

    /// The agent's process.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn agent_pid(&self) -> u32 {
        let ps = self.ps();
        ps.agent_pid
            .unwrap_or_else(|| panic!("there is no agent: {ps:?}\n{}", self.logs()))
    }

    /// What the agent uses.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn agent_usage(&self) -> Usage {
        usage(self.agent_pid()).expect("adit ps names a process that lives")
    }

    /// A workload's IPv4 address.
    ///
    /// # Panics
    /// If there is no such workload.
    #[track_caller]
    pub fn address(&self, workload: &str) -> IpAddr {
        let ps = self.ps();
        let row = ps.workloads.iter().find(|row| row.name.to_string() == workload);
        let row = row.unwrap_or_else(|| panic!("no workload {workload} in {ps:?}"));
        row.addresses[0]
    }

    /// Runs an `adit` command against this mesh to its end.
    #[track_caller]
    pub fn adit<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        let mut command = self.command();
        command.args(arguments);
        Finished::of(command, RUN_LIMIT)
    }

    /// Runs a program as the workload `name` (`namespace/name`) that joins, to its end.
    #[track_caller]
    pub fn run_as<S: AsRef<std::ffi::OsStr>>(
        &self,
        name: &str,
        argv: impl IntoIterator<Item = S>,
    ) -> Finished {
        self.spawn_as(name, argv).finish(RUN_LIMIT)
    }

    /// Starts a program as the workload `name` that joins.
    #[track_caller]
    pub fn spawn_as<S: AsRef<std::ffi::OsStr>>(
        &self,
        name: &str,
        argv: impl IntoIterator<Item = S>,
    ) -> Running {
        let mut command = self.command();
        command
            .args(["run", "--mesh", &self.name, "--as", name, "--"])
            .args(argv);
        Running::spawn(command)
    }

    /// Starts a program in the pod of a shell; see [`Sandbox::command_in`].
    #[track_caller]
    pub fn spawn_in<S: AsRef<std::ffi::OsStr>>(
        &self,
        name: &str,
        argv: impl IntoIterator<Item = S>,
    ) -> Running {
        let mut command = self.sandbox.command_in(name);
        command.args(argv);
        Running::spawn(command)
    }

    /// A stream of some seconds from the load server at `target` to the pod of a shell; it has begun when this returns.
    ///
    /// # Panics
    /// If it doesn't begin.
    #[track_caller]
    pub fn stream_in(&self, name: &str, target: &str) -> Running {
        const SECONDS: &str = "8";
        let before = self.live_flows();
        let load = self.sandbox.load();
        let argv = [
            &load,
            "stream",
            target,
            "--seconds",
            SECONDS,
            "--reverse",
            "--unchecked",
        ];
        let client = self.spawn_in(name, argv);
        wait_until(
            "the stream to begin, at both of its pods",
            RECORD_LIMIT,
            || (self.live_flows() >= before + 2).then_some(()),
            || self.logs(),
        );
        client
    }

    /// Runs a program in the pod of a shell to its end; see [`Sandbox::command_in`].
    #[track_caller]
    pub fn run_in<S: AsRef<std::ffi::OsStr>>(
        &self,
        name: &str,
        argv: impl IntoIterator<Item = S>,
    ) -> Finished {
        self.spawn_in(name, argv).finish(RUN_LIMIT)
    }

    /// A command `adit` that asks this mesh: its arguments are to be added.
    #[track_caller]
    pub fn command(&self) -> Command {
        let mut command = self.sandbox.command(self.sandbox.adit());
        command.env("ADIT_RUN_DIR", &self.base);
        command
    }

    /// The agent's counters, by the names that metrics use.
    ///
    /// # Panics
    /// If `adit dump` fails or doesn't have them.
    #[track_caller]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let text = self.adit(["dump"]).stdout();
        let dump: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        serde_json::from_value(dump["counters"].clone())
            .unwrap_or_else(|error| panic!("the counters: {error} in {text}"))
    }

    /// One of them.
    ///
    /// # Panics
    /// As [`Mesh::counters`], and if there's none of that name.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.counters();
        let counter = counters.get(name).copied();
        counter.unwrap_or_else(|| panic!("no {name} in {counters:?}"))
    }

    /// How many flows the agent relays now; one within the mesh counts at both of its pods.
    ///
    /// # Panics
    /// As [`Mesh::counter`].
    #[track_caller]
    pub fn live_flows(&self) -> u64 {
        self.counter("flows_relayed")
    }

    /// Saves the mesh file anew, as an editor would.
    ///
    /// # Panics
    /// If it can't be written.
    #[track_caller]
    pub fn save(&self, spec: &MeshSpec) {
        self.sandbox.file(&format!("{}.yaml", spec.name()), spec.text());
    }

    /// The flow records that the agent keeps.
    ///
    /// # Panics
    /// If `adit flows` fails or a line isn't a record.
    #[track_caller]
    pub fn flows(&self) -> Vec<FlowRecord> {
        self.adit(["flows", "--json"]).json_lines()
    }

    /// Waits for a flow record that `wanted` likes; a record is written after the programs have ended.
    ///
    /// # Panics
    /// After twenty seconds; shows the records there are.
    #[track_caller]
    pub fn wait_flow(&self, what: &str, wanted: impl Fn(&FlowRecord) -> bool) -> FlowRecord {
        wait_until(
            &format!("a flow record: {what}"),
            RECORD_LIMIT,
            || self.flows().into_iter().find(&wanted),
            || {
                let lines: Vec<String> = self.flows().iter().map(ToString::to_string).collect();
                format!("{}\n{}", tail(&lines.join("\n"), LOG_LINES), self.logs())
            },
        )
    }

    /// Waits for a flow of `direction` from one workload to another's port that was carried by HBONE with mutual TLS.
    ///
    /// # Panics
    /// As [`Mesh::wait_flow`].
    #[track_caller]
    pub fn wait_hbone(&self, direction: Direction, from: &str, to: &str, port: u16) -> FlowRecord {
        let named = |workload: &Option<WorkloadName>, name: &str| {
            workload
                .as_ref()
                .is_some_and(|workload| workload.to_string() == name)
        };
        self.wait_flow(
            &format!("{direction:?} {from} to {to} port {port}, hbone, mutual TLS"),
            |flow| {
                flow.direction == direction
                    && named(&flow.source.workload, from)
                    && named(&flow.destination.workload, to)
                    && flow.destination.addr.port() == port
                    && flow.mode == Mode::Hbone
                    && flow.mtls == MtlsState::Mutual
            },
        )
    }

    /// The end of the logs: what `adit up` printed and the agent's own.
    pub fn logs(&self) -> String {
        let own = fs::read_to_string(&self.log).unwrap_or_default();
        let agent = fs::read_to_string(self.base.join(&self.name).join("agent.log")).unwrap_or_default();
        format!(
            "--- adit up\n{}\n--- agent.log\n{}",
            tail(&own, LOG_LINES),
            tail(&agent, LOG_LINES)
        )
    }

    /// What `adit up` printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its `ADIT_RUN_DIR`.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The folder with its sockets.
    pub fn run_dir(&self) -> PathBuf {
        self.base.join(&self.name)
    }

    /// Whether `adit up` still runs.
    pub fn runs(&self) -> bool {
        // `setpriv` and `unshare` have become it, so the child is it.
        let state = fs::read_to_string(format!("/proc/{}/stat", self.supervisor.id())).unwrap_or_default();
        !state.is_empty()
            && !state
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .trim_start()
                .starts_with('Z')
    }

    /// Sends a signal to `adit up` alone.
    pub fn signal(&self, signal: Signal) {
        // Gone already is as good.
        let _ = kill_process(pid(self.supervisor.id()), signal);
    }

    /// Waits for `adit up` to end, and says with which status: 128 and the signal's number after a signal.
    ///
    /// # Panics
    /// If it doesn't end.
    #[track_caller]
    pub fn wait_end(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        wait_until(
            "adit up to end",
            DOWN_LIMIT,
            || (!self.runs()).then_some(()),
            || self.logs(),
        );
        self.ended = true;
        let status = self.supervisor.wait().expect("a child can be waited for");
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    /// What is left of this mesh's own once it has ended: its folder and processes.
    pub fn leftovers(&self) -> Vec<String> {
        wait_quietly(Duration::from_secs(5), || !self.run_dir().exists());
        let mut left = self.sandbox.leftovers();
        if self.run_dir().exists() {
            left.push(format!("folder {}", self.run_dir().display()));
        }
        left
    }

    /// Ends it at once and tells what it said: something has failed.
    fn give_up(&mut self) {
        let flows = if self.runs() {
            self.adit(["flows"]).raw_stdout()
        } else {
            String::new()
        };
        let said = format!("{}\n--- adit flows\n{}", self.logs(), tail(&flows, LOG_LINES));
        if !self.ended {
            let _ = kill_process_group(pid(self.supervisor.id()), Signal::KILL);
            let _ = self.supervisor.wait();
        }
        // By `eprintln`, which a test's output has, and which panics where nobody reads it. That mustn't end the
        // unwinding: there may be other meshes to take down.
        let _ = panic::catch_unwind(|| eprintln!("{said}"));
    }

    /// Stops it as a user would, and checks that it ends well.
    ///
    /// # Panics
    /// If it doesn't.
    #[track_caller]
    pub fn down(&mut self) {
        let done = self.adit(["down"]);
        assert_eq!(done.code(), 0, "{done}\n{}", self.logs());
        let code = self.wait_end();
        assert_eq!(code, 0, "the status of adit up after adit down\n{}", self.logs());
    }
}

impl Drop for Mesh<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.give_up();
            return;
        }
        if !self.ended {
            self.down();
        }
        assert!(!self.run_dir().exists(), "{} is left", self.run_dir().display());
    }
}
