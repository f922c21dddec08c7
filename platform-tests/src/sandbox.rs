//! A folder, a user and the `adit` program: what a test runs in.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::lab::Place;
use crate::mesh::{Mesh, UpOptions};
use crate::process::{pid, wait_quietly};
use crate::processors::Processors;
use crate::procfs::{mounts_below, pids_mentioning};
use crate::programs::SEARCH_PATH;
use crate::spec::MeshSpec;

/// `nobody`, on every distribution.
const NOBODY: u32 = 65534;

/// An ordinary user: the caller, or `nobody` if the caller is root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
    switch: bool,
}

/// Where a test runs: a folder with the programs under test, owned by an ordinary user.
#[derive(Debug)]
pub struct Sandbox {
    dir: PathBuf,
    user: User,
    tun: PathBuf,
    link: String,
    place: Option<Place>,
    processors: Option<Processors>,
}

impl User {
    /// The caller, or `nobody` if the caller is root.
    pub fn ordinary() -> Self {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        match uid {
            0 => Self {
                uid: NOBODY,
                gid: NOBODY,
                switch: true,
            },
            _ => Self {
                uid,
                gid,
                switch: false,
            },
        }
    }

    /// The user's number.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The user's group.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// A command that runs as this user, without any capability, in a clean environment.
    #[track_caller]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = if self.switch {
            let mut command = Command::new(crate::program("setpriv", "util-linux"));
            let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
            command.args([
                "--reuid",
                &uid,
                "--regid",
                &gid,
                "--clear-groups",
                "--inh-caps=-all",
                "--",
            ]);
            command.arg(program.as_ref());
            command
        } else {
            Command::new(program.as_ref())
        };
        command
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LANG", "C.UTF-8");
        command
    }

    /// The same at a place, as root of its user namespace: to change its network.
    #[track_caller]
    pub fn root_at(&self, program: impl AsRef<Path>, place: Place) -> Command {
        let mut command = self.command(crate::program("nsenter", "util-linux"));
        command.args(place.nsenter()).arg(program.as_ref());
        command
    }

    /// The same at a place: in its network namespace, but with no capability over it.
    #[track_caller]
    pub fn command_at(&self, program: impl AsRef<Path>, place: Option<Place>) -> Command {
        let Some(place) = place else {
            return self.command(program);
        };
        // The first nsenter makes it root of the place's user namespace, the second an ordinary user in one below, as a
        // login on that host would be: the kernel takes its capabilities when it executes the program.
        let mut command = self.command(crate::program("nsenter", "util-linux"));
        command
            .args(place.nsenter())
            .args(place.login())
            .arg(program.as_ref());
        command
    }
}

impl Sandbox {
    /// A sandbox on this host.
    ///
    /// # Panics
    /// If it can't be made or there is no `adit` to test.
    #[track_caller]
    pub fn new() -> Self {
        Self::at(None)
    }

    /// A sandbox whose commands run at `place`.
    ///
    /// # Panics
    /// As [`Sandbox::new`].
    #[track_caller]
    pub fn at(place: Option<Place>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let user = User::ordinary();
        // Short: a Unix socket's path has 107 bytes.
        let name = format!(
            "adit-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        let sandbox = Self {
            tun: tun_device(&user, &dir),
            link: std::env::var("ADIT_TEST_LINK").unwrap_or_else(|_| "auto".to_owned()),
            dir,
            user,
            place,
            processors: None,
        };
        sandbox.folder("bin");
        sandbox.folder("home");
        sandbox.folder("run");
        sandbox.install(&adit_binary(), "adit");
        sandbox.install(&sibling("adit-load"), "adit-load");
        sandbox.install(&sibling("adit-deny"), "adit-deny");
        sandbox
    }

