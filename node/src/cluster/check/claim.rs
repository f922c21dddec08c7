//! The name under which a check makes what it makes, and what one that was killed has left under its own.
//!
//! Everything bears the process id of its check: `check-ID` in the state folder, `.adit-check-ID-…` in the runtime's folders.
//! A check holds a lock on the former for as long as it makes anything, so a name whose lock is to be had is a dead check's:
//! process ids alone don't tell, since a check may run in another process-id namespace.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};

/// Before the id, of a folder in the state folder.
const FOLDER: &str = "check-";

/// Before the id, of a file in a folder of the runtime's.
const FILE: &str = ".adit-check-";

/// How often a folder is made anew that somebody took for a dead check's before it was locked, and how long that may take.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// A check's own folder, and the lock that says that the check lives.
#[derive(Debug)]
pub(super) struct Claim {
    folder: PathBuf,
    /// What is in the folder was removed by whoever made it, and said so if it couldn't be.
    _made: Made,
    _lock: OwnedFd,
}

impl Claim {
    /// Makes the folder in `state`.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn begin(state: &Path) -> io::Result<Self> {
        let folder = folder(state);
        let mut made = Made::default();
        for _ in 0..ATTEMPTS {
            made.make(&folder)?;
            match lock(&folder)? {
                Lock::Ours(lock) => {
                    return Ok(Self {
                        folder,
                        _made: made,
                        _lock: lock,
                    });
                }
                Lock::Gone | Lock::Others => {
                    made.0.pop();
                    sleep(PAUSE);
                }
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// A folder for one trial, inside.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Folders that weren't there, from the top. Those that somebody else uses by the end stay.
#[derive(Debug, Default)]
struct Made(Vec<PathBuf>);

impl Made {
    /// Makes a folder and those above it.
    fn make(&mut self, folder: &Path) -> io::Result<()> {
        if let Some(parent) = folder.parent()
            && !parent.as_os_str().is_empty()
            && !fs::exists(parent)?
        {
            self.make(parent)?;
        }
        DirBuilder::new().mode(0o700).create(folder)?;
        self.0.push(folder.to_owned());
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        while let Some(folder) = self.0.pop() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The folder that this process' check makes in `state`.
pub(super) fn folder(state: &Path) -> PathBuf {
    state.join(format!("{FOLDER}{}", rustix::process::getpid()))
}

/// A name for a file of this process' check, in a folder of the runtime's.
pub(super) fn file(folder: &Path, part: &str) -> PathBuf {
    folder.join(format!("{FILE}{}-{part}", rustix::process::getpid()))
}

/// Removes what checks that were killed have left in `state` and in these folders of the runtime's. What can't be removed
/// stays: it's in nobody's way.
pub(super) fn sweep(state: &Path, folders: &[&Path]) {
    // A check makes its folder before its files: one whose folder can't be locked or isn't there by now is dead.
    for (path, id) in folders.iter().flat_map(|folder| named(folder, FILE)) {
        let is_dead = matches!(
            lock(&state.join(format!("{FOLDER}{id}"))),
            Ok(Lock::Ours(_) | Lock::Gone)
        );
        if is_dead {
            let _ = fs::remove_file(path);
        }
    }
    for (path, _) in named(state, FOLDER) {
        if let Ok(Lock::Ours(_lock)) = lock(&path) {
            // Its mounts were seen by its own processes alone.
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// What bears `prefix` and an id in a folder, with the id.
fn named(folder: &Path, prefix: &str) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let rest = name.to_str()?.strip_prefix(prefix)?;
        let id = rest.split('-').next()?;
        let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        is_id.then(|| (entry.path(), id.to_owned()))
    };
    entries.filter_map(ours).collect()
}

/// What came of locking a check's folder.
enum Lock {
    /// It's gone, or was removed before it was locked.
    Gone,
    Others,
    Ours(OwnedFd),
}

fn lock(folder: &Path) -> io::Result<Lock> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(CWD, folder, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Lock::Gone),
        opened => opened?,
    };
    match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Lock::Others),
        locked => locked?,
    }
    match rustix::fs::fstat(&opened)?.st_nlink {
        0 => Ok(Lock::Gone),
        _ => Ok(Lock::Ours(opened)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(name: &str) -> PathBuf {
        let top = std::env::temp_dir().join(format!("adit-claim-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        top
    }

    #[test]
    fn folders_that_were_not_there_are_taken_away_again() {
        let top = top("folders");
        let state = top.join("a/b");
        let claim = Claim::begin(&state).unwrap();
        assert!(fs::metadata(claim.path("")).unwrap().is_dir());
        drop(claim);
        assert!(!top.exists());

        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("others"), []).unwrap();
        drop(Claim::begin(&state).unwrap());
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn what_dead_checks_left_is_removed_and_nothing_else() {
        let top = top("sweep");
        let (state, folder) = (top.join("state"), top.join("bin"));
        fs::create_dir_all(state.join("check-1/pods")).unwrap();
        fs::create_dir_all(state.join("check-me")).unwrap();
        fs::create_dir(&folder).unwrap();
        let live = Claim::begin(&state).unwrap();
        let lives = file(&folder, "new");
        for path in [
            &lives,
            &folder.join(".adit-check-1-new"),
            // Of one whose folder is gone already.
            &folder.join(".adit-check-2-old"),
            &folder.join(".adit-check-me-new"),
            &folder.join("adit-cni"),
        ] {
            fs::write(path, []).unwrap();
        }
        sweep(&state, &[&folder]);
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let name_of = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            names(&folder),
            [
                ".adit-check-me-new".to_owned(),
                "adit-cni".to_owned(),
                name_of(&lives)
            ]
            .into()
        );
        assert_eq!(
            names(&state),
            ["check-me".to_owned(), name_of(&live.path(""))].into()
        );
        drop(live);
        sweep(&state, &[&folder]);
        assert!(!lives.exists());
        fs::remove_dir_all(&top).unwrap();
    }
}
