//! Benchmarks beside a direct path, in the same run on the same machine: what counts is the ratio.
//!
//! Every path leads from a client to an `adit-load` server. The measures are interleaved: in each round every
//! measure is taken on one path after the other, so that a machine that slows down slows all of them.
//!
//! One way: a [`Plan`] and the paths (`ours`, `external`, `pods`) → figures (`measure`, `soak`) → a [`Report`] → the
//! [`Page`] (`targets`, `table`, `plot`).

mod executable;
mod external;
mod loss;
mod machine;
mod measure;
mod ours;
mod page;
mod path;
mod plot;
mod pods;
mod progress;
mod report;
mod soak;
mod stop;
mod table;
mod targets;

use std::path::PathBuf;
use std::time::Duration;

pub use executable::Executable;
pub use external::external;
pub use machine::{Machine, Run};
pub use measure::{Cost, Figure, Measure};
pub use page::{Page, PageError};
pub use path::BenchPath;
pub use pods::Pods;
pub use progress::tell;
pub use report::{Cell, PathReport, Report, Row, SCHEMA, Setting};
pub use soak::{Carried, MemorySample, Soak};
pub use stop::{Stop, Stopped};

use report::Samples;

use crate::lab::Lab;
use crate::processors::Processors;
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
    /// Of a hundred packets that cross the cable, lose so many each way. Paths that don't cross it are left out then.
    pub loss_percent: f64,
    /// Give each host half of the processors. Paths that don't cross the cable are left out then.
    pub apart: bool,
    /// Only the paths of these names, and the direct one; all without any.
    pub only: Vec<String>,
    /// Only these measures; all, memory and the executable besides, without any.
    pub measures: Vec<Measure>,
    /// Proxies of others: a name and the script that sets it up (`platform-tests/bench/README.md`).
    pub externals: Vec<(String, PathBuf)>,
    /// What ends the run before it's done. A measure that has begun is taken to its end.
    pub stop: Stop,
}

/// Sets up every path between two hosts and measures; what is under way is told on standard error.
///
/// # Errors
/// The plan's `stop` asked for the end. All that was started is gone then.
///
/// # Panics
/// If a path can't be set up or a load fails on it, with everything known about it.
pub fn run(plan: &Plan) -> Result<Report, Stopped> {
    let user = User::ordinary();
    let lab = Lab::new(&user);
    // The hosts' sandboxes outlive the meshes in them.
    let (mut a, mut b) = (Sandbox::at(Some(lab.a)), Sandbox::at(Some(lab.b)));
    let mut setting = Setting::Hosts;
    if plan.apart {
        let [first, second] = Processors::halves();
        (a, b) = (a.on(first), b.on(second));
        setting = Setting::HostsApart;
    }
    let mut report = Report::begin(setting, plan);
    if plan.measures.is_empty() {
        report.executable = Some(Executable::measure(&a));
    }
    let lossy = plan.loss_percent > 0.0;
    let needs_both_hosts = lossy || plan.apart;
    let ours = ours::ALL
        .iter()
        .filter(|path| plan.wants(path.name) && (path.crosses_the_cable || !needs_both_hosts));
    let mut paths = Vec::new();
    for path in ours {
        plan.stop.check()?;
        paths.push((path.set_up)(&a, &b));
    }
    for (name, script) in plan.externals.iter().filter(|(name, _)| plan.wants(name)) {
        plan.stop.check()?;
        paths.extend(external(name, script, &lab, &a));
    }
    if lossy {
        loss::inject(&lab, &user, plan.loss_percent);
    }
    compare(report, &paths, plan)
}

/// Measures between pods of the cluster.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// As [`run`].
pub fn run_pods(plan: &Plan, pods: &Pods<'_>) -> Result<Report, Stopped> {
    let mut paths = pods.paths();
    paths.retain(|path| plan.wants(&path.name));
    compare(Report::begin(Setting::Cluster, plan), &paths, plan)
}

/// Loads two agents fully for so long, and looks at their memory.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// As [`run`].
pub fn run_soak(plan: &Plan, time: Duration) -> Result<Report, Stopped> {
    let lab = Lab::new(&User::ordinary());
    let (a, b) = (Sandbox::at(Some(lab.a)), Sandbox::at(Some(lab.b)));
    let mut report = Report::begin(
        Setting::Hosts,
        &Plan {
            rounds: 0,
            ..plan.clone()
        },
    );
    let two_agents = ours::ALL.iter().find(|path| path.name == ours::TWO_AGENTS);
    let path = (two_agents.expect("it's one of ours").set_up)(&a, &b);
    report.soak = Some(Soak::run(&path, time, &plan.stop)?);
    Ok(report)
}

fn compare(mut report: Report, paths: &[BenchPath<'_>], plan: &Plan) -> Result<Report, Stopped> {
    report.paths = paths.iter().map(PathReport::before_load).collect();
    for (path, found) in paths.iter().zip(&mut report.paths) {
        plan.stop.check()?;
        if plan.measures.is_empty() && plan.idle > 0 && !path.carriers.is_empty() {
            tell(format_args!("memory of idle connections on {}", path.name));
            found.idle_connection = tolerant(path, || measure::memory_of_idle(path, plan));
        }
    }
    let (mut samples, mut failed) = (Samples::default(), Vec::new());
    for round in 1..=plan.rounds {
        for measure in plan.measures() {
            for (index, path) in paths.iter().enumerate() {
                if failed.contains(&(*measure, index)) {
                    continue;
                }
                plan.stop.check()?;
                let (rounds, label) = (plan.rounds, measure.label());
                tell(format_args!(
                    "round {round} of {rounds}: {label} on {}",
                    path.name
                ));
                match tolerant(path, || measure.take(path, plan)) {
                    Some(figures) => {
                        figures.iter().for_each(|figure| tell(format_args!("  {figure}")));
                        samples.add(index, figures);
                    }
                    // It would take as long again to fail.
                    None => failed.push((*measure, index)),
                }
            }
        }
    }
    for (path, found) in paths.iter().zip(&mut report.paths) {
        found.resident_after = path.usage().resident;
    }
    report.rows = samples.rows(paths.len());
    Ok(report)
}

impl Plan {
    fn measures(&self) -> &[Measure] {
        if self.measures.is_empty() {
            Measure::ALL
        } else {
            &self.measures
        }
    }

    /// Whether a path is to be measured: the direct one always is.
    fn wants(&self, path: &str) -> bool {
        path == ours::DIRECT || self.only.is_empty() || self.only.iter().any(|only| only == path)
    }
}

impl Report {
    /// One without figures.
    fn begin(setting: Setting, plan: &Plan) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            setting,
            run: Run::of(plan),
            machine: Machine::this(),
            executable: None,
            paths: Vec::new(),
            rows: Vec::new(),
            soak: None,
        }
    }
}

impl PathReport {
    fn before_load(path: &BenchPath<'_>) -> Self {
        let resident = path.usage().resident;
        Self {
            name: path.name.clone(),
            processes: path.carriers.len(),
            resident_idle: resident,
            resident_after: resident,
            idle_connection: None,
        }
    }
}

/// One measure. Where somebody else's proxy fails, as pasta of Debian 12 does with eight streams, its cell stays empty.
fn tolerant<T>(path: &BenchPath<'_>, measure: impl FnOnce() -> T) -> Option<T> {
    if !path.foreign {
        return Some(measure());
    }
    let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(measure));
    if taken.is_err() {
        tell(format_args!("failed on {}: left out", path.name));
    }
    taken.ok()
}
