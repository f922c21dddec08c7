//! `adit-bench`: adit beside a direct path, and beside other proxies, in one run.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_platform_tests::bench::{self, Measure, Plan, Pods, Report};
use adit_platform_tests::cluster::{Adit, Cluster};
use clap::Parser;

/// Measures adit beside a direct veth path and prints medians and ratios.
///
/// Needs a release build of adit (or ADIT_BIN). Runs without root; as root everything runs as nobody.
#[derive(Parser)]
struct Cli {
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
    /// Measure only this path and the direct one: adit-one, adit-packet, adit-two, adit-outside, pasta, hbone, …; may be given again
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Take only this measure, and no memory; may be given again
    #[arg(long, value_enum)]
    measure: Vec<Measure>,
    /// Another proxy and the script that sets it up; may be given again
    #[arg(long, value_name = "NAME=SCRIPT", value_parser = named_script)]
    external: Vec<(String, PathBuf)>,
    /// Measure between pods on two nodes of the cluster of `just cluster-up`, with adit in it, instead; as root
    #[arg(long, conflicts_with_all = ["external", "no_laptop_tools"])]
    cluster: bool,
    /// Leave out pasta and slirp4netns even where they are installed
    #[arg(long)]
    no_laptop_tools: bool,
    /// Write everything to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fail if one HBONE stream is below this part of the direct path, in either direction
    #[arg(long, value_name = "RATIO")]
    floor: Option<f64>,
    /// Fail if a packet socket carries less than 0.8 of a TUN device's streams, or takes more than 1.25 of its latency
    #[arg(long)]
    link_floor: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adit-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    let mut externals = cli.external;
    if !cli.no_laptop_tools && !cli.cluster {
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
        only: cli.only,
        measures: cli.measure,
        externals,
    };
    let report = if cli.cluster {
        let cluster = Cluster::running();
        Adit::install(&cluster);
        bench::run_pods(&plan, &Pods::up(&cluster))
    } else {
        bench::run(&plan)
    };
    println!("{report}");
    if let Some(path) = cli.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    if cli.link_floor {
        check_links(&report)?;
    }
    match cli.floor {
        Some(floor) => check_floor(&report, floor),
        None => Ok(()),
    }
}

fn check_links(report: &Report) -> Result<(), Box<dyn Error>> {
    let latency = "request-response, median";
    for (row, least, most) in [
        ("one stream", 0.8, f64::INFINITY),
        ("one stream back", 0.8, f64::INFINITY),
        ("eight streams", 0.8, f64::INFINITY),
        (latency, 0.0, 1.25),
    ] {
        let ratio = report
            .ratio_to("adit-packet", "adit-one", row)
            .ok_or_else(|| format!("{row} wasn't measured on adit-packet and adit-one"))?;
        if !(least..=most).contains(&ratio) {
            return Err(format!(
                "{row} on adit-packet is {ratio:.2} of adit-one's: expected {least} to {most}"
            )
            .into());
        }
    }
    Ok(())
}

fn check_floor(report: &Report, floor: f64) -> Result<(), Box<dyn Error>> {
    for path in report
        .paths
        .iter()
        .filter(|path| ["adit-one", "adit-two", "hbone"].contains(&path.as_str()))
    {
        for row in ["one stream", "one stream back"] {
            let ratio = report
                .ratio(path, row)
                .ok_or_else(|| format!("{row} wasn't measured on {path}"))?;
            if ratio < floor {
                return Err(
                    format!("{row} on {path} is {ratio:.2} of the direct path: below {floor}").into(),
                );
            }
        }
    }
    Ok(())
}

fn named_script(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, script)) if !name.is_empty() => Ok((name.to_owned(), script.into())),
        _ => Err(format!("expected NAME=SCRIPT, got {text:?}")),
    }
}
