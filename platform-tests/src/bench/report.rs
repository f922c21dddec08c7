//! What was found: a table for people, JSON for everything else.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use serde::Serialize;

use super::Plan;
use super::measure::{Figure, memory_of_idle};
use super::path::{BenchPath, PACKET_PATH};
use crate::procfs::usage;
use crate::stats::Spread;

/// Everything that one run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// How many rounds the figures are of.
    pub rounds: usize,
    /// The names of the paths; the first is the direct one.
    pub paths: Vec<String>,
    /// Memory of the processes that carry the traffic, by path.
    pub memory: Vec<PathReport>,
    /// The figures, in order of the measures.
    pub rows: Vec<Row>,
    #[serde(skip)]
    samples: Samples,
}

/// By the row's place in the report: name, unit, and by path the figure of each round.
type Samples = Vec<(&'static str, &'static str, BTreeMap<usize, Vec<f64>>)>;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
    /// How the hosts' kernels bound what they send: it concerns the direct path and the tunnels between nodes.
    pub congestion_control: String,
    /// The load average before the run: a figure above 0.5 makes the others doubtful.
    pub load_average: f64,
}

/// Memory of a path's processes, all together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PathReport {
    /// Processes.
    pub processes: usize,
    /// Resident before any load, with the pages of programs and libraries, in bytes.
    pub resident_idle: u64,
    /// Resident after every load, in bytes.
    pub resident_after: u64,
    /// What each idle connection adds, in bytes.
    pub idle_connection: f64,
}

/// One figure on every path.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it is.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// By path; `None` where it makes no sense.
    pub figures: Vec<Option<Spread>>,
    /// The median by that of the direct path, by path.
    pub ratios: Vec<Option<f64>>,
}

impl Report {
    pub(super) fn new(plan: &Plan, paths: impl Iterator<Item = String>) -> Self {
        let paths: Vec<String> = paths.collect();
        let memory = vec![PathReport::default(); paths.len()];
        Self {
            machine: Machine::this(),
            rounds: plan.rounds,
            paths,
            memory,
            rows: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Notes a path's memory before any load and what idle connections add to it.
    pub(super) fn measure_memory(&mut self, index: usize, path: &BenchPath<'_>, plan: &Plan) {
        let memory = &mut self.memory[index];
        memory.processes = path.carriers.len();
        memory.resident_idle = resident(path);
        if !path.carriers.is_empty() && plan.idle > 0 {
            let (before, with) = memory_of_idle(path, plan);
            memory.idle_connection = (with as f64 - before as f64) / plan.idle as f64;
        }
    }

    /// Notes a path's memory after everything.
    pub(super) fn measure_memory_after(&mut self, index: usize, path: &BenchPath<'_>) {
        self.memory[index].resident_after = resident(path);
    }

    /// Adds the figures of one measure on the path at `index`.
    pub(super) fn add(&mut self, index: usize, figures: Vec<Figure>) {
        for figure in figures {
            let place = self.samples.iter().position(|(name, ..)| *name == figure.row);
            let place = place.unwrap_or_else(|| {
                self.samples.push((figure.row, figure.unit, BTreeMap::new()));
                self.samples.len() - 1
            });
            self.samples[place].2.entry(index).or_default().push(figure.value);
        }
        self.rows = self
            .samples
            .iter()
            .map(|sample| row(sample, self.paths.len()))
            .collect();
    }

    /// The ratio of a row's median on a path to the direct path's.
    pub fn ratio(&self, path: &str, row: &str) -> Option<f64> {
        self.ratio_to(path, &self.paths[0], row)
    }

    /// The ratio of a row's median on a path to another path's.
    pub fn ratio_to(&self, path: &str, base: &str, row: &str) -> Option<f64> {
        let median = |path: &str| {
            let index = self.paths.iter().position(|name| name == path)?;
            let row = self.rows.iter().find(|found| found.name == row)?;
            Some(row.figures[index].as_ref()?.median)
        };
        Some(median(path)? / median(base)?)
    }

    /// What a packet socket makes of each figure of a TUN device: everything else on the two paths is the same.
    fn links(&self) -> Vec<String> {
        let of = |row: &Row| {
            let ratio = self.ratio_to(PACKET_PATH, "adit-one", row.name)?;
            Some(format!("{} ×{ratio:.2}", row.name))
        };
        self.rows.iter().filter_map(of).collect()
    }
}

fn row((name, unit, samples): &(&'static str, &'static str, BTreeMap<usize, Vec<f64>>), paths: usize) -> Row {
    let spread = |index| {
        samples
            .get(&index)
            .and_then(|figures| Spread::of(figures.iter().copied()))
    };
    let figures: Vec<Option<Spread>> = (0..paths).map(spread).collect();
    let direct = figures.first().copied().flatten();
    let ratio = |figure: &Option<Spread>| Some(figure.as_ref()?.median / direct?.median);
    Row {
        name,
        unit,
        ratios: figures.iter().map(ratio).collect(),
        figures,
    }
}

fn resident(path: &BenchPath<'_>) -> u64 {
    path.carriers
        .iter()
        .filter_map(|pid| usage(*pid))
        .map(|usage| usage.resident)
        .sum()
}

impl Machine {
    fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let setting = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
            text.trim().to_owned()
        };
        Self {
            processor: name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: setting("kernel/osrelease"),
            congestion_control: setting("net/ipv4/tcp_congestion_control"),
            load_average: load
                .split_whitespace()
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or(f64::NAN),
        }
    }
}

