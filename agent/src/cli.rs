//! The commands.

mod args;
mod ca;
mod check;
mod cluster;
mod detach;
mod duration;
mod explain;
mod flows;
mod generate;
mod inner;
mod logging;
mod mesh;
mod node_helper;
mod policy;
mod rollout;
mod run;
mod show;
mod table;
mod up;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use adit_control::kubernetes::{ConnectError, EnrolmentError};
use clap::Parser as _;

use crate::admin::ClientError;
use crate::rundir::RunDirError;
use crate::supervisor::UpError;
use args::{Cli, Command};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runs_a_program = match &cli.command {
        Command::Run(_) => true,
        Command::Up(up) => up.once.is_some(),
        _ => false,
    };
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has seen enough.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            error.show();
            // Apart from what the program's own code can be, as env(1) and others do.
            ExitCode::from(if runs_a_program {
                RUN_FAILED
            } else {
                error.exit_code()
            })
        }
    }
}

fn dispatch(command: Command) -> Result<u8, CliError> {
    match command {
        Command::Agent(args) => inner::agent(args),
        Command::AwaitDaemonSet(args) => rollout::await_daemon_set(&args),
        Command::Ca(args) => ca::ca(args),
        Command::Check(args) => check::check(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Down(args) => show::down(&args),
        Command::Dump(args) => show::dump(&args),
        Command::Enter(args) => inner::enter(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Flows(args) => flows::flows(args),
        Command::Identity(args) => show::identity(&args),
        Command::Man(args) => generate::man(&args),
        Command::Mesh(command) => mesh::mesh(command),
        Command::Node(args) => inner::node(args),
        Command::NodeAgent(args) => cluster::node_agent(args),
        Command::NodeHelper(args) => node_helper::node_helper(args),
        Command::Policy(command) => policy::policy(command),
        Command::Probe(args) => inner::probe(&args),
        Command::Ps(args) => show::ps(&args),
        Command::Run(args) => run::run(args),
        Command::Up(args) => up::up(args),
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The agent could not start.
    #[error(transparent)]
    Agent(#[from] crate::agent::AgentError),
    /// The signer could not start, or had to end.
    #[error(transparent)]
    Ca(#[from] crate::ca::CaProcessError),
    /// The agent of a node could not start.
    #[error(transparent)]
    Cluster(#[from] crate::cluster::ClusterError),
    /// A running mesh could not be asked.
    #[error(transparent)]
    Ask(#[from] ClientError),
    /// The machine could not be checked.
    #[error("[{}] {source}", source.code())]
    Check {
        /// Why.
        #[from]
        source: adit_node::probe::Error,
    },
    /// No Kubernetes API to ask.
    #[error("[ADIT-A070] choosing a Kubernetes cluster: {0}")]
    Connect(#[from] ConnectError),
    /// What was to go on in the background ended.
    #[error("[ADIT-A012] mesh {mesh} ended with {how} before it was ready; {} says why", log.display())]
    EndedEarly {
        /// The mesh.
        mesh: String,
        /// How.
        how: String,
        /// Where its output is.
        log: PathBuf,
    },
    /// The Kubernetes API was no help.
    #[error("[{}] {source}", mesh::code(source))]
    Enrolment {
        /// Why.
        #[from]
        source: EnrolmentError,
    },
    /// The mesh file is wrong.
    #[error("{0}")]
    Mesh(Box<adit_control::Report>),
    /// The node that was chosen doesn't fit the mesh.
    #[error("[ADIT-A011] {0}")]
    NodeChoice(#[from] adit_control::NodeChoiceError),
    /// The helper could not start.
    #[error("[{}] {source}", source.code())]
    Node {
        /// Why.
        #[from]
        source: adit_node::laptop::Error,
    },
    /// The helper of a cluster's node could not start.
    #[error("[{}] {source}", source.code())]
    NodeHelper {
        /// Why.
        #[from]
        source: adit_node::cluster::Error,
    },
    /// `--once` without a name, and none in the file.
    #[error(
        "[ADIT-A083] --once: {} names no test: write `test: NAMESPACE/NAME` into it, or give one of {known} after --once",
        file.display()
    )]
    NoTest {
        /// The mesh file.
        file: PathBuf,
        /// What runs here.
        known: String,
    },
    /// The mesh goes on in the background, and not everything in it is ready.
    #[error("[ADIT-A035] mesh {mesh} goes on in the background, but this isn't ready: {waiting}; its output is in {}", log.display())]
    NotReady {
        /// The mesh.
        mesh: String,
        /// What isn't ready, with its state.
        waiting: String,
        /// Where its output is.
        log: PathBuf,
    },
    /// Our own standard output.
    #[error("[ADIT-A014] writing to standard output: {0}")]
    Output(#[from] io::Error),
    /// The helper could not be asked.
    #[error("[{}] {source}", source.code())]
    Pod {
        /// Why.
        #[from]
        source: adit_node::ClientError,
    },
    /// No such mesh.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Nodes that adit couldn't be taken off.
    #[error(transparent)]
    StillInstalled(#[from] rollout::StillInstalled),
    /// The system is out of something.
    #[error("[ADIT-A014] {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A code that doesn't exist.
    #[error("[ADIT-A018] no code {got:?}; `adit explain` lists all")]
    UnknownCode {
        /// What was asked for.
        got: String,
    },
    /// Pods aren't yet what their labels say.
    #[error(transparent)]
    Unsettled(#[from] mesh::Unsettled),
    /// The mesh could not be run.
    #[error(transparent)]
    Up(#[from] UpError),
    /// The command line asks for something that doesn't fit.
    #[error("[ADIT-A011] {problem}")]
    Usage {
        /// What.
        problem: String,
    },
}

impl CliError {
    /// 2 for what the user wrote, 3 for pods and nodes that take longer, 1 for everything else.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Mesh(_) | Self::NodeChoice(_) | Self::UnknownCode { .. } | Self::Usage { .. } => 2,
            Self::Up(UpError::UnknownOnce { .. }) => 2,
            Self::Enrolment {
                source: EnrolmentError::BadName { .. } | EnrolmentError::NoNamespace { .. },
            } => 2,
            Self::Unsettled(_) => mesh::UNSETTLED,
            Self::StillInstalled(_) => rollout::STILL_INSTALLED,
            _ => 1,
        }
    }

    fn show(&self) {
        let text = match self {
            Self::Mesh(report) => report.render(report_style()),
            error => {
                let message = error.to_string();
                let hint = code_in(&message).map(|code| format!("      `adit explain {code}` says more\n"));
                format!("adit: {message}\n{}", hint.unwrap_or_default())
            }
        };
        // Standard error that is gone leaves nobody to tell.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// The last code in a message: the most particular one.
fn code_in(message: &str) -> Option<&str> {
    let start = message.rfind("[ADIT-")? + 1;
    message[start..].split_once(']').map(|(code, _)| code)
}

fn report_style() -> adit_control::Style {
    let plain =
        std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !io::stderr().is_terminal();
    if plain {
        adit_control::Style::Plain
    } else {
        adit_control::Style::Color
    }
}

/// A runtime for a command that asks: it has one thread, and nothing of it is left afterwards.
fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|source| CliError::System {
            step: "making a runtime",
            source,
        })?
        .block_on(future)
}

/// Prints `value` as indented JSON.
fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    print(&format_args!("{text}\n"))
}

fn print(text: &dyn fmt::Display) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    Ok(out.flush()?)
}

/// What `adit run` and `adit up --once` exit with when adit itself fails.
const RUN_FAILED: u8 = 125;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_code_is_the_one_to_explain() {
        assert_eq!(
            code_in("[ADIT-A004] the helper: [ADIT-N001] no"),
            Some("ADIT-N001")
        );
        assert_eq!(code_in("no code"), None);
    }
}
