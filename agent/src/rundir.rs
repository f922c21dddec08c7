//! Where a running mesh keeps its sockets: `$XDG_RUNTIME_DIR/adit/MESH`, mode 0700.
//!
//! Two locks tell what lives. `lock` is held by the supervisor, `node.lock` by the node helper: `flock` locks, which the
//! kernel gives up with their process however it dies. A mesh is running while `lock` is held. A new supervisor
//! takes both before it touches the folder, so it never takes over from a helper that is still removing it. The
//! helper removes the folder as its last act; whoever got a lock on a file that is no longer the folder's begins again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// The longest path that a Unix socket can have, its final zero apart (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;
/// The longest file name that is put into the folder.
const LONGEST_NAME: &str = "supervisor.sock";
/// How long a helper that outlived its supervisor may take to clean up.
const HELPER_LINGERS: Duration = Duration::from_secs(10);
/// How long somebody who only looks may hold `lock`.
const LOOKERS_LINGER: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(20);

const LOCK: &str = "lock";
const HELPER_LOCK: &str = "node.lock";
/// Everything that a mesh puts into its folder: nothing else is ever removed from it.
const NAMES: [&str; 6] = [
    "agent.log",
    "agent.sock",
    "node.sock",
    HELPER_LOCK,
    "supervisor.sock",
    LOCK,
];

/// Why there is no run directory, or none to be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// A mesh of that name is running.
    #[error(
        "[ADIT-A001] mesh {mesh:?} is running already; `adit ps {mesh}` shows it, `adit down {mesh}` stops it"
    )]
    AlreadyRuns {
        /// The mesh.
        mesh: String,
    },
    /// Several run and none was named.
    #[error("[ADIT-A003] several meshes are running: choose one of {}", running.join(", "))]
    Ambiguous {
        /// Those that run.
        running: Vec<String>,
    },
    /// The helper of a former run doesn't end.
    #[error("[ADIT-A002] the node helper of a former run still holds {}", path.display())]
    HelperLingers {
        /// The run directory.
        path: PathBuf,
    },
    /// None runs.
    #[error("[ADIT-A003] no mesh is running; `adit up FILE` starts one")]
    NoneRuns,
    /// The kernel refused.
    #[error("[ADIT-A002] {step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It isn't only ours.
    #[error("[ADIT-A002] {} must be a folder of uid {uid} with mode 0700: {problem}", path.display())]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// Who must own it.
        uid: u32,
        /// What is wrong.
        problem: String,
    },
    /// It holds what no mesh put there.
    #[error("[ADIT-A002] {} holds {found:?}, which adit did not put there; move it away", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// Sockets in it would have too long a path.
    #[error(
        "[ADIT-A002] the path of {} is too long for a socket by {excess} bytes; set ADIT_RUN_DIR to a shorter one",
        path.display()
    )]
    TooLong {
        /// The folder.
        path: PathBuf,
        /// By how many bytes.
        excess: usize,
    },
    /// The one named doesn't run.
    #[error("[ADIT-A003] mesh {mesh:?} is not running{}", others(running))]
    Unknown {
        /// What was asked for.
        mesh: String,
        /// Those that run.
        running: Vec<String>,
    },
}

/// The folder in which every mesh of this user has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base(PathBuf);

/// The paths of one mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPaths {
    dir: PathBuf,
}

/// A run directory that this process owns: it holds the lock.
#[derive(Debug)]
pub struct RunDir {
    paths: RunPaths,
    _lock: File,
}

impl Base {
    /// The base from the environment: `ADIT_RUN_DIR`, or `adit` in `XDG_RUNTIME_DIR`, or `/tmp/adit-UID`.
    pub fn from_env(variable: impl Fn(&str) -> Option<OsString>, uid: u32) -> Self {
        let set = |name| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        // The XDG specification tells to ignore a relative path.
        let runtime = || {
            set("XDG_RUNTIME_DIR")
                .filter(|path| path.is_absolute())
                .map(|path| path.join("adit"))
        };
        let base = set("ADIT_RUN_DIR").or_else(runtime);
        Self(base.unwrap_or_else(|| format!("/tmp/adit-{uid}").into()))
    }