    /// The same, with everything in it on these processors alone.
    #[must_use]
    pub fn on(mut self, processors: Processors) -> Self {
        self.processors = Some(processors);
        self
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The user that everything in it runs as.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The path of `adit-load`, as workloads have to call it.
    pub fn load(&self) -> String {
        self.dir.join("bin/adit-load").to_string_lossy().into_owned()
    }

    /// The path of `adit`.
    pub fn adit(&self) -> PathBuf {
        self.dir.join("bin/adit")
    }

    /// The path of `adit-deny`.
    pub fn deny(&self) -> PathBuf {
        self.dir.join("bin/adit-deny")
    }

    /// A TUN device node that the user may open.
    pub fn tun(&self) -> &Path {
        &self.tun
    }

    /// Makes a folder in it, mode 0700, that belongs to the user.
    ///
    /// # Panics
    /// If it can't be made.
    #[track_caller]
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
        self.give(&path, 0o700);
        path
    }

    /// Writes a file in it that belongs to the user; mode 0600, which keys need.
    ///
    /// # Panics
    /// If it can't be written.
    #[track_caller]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
        self.give(&path, 0o600);
        path
    }

    /// Makes a named pipe in it that belongs to the user.
    ///
    /// # Panics
    /// If it can't be made.
    #[track_caller]
    pub fn fifo(&self, name: &str) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let path = self.dir.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
        self.give(&path, 0o600);
    }

    /// A command as the user, in the sandbox's place, that knows the TUN device and what pods' packets are to go through:
    /// whatever `ADIT_TEST_LINK` says, so that every test can be run with each.
    #[track_caller]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = match &self.processors {
            None => self.user.command_at(program, self.place),
            Some(processors) => {
                let taskset = crate::program("taskset", "util-linux");
                let mut command = self.user.command_at(taskset, self.place);
                command
                    .args(["-c", &processors.to_string()])
                    .arg(program.as_ref());
                command
            }
        };
        command
            .env("HOME", self.dir.join("home"))
            .env("XDG_RUNTIME_DIR", self.dir.join("run"));
        command
            .env("ADIT_TUN", &self.tun)
            .env("ADIT_LINK", &self.link)
            .current_dir(&self.dir);
        command
    }

    /// A command that runs in the pod of the workload `name`, which is a [`Workload::shell`](crate::Workload::shell) of
    /// this sandbox. Arguments must not need quoting.
    #[track_caller]
    pub fn command_in(&self, name: &str) -> Command {
        let mut command = self.command("sh");
        // Not as a file: others that are started in the same moment would write it while it's read.
        command
            .args(["-c", include_str!("in-pod.sh"), "in-pod.sh"])
            .arg(self.dir.join(format!("home/{name}.jobs")));
        command
    }

    /// Starts a mesh in it.
    ///
    /// # Panics
    /// If `adit up` can't be started.
    #[track_caller]
    pub fn up(&self, spec: MeshSpec) -> Mesh<'_> {
        Mesh::up(self, &spec, UpOptions::default())
    }

    /// Starts a mesh in it with further options.
    ///
    /// # Panics
    /// If `adit up` can't be started.
    #[track_caller]
    pub fn up_with(&self, spec: &MeshSpec, options: UpOptions) -> Mesh<'_> {
        Mesh::up(self, spec, options)
    }

    /// Starts one node's share of a mesh, and waits until all that runs there is ready. `state` is the folder of the
    /// authority that the nodes share.
    ///
    /// # Panics
    /// If `adit up` can't be started, or not everything gets ready.
    #[track_caller]
    pub fn up_node(&self, spec: &MeshSpec, node: &str, listen: SocketAddr, state: &Path) -> Mesh<'_> {
        let options = UpOptions {
            node: Some((node.to_owned(), listen)),
            arguments: vec!["--state-dir".to_owned(), state.display().to_string()],
            ..UpOptions::default()
        };
        let mesh = self.up_with(spec, options);
        mesh.wait_ready();
        mesh
    }

    /// What is left of everything that ran in it: processes and mounts. Empty when all is well; waits a little for
    /// what is ending.
    pub fn leftovers(&self) -> Vec<String> {
        let look = || {
            let processes = pids_mentioning(&self.dir)
                .into_iter()
                .map(|(pid, line)| format!("process {pid}: {line}"));
            let mounts = mounts_below(&self.dir)
                .into_iter()
                .map(|mount| format!("mount {mount}"));
            processes.chain(mounts).collect::<Vec<_>>()
        };
        wait_quietly(Duration::from_secs(5), || look().is_empty());
        look()
    }

    /// The path of the HBONE peer that is written in Go, built first where it isn't yet.
    ///
    /// # Panics
    /// If Go is missing or it doesn't build.
    #[track_caller]
    pub fn hbone_go(&self) -> PathBuf {
        let path = self.dir.join("bin/hbone-go");
        if !path.exists() {
            self.install(&build_hbone_go(), "hbone-go");
        }
        path
    }

    /// Copies a program into it, and says where it is.
    #[track_caller]
    pub(crate) fn install(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.dir.join("bin").join(name);
        // A copy: the build folder may be closed to the user.
        fs::copy(from, &to)
            .unwrap_or_else(|error| panic!("copying {} to {}: {error}", from.display(), to.display()));
        self.give(&to, 0o755);
        to
    }

    fn give(&self, path: &Path, mode: u32) {
        if self.user.switch {
            chown(path, Some(self.user.uid), Some(self.user.gid)).expect("root may give its files away");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .expect("the owner may change a file's mode");
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let left = self.leftovers();
        for (id, _) in pids_mentioning(&self.dir) {
            // They carry this sandbox's own folder: nobody else's.
            let _ = kill_process(pid(id), Signal::KILL);
        }
        let keep = std::env::var_os("ADIT_KEEP_SANDBOX").is_some();
        if keep {
            eprintln!("ADIT_KEEP_SANDBOX: {} is kept", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
        if !left.is_empty() && !thread::panicking() {
            panic!("left behind in {}:\n{}", self.dir.display(), left.join("\n"));
        }
    }
}

/// The device node to use: the host's, or a private one where that is closed to the user and we may make one.
#[track_caller]
fn tun_device(user: &User, dir: &Path) -> PathBuf {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let made =
        fs::create_dir_all(dir).and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o755)));
    made.unwrap_or_else(|error| panic!("making {}: {error}", dir.display()));
    let host = PathBuf::from("/dev/net/tun");
    let open_to_all = fs::metadata(&host).is_ok_and(|found| found.mode() & 0o006 == 0o006);
    if open_to_all || !user.switch {
        return host;
    }
    let own = dir.join("tun");
    let everybody = Mode::from_raw_mode(0o666);
    mknodat(CWD, &own, FileType::CharacterDevice, everybody, makedev(10, 200))
        .and_then(|()| rustix::fs::chmod(&own, everybody))
        .unwrap_or_else(|error| panic!("making the device node {}: {error}", own.display()));
    own
}

