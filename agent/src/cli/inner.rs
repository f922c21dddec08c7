//! The commands that the supervisor starts: agent, helper, what enters a pod, and what checks a port in it.

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use adit_node::enter::{self, Program, Terminal};
use adit_node::{Client, laptop};

use super::args::{Agent, Enter, Node, Probe, ProbeKind};
use super::{CliError, logging};
use crate::agent::{self, AgentOptions, AgentSettings};
use crate::rundir::RunPaths;
use crate::supervisor::probe;

/// Carries the traffic until the lifeline ends.
pub(super) fn agent(args: Agent) -> Result<u8, CliError> {
    call_oneself(c"adit-agent");
    logging::start();
    let paths = RunPaths::new(args.run_dir);
    let defaults = AgentSettings::default();
    agent::run(AgentOptions {
        socket: paths.agent_socket(),
        node_socket: paths.node_socket(),
        lifeline: take_lifeline()?,
        listen: args.listen,
        settings: AgentSettings {
            state_dir: args.state_dir,
            svid_ttl: args.svid_ttl.unwrap_or(defaults.svid_ttl),
            workers: args.workers.map_or(defaults.workers, usize::from),
            busy_poll: args.busy_poll.unwrap_or(defaults.busy_poll),
            ..defaults
        },
    })?;
    Ok(0)
}

/// Makes pods until the lifeline ends, and removes the run directory.
pub(super) fn node(args: Node) -> Result<u8, CliError> {
    call_oneself(c"adit-node");
    let paths = RunPaths::new(args.run_dir);
    // Held to the very end: whoever takes it finds no helper at work in the folder.
    let _lock = paths.lock_helper()?;
    let ready = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(system("duplicating standard output"))?;
    let lifeline = take_lifeline()?;
    // The reader waits for the end of what we have to say.
    rustix::stdio::dup2_stdout(open_null()?)
        .map_err(|error| system("replacing standard output")(error.into()))?;
    laptop::run(laptop::Options {
        ready: Some(ready),
        remove_on_exit: Some(paths.dir().to_owned()),
        // The folder of all run directories: a program must reach no mesh's sockets, not only not its own's.
        hide: paths.dir().parent().map(Path::to_owned),
        link: args.link,
        tun_device: args.tun_device,
        ..laptop::Options::new(paths.node_socket(), lifeline)
    })?;
    Ok(0)
}

/// Runs a program in a pod; the exit code is the program's.
pub(super) fn enter(args: &Enter) -> Result<u8, CliError> {
    call_oneself(c"adit-enter");
    let paths = RunPaths::new(args.run_dir.clone());
    let (lifeline, terminal) = match args.terminal {
        // Standard input is the program's. A connection to the supervisor ends with it just as well.
        true => {
            let connection = UnixStream::connect(paths.supervisor_socket());
            (
                connection.map_err(system("connecting to the supervisor"))?.into(),
                Terminal::Keep,
            )
        }
        false => (take_lifeline()?, Terminal::Detach),
    };
    let options = enter::Options {
        lifeline: Some(lifeline),
        terminal,
    };
    run_in_pod(
        &paths.node_socket(),
        &args.pod,
        Some(args.directory.clone()),
        args.argv.clone(),
        options,
    )
}

/// Runs `argv` in `pod`. This process is of no other use afterwards.
pub(super) fn run_in_pod(
    node_socket: &Path,
    pod: &str,
    directory: Option<PathBuf>,
    argv: Vec<OsString>,
    options: enter::Options,
) -> Result<u8, CliError> {
    let namespaces = Client::connect(node_socket)?.namespaces(pod)?;
    let program = Program {
        argv,
        environment: None,
        directory,
    };
    match enter::run(&namespaces, &program, options) {
        Ok(finished) => {
            finished
                .warnings
                .iter()
                .for_each(|warning| eprintln!("adit: {warning}"));
            Ok(finished.exit.code())
        }
        Err(error) => {
            eprintln!("adit: [{}] {error}", error.code());
            Ok(error.exit_code())
        }
    }
}

/// Checks a port; exits with 0 if the check passes.
pub(super) fn probe(args: &Probe) -> Result<u8, CliError> {
    let result = match args.kind {
        ProbeKind::Http => probe::check_http(args.address, &args.path, args.timeout),
        ProbeKind::Tcp => probe::check_tcp(args.address, args.timeout),
    };
    match result {
        Ok(()) => Ok(0),
        Err(error) => {
            eprintln!("{error}");
            Ok(1)
        }
    }
}

/// Sets the name that `ps` and `top` show: without it, that of `/proc/self/exe`.
fn call_oneself(name: &CStr) {
    // A name is for people; nothing depends on it.
    let _ = rustix::thread::set_name(name);
}

/// Standard input as a descriptor of its own, with nothing left in its place: no program may inherit it.
fn take_lifeline() -> Result<OwnedFd, CliError> {
    let lifeline = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(system("duplicating standard input"))?;
    rustix::stdio::dup2_stdin(open_null()?)
        .map_err(|error| system("replacing standard input")(error.into()))?;
    Ok(lifeline)
}

fn open_null() -> Result<File, CliError> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(system("opening /dev/null"))
}

fn system(step: &'static str) -> impl FnOnce(io::Error) -> CliError {
    move |source| CliError::System { step, source }
}