    /// The base of this process.
    pub fn of_process() -> Self {
        Self::from_env(|name| std::env::var_os(name), uid())
    }

    /// The names of the meshes that are running, in order.
    ///
    /// # Errors
    /// The base can't be read or isn't ours. A base that doesn't exist has no meshes.
    pub fn running(&self) -> Result<Vec<String>, RunDirError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed("reading", &self.0)(source)),
        };
        check_private(&self.0)?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut running: Vec<_> = names.filter(|name| self.paths(name).is_live()).collect();
        running.sort();
        Ok(running)
    }

    /// The paths of `mesh` if it runs; without a name, those of the only one that does.
    ///
    /// # Errors
    /// None, several, or not that one.
    pub fn find(&self, mesh: Option<&str>) -> Result<RunPaths, RunDirError> {
        let mut running = self.running()?;
        match mesh {
            Some(mesh) if running.iter().any(|name| name == mesh) => Ok(self.paths(mesh)),
            Some(mesh) => Err(RunDirError::Unknown {
                mesh: mesh.to_owned(),
                running,
            }),
            None if running.len() > 1 => Err(RunDirError::Ambiguous { running }),
            None => running
                .pop()
                .map(|name| self.paths(&name))
                .ok_or(RunDirError::NoneRuns),
        }
    }

    fn paths(&self, mesh: &str) -> RunPaths {
        RunPaths {
            dir: self.0.join(mesh),
        }
    }
}

impl RunPaths {
    /// The paths in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The run directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node helper's socket.
    pub fn node_socket(&self) -> PathBuf {
        self.dir.join("node.sock")
    }

    /// The agent's control socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// The supervisor's socket.
    pub fn supervisor_socket(&self) -> PathBuf {
        self.dir.join("supervisor.sock")
    }

    /// Where the agent's log goes when nobody shows it.
    pub fn agent_log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Takes the helper's lock, held until the file is closed. For the helper, before it does anything.
    ///
    /// # Errors
    /// Another helper has it, or the kernel refuses.
    pub fn lock_helper(&self) -> Result<File, RunDirError> {
        let path = self.dir.join(HELPER_LOCK);
        let file = open_lock(&path).map_err(failed("opening", &path))?;
        match try_lock(&file).map_err(failed("locking", &path))? {
            true => Ok(file),
            false => Err(RunDirError::HelperLingers {
                path: self.dir.clone(),
            }),
        }
    }

    fn is_live(&self) -> bool {
        let path = self.dir.join(LOCK);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()) else {
            return false;
        };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }
}

