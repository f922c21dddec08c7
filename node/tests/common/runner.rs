//! Runs cases that need a world of their own, and says how they went, in the format of the standard test harness.
//!
//! Started by root it runs each case twice, as uid 1000 and as root; otherwise once, as whoever runs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::fs::{CWD, FileType, Mode, makedev};

use crate::world::{TUN_VARIABLE, World};

/// One case: a name, and what it does.
pub(crate) type Case = (&'static str, fn(&World) -> Outcome);

/// Cases that are run in the same kind of world.
pub(crate) struct Suite {
    /// What tells its cases' names from another's; empty where there is no other.
    pub(crate) label: &'static str,
    pub(crate) cases: Vec<Case>,
    pub(crate) world: fn() -> World,
}

impl Suite {
    fn name(&self, case: &str, who: &str) -> String {
        match self.label {
            "" => format!("{case}::{who}"),
            label => format!("{case}::{label}::{who}"),
        }
    }
}

/// How a case that did not fail went.
pub(crate) enum Outcome {
    Passed,
    /// Not run, for this reason.
    Ignored(&'static str),
}

/// The unprivileged user that root plays as well.
const UNPRIVILEGED: u32 = 1000;

/// Runs the cases that `arguments` choose, as this user after `prepare`.
pub(crate) fn run(suites: &[Suite], arguments: &[String], prepare: fn()) -> ExitCode {
    let is_root = rustix::process::geteuid().is_root();
    let who = if is_root { "root" } else { "unprivileged" };
    if arguments.iter().any(|argument| argument == "--list") {
        for suite in suites {
            let names = suite.cases.iter().map(|(name, _)| suite.name(name, who));
            names.for_each(|name| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    // Before this process is changed.
    let theirs = !is_root || run_unprivileged(arguments);
    prepare();
    let mine = run_here(suites, arguments, who);
    ExitCode::from(u8::from(!(theirs && mine)))
}

fn run_unprivileged(arguments: &[String]) -> bool {
    let folder = std::env::temp_dir().join(format!("adit-runner-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let device = folder.join("tun");
    make_tun_node(&device);
    let status = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .env(TUN_VARIABLE, &device)
        .uid(UNPRIVILEGED)
        .gid(UNPRIVILEGED)
        .status()
        .unwrap();
    fs::remove_dir_all(&folder).unwrap();
    status.success()
}

/// A node as distributions ship it, for machines whose own is closed to all but root.
fn make_tun_node(path: &Path) {
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(10, 200)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
}

fn run_here(suites: &[Suite], arguments: &[String], who: &str) -> bool {
    let filters = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect::<Vec<_>>();
    let (mut passed, mut failed, mut ignored) = (0, Vec::new(), 0);
    let all = suites
        .iter()
        .flat_map(|suite| suite.cases.iter().map(move |case| (suite, case)));
    for (suite, (name, case)) in all {
        let name = suite.name(name, who);
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        match catch_unwind(AssertUnwindSafe(|| case(&(suite.world)()))) {
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
    failed.is_empty()
}
