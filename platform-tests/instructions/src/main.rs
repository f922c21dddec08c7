//! `adit-instructions`: what single calls of the data path cost, counted in instructions and held to a baseline.
//!
//! Times depend on the machine and on what else it does; the number of instructions of a build by one compiler doesn't.
//! Each case runs in a process of its own under valgrind's callgrind, which counts while [`count::counted`] runs: what a
//! case prepares isn't in its figure.

mod baseline;
mod cases;
mod count;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use baseline::{Baseline, Outcome};
use cases::Case;
use clap::{Parser, Subcommand};

/// Counts the instructions of single calls of the data path and compares them with the baseline.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Write what was counted to the baseline
    #[arg(long)]
    update: bool,
    /// The baseline
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.txt"))]
    baseline: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Run one case as it is, for a profiler
    Run {
        /// Its name, as in the baseline
        case: String,
    },
}

/// What the baseline is of. Other architectures have other instructions.
const ARCHITECTURE: &str = "x86_64";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Run { case }) => run_here(case),
        None if std::env::consts::ARCH != ARCHITECTURE => {
            let here = std::env::consts::ARCH;
            println!("skipped: instructions (the baseline is of {ARCHITECTURE}, this is {here})");
            return ExitCode::SUCCESS;
        }
        None => check(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adit-instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_here(name: &str) -> Result<(), Box<dyn Error>> {
    let case = cases::all().into_iter().find(|case| case.name == name);
    let case = case.ok_or_else(|| format!("there is no case {name:?}; the baseline lists them"))?;
    case.run();
    Ok(())
}

fn check(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let cases = cases::all();
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    let counted = count::all(&cases)?;
    if cli.update {
        std::fs::write(&cli.baseline, Baseline::of(counted).to_string())?;
        println!("written: {}", cli.baseline.display());
        return Ok(());
    }
    let text = std::fs::read_to_string(&cli.baseline)
        .map_err(|error| format!("reading {}: {error}", cli.baseline.display()))?;
    let baseline: Baseline = text.parse()?;
    let mut failed = Vec::new();
    for (name, count) in &counted {
        let outcome = baseline.judge(name, *count);
        println!("{name:<52} {count:>10.0}  {outcome}");
        if !matches!(outcome, Outcome::Within { .. } | Outcome::Fewer { .. }) {
            failed.push(*name);
        }
    }
    failed.extend(baseline.names().filter(|name| !names.contains(name)));
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "more instructions than the baseline allows, or not the same cases: {}. If the change is worth it, write the \
         baseline anew with `just instructions --update`, and say in the commit why",
        failed.join("; ")
    )
    .into())
}

impl Case {
    /// Prepares, and makes the calls that count.
    fn run(self) {
        let mut call = (self.prepare)();
        count::counted(self.calls, &mut *call);
    }
}
