//! What was found, as it's kept: one JSON object a run, described in `platform-tests/bench/README.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::executable::Executable;
use super::machine::{Machine, Run};
use super::measure::Figure;
use super::soak::Soak;
use crate::stats::{Spread, percentile};

/// The schema of [`Report`]. It changes when a field changes its meaning or goes, not when one is added.
pub const SCHEMA: &str = "adit-bench/1";

/// Everything that one run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// What lies between the ends.
    pub setting: Setting,
    /// When and how it ran.
    pub run: Run,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured of the executable alone; only between hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<Executable>,
    /// The paths; the first is the direct one.
    pub paths: Vec<PathReport>,
    /// The figures, in order of the measures.
    pub rows: Vec<Row>,
    /// What a run at full load for a long time found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Soak>,
}

/// What lies between the ends of the paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// The network of a Kubernetes cluster, its nodes on this machine.
    Cluster,
    /// A veth pair.
    Hosts,
    /// A veth pair between hosts with processors of their own.
    HostsApart,
}

/// One path, and the memory of the processes that carry its traffic, all together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathReport {
    /// Its name.
    pub name: String,
    /// How many processes carry its traffic, the programs at the ends apart.
    pub processes: usize,
    /// Resident before any load, with the pages of programs and libraries, in bytes.
    pub resident_idle: u64,
    /// Resident after every load, in bytes.
    pub resident_after: u64,
    /// What each idle connection adds, in bytes; `None` if it wasn't measured.
    pub idle_connection: Option<f64>,
}

/// One figure on every path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The unit of what the carriers spent on it.
    pub cpu_unit: String,
    /// By path; `None` where it wasn't or couldn't be measured.
    pub cells: Vec<Option<Cell>>,
}

/// One figure on one path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Of all rounds.
    pub figure: Spread,
    /// The median by that of the direct path; `None` if that has none.
    pub of_direct: Option<f64>,
    /// What the carriers spent, in the row's unit; `None` on the direct path.
    pub cpu: Option<Spread>,
    /// Bytes resident in the carriers after it, the median of all rounds; `None` on the direct path.
    pub resident: Option<u64>,
}

/// The figures of all rounds while they come in.
#[derive(Debug, Default)]
pub(super) struct Samples {
    rows: Vec<(Figure, BTreeMap<usize, Vec<Figure>>)>,
}

impl Report {
    /// One path's figure in a row.
    pub fn cell(&self, path: &str, row: &str) -> Option<&Cell> {
        let index = self.paths.iter().position(|found| found.name == path)?;
        self.row(row)?.cells.get(index)?.as_ref()
    }

    /// The row of this name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// The path of this name.
    pub fn path(&self, name: &str) -> Option<&PathReport> {
        self.paths.iter().find(|path| path.name == name)
    }
}

impl Samples {
    /// Adds the figures of one measure on the path at `index`.
    pub(super) fn add(&mut self, index: usize, figures: Vec<Figure>) {
        for figure in figures {
            let known = self.rows.iter().position(|(first, _)| first.row == figure.row);
            let place = known.unwrap_or_else(|| {
                self.rows.push((figure, BTreeMap::new()));
                self.rows.len() - 1
            });
            self.rows[place].1.entry(index).or_default().push(figure);
        }
    }

    /// The rows for so many paths.
    pub(super) fn rows(&self, paths: usize) -> Vec<Row> {
        let row = |(first, by_path): &(Figure, BTreeMap<usize, Vec<Figure>>)| {
            let direct = by_path.get(&0).and_then(|figures| Spread::of(values(figures)));
            let cell = |index| Cell::of(by_path.get(&index)?, direct);
            Row {
                name: first.row.to_owned(),
                unit: first.unit.to_owned(),
                cpu_unit: first.cpu_unit.to_owned(),
                cells: (0..paths).map(cell).collect(),
            }
        };
        self.rows.iter().map(row).collect()
    }
}

impl Cell {
    fn of(figures: &[Figure], direct: Option<Spread>) -> Option<Self> {
        let figure = Spread::of(values(figures))?;
        let costs = || figures.iter().filter_map(|figure| figure.cost);
        let mut resident: Vec<u64> = costs().map(|cost| cost.resident).collect();
        resident.sort_unstable();
        Some(Self {
            figure,
            of_direct: direct.map(|direct| figure.median / direct.median),
            cpu: Spread::of(costs().map(|cost| cost.cpu)),
            resident: percentile(&resident, 50.0),
        })
    }
}

fn values(figures: &[Figure]) -> impl Iterator<Item = f64> {
    figures.iter().map(|figure| figure.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Cost;

    fn figure(row: &'static str, value: f64, cost: Option<Cost>) -> Figure {
        Figure {
            row,
            value,
            unit: "Gbit/s",
            cpu_unit: "s/GB",
            cost,
        }
    }

    #[test]
    fn ratios_are_of_medians_and_missing_figures_stay_empty() {
        let mut samples = Samples::default();
        for (value, cpu) in [(20.0, 3.0), (10.0, 1.0), (40.0, 2.0)] {
            samples.add(0, vec![figure("one stream", value, None)]);
            let cost = Cost { cpu, resident: 7 };
            let ours = vec![
                figure("one stream", value / 4.0, Some(cost)),
                figure("only ours", 1.0, None),
            ];
            samples.add(1, ours);
        }
        let rows = samples.rows(3);
        let [Some(direct), Some(ours), None] = rows[0].cells[..] else {
            panic!("{rows:?}")
        };
        assert_eq!(
            (direct.figure.median, direct.cpu, direct.resident),
            (20.0, None, None)
        );
        assert_eq!((ours.of_direct, ours.resident), (Some(0.25), Some(7)));
        assert_eq!(ours.cpu.map(|cpu| cpu.median), Some(2.0));
        let [None, Some(only), None] = rows[1].cells[..] else {
            panic!("{rows:?}")
        };
        assert_eq!(only.of_direct, None);
    }
}
