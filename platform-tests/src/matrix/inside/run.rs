//! One cell after another, each in namespaces of its own.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path as FilePath;
use std::process::Command;
use std::time::Instant;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::become_it::{become_it, make_folder, owner, run_folder};
use super::{CELL_LIMIT, Tools, finished, laptop, node, shortened};
use crate::matrix::cell::{Cell, Condition, Link, Path};
use crate::matrix::outcome::{Attempt, Ended, Outcome};
use crate::process::Running;

const TUN: &str = "/dev/net/tun";
const MAX_USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// Runs the cells and writes a line for each.
///
/// # Errors
/// A line can't be written, or the machine can't be changed as a condition wants it.
pub fn all(cells: &[Cell], tools: &Tools, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let ourselves = std::env::current_exe()?;
    for cell in cells {
        let began = Instant::now();
        let as_before = change_machine(cell.condition)?;
        let outcome = apart(*cell, tools, &ourselves, began);
        as_before.restore()?;
        writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
        out.flush()?;
    }
    Ok(())
}

/// One cell, in a process that has namespaces of its own; writes its outcome to standard output.
///
/// # Errors
/// The condition can't be made: that's the test's own trouble, and nobody's finding.
pub fn cell(cell: Cell, tools: Tools) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    make_folder(owner(cell))?;
    let sha256 = sha256(&tools.adit)?;
    let world = match cell.path {
        Path::Laptop => None,
        Path::Node => Some(node::World::make(cell)?),
    };
    let tools = become_it(cell, tools)?;
    let check = check(cell, &tools);
    let real = match &world {
        None => laptop::real(cell, &tools),
        Some(world) => node::real(cell, &tools, world),
    };
    let outcome = Outcome {
        cell,
        kernel: kernel(),
        sha256,
        check,
        real: real.map_or_else(|attempt| attempt, Attempt::yes),
        millis: millis(began),
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Becomes a program in a network namespace. Returns only if that fails.
///
/// # Errors
/// Why.
pub fn in_network(namespace: &FilePath, program: &[String]) -> Result<(), Box<dyn Error>> {
    setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
    let [name, arguments @ ..] = program else {
        return Err("no program given".into());
    };
    Err(Command::new(name).args(arguments).exec().into())
}

/// Runs a cell in namespaces of its own, which end with it or when it takes too long.
fn apart(cell: Cell, tools: &Tools, ourselves: &FilePath, began: Instant) -> Outcome {
    let mut command = Command::new("unshare");
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--mount",
            "--net",
        ])
        .arg(ourselves)
        .arg("cell")
        .arg(cell.to_string())
        .arg("--adit")
        .arg(&tools.adit)
        .arg("--load")
        .arg(&tools.load);
    let failed = |ended, said: String| Outcome {
        cell,
        kernel: kernel(),
        sha256: String::new(),
        check: Attempt::of(ended, "the cell's process said nothing"),
        real: Attempt::of(ended, shortened(&said)),
        millis: millis(began),
    };
    match Running::spawn(command).try_finish(CELL_LIMIT) {
        Err(running) => failed(Ended::Hung, running.stderr()),
        Ok(done) => {
            let said = done.raw_stdout();
            let line = said.lines().next_back().unwrap_or_default();
            serde_json::from_str(line).unwrap_or_else(|_| failed(Ended::No, done.to_string()))
        }
    }
}

/// Asks `adit check` about what the cell is to do.
fn check(cell: Cell, tools: &Tools) -> Attempt {
    let mut command = tools.adit();
    command
        .args(["check", "--json", "--link", cell.link.name()])
        .env("ADIT_RUN_DIR", run_folder());
    if cell.path == Path::Node {
        command.arg("--node").args(node::check_folders());
    }
    let done = match finished(command) {
        Ok(done) => done,
        Err(attempt) => return attempt,
    };
    let (said, errors) = (done.raw_stdout(), done.stderr());
    let findings: Vec<Value> = serde_json::from_str(&said).unwrap_or_default();
    let failed = findings
        .iter()
        .filter(|finding| finding["status"] == "fail")
        .map(|finding| format!("{} {}", finding["code"], finding["reason"]))
        .collect::<Vec<_>>();
    match (done.code(), &failed[..]) {
        (0, []) => Attempt::yes(""),
        (1, [_, ..]) => Attempt::no(shortened(&failed.join("; "))),
        _ => Attempt::no(shortened(&format!("status {}: {said} {errors}", done.code()))),
    }
}

/// What is changed for every process of the machine, to be as it was afterwards.
struct AsBefore(Condition);

fn change_machine(condition: Condition) -> Result<AsBefore, Box<dyn Error>> {
    match condition {
        Condition::NoUserNamespaces => fs::write(MAX_USER_NAMESPACES, "0")?,
        Condition::ClosedTun => fs::set_permissions(TUN, fs::Permissions::from_mode(0o600))?,
        _ => {}
    }
    Ok(AsBefore(condition))
}

impl AsBefore {
    fn restore(self) -> Result<(), Box<dyn Error>> {
        match self.0 {
            Condition::NoUserNamespaces => fs::write(MAX_USER_NAMESPACES, "10000")?,
            Condition::ClosedTun => fs::set_permissions(TUN, fs::Permissions::from_mode(0o666))?,
            _ => {}
        }
        Ok(())
    }
}

fn sha256(program: &FilePath) -> Result<String, Box<dyn Error>> {
    let mut command = Command::new("sha256sum");
    command.arg(program);
    let said = Running::spawn(command)
        .try_finish(CELL_LIMIT)
        .map_err(|_| "sha256sum doesn't end")?
        .raw_stdout();
    let sum = said.split_whitespace().next();
    Ok(sum.ok_or("sha256sum said nothing")?.to_owned())
}

/// The release, with a word where it isn't to be had.
pub(super) fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The option by which a link is asked for.
pub(super) fn link_option(link: Link) -> [&'static str; 2] {
    ["--link", link.name()]
}
