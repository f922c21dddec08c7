//! Benchmarks beside a direct path, in the same run on the same machine: what counts is the ratio.
//!
//! Every path leads from a client to an `adit-load` server. The measures are interleaved: in each round every
//! measure is taken on one path after the other, so that a machine that slows down slows all of them.

mod measure;
mod path;
mod pods;
mod report;

use std::path::PathBuf;

pub use measure::{Figure, Measure};
pub use path::{BenchPath, external};
pub use pods::Pods;
pub use report::{Machine, PathReport, Report, Row};

use crate::lab::Lab;
use crate::sandbox::{Sandbox, User};

/// What to measure and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many rounds.
    pub rounds: usize,
    /// Seconds of each stream and of each burst of connections.
    pub seconds: f64,
    /// How many requests.
    pub requests: u64,
    /// How many idle connections memory is measured with.
    pub idle: usize,
    /// Only the paths of these names, and the direct one; all without any.
    pub only: Vec<String>,
    /// Only these measures; all, and memory besides, without any.
    pub measures: Vec<Measure>,
    /// Proxies of others: a name and the script that sets it up (see [`external`]).
    pub externals: Vec<(String, PathBuf)>,
}

/// Sets up every path and measures; what is under way is told on standard error.
///
/// # Panics
/// If a path can't be set up or a load fails on it, with everything known about it.
pub fn run(plan: &Plan) -> Report {
    let lab = Lab::new(&User::ordinary());
    // The hosts' sandboxes outlive the meshes in them.
    let (a, b) = (Sandbox::at(Some(lab.a)), Sandbox::at(Some(lab.b)));
    let wanted = |name: &str| plan.only.is_empty() || plan.only.iter().any(|only| only == name);
    let mut paths = path::standard(&a, &b, wanted);
    let externals = plan.externals.iter().filter(|(name, _)| wanted(name));
    paths.extend(externals.filter_map(|(name, script)| external(name, script, &lab, &a)));
    compare(&paths, plan)
}

/// Measures between pods of the cluster.
///
/// # Panics
/// As [`run`].
pub fn run_pods(plan: &Plan, pods: &Pods<'_>) -> Report {
    let mut paths = pods.paths();
    paths.retain(|path| path.name == "direct" || plan.only.is_empty() || plan.only.contains(&path.name));
    compare(&paths, plan)
}

fn compare(paths: &[BenchPath<'_>], plan: &Plan) -> Report {
    let mut report = Report::new(plan, paths.iter().map(|path| path.name.clone()));
    for (index, path) in paths.iter().enumerate().filter(|_| plan.measures.is_empty()) {
        eprintln!("memory of idle connections on {}", path.name);
        report.measure_memory(index, path, plan);
    }
    for round in 1..=plan.rounds {
        for measure in plan.measures() {
            for (index, path) in paths.iter().enumerate() {
                eprintln!(
                    "round {round} of {}: {} on {}",
                    plan.rounds,
                    measure.label(),
                    path.name
                );
                report.add(index, take(*measure, path, plan));
            }
        }
    }
    for (index, path) in paths.iter().enumerate() {
        report.measure_memory_after(index, path);
    }
    report
}

impl Plan {
    fn measures(&self) -> &[Measure] {
        if self.measures.is_empty() {
            Measure::ALL
        } else {
            &self.measures
        }
    }
}

/// One measure. Where somebody else's proxy fails, as pasta of Debian 12 does with eight streams, its cell stays empty.
fn take(measure: Measure, path: &BenchPath<'_>, plan: &Plan) -> Vec<Figure> {
    if !path.foreign {
        return measure.take(path, plan);
    }
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| measure.take(path, plan))).unwrap_or_else(|_| {
        eprintln!("{} failed on {}: left out", measure.label(), path.name);
        Vec::new()
    })
}
