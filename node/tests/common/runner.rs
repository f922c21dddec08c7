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
pub(crate) type Case = (&'static str, fn(&World));

/// Cases that are run in the same kind of world.
pub(crate) struct Suite {
    /// What tells its cases' names from another's; empty where there is no other.
    pub(crate) label: &'static str,
    pub(crate) cases: Vec<Case>,
    /// Those that need a user who isn't this one. Root, who can be any, runs them; an ordinary user can't.
    pub(crate) root_cases: Vec<Case>,
    pub(crate) world: fn() -> World,
}

impl Suite {
    fn name(&self, case: &str, who: &str) -> String {
        match self.label {
            "" => format!("{case}::{who}"),
            label => format!("{case}::{label}::{who}"),
        }
    }

    /// The cases that these can run, and those that they can't.
    fn cases_of(&self, who: Who) -> (impl Iterator<Item = &Case>, impl Iterator<Item = &Case>) {
        let (here, missing) = match who {
            Who::Root => (&self.root_cases[..], &[][..]),
            // They are run, by root.
            Who::BesideRoot => (&[][..], &[][..]),
            Who::Unprivileged => (&[][..], &self.root_cases[..]),
        };
        (self.cases.iter().chain(here), missing.iter())
    }
}

/// Who runs the cases.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Root,
    /// An ordinary user beside whom root runs the same.
    BesideRoot,
    Unprivileged,
}

impl Who {
    fn is_running() -> Self {
        match rustix::process::geteuid().is_root() {
            true => Self::Root,
            false if std::env::var_os(BESIDE_ROOT).is_some() => Self::BesideRoot,
            false => Self::Unprivileged,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::BesideRoot | Self::Unprivileged => "unprivileged",
        }
    }
}

/// The unprivileged user that root plays as well.
const UNPRIVILEGED: u32 = 1000;

/// Tells the runner of that user that root runs everything, too.
const BESIDE_ROOT: &str = "ADIT_RUNNER_BESIDE_ROOT";

/// Runs the cases that `arguments` choose, as this user after `prepare`.
pub(crate) fn run(suites: &[Suite], arguments: &[String], prepare: fn()) -> ExitCode {
    let who = Who::is_running();
    if arguments.iter().any(|argument| argument == "--list") {
        for suite in suites {
            let names = suite
                .cases_of(who)
                .0
                .map(|(name, _)| suite.name(name, who.name()));
            names.for_each(|name| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    // Before this process is changed.
    let theirs = who != Who::Root || run_unprivileged(arguments);
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
        .env(BESIDE_ROOT, "1")
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

fn run_here(suites: &[Suite], arguments: &[String], who: Who) -> bool {
    let filters: Vec<_> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_chosen =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let (mut passed, mut failed, mut ignored) = (0, Vec::new(), 0);
    for suite in suites {
        let (cases, missing) = suite.cases_of(who);
        for (name, case) in cases {
            let name = suite.name(name, who.name());
            if !is_chosen(&name) {
                continue;
            }
            match catch_unwind(AssertUnwindSafe(|| case(&(suite.world)()))) {
                Ok(()) => {
                    println!("test {name} ... ok");
                    passed += 1;
                }
                Err(_) => {
                    println!("test {name} ... FAILED");
                    failed.push(name);
                }
            }
        }
        let missing = missing.map(|(name, _)| suite.name(name, who.name()));
        for name in missing.filter(|name| is_chosen(name)) {
            println!("test {name} ... ignored, needs root, who alone can be another user as well");
            ignored += 1;
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
