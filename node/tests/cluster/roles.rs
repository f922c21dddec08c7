//! What this executable is when it is not the runner.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::Duration;

use adit_node::cluster::{self, Options, PluginFolders, Probe, cni};
use adit_node::probe::Finding;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Where the names of steps are written, one a line.
static STEPS: OnceLock<PathBuf> = OnceLock::new();

/// Where the helper's log goes instead of standard error.
static LOG: OnceLock<PathBuf> = OnceLock::new();

/// The step that kills the helper.
static DIE_AT: OnceLock<String> = OnceLock::new();

/// The step at which a check's process, by this number, gets a signal.
static SIGNAL_AT: OnceLock<(String, Pid, Signal)> = OnceLock::new();

/// The step at which a pod's program puts a macvlan on its interface.
static MACVLAN_AT: OnceLock<String> = OnceLock::new();

/// Plays the role that the first argument names, if it names one.
pub(crate) fn play(arguments: &[String]) -> Option<ExitCode> {
    let (role, rest) = arguments.split_first()?;
    Some(match role.as_str() {
        "as-node" => node(rest),
        "as-uninstall" => uninstall(rest),
        "as-probe" => probe(rest),
        "as-check" => check(rest),
        "as-cni" => cni::main(),
        "as-stranger" => stranger(rest),
        _ => return None,
    })
}

/// `--name value`; the last holds.
fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().rposition(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

fn options(arguments: &[String]) -> Options {
    let folder = Path::new(option(arguments, "--folder").unwrap());
    let plugin = PluginFolders {
        configuration: folder.join("net.d"),
        binaries: folder.join("bin"),
    };
    Options {
        state: folder.join("state"),
        // Root of the node's user namespace: in there nobody else exists.
        agent_uid: 0,
        namespaces: folder.join("netns"),
        link: option(arguments, "--link").unwrap().parse().unwrap(),
        tun_device: option(arguments, "--tun").unwrap().into(),
        log,
        exempt: vec!["adit-system".into()],
        plugin: Some(plugin),
        on_step,
        ..Options::default()
    }
}

/// The helper: its readiness goes to standard output.
fn node(arguments: &[String]) -> ExitCode {
    if let Some(path) = option(arguments, "--steps") {
        STEPS.set(path.into()).unwrap();
    }
    if let Some(step) = option(arguments, "--die-at") {
        DIE_AT.set(step.to_owned()).unwrap();
    }
    if let Some(path) = option(arguments, "--log") {
        LOG.set(path.into()).unwrap();
    }
    if let Some(step) = option(arguments, "--macvlan-at") {
        MACVLAN_AT.set(step.to_owned()).unwrap();
    }
    let ready = io::stdout().as_fd().try_clone_to_owned().unwrap();
    report(cluster::serve(options(arguments), Some(ready)))
}

fn uninstall(arguments: &[String]) -> ExitCode {
    let grace = option(arguments, "--grace-ms").map_or(0, |ms| ms.parse().unwrap());
    let grace = Duration::from_millis(grace);
    let options = options(arguments);
    report(match arguments.iter().any(|argument| argument == "--stay") {
        true => cluster::stay_uninstalled(&options, grace),
        false => cluster::uninstall(&options, grace),
    })
}

fn probe(arguments: &[String]) -> ExitCode {
    let question = match option(arguments, "--question").unwrap() {
        "live" => Probe::Live,
        "ready" => Probe::Ready,
        "uninstalled" => Probe::Uninstalled,
        other => panic!("{other:?}"),
    };
    report(cluster::probe(&options(arguments), question))
}

/// One finding a line: code, status, reason. With `--without`, a capability is given up first, for good.
fn check(arguments: &[String]) -> ExitCode {
    let lacking = match option(arguments, "--without") {
        Some("net-admin") => CapabilitySet::NET_ADMIN,
        Some("net-raw") => CapabilitySet::NET_RAW,
        Some("sys-admin") => CapabilitySet::SYS_ADMIN,
        Some(other) => panic!("{other:?}"),
        None => CapabilitySet::empty(),
    };
    for (name, signal) in [("--term-at", Signal::TERM), ("--kill-at", Signal::KILL)] {
        if let Some(step) = option(arguments, name) {
            SIGNAL_AT.set((step.to_owned(), getpid(), signal)).unwrap();
        }
    }
    let held = rustix::thread::capabilities(None).unwrap();
    let fewer = CapabilitySets {
        effective: held.effective - lacking,
        permitted: held.permitted - lacking,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, fewer).unwrap();
    let mut options = options(arguments);
    if let Some(state) = option(arguments, "--state") {
        options.state = state.into();
    }
    let findings = cluster::check(&options).unwrap();
    for Finding {
        code, status, reason, ..
    } in findings
    {
        println!("{code} {status:?} {reason}");
    }
    let now = rustix::thread::capabilities(None).unwrap();
    assert_eq!(now.effective, fewer.effective, "the caller has what it had");
    ExitCode::SUCCESS
}

fn report(outcome: Result<(), cluster::Error>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node: {error} ({})", error.code());
            ExitCode::FAILURE
        }
    }
}

fn log(event: &dyn fmt::Display) {
    match LOG.get() {
        Some(path) => write_line(path, event),
        None => eprintln!("adit-node: {event}"),
    }
}

fn write_line(path: &Path, line: &dyn fmt::Display) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// Runs in the helper's child, before the step is taken.
fn on_step(step: &'static str) {
    if let Some(path) = STEPS.get() {
        write_line(path, &step);
    }
    // The process is in the pod's namespace then.
    if MACVLAN_AT.get().is_some_and(|chosen| chosen == step) {
        let made = Command::new("ip")
            .args(crate::joining::MACVLAN.split(' '))
            .status();
        assert!(made.unwrap().success());
    }
    if let Some((chosen, check, signal)) = SIGNAL_AT.get()
        && chosen == step
    {
        kill_process(*check, *signal).unwrap();
    }
    if DIE_AT.get().is_some_and(|chosen| chosen == step) {
        kill_process(getppid().unwrap(), Signal::KILL).unwrap();
        kill_process(getpid(), Signal::KILL).unwrap();
    }
}

/// Asks for what only the agent may have, as another user.
fn stranger(arguments: &[String]) -> ExitCode {
    let socket = Path::new(option(arguments, "--socket").unwrap());
    match cluster::Client::connect(socket).and_then(|mut client| client.stats()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stranger: {error} ({})", error.code());
            ExitCode::FAILURE
        }
    }
}