impl RunDir {
    /// Makes the run directory of `mesh`, or takes over the one that a killed run left.
    ///
    /// Blocks for up to ten seconds while the helper of a former run cleans up.
    ///
    /// # Errors
    /// See [`RunDirError`].
    pub fn create(base: &Base, mesh: &str) -> Result<Self, RunDirError> {
        let paths = base.paths(mesh);
        let excess = (paths.dir.as_os_str().len() + 1 + LONGEST_NAME.len()).saturating_sub(SOCKET_PATH_LIMIT);
        if excess > 0 {
            return Err(RunDirError::TooLong {
                path: paths.dir,
                excess,
            });
        }
        make_private(&base.0)?;
        let (mut looked_at, mut lingered) = (Duration::ZERO, Duration::ZERO);
        loop {
            make_private(&paths.dir)?;
            check_ours(&paths.dir)?;
            match Self::try_take(&paths)? {
                Taken::Yes(lock) => {
                    clean(&paths.dir)?;
                    return Ok(Self { paths, _lock: lock });
                }
                Taken::Removed => lingered += PAUSE,
                Taken::BySupervisor => looked_at += PAUSE,
                Taken::ByHelper => lingered += PAUSE,
            }
            if looked_at > LOOKERS_LINGER {
                return Err(RunDirError::AlreadyRuns {
                    mesh: mesh.to_owned(),
                });
            }
            if lingered > HELPER_LINGERS {
                return Err(RunDirError::HelperLingers { path: paths.dir });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The paths in it.
    pub fn paths(&self) -> &RunPaths {
        &self.paths
    }

    /// Removes it with everything that a mesh puts there. The helper usually did so before.
    ///
    /// # Errors
    /// What the kernel says; not if it is gone already.
    pub fn remove(self) -> Result<(), RunDirError> {
        for name in NAMES {
            let path = self.paths.dir.join(name);
            gone_is_fine(fs::remove_file(&path)).map_err(failed("removing", &path))?;
        }
        gone_is_fine(fs::remove_dir(&self.paths.dir)).map_err(failed("removing", &self.paths.dir))
    }

    fn try_take(paths: &RunPaths) -> Result<Taken, RunDirError> {
        let (path, helper_path) = (paths.dir.join(LOCK), paths.dir.join(HELPER_LOCK));
        let Some(lock) = unless_gone(open_lock(&path)).map_err(failed("opening", &path))? else {
            return Ok(Taken::Removed);
        };
        if !try_lock(&lock).map_err(failed("locking", &path))? {
            return Ok(Taken::BySupervisor);
        }
        let Some(helper) = unless_gone(open_lock(&helper_path)).map_err(failed("opening", &helper_path))?
        else {
            return Ok(Taken::Removed);
        };
        if !try_lock(&helper).map_err(failed("locking", &helper_path))? {
            return Ok(Taken::ByHelper);
        }
        let still_there = is_file_at(&lock, &path) && is_file_at(&helper, &helper_path);
        Ok(if still_there {
            Taken::Yes(lock)
        } else {
            Taken::Removed
        })
    }
}

enum Taken {
    Yes(File),
    BySupervisor,
    ByHelper,
    /// The former run's folder was removed between two looks.
    Removed,
}

fn others(running: &[String]) -> String {
    if running.is_empty() {
        String::new()
    } else {
        format!("; running: {}", running.join(", "))
    }
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
    let path = path.to_owned();
    move |source| RunDirError::Io { step, path, source }
}

fn make_private(path: &Path) -> Result<(), RunDirError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("making", path)(error)),
        _ => check_private(path),
    }
}

