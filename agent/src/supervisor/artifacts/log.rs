//! A file of lines that grows, up to a bound.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sink::LineSink;

/// Bytes of one log, at most: a program that prints without end must not fill the disk.
const LIMIT: u64 = 64 << 20;
/// The last lines that a report shows.
const LAST_LINES: usize = 40;

/// What one workload prints, on its way to a file. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::supervisor) struct Log {
    sink: LineSink,
    written: Arc<AtomicU64>,
    last: Arc<Mutex<VecDeque<String>>>,
}

impl Log {
    pub(super) fn new(sink: LineSink) -> Self {
        Self {
            sink,
            written: Arc::default(),
            last: Arc::default(),
        }
    }

    /// Takes a line without its end; waits for a disk that is slow, and not for one that takes nothing.
    pub(in crate::supervisor) async fn send(&self, line: &[u8]) {
        if let Some(line) = self.take(line) {
            self.sink.send_patiently(line).await;
        }
    }

    /// As [`Log::send`], but never waits.
    pub(in crate::supervisor) fn send_now(&self, line: &[u8]) {
        if let Some(line) = self.take(line) {
            self.sink.send(line);
        }
    }

    /// The last lines, oldest first.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.last().iter().cloned().collect()
    }

    /// What to write for a line: itself, that the rest is left out, or nothing.
    fn take(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut last = self.last();
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(line).into_owned());
        let length = line.len() as u64 + 1;
        let before = self.written.fetch_add(length, Ordering::Relaxed);
        if before + length <= LIMIT {
            return Some([line, b"\n"].concat());
        }
        let note = format!("adit: the rest is left out: a log has {LIMIT} bytes at most\n");
        (before <= LIMIT).then(|| note.into_bytes())
    }

    fn last(&self) -> MutexGuard<'_, VecDeque<String>> {
        // Whole between any two of its methods, so a panic elsewhere leaves nothing half done.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_its_end_is_known_all_the_same() {
        let (sink, _thread) = LineSink::start(8, std::io::sink()).unwrap();
        let log = Log::new(sink);
        assert_eq!(log.take(b"first"), Some(b"first\n".to_vec()));
        log.written.store(LIMIT - 3, Ordering::Relaxed);
        assert_eq!(log.take(b"ab"), Some(b"ab\n".to_vec()));
        let note = String::from_utf8(log.take(b"c").unwrap()).unwrap();
        assert!(note.contains("left out"), "{note}");
        assert_eq!(log.take(b"last"), None);
        assert_eq!(log.last_lines(), ["first", "ab", "c", "last"]);
        (0..100).for_each(|number| drop(log.take(number.to_string().as_bytes())));
        let last = log.last_lines();
        assert_eq!((last.len(), last[0].as_str()), (LAST_LINES, "60"));
    }
}