/// A table in Markdown: medians, ratios to the direct path, and in brackets the least and the greatest.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine {
            processor,
            processors,
            kernel,
            congestion_control,
            load_average,
        } = &self.machine;
        writeln!(
            f,
            "{processors} × {processor}, Linux {kernel} with {congestion_control}, load average {load_average} before the run."
        )?;
        writeln!(
            f,
            "Medians of {} rounds [least to greatest], and × the direct path's.\n",
            self.rounds
        )?;
        writeln!(f, "| | {} |", self.paths.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(self.paths.len()))?;
        for row in &self.rows {
            write!(f, "| {} ({}) |", row.name, row.unit)?;
            for (index, (figure, ratio)) in row.figures.iter().zip(&row.ratios).enumerate() {
                match (figure, ratio) {
                    (Some(figure), Some(ratio)) if index > 0 => {
                        write!(f, " {} **×{ratio:.2}** |", shown(figure))?
                    }
                    (Some(figure), _) => write!(f, " {} |", shown(figure))?,
                    (None, _) => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        self.memory_row(f, "resident, idle (MiB)", |memory| mib(memory.resident_idle))?;
        self.memory_row(f, "resident, after all loads (MiB)", |memory| {
            mib(memory.resident_after)
        })?;
        self.memory_row(f, "each idle connection (bytes)", |memory| {
            format!("{:.0}", memory.idle_connection)
        })?;
        match self.links().join(", ") {
            links if links.is_empty() => Ok(()),
            links => writeln!(f, "\n{PACKET_PATH} beside adit-one: {links}."),
        }
    }
}

impl Report {
    fn memory_row(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        cell: impl Fn(&PathReport) -> String,
    ) -> fmt::Result {
        write!(f, "| {name} |")?;
        for memory in &self.memory {
            match memory.processes {
                0 => write!(f, " |")?,
                1 => write!(f, " {} |", cell(memory))?,
                several => write!(f, " {} in {several} processes |", cell(memory))?,
            }
        }
        writeln!(f)
    }
}

fn shown(spread: &Spread) -> String {
    let digits = if spread.median < 100.0 { 2 } else { 0 };
    format!(
        "{:.digits$} [{:.digits$} to {:.digits$}]",
        spread.median, spread.min, spread.max
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians_and_missing_figures_stay_empty() {
        let plan = Plan {
            rounds: 3,
            seconds: 1.0,
            requests: 1,
            idle: 0,
            only: Vec::new(),
            measures: Vec::new(),
            externals: Vec::new(),
        };
        let paths = ["direct", "adit-one", PACKET_PATH];
        let mut report = Report::new(&plan, paths.map(str::to_owned).into_iter());
        let figure = |row, value| Figure {
            row,
            value,
            unit: "Gbit/s",
        };
        report.add(2, vec![figure("one stream", 4.0)]);
        for value in [20.0, 10.0, 40.0] {
            report.add(0, vec![figure("one stream", value)]);
            report.add(
                1,
                vec![figure("one stream", value / 4.0), figure("one stream, CPU", 1.0)],
            );
        }
        assert_eq!(report.ratio("adit-one", "one stream"), Some(0.25));
        assert_eq!(report.ratio("adit-one", "one stream, CPU"), None);
        let text = report.to_string();
        assert!(text.contains(
            "| one stream (Gbit/s) | 20.00 [10.00 to 40.00] | 5.00 [2.50 to 10.00] **×0.25** | 4.00"
        ));
        assert!(
            text.contains("| one stream, CPU (Gbit/s) | | 1.00 [1.00 to 1.00] | |"),
            "{text}"
        );
        assert!(
            text.ends_with("adit-packet beside adit-one: one stream ×0.80.\n"),
            "{text}"
        );
    }
}
