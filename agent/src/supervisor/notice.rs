//! What adit itself, its agent and its helper have to say while workloads print.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncRead;

use super::artifacts::Log;
use super::output::{self, Prefix};
use crate::sink::LineSink;

/// Lines kept back at most.
const KEPT_LIMIT: usize = 100;

/// Where notices go. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Notices {
    /// Kept back: a program has the terminal. The latest are shown if everything fails.
    Kept(Arc<Mutex<VecDeque<String>>>),
    /// Among the workloads' lines.
    Shown {
        sink: LineSink,
        /// The width of the names.
        width: usize,
        coloured: bool,
        /// adit's own file among the artifacts, where there are any.
        log: Option<Log>,
    },
}

impl Notices {
    pub(super) fn kept() -> Self {
        Self::Kept(Arc::default())
    }

    /// Says a line in adit's own name.
    pub(super) fn say(&self, line: &str) {
        self.line("adit", line);
    }

    /// Says every line of `stream` in the name of `who`, until it ends.
    pub(super) fn follow(&self, who: &'static str, stream: impl AsyncRead + Unpin + 'static) {
        let notices = self.clone();
        tokio::task::spawn_local(async move {
            output::lines(stream, |line| notices.line(who, &String::from_utf8_lossy(line))).await;
        });
    }

    /// The lines kept back, oldest first.
    pub(super) fn take_kept(&self) -> Vec<String> {
        match self {
            Self::Kept(lines) => lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .drain(..)
                .collect(),
            Self::Shown { .. } => Vec::new(),
        }
    }

    /// How many lines were dropped, those of workloads included, because standard output didn't take them.
    pub(super) fn dropped(&self) -> u64 {
        match self {
            Self::Kept(_) => 0,
            Self::Shown { sink, .. } => sink.dropped(),
        }
    }

    fn line(&self, who: &str, line: &str) {
        match self {
            Self::Kept(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == KEPT_LIMIT {
                    lines.pop_front();
                }
                lines.push_back(format!("{who}: {line}"));
            }
            Self::Shown {
                sink,
                width,
                coloured,
                log,
            } => {
                if let Some(log) = log {
                    log.send_now(format!("{who}: {line}").as_bytes());
                }
                sink.send(Prefix::of_adit(who, *width, *coloured).line(line.as_bytes()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_lines_are_kept() {
        let notices = Notices::kept();
        (0..KEPT_LIMIT + 5).for_each(|number| notices.say(&number.to_string()));
        let kept = notices.take_kept();
        assert_eq!((kept.len(), kept[0].as_str()), (KEPT_LIMIT, "adit: 5"));
    }
}
