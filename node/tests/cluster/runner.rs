//! Runs the cases in a node of their own and says how they went, in the format of the standard test harness.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, FileType, Mode, makedev};
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::world::{TUN_VARIABLE, World, command_output};

/// One case: a name, and what it does.
pub(crate) type Case = (&'static str, fn(&World) -> Outcome);

/// How a case that did not fail went.
pub(crate) enum Outcome {
    Passed,
    /// Not run, for this reason.
    Ignored(&'static str),
}

/// The unprivileged user that root plays as well.
const UNPRIVILEGED: u32 = 1000;

/// Runs the cases that `arguments` choose: as this user, and started by root as uid 1000 too.
pub(crate) fn run(cases: &[Case], arguments: &[String]) -> ExitCode {
    let root = rustix::process::geteuid().is_root();
    if arguments.iter().any(|argument| argument == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !root {
        become_node();
        return run_here(cases, arguments, "unprivileged");
    }
    let folder = std::env::temp_dir().join(format!("adit-cluster-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let device = folder.join("tun");
    make_tun_node(&device);
    // Before this process is a node itself.
    let theirs = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .env(TUN_VARIABLE, &device)
        .uid(UNPRIVILEGED)
        .gid(UNPRIVILEGED)
        .status()
        .unwrap();
    fs::remove_dir_all(&folder).unwrap();
    become_node();
    let mine = run_here(cases, arguments, "root");
    if theirs.success() { mine } else { ExitCode::FAILURE }
}

/// A node as distributions ship it, for machines whose own is closed to all but root.
fn make_tun_node(path: &Path) {
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(10, 200)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
}

/// Goes to namespaces of our own, as root of them. What is mounted there is seen nowhere else.
fn become_node() {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut wanted = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if !uid.is_root() {
        wanted |= CloneFlags::CLONE_NEWUSER;
    }
    nix::sched::unshare(wanted).expect("namespaces are allowed; `adit check` says more");
    if !uid.is_root() {
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw())).unwrap();
        fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw())).unwrap();
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    crate::pod::skip_duplicate_detection();
    command_output("ip", &["link", "set", "lo", "up"]);
}

fn run_here(cases: &[Case], arguments: &[String], who: &str) -> ExitCode {
    let filters = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect::<Vec<_>>();
    let (mut passed, mut failed, mut ignored) = (0, Vec::new(), 0);
    for (name, case) in cases {
        let name = format!("{name}::{who}");
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        match catch_unwind(AssertUnwindSafe(|| case(&World::new()))) {
            Ok(Outcome::Passed) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Ok(Outcome::Ignored(reason)) => {
                println!("test {name} ... ignored, {reason}");
                ignored += 1;
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(name);
            }
        }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; {ignored} ignored",
        failed.len()
    );
    for name in &failed {
        println!("    {name}");
    }
    ExitCode::from(u8::from(!failed.is_empty()))
}
