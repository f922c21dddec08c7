//! Starting this same executable as helper, as agent, and as what enters a pod.
//!
//! Everything that is started holds the read end of a *lifeline* as its standard input: a pipe whose only write end is
//! here. It ends when we close it or when we die, however we die. A program on the terminal needs its standard input;
//! there `adit enter` takes a connection to the supervisor's socket for its lifeline.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use adit_node::LinkChoice;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::rundir::RunPaths;

/// How the agent is to run; passed on as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentArguments {
    /// Where agents on other nodes reach this one's pods.
    pub listen: Option<SocketAddr>,
    /// Where the CA's key is kept; in memory only without it.
    pub state_dir: Option<PathBuf>,
    /// How long certificates are valid; the agent's own default without it.
    pub svid_ttl: Option<Duration>,
    /// Worker threads; one a core without it.
    pub workers: Option<u16>,
    /// How long a worker may look for work before it sleeps; the agent's own default without it.
    pub busy_poll: Option<Duration>,
}

/// A process that ends when this is dropped, at the latest.
#[derive(Debug)]
pub(super) struct Kept {
    child: Child,
    lifeline: Option<OwnedFd>,
}

/// The node helper's command.
pub(super) fn node(paths: &RunPaths, link: LinkChoice, tun_device: &Path) -> Command {
    let mut command = adit("node");
    command
        .arg("--run-dir")
        .arg(paths.dir())
        .arg("--link")
        .arg(link.to_string())
        .arg("--tun-device")
        .arg(tun_device);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The agent's command.
pub(super) fn agent(paths: &RunPaths, arguments: &AgentArguments) -> Command {
    let mut command = adit("agent");
    command.arg("--run-dir").arg(paths.dir());
    if let Some(listen) = arguments.listen {
        command.arg("--listen").arg(listen.to_string());
    }
    if let Some(dir) = &arguments.state_dir {
        command.arg("--state-dir").arg(dir);
    }
    if let Some(ttl) = arguments.svid_ttl {
        command.arg("--svid-ttl").arg(format!("{}s", ttl.as_secs()));
    }
    if let Some(workers) = arguments.workers {
        command.arg("--workers").arg(workers.to_string());
    }
    if let Some(limit) = arguments.busy_poll {
        command.arg("--busy-poll").arg(format!("{}us", limit.as_micros()));
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The command that runs `argv` in a pod, with a lifeline as its standard input, or on our own terminal.
pub(super) fn enter<S: AsRef<OsStr>>(
    paths: &RunPaths,
    pod: &str,
    directory: &Path,
    on_terminal: bool,
    argv: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = adit("enter");
    command
        .arg("--run-dir")
        .arg(paths.dir())
        .arg("--pod")
        .arg(pod)
        .arg("--directory")
        .arg(directory);
    if on_terminal {
        command.arg("--terminal");
    }
    command.arg("--").args(argv);
    command
}

/// `/proc/self/exe` is this program even after its file was replaced by a newer one.
fn adit(subcommand: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("adit").arg(subcommand).kill_on_drop(true);
    command
}

impl Kept {
    /// Starts `command` with a lifeline, out of reach of the terminal's signals.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn start(mut command: Command) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let child = command.stdin(Stdio::from(read)).process_group(0).spawn()?;
        Ok(Self {
            child,
            lifeline: Some(write),
        })
    }

    /// Starts `command` on our own terminal and in our own job. Its lifeline is its own affair.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn start_on_terminal(mut command: Command) -> io::Result<Self> {
        Ok(Self {
            child: command.spawn()?,
            lifeline: None,
        })
    }

    /// The process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Its standard output and error, those that are piped and weren't taken before.
    pub(super) fn streams(
        &mut self,
    ) -> (
        Option<tokio::process::ChildStdout>,
        Option<tokio::process::ChildStderr>,
    ) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits until it ends. Safe to drop and to call again.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        // tokio's `wait` closes a piped stdin, which ours isn't: the lifeline stays.
        self.child.wait().await
    }

    /// Waits for its end, but no longer than `limit`. `None` if it still runs then.
    pub(super) async fn wait_for(&mut self, limit: Duration) -> Option<io::Result<ExitStatus>> {
        tokio::time::timeout(limit, self.child.wait()).await.ok()
    }

    /// Ends it by its lifeline, and by force when it takes longer than `limit`.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn end(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        drop(self.lifeline.take());
        if let Some(status) = self.wait_for(limit).await {
            return status;
        }
        self.child.start_kill()?;
        self.child.wait().await
    }

    /// Sends `signal` if it still runs.
    pub(super) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            // The child isn't waited for yet, so the id is its own; that it ended meanwhile is no trouble.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// How a process ended, in words.
pub(super) fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The exit code that a shell gives for it: the program's own, or 128 and the signal's number.
pub(super) fn shell_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_read_as_a_shell_tells_them() {
        let status = ExitStatus::from_raw;
        assert_eq!(
            (in_words(status(3 << 8)).as_str(), shell_code(status(3 << 8))),
            ("status 3", 3)
        );
        assert_eq!(
            (in_words(status(9)).as_str(), shell_code(status(9))),
            ("signal 9", 137)
        );
    }

    #[tokio::test]
    async fn a_kept_process_ends_with_its_lifeline() {
        let cat = Command::new("cat");
        let mut kept = Kept::start(cat).unwrap();
        assert!(kept.pid().is_some());
        assert!(kept.wait_for(Duration::ZERO).await.is_none());
        assert!(kept.end(Duration::from_secs(60)).await.unwrap().success());
    }

    #[tokio::test]
    async fn one_that_ignores_its_lifeline_is_killed() {
        let mut sleep = Command::new("sleep");
        sleep.arg("1000");
        let status = Kept::start(sleep).unwrap().end(Duration::ZERO).await.unwrap();
        assert_eq!(shell_code(status), 137);
    }
}
