//! A root file system that holds `adit`, `adit-load` and what a test puts there, and nothing else: no library, no shell, no
//! `/etc`.
//!
//! It's made without root, in a user and a mount namespace. The user is root in there, as in a container engine's rootless
//! containers, and the user on the machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::UnmountFlags;

use crate::process::Running;
use crate::sandbox::Sandbox;

/// How long it may take to be made.
const LIMIT: Duration = Duration::from_secs(30);

/// Such a root. It vanishes when this is dropped, and what runs in it has to have ended.
#[derive(Debug)]
pub struct BareRoot<'a> {
    sandbox: &'a Sandbox,
    keeper: Running,
}

/// A static executable that was made by `packaging/build.sh`.
///
/// # Panics
/// If `ADIT_BIN` isn't set: `just static-test` sets it.
#[track_caller]
pub fn static_executable(name: &str) -> PathBuf {
    let adit = std::env::var_os("ADIT_BIN").map(PathBuf::from);
    let adit =
        adit.expect("ADIT_BIN names the static executable, and adit-load is beside it: `just static-test`");
    adit.with_file_name(name)
}

/// Makes the folder `root`, a mount, the calling process's root, and takes all other mounts away. The process must have a
/// mount namespace of its own, and the right to change it.
///
/// # Errors
/// What the kernel says.
pub fn make_root(root: &Path) -> std::io::Result<()> {
    rustix::process::chdir(root)?;
    // pivot_root(2): the old root is put over the new one, and "." is the old one afterwards.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

impl<'a> BareRoot<'a> {
    /// One with these files besides, each a path without the first slash and its content. `sandbox` is where it's made.
    ///
    /// # Panics
    /// If there are no static executables, or it can't be made.
    #[track_caller]
    pub fn new(sandbox: &'a Sandbox, files: &[(&str, &str)]) -> Self {
        let root = sandbox.folder("bare");
        let content = sandbox.folder("bare-files");
        for (path, text) in files {
            if let Some(folder) = Path::new(path).parent() {
                sandbox.folder(&format!("bare-files/{}", folder.display()));
            }
            sandbox.file(&format!("bare-files/{path}"), text);
        }
        let mut command = sandbox.command("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"])
            .args([&root, &content])
            .arg(sandbox.tun());
        for name in ["adit", "adit-load"] {
            // Copies that the user may read, whatever folder they were built in.
            command.arg(sandbox.install(&static_executable(name), &format!("bare-{name}")));
        }
        let mut keeper = Running::spawn(command);
        keeper.wait_for("ready", LIMIT);
        Self { sandbox, keeper }
    }

    /// A command in it: `/adit`, `/adit-load`. Meshes keep their sockets in `/run`.
    #[track_caller]
    pub fn command(&self, program: &str) -> Command {
        // Neither setpriv nor unshare nor sh forks: the keeper has the pid that was started.
        let pid = self.keeper.pid().to_string();
        let mut command = self.sandbox.command("nsenter");
        command
            .args([
                "--target",
                &pid,
                "--user",
                "--mount",
                "--preserve-credentials",
                "--",
            ])
            .arg(program)
            .env("HOME", "/")
            .env("ADIT_RUN_DIR", "/run")
            .env("ADIT_TUN", "/dev/net/tun")
            .env_remove("XDG_RUNTIME_DIR")
            .current_dir("/");
        command
    }
}

/// What is in it: two devices, processes, and the files.
const SCRIPT: &str = r#"
set -e
root=$1 files=$2 tun=$3 adit=$4 load=$5
mount -t tmpfs -o mode=0755 tmpfs "$root"
mkdir -p "$root/dev/net" "$root/proc"
touch "$root/dev/null" "$root/dev/net/tun"
mount --bind /dev/null "$root/dev/null"
mount --bind "$tun" "$root/dev/net/tun"
mount --rbind /proc "$root/proc"
cp -R "$files/." "$root"
cp "$adit" "$root/adit"
cp "$load" "$root/adit-load"
exec "$root/adit-load" alone "$root"
"#;
