//! The benchmark as a program: what it has started goes with it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use adit_platform_tests::{Running, pids_mentioning, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(60);

/// One that ends with its test.
struct Bench(Child);

impl Drop for Bench {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

/// Far more rounds than anybody waits for.
fn endless() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-bench"));
    command.args(["--only", "adit-two", "--measure", "connect", "--no-laptop-tools"]);
    command.args(["--seconds", "0.2", "--rounds", "10000"]);
    command
}

/// Someone who has seen enough presses Ctrl-C; a job that is cancelled gets SIGTERM.
#[test]
fn a_signal_ends_it_and_all_that_it_has_started() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut bench = Running::spawn(endless());
        bench.wait_for_stderr("round 2 of 10000", START_LIMIT);
        let own = sandboxes_of(bench.pid());
        assert_runs(&own);
        bench.signal(signal);
        let done = bench.finish(END_LIMIT);
        assert_eq!(done.code(), 1, "{done}");
        let said = done.stderr();
        let last = said.lines().next_back().unwrap_or_default();
        assert!(last.starts_with("adit-bench: ended by a signal"), "{done}");
        assert_eq!(done.raw_stdout(), "", "no report is made of half a run");
        assert_gone(&own);
    }
}

/// A terminal that is closed takes no line any more, and sends SIGHUP.
#[test]
fn so_does_a_terminal_that_is_closed() {
    let status = ended_unheard(|bench, _| kill_process(bench, Signal::HUP).expect("it runs"));
    assert_eq!(status.code(), Some(1), "{status:?}");
}

/// Nor does a failure that nobody hears of leave anything.
#[test]
fn so_does_a_failure_that_nobody_hears_of() {
    let status = ended_unheard(|_, own| {
        let server = pids_mentioning(own)
            .into_iter()
            .find(|(_, line)| line.contains("direct.served"));
        let server = server.and_then(|(pid, _)| Pid::from_raw(pid.cast_signed()));
        kill_process(server.expect("the direct path has one"), Signal::KILL).expect("it runs");
    });
    assert_ne!(status.code(), Some(0), "{status:?}");
}

/// Starts it on a terminal that is closed in the midst of it, has `end` end it, and checks that nothing is left.
#[track_caller]
fn ended_unheard(end: impl FnOnce(Pid, &Path)) -> ExitStatus {
    let mut command = endless();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut bench = Bench(command.process_group(0).spawn().expect("it can be started"));
    let own = sandboxes_of(bench.0.id());
    let terminal = BufReader::new(bench.0.stderr.take().expect("it's a pipe"));
    let mut lines = terminal.lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.starts_with("round 2 of 10000"))));
    assert_runs(&own);
    drop(lines);
    end(Pid::from_child(&bench.0), &own);
    let ended = || bench.0.try_wait().expect("a child can be waited for");
    let status = wait_until("its end", END_LIMIT, ended, || {
        format!("{:?}", pids_mentioning(&own))
    });
    assert_gone(&own);
    status
}

/// How the paths of its sandboxes begin.
fn sandboxes_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("adit-{pid}-"))
}

#[track_caller]
fn assert_runs(own: &Path) {
    let running = pids_mentioning(own);
    assert!(
        running.iter().any(|(_, line)| line.contains(" up ")),
        "{running:?}"
    );
}

#[track_caller]
fn assert_gone(own: &Path) {
    wait_until(
        "what it had started to be gone",
        END_LIMIT,
        || pids_mentioning(own).is_empty().then_some(()),
        || format!("{:?}", pids_mentioning(own)),
    );
    let beginning = own.as_os_str().as_encoded_bytes();
    let all = std::fs::read_dir(std::env::temp_dir()).expect("the folder is there");
    let paths = all.map(|entry| entry.expect("an entry can be read").path());
    let left: Vec<PathBuf> = paths
        .filter(|path| path.as_os_str().as_encoded_bytes().starts_with(beginning))
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}