/// Others must not be able to put anything there: not even a link, so links aren't followed.
fn check_private(path: &Path) -> Result<(), RunDirError> {
    let found = fs::symlink_metadata(path).map_err(failed("looking at", path))?;
    let problem = if !found.is_dir() {
        "it is something else".to_owned()
    } else if found.uid() != uid() {
        format!("it belongs to uid {}", found.uid())
    } else if found.mode() & 0o077 != 0 {
        format!("its mode is {:04o}", found.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(RunDirError::NotPrivate {
        path: path.to_owned(),
        uid: uid(),
        problem,
    })
}

/// A folder with anything else in it isn't a run directory, whoever pointed us there.
fn check_ours(dir: &Path) -> Result<(), RunDirError> {
    for entry in fs::read_dir(dir).map_err(failed("reading", dir))? {
        let name = entry.map_err(failed("reading", dir))?.file_name();
        if !NAMES.iter().any(|known| name == *known) {
            let found = name.to_string_lossy().into_owned();
            return Err(RunDirError::NotOurs {
                path: dir.to_owned(),
                found,
            });
        }
    }
    Ok(())
}

/// Removes what a killed run left, but not the locks, which are ours by now.
fn clean(dir: &Path) -> Result<(), RunDirError> {
    for name in NAMES.iter().filter(|name| ![LOCK, HELPER_LOCK].contains(name)) {
        let path = dir.join(name);
        gone_is_fine(fs::remove_file(&path)).map_err(failed("removing", &path))?;
    }
    Ok(())
}

fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_file_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    unless_gone(result).map(|_| ())
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!(
                "adit-rundir-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            );
            let path = std::env::temp_dir().join(name);
            fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
            Self(path)
        }

        fn base(&self) -> Base {
            Base(self.0.join("adit"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn base(variables: &[(&str, &str)]) -> PathBuf {
        let lookup = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        };
        Base::from_env(lookup, 1000).0
    }

    #[test]
    fn the_environment_chooses_the_base() {
        assert_eq!(base(&[]), Path::new("/tmp/adit-1000"));
        assert_eq!(
            base(&[("XDG_RUNTIME_DIR", "/run/user/1000")]),
            Path::new("/run/user/1000/adit")
        );
        assert_eq!(
            base(&[("XDG_RUNTIME_DIR", "relative")]),
            Path::new("/tmp/adit-1000")
        );
        assert_eq!(
            base(&[("XDG_RUNTIME_DIR", "/run/x"), ("ADIT_RUN_DIR", "/y")]),
            Path::new("/y")
        );
    }

    #[test]
    fn one_runs_at_a_time_and_a_dead_one_is_taken_over() {
        let folder = Folder::new();
        let base = folder.base();
        let first = RunDir::create(&base, "shop").unwrap();
        let dir = first.paths().dir().to_owned();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
        assert!(matches!(
            RunDir::create(&base, "shop"),
            Err(RunDirError::AlreadyRuns { .. })
        ));
        assert_eq!(base.running().unwrap(), ["shop"]);
        fs::write(first.paths().agent_socket(), "").unwrap();
        drop(first); // killed: the lock is gone, the folder is not
        assert_eq!(base.running().unwrap(), [] as [&str; 0]);
        let second = RunDir::create(&base, "shop").unwrap();
        assert!(!second.paths().agent_socket().exists());
        second.remove().unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn a_helper_that_cleans_up_is_waited_for() {
        let folder = Folder::new();
        let base = folder.base();
        let first = RunDir::create(&base, "shop").unwrap();
        let (paths, helper) = (first.paths().clone(), first.paths().lock_helper().unwrap());
        drop(first);
        let cleaner = std::thread::spawn(move || {
            std::thread::sleep(PAUSE * 3);
            while let Err(error) = fs::remove_dir_all(paths.dir()) {
                // The newcomer opened its lock in there meanwhile.
                assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty);
            }
            drop(helper);
        });
        let second = RunDir::create(&base, "shop").unwrap();
        cleaner.join().unwrap();
        assert!(second.paths().dir().join(LOCK).exists());
        assert_eq!(base.running().unwrap(), ["shop"]);
    }

    #[test]
    fn finding_a_mesh_needs_a_name_only_where_several_run() {
        let folder = Folder::new();
        let base = folder.base();
        assert!(matches!(base.find(None), Err(RunDirError::NoneRuns)));
        let shop = RunDir::create(&base, "shop").unwrap();
        assert_eq!(base.find(None).unwrap(), *shop.paths());
        let _bank = RunDir::create(&base, "bank").unwrap();
        assert!(
            matches!(base.find(None), Err(RunDirError::Ambiguous { running }) if running == ["bank", "shop"])
        );
        assert_eq!(base.find(Some("shop")).unwrap(), *shop.paths());
        assert!(matches!(base.find(Some("zoo")), Err(RunDirError::Unknown { .. })));
    }

    #[test]
    fn folders_of_others_and_with_others_in_them_are_refused() {
        let folder = Folder::new();
        let open = Base(folder.0.join("open"));
        fs::create_dir(&open.0).unwrap();
        fs::set_permissions(&open.0, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            RunDir::create(&open, "shop"),
            Err(RunDirError::NotPrivate { .. })
        ));

        let linked = Base(folder.0.join("linked"));
        std::os::unix::fs::symlink(&folder.0, &linked.0).unwrap();
        assert!(matches!(
            RunDir::create(&linked, "shop"),
            Err(RunDirError::NotPrivate { .. })
        ));

        let base = folder.base();
        make_private(&base.0).unwrap();
        make_private(&base.0.join("documents")).unwrap();
        fs::write(base.0.join("documents/thesis.tex"), "years of work").unwrap();
        assert!(matches!(
            RunDir::create(&base, "documents"),
            Err(RunDirError::NotOurs { .. })
        ));
        assert!(base.0.join("documents/thesis.tex").exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made() {
        let base = Base(PathBuf::from("/tmp").join("x".repeat(90)));
        assert!(matches!(
            RunDir::create(&base, "shop"),
            Err(RunDirError::TooLong { excess: 9, .. })
        ));
        assert!(!base.0.exists());
    }
}
