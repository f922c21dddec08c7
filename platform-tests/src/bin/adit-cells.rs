//! `adit-cells`: the matrix from inside of a virtual machine. Started by `adit-matrix`, as root; one JSON object a cell.

use std::error::Error;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use adit_platform_tests::matrix::Cell;
use adit_platform_tests::matrix::inside::{self, Tools};
use adit_platform_tests::seccomp;
use clap::{Args, Parser, Subcommand};

/// Runs cells of the matrix on this machine, which they change: a virtual one that is thrown away.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run cells one after another
    All {
        #[command(flatten)]
        tools: ToolPaths,
        /// Where a line for each is written
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Which
        cells: Vec<Cell>,
    },
    /// Run one, in namespaces that were made for it
    Cell {
        #[command(flatten)]
        tools: ToolPaths,
        /// Which
        cell: Cell,
    },
    /// Become a program without what these names say
    Deny {
        /// Of adit-deny, with commas between
        names: String,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
    /// Become a program in a network namespace
    InNetwork {
        /// Where it's mounted
        namespace: PathBuf,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
}

#[derive(Args)]
struct ToolPaths {
    /// The adit program
    #[arg(long, value_name = "FILE")]
    adit: PathBuf,
    /// The adit-load program
    #[arg(long, value_name = "FILE")]
    load: PathBuf,
}

impl From<ToolPaths> for Tools {
    fn from(paths: ToolPaths) -> Self {
        Self {
            adit: paths.adit,
            load: paths.load,
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adit-cells: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Result<(), Box<dyn Error>> {
    match what {
        What::All { tools, out, cells } => {
            let mut out = File::options().create(true).append(true).open(&out)?;
            inside::all(&cells, &tools.into(), &mut out)
        }
        What::Cell { tools, cell } => inside::cell(cell, tools.into()),
        What::Deny { names, program } => {
            seccomp::deny(&names.split(',').collect::<Vec<_>>())?;
            let [name, arguments @ ..] = &program[..] else {
                unreachable!("clap wants one at least");
            };
            Err(Command::new(name).args(arguments).exec().into())
        }
        What::InNetwork { namespace, program } => inside::in_network(&namespace, &program),
    }
}