/// `ADIT_BIN`, or what `cargo build --release -p adit-agent` made beside us, or the debug build.
#[track_caller]
fn adit_binary() -> PathBuf {
    if let Some(set) = std::env::var_os("ADIT_BIN") {
        return set.into();
    }
    let target = profile_folder().parent().map(Path::to_owned).unwrap_or_default();
    let candidates = [target.join("release/adit"), target.join("debug/adit")];
    let found = candidates.iter().find(|path| path.is_file());
    found.cloned().unwrap_or_else(|| {
        panic!("there is no adit to test: run `cargo build --release -p adit-agent`, or set ADIT_BIN; looked for {candidates:?}")
    })
}

/// A program of this package.
#[track_caller]
fn sibling(name: &str) -> PathBuf {
    let path = profile_folder().join(name);
    assert!(
        path.is_file(),
        "{} wasn't built: run `cargo build -p adit-platform-tests`",
        path.display()
    );
    path
}

/// Builds the Go peer once for a process, beside this package's programs.
#[track_caller]
fn build_hbone_go() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let binary = profile_folder().join("hbone-go");
            let built = Command::new("go")
                .args(["build", "-o"])
                .arg(&binary)
                .arg(".")
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/hbone-go"))
                .status();
            let built =
                built.unwrap_or_else(|error| panic!("go: {error}: `apt-get install golang-go` has it"));
            assert!(built.success(), "go build failed");
            binary
        })
        .clone()
}

/// `target/debug` or `target/release`: tests are in its `deps`, programs in itself.
fn profile_folder() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its program");
    let folder = own.parent().expect("a program is in a folder");
    match folder.file_name().is_some_and(|name| name == "deps") {
        true => folder.parent().expect("cargo's folders are nested").to_owned(),
        false => folder.to_owned(),
    }
}
