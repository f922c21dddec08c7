//! The agent's log: to standard error, without ever waiting for whoever reads it.
//!
//! A thread that writes would be one that isn't confined like the others, or one that must not log until it is. The
//! agent's standard error is a pipe to its supervisor, so it is made non-blocking instead: a line that finds the pipe
//! full is dropped and counted, and the next that fits is preceded by the count.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, OFlags};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable that chooses what is logged, in the syntax of tracing's `EnvFilter`.
pub(super) const VARIABLE: &str = "ADIT_LOG";

/// Starts logging to standard error, at level info unless [`VARIABLE`] says otherwise.
pub(super) fn start() {
    let stderr = io::stderr();
    // Elsewhere the flag would be shared: a terminal is its shell's too.
    let pipe =
        rustix::fs::fstat(&stderr).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if pipe && let Ok(flags) = rustix::fs::fcntl_getfl(&stderr) {
        // Refused, lines may wait for the supervisor, which reads them always.
        let _ = rustix::fs::fcntl_setfl(&stderr, flags | OFlags::NONBLOCK);
    }
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Lines::new(stderr));
    // Started twice, the first stays.
    let _ = log.try_init();
}

/// Whole lines to a writer that would rather refuse than block.
struct Lines<W>(Mutex<State<W>>);

struct State<W> {
    writer: W,
    dropped: u64,
    /// The last line went out in part: what comes next must begin a new one.
    torn: bool,
}

impl<W: Write> Lines<W> {
    fn new(writer: W) -> Self {
        Self(Mutex::new(State {
            writer,
            dropped: 0,
            torn: false,
        }))
    }
}

impl<W: Write> State<W> {
    fn line(&mut self, line: &[u8]) {
        let mut before = String::new();
        if self.torn {
            before.push('\n');
        }
        if self.dropped > 0 {
            let _ = writeln!(
                before,
                "{} log lines were dropped here: they came faster than they were read",
                self.dropped
            );
        }
        let bytes = [before.as_bytes(), line].concat();
        match self.writer.write(&bytes) {
            Ok(written) if written >= before.len() => {
                self.torn = written < bytes.len();
                self.dropped = u64::from(self.torn);
            }
            Ok(written) => {
                // One byte ends a torn line; any more begin one that is torn itself.
                self.torn = if self.torn { written != 1 } else { written > 0 };
                self.dropped += 1;
            }
            Err(_) => self.dropped += 1,
        }
    }
}

impl<'a, W: Write + 'a> MakeWriter<'a> for Lines<W> {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The formatter writes one whole line at a time.
impl<W: Write> Write for &Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many bytes as it has room for, and then none.
    struct Pipe {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_pipe_costs_lines_which_are_counted() {
        let lines = Lines::new(Pipe {
            room: 8,
            taken: Vec::new(),
        });
        let write = |line: &str| (&lines).write_all(line.as_bytes()).unwrap();
        write("one\n");
        write("two and more\n"); // torn
        write("three\n"); // lost
        lines.0.lock().unwrap().writer.room = 1000;
        write("four\n");
        write("five\n");
        let text = String::from_utf8(lines.0.lock().unwrap().writer.taken.clone()).unwrap();
        assert_eq!(
            text,
            "one\ntwo \n2 log lines were dropped here: they came faster than they were read\nfour\nfive\n"
        );
    }
}
