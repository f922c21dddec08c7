//! A mesh file that is watched: each change is loaded, checked against the running mesh, and published.
//!
//! The only part of this crate that has a thread. It holds no state that matters: what is published is a value, a
//! file that is refused leaves the last good mesh running, and the one event that can be pending stands for
//! any number of changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};

use crate::diagnostic::Report;
use crate::load::{Loaded, reload};
use crate::mesh::Mesh;

/// Editors write a file in several steps: it is read when nothing happened to it for this long.
const QUIET: Duration = Duration::from_millis(100);
/// It is read after this many steps all the same, so that a file that never rests is read too.
const MAX_STEPS: usize = 50;

/// What became of a change to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The file means something else now, or is good again: this is the mesh from here on.
    Changed(Box<Loaded>),
    /// The file is wrong. The last good mesh stays.
    Refused(Report),
}

/// A mesh file can't be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The system's watcher didn't start, or has no watch left (`fs.inotify.max_user_watches`).
    #[error("watching {path} for changes: {source}")]
    Watch {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: notify::Error,
    },
    /// No thread could be started.
    #[error("starting the thread that watches {path}: {source}")]
    Thread {
        /// The mesh file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A watched mesh file. Dropping it ends the watch; nothing is published afterwards.
#[derive(Debug)]
pub struct FileSource {
    stop: Arc<AtomicBool>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl FileSource {
    /// Watches the file that `running` was loaded from, and its policy files. `publish` is called on a thread of its
    /// own; while it runs no change is looked at, and none is lost.
    ///
    /// # Errors
    /// The system can't watch the folders, or can't start a thread.
    pub fn watch(
        path: &Path,
        running: Mesh,
        publish: impl FnMut(Update) + Send + 'static,
    ) -> Result<Self, WatchError> {
        let (wake, changes) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            path: path.to_owned(),
            watches: Watches::new(path, wake.clone())?,
            last: Ok(running.clone()),
            running,
            changes,
            stop: Arc::clone(&stop),
            publish,
        };
        worker.watches.follow(path, &worker.running)?;
        let thread = thread::Builder::new()
            .name("mesh-file".to_owned())
            .spawn(move || worker.run());
        let thread = thread.map_err(|source| WatchError::Thread {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            stop,
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A full queue wakes the thread as well.
        let _ = self.wake.try_send(());
        let Some(thread) = self.thread.take() else {
            return;
        };
        // `publish` may drop its own source: a thread can't wait for itself.
        if thread.thread().id() != thread::current().id() {
            // A panic in `publish` has been reported by its thread.
            let _ = thread.join();
        }
    }
}

struct Worker<F> {
    path: PathBuf,
    watches: Watches,
    running: Mesh,
    /// What was published last, so that a change that changes nothing is not.
    last: Result<Mesh, Report>,
    changes: Receiver<()>,
    stop: Arc<AtomicBool>,
    publish: F,
}

impl<F: FnMut(Update)> Worker<F> {
    fn run(&mut self) {
        while self.changes.recv().is_ok() {
            for _ in 0..MAX_STEPS {
                match self.changes.recv_timeout(QUIET) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
            }
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            self.reload();
        }
    }

    fn reload(&mut self) {
        let loaded = reload(&self.path, &self.running);
        let now = loaded
            .as_ref()
            .map(|loaded| loaded.mesh.clone())
            .map_err(Clone::clone);
        if now == self.last {
            return;
        }
        self.last = now;
        match loaded {
            Ok(loaded) => {
                self.running = loaded.mesh.clone();
                // A policy folder that can't be watched is still read with the next change of the file.
                let _ = self.watches.follow(&self.path, &self.running);
                (self.publish)(Update::Changed(Box::new(loaded)));
            }
            Err(report) => (self.publish)(Update::Refused(report)),
        }
    }
}

/// The folders that are watched. Files are watched by their folders, since editors replace them.
struct Watches {
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
}

impl Watches {
    fn new(path: &Path, wake: SyncSender<()>) -> Result<Self, WatchError> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error, such as a queue that overflowed, may have hidden a change.
            if event.map_or(true, |event| !event.kind.is_access()) {
                let _ = wake.try_send(());
            }
        });
        let watcher = watcher.map_err(|source| WatchError::Watch {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            watcher,
            folders: BTreeSet::new(),
        })
    }

    /// Watches what the mesh is made of, and nothing else.
    fn follow(&mut self, path: &Path, mesh: &Mesh) -> Result<(), WatchError> {
        let policies = mesh
            .policy_paths
            .iter()
            .map(|path| if path.is_dir() { path } else { folder_of(path) });
        let wanted: BTreeSet<PathBuf> = policies.chain([folder_of(path)]).map(Path::to_owned).collect();
        for gone in self.folders.difference(&wanted) {
            // It may have been deleted, which ended its watch.
            let _ = self.watcher.unwatch(gone);
        }
        self.folders.retain(|folder| wanted.contains(folder));
        for folder in wanted {
            if !self.folders.contains(&folder) {
                self.watcher
                    .watch(&folder, RecursiveMode::NonRecursive)
                    .map_err(|source| WatchError::Watch {
                        path: folder.clone(),
                        source,
                    })?;
                self.folders.insert(folder);
            }
        }
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}
