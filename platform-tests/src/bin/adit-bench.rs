//! `adit-bench`: adit beside a direct path, and beside other proxies, in one run; and the page about it.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use adit_platform_tests::bench::{self, Measure, Page, Plan, Pods, Stop};
use adit_platform_tests::cluster::{Adit, Cluster};
use clap::{Parser, Subcommand};

/// Measures adit beside a direct veth path and prints medians and ratios.
///
/// Needs a release build of adit (or ADIT_BIN). Runs without root; as root everything runs as nobody. A signal ends it after the
/// measure that is under way, and with it all that it has started; a second one ends it at once.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each stream and of each burst of connections
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many requests and responses
    #[arg(long, default_value_t = 20_000)]
    requests: u64,
    /// How many idle connections memory is measured with
    #[arg(long, default_value_t = 2_000)]
    idle: usize,
    /// Of a hundred packets between the hosts, lose so many, each way
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    loss: f64,
    /// Give each of the two hosts half of the processors, for all that runs on it
    #[arg(long, conflicts_with_all = ["external", "loss", "soak"])]
    apart: bool,
    /// Rather than comparing, load two agents fully for so long and look at their memory
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(4..=86_400))]
    soak: Option<u64>,
    /// Measure only this path and the direct one: adit-one, adit-two, adit-outside, pasta, hbone, …; may be given again
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Take only this measure, and none of memory and the executable; may be given again
    #[arg(long, value_enum)]
    measure: Vec<Measure>,
    /// Another proxy and the script that sets it up; may be given again. platform-tests/bench/README.md says what it does
    #[arg(long, value_name = "NAME=SCRIPT", value_parser = named_script)]
    external: Vec<(String, PathBuf)>,
    /// Measure between pods on two nodes of the cluster of `just cluster-up`, with adit in it, instead; as root
    #[arg(long, conflicts_with_all = ["external", "no_laptop_tools", "loss", "soak", "apart"])]
    cluster: bool,
    /// Leave out pasta and slirp4netns even where they are installed
    #[arg(long)]
    no_laptop_tools: bool,
    /// Write everything to this file as JSON; its folder is made
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Write performance.md and its plots of the reports performance/*.json
    Page {
        /// The folder of all that
        #[arg(long, value_name = "FOLDER", default_value = "docs")]
        docs: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            bench::tell(format_args!("adit-bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    if let Some(Command::Page { docs }) = cli.command {
        return Ok(Page::of_folder(&docs)?.write(&docs)?);
    }
    let mut externals = cli.external;
    if !cli.no_laptop_tools && !cli.cluster && !cli.apart {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
        for tool in ["pasta", "slirp4netns"] {
            externals.push((tool.to_owned(), scripts.join(format!("{tool}.sh"))));
        }
    }
    let plan = Plan {
        rounds: cli.rounds.max(1),
        seconds: cli.seconds,
        requests: cli.requests,
        idle: cli.idle,
        loss_percent: cli.loss,
        apart: cli.apart,
        only: cli.only,
        measures: cli.measure,
        externals,
        stop: Stop::on_signals()?,
    };
    let report = if cli.cluster {
        let cluster = Cluster::running();
        Adit::install(&cluster);
        bench::run_pods(&plan, &Pods::up(&cluster))
    } else if let Some(seconds) = cli.soak {
        bench::run_soak(&plan, Duration::from_secs(seconds))
    } else {
        bench::run(&plan)
    }?;
    // Before the table: its reader may have gone, and the run took its time.
    if let Some(path) = cli.json {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(folder)?;
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    writeln!(io::stdout(), "{report}")?;
    match report.soak {
        Some(soak) if !soak.is_flat() => Err(format!(
            "memory isn't flat: it grew by {:.1} % from the second quarter of the time to the last",
            soak.growth_percent().unwrap_or(f64::NAN)
        )
        .into()),
        _ => Ok(()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|percent| (0.0..100.0).contains(percent));
    number.ok_or_else(|| format!("expected a number from 0 to less than 100, got {text:?}"))
}

fn named_script(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, script)) if !name.is_empty() => Ok((name.to_owned(), script.into())),
        _ => Err(format!("expected NAME=SCRIPT, got {text:?}")),
    }
}
