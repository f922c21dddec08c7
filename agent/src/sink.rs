//! Lines to a writer that may block, from callers that must not.
//!
//! A terminal that was stopped, a pipe nobody reads, a full disk: none may stop the data path or a workload. So
//! one thread writes, callers hand it whole lines through a bounded queue, and a line that finds the queue full
//! is dropped and counted; the reader is told how many as soon as it reads again. Whoever can wait a little does, so
//! that a reader that is merely slower than a burst gets it whole; only one that takes nothing at all loses lines.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that wait for the writer, at most; with the 8 KiB that a line may have, 8 MiB.
pub const QUEUE_LIMIT: usize = 1024;

/// The callers' end: cheap to clone, never blocks.
#[derive(Clone, Debug)]
pub struct LineSink {
    queue: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    /// Somebody waited in vain, and nothing was written since.
    stuck: AtomicBool,
}

/// Whether those who read are told where lines are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notes {
    Omitted,
    Written,
}

/// The thread that writes. Dropping it doesn't wait; see [`SinkThread::finish`].
#[derive(Debug)]
pub struct SinkThread {
    finished: Receiver<()>,
}

impl LineSink {
    /// Starts the thread that writes to `writer`, with a queue of `limit` lines.
    ///
    /// # Errors
    /// What the kernel says if no thread can be made.
    pub fn start(limit: usize, writer: impl Write + Send + 'static) -> io::Result<(Self, SinkThread)> {
        Self::start_with(limit, writer, Notes::Written)
    }

    /// As [`LineSink::start`], but nothing is written besides the lines, for whoever reads them may not expect anything else:
    /// lines that were dropped are only counted.
    ///
    /// # Errors
    /// As [`LineSink::start`].
    pub fn start_without_notes(
        limit: usize,
        writer: impl Write + Send + 'static,
    ) -> io::Result<(Self, SinkThread)> {
        Self::start_with(limit, writer, Notes::Omitted)
    }

    fn start_with(
        limit: usize,
        writer: impl Write + Send + 'static,
        notes: Notes,
    ) -> io::Result<(Self, SinkThread)> {
        let (queue, lines) = sync_channel(limit);
        let (done, finished) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let writers = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("lines".to_owned())
            .spawn(move || {
                write_lines(&lines, &writers, writer, notes);
                let _ = done.send(());
            })?;
        Ok((Self { queue, shared }, SinkThread { finished }))
    }

    /// Queues a line, its end included; drops and counts it if the queue is full.
    pub fn send(&self, line: Vec<u8>) {
        if self.queue.try_send(line).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As [`LineSink::send`], but waits for room while the reader takes anything at all; half a second otherwise.
    pub async fn send_patiently(&self, mut line: Vec<u8>) {
        let mut waited = Duration::ZERO;
        loop {
            line = match self.queue.try_send(line) {
                Ok(()) => return,
                Err(TrySendError::Full(line)) if waited < PATIENCE && !self.is_stuck() => line,
                Err(_) => {
                    self.shared.stuck.store(true, Ordering::Relaxed);
                    self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            };
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
    }

    fn is_stuck(&self) -> bool {
        self.shared.stuck.load(Ordering::Relaxed)
    }

    /// Lines dropped so far, those that could not be written included.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl SinkThread {
    /// Waits until every line is written, `limit` at most, once all [`LineSink`]s are dropped. Whether it was.
    pub fn finish(self, limit: Duration) -> bool {
        !matches!(self.finished.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
    }
}

fn write_lines(lines: &Receiver<Vec<u8>>, shared: &Shared, writer: impl Write, notes: Notes) {
    let Shared { dropped, stuck } = shared;
    let mut writer = BufWriter::new(writer);
    let mut told = 0;
    while let Ok(first) = lines.recv() {
        let mut next = Ok(first);
        // What waits is written in one go and flushed before sleeping again.
        while let Ok(line) = next {
            let lost = dropped.load(Ordering::Relaxed);
            if lost > told && notes == Notes::Written && tell(&mut writer, lost - told).is_ok() {
                told = lost;
            }
            if writer.write_all(&line).is_err() {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            stuck.store(false, Ordering::Relaxed);
            next = lines.try_recv();
            if next == Err(TryRecvError::Empty) && writer.flush().is_err() {
                // The bytes stay in the buffer and are tried again: a full disk may be emptied.
                continue;
            }
        }
    }
    let lost = dropped.load(Ordering::Relaxed);
    if lost > told && notes == Notes::Written {
        let _ = tell(&mut writer, lost - told);
    }
    let _ = writer.flush();
}

fn tell(writer: &mut impl Write, count: u64) -> io::Result<()> {
    writeln!(
        writer,
        "adit: {count} lines were dropped here: they came faster than they were read"
    )
}

/// How long a caller waits for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    type Written = Arc<Mutex<Vec<u8>>>;

    /// A writer that waits for a permit before each write.
    struct Gate {
        entered: Sender<()>,
        permits: Receiver<()>,
        written: Written,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            // No more permits: open.
            let _ = self.permits.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Sender<()>, Written, Gate) {
        let (permit, written, _, gate) = watched_gate();
        (permit, written, gate)
    }

    /// As [`gate`], and hears of each write that waits.
    fn watched_gate() -> (Sender<()>, Written, Receiver<()>, Gate) {
        let (permit, permits) = channel();
        let (entered, waits) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let gate = Gate {
            entered,
            permits,
            written: Arc::clone(&written),
        };
        (permit, written, waits, gate)
    }

    #[test]
    fn a_blocked_writer_costs_lines_and_nothing_else() {
        let (permit, written, gate) = gate();
        let (sink, thread) = LineSink::start(4, gate).unwrap();
        for number in 0..100 {
            sink.send(format!("line {number}\n").into_bytes());
        }
        // The queue holds 4, and the thread may have taken up to 5 before it blocked.
        let dropped = sink.dropped();
        assert!((91..=96).contains(&dropped), "{dropped}");
        drop(permit);
        drop(sink);
        assert!(thread.finish(Duration::from_secs(60)));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("line ").count() as u64, 100 - dropped, "{text}");
        assert!(
            text.contains(&format!("adit: {dropped} lines were dropped here")),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_with_a_reader_that_takes_nothing_and_begins_anew_when_it_does() {
        let (permit, written, waits, gate) = watched_gate();
        let (sink, thread) = LineSink::start(4, gate).unwrap();
        // The clock below stands still for threads: ours has to be blocked before it's looked at.
        sink.send(b"line 0\n".to_vec());
        waits.recv_timeout(Duration::from_secs(60)).unwrap();
        let started = tokio::time::Instant::now();
        for number in 1..100 {
            sink.send_patiently(format!("line {number}\n").into_bytes()).await;
        }
        // One wait, not one for each line.
        assert!(started.elapsed() <= PATIENCE + PAUSE, "{:?}", started.elapsed());
        assert!((91..=96).contains(&sink.dropped()), "{}", sink.dropped());
        drop(permit);
        drop(sink);
        assert!(thread.finish(Duration::from_secs(60)));
        assert!(
            String::from_utf8(written.lock().unwrap().clone())
                .unwrap()
                .contains("lines were dropped here")
        );
    }

    #[test]
    fn a_writer_that_stays_blocked_does_not_hold_up_the_end() {
        let (_permit, _written, gate) = gate();
        let (sink, thread) = LineSink::start(4, gate).unwrap();
        sink.send(b"line\n".to_vec());
        drop(sink);
        assert!(!thread.finish(Duration::ZERO));
    }
}
