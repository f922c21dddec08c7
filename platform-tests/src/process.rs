//! Programs that are run with a limit, and waits with a limit.

use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(10);
/// How much of a program's output is kept: its beginning.
const OUTPUT_LIMIT: usize = 8 << 20;

/// A program that ended.
#[derive(Clone, Debug)]
pub struct Finished {
    command: String,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// A program under way, in a process group of its own that is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// What a program wrote so far.
#[derive(Debug)]
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts a program. Its standard input is a pipe.
    ///
    /// # Panics
    /// If it can't be started.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("starting `{line}`: {error}"));
        let stdout = Output::of(child.stdout.take());
        let stderr = Output::of(child.stderr.take());
        Self {
            command: line,
            child,
            stdout,
            stderr,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input. Gone once [`Running::close_stdin`] was called.
    pub fn stdin(&mut self) -> Option<&mut ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// Sends a line to its standard input.
    ///
    /// # Panics
    /// If it has none any more.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("standard input is open");
        writeln!(stdin, "{line}").unwrap_or_else(|error| panic!("writing to `{}`: {error}", self.command));
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) {
        // Gone already is as good.
        let _ = kill_process(pid(self.child.id()), signal);
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for a line on standard output that contains `text`.
    ///
    /// # Panics
    /// If it ends before, or after `limit`.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str, limit: Duration) {
        self.wait_for_in(Self::stdout, text, limit);
    }

    /// The same on standard error.
    ///
    /// # Panics
    /// As [`Running::wait_for`].
    #[track_caller]
    pub fn wait_for_stderr(&mut self, text: &str, limit: Duration) {
        self.wait_for_in(Self::stderr, text, limit);
    }

    #[track_caller]
    fn wait_for_in(&mut self, stream: fn(&Self) -> String, text: &str, limit: Duration) {
        let until = Instant::now() + limit;
        while !stream(self).contains(text) {
            let ended = self.has_ended() && !stream(self).contains(text);
            if ended || Instant::now() > until {
                let how = if ended { "ended" } else { "is still running" };
                panic!(
                    "waited for {text:?} from `{}`, which {how}; it wrote:\n{}\n{}",
                    self.command,
                    self.stdout(),
                    self.stderr()
                );
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After `limit`.
    #[track_caller]
    pub fn finish(self, limit: Duration) -> Finished {
        self.try_finish(limit).unwrap_or_else(|running| {
            panic!(
                "`{}` still runs after {limit:?}; it wrote:\n{}\n{}",
                running.command,
                running.stdout(),
                running.stderr()
            )
        })
    }

    /// Waits for its end, and gives it back if it still runs after `limit`.
    ///
    /// # Errors
    /// It still runs.
    pub fn try_finish(mut self, limit: Duration) -> Result<Finished, Box<Self>> {
        self.close_stdin();
        let until = Instant::now() + limit;
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if Instant::now() > until => return Err(Box::new(self)),
                None => thread::sleep(PAUSE),
            }
        };
        Ok(Finished {
            command: self.command.clone(),
            status,
            stdout: self.stdout.take(),
            stderr: self.stderr.take(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Also what it started and left in its group.
        let _ = kill_process_group(pid(self.child.id()), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Output {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bytes);
        let reader = stream.map(|mut stream| {
            thread::spawn(move || {
                let mut chunk = [0; 8192];
                while let Ok(read @ 1..) = stream.read(&mut chunk) {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = OUTPUT_LIMIT - kept.len();
                    kept.extend_from_slice(&chunk[..read.min(room)]);
                }
            })
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Everything, now that the program has ended. What it left behind may hold the pipe open, so not for ever.
    fn take(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            wait_quietly(Duration::from_secs(1), || reader.is_finished());
        }
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Finished {
    /// Runs a program to its end.
    ///
    /// # Panics
    /// If it can't be started or runs for longer than `limit`.
    #[track_caller]
    pub fn of(command: Command, limit: Duration) -> Self {
        Running::spawn(command).finish(limit)
    }

    /// Its exit status; 128 and the signal's number after a signal, as shells have it.
    pub fn code(&self) -> i32 {
        let signal = || self.status.signal().map_or(-1, |signal| 128 + signal);
        self.status.code().unwrap_or_else(signal)
    }

    /// Its standard output, if it ended with status 0.
    ///
    /// # Panics
    /// If it didn't.
    #[track_caller]
    pub fn stdout(&self) -> String {
        assert!(self.status.success(), "{self}");
        self.raw_stdout()
    }

    /// Its standard output, however it ended.
    pub fn raw_stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The JSON that it printed last, if it ended with status 0.
    ///
    /// # Panics
    /// If it didn't, or printed something else.
    #[track_caller]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        let text = self.stdout();
        let line = text.lines().next_back().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the output of {self}"))
    }

    /// The JSON of each line that it printed, if it ended with status 0.
    ///
    /// # Panics
    /// If it didn't, or a line is something else.
    #[track_caller]
    pub fn json_lines<T: serde::de::DeserializeOwned>(&self) -> Vec<T> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        self.stdout().lines().map(parse).collect()
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {}; it wrote:\n{}\n{}",
            self.command,
            self.status,
            self.raw_stdout(),
            self.stderr()
        )
    }
}

/// Waits until `done` gives a value.
///
/// # Panics
/// After `limit`, with `what` was waited for and what `found` says then.
#[track_caller]
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Option<T>,
    found: impl FnOnce() -> String,
) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(value) = done() {
            return value;
        }
        if Instant::now() > until {
            panic!("waited {limit:?} for {what}; instead:\n{}", found());
        }
        thread::sleep(PAUSE);
    }
}

/// Waits for `done` without minding if it doesn't come; says whether it came.
pub(crate) fn wait_quietly(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    while !done() {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

pub(crate) fn pid(id: u32) -> Pid {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    id.expect("process ids are positive")
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_kept_apart() {
        let done = Finished::of(sh("echo out; echo err >&2; exit 3"), Duration::from_secs(10));
        assert_eq!(
            (done.code(), done.raw_stdout(), done.stderr()),
            (3, "out\n".into(), "err\n".into())
        );
        assert_eq!(
            Finished::of(sh("kill -9 $$"), Duration::from_secs(10)).code(),
            137
        );
    }

    #[test]
    #[should_panic(expected = "still runs after")]
    fn a_program_that_hangs_is_ended() {
        let _ = Finished::of(sh("sleep 1000"), Duration::from_millis(100));
    }

    #[test]
    fn input_is_a_pipe() {
        let mut cat = Running::spawn(sh("head -n 1"));
        cat.say("hello");
        cat.wait_for("hello", Duration::from_secs(10));
        assert_eq!(cat.finish(Duration::from_secs(10)).stdout(), "hello\n");
    }

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("", 2), "");
    }
}
