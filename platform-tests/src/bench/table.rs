//! A report as a table in Markdown.

use std::fmt;

use super::machine::{Machine, Run};
use super::report::{Cell, PathReport, Report, Row};
use super::targets::mib;
use crate::stats::Spread;

/// A figure with as many digits as mean something.
pub(super) fn shown(value: f64) -> String {
    let digits = match value.abs() {
        small if small < 10.0 => 2,
        middling if middling < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

/// Machine, run and all figures.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n", self.machine, self.run)?;
        if let Some(executable) = self.executable {
            writeln!(f, "{executable}\n")?;
        }
        if self.rows.is_empty() {
            return Ok(());
        }
        let names = self.paths.iter().map(|path| path.name.replace('<', "&lt;"));
        let names: Vec<String> = names.collect();
        writeln!(f, "| | {} |", names.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(names.len()))?;
        self.rows.iter().try_for_each(|row| write_row(f, row))?;
        let several = |path: &PathReport| match path.processes {
            1 => String::new(),
            more => format!(" in {more} processes"),
        };
        let resident = |bytes: fn(&PathReport) -> u64| {
            move |path: &PathReport| Some(format!("{}{}", shown(mib(bytes(path))), several(path)))
        };
        self.write_memory(f, "resident, idle (MiB)", resident(|path| path.resident_idle))?;
        self.write_memory(
            f,
            "resident, after all loads (MiB)",
            resident(|path| path.resident_after),
        )?;
        self.write_memory(f, "each idle connection (bytes)", |path| {
            Some(format!("{:.0}{}", path.idle_connection?, several(path)))
        })
    }
}

impl Report {
    fn write_memory(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        cell: impl Fn(&PathReport) -> Option<String>,
    ) -> fmt::Result {
        let cells = self.paths.iter().map(|path| match path.processes {
            0 => String::new(),
            _ => cell(path).unwrap_or_default(),
        });
        let cells: Vec<String> = cells.collect();
        match cells.iter().all(String::is_empty) {
            true => Ok(()),
            false => writeln!(f, "| {name} | {} |", cells.join(" | ")),
        }
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    let cell = |(index, cell): (usize, &Option<Cell>)| {
        let cell = cell.as_ref();
        cell.map_or_else(String::new, |cell| shown_cell(cell, index == 0, &row.cpu_unit))
    };
    let cells: Vec<String> = row.cells.iter().enumerate().map(cell).collect();
    writeln!(f, "| {} ({}) | {} |", row.name, row.unit, cells.join(" | "))
}

fn shown_cell(cell: &Cell, is_direct: bool, cpu_unit: &str) -> String {
    let Spread { min, median, max } = cell.figure;
    let mut text = format!("{} [{} to {}]", shown(median), shown(min), shown(max));
    if let Some(ratio) = cell.of_direct.filter(|_| !is_direct) {
        text += &format!(" **×{ratio:.2}**");
    }
    if let Some(cpu) = cell.cpu {
        text += &format!("<br>{} {cpu_unit}", shown(cpu.median));
    }
    if let Some(resident) = cell.resident {
        text += &format!(", {} MiB", shown(mib(resident)));
    }
    text
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} × {}, Linux {} with {}, load average {} before the run.",
            self.processors, self.processor, self.kernel, self.congestion_control, self.load_average
        )?;
        match self.was_quiet() {
            true => Ok(()),
            false => write!(
                f,
                " **The machine wasn't quiet: the figures are too low and too far apart, and the ratios doubtful.**"
            ),
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, commit {}", self.date, self.commit)?;
        if self.rounds > 0 {
            write!(
                f,
                ": medians of {} rounds of {} s and {} requests [least to greatest], × the direct path's; below them what the \
                 processes that carry the traffic spent on it, all together, and their resident memory after it",
                self.rounds, self.seconds, self.requests
            )?;
        }
        write!(f, ".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_or_all_before_the_point() {
        let all = [0.0, 0.123, 9.994, 12.34, 123.4, 12345.6].map(shown);
        assert_eq!(all, ["0.00", "0.12", "9.99", "12.3", "123", "12346"]);
    }

    #[test]
    fn a_cell_has_figure_ratio_and_cost() {
        let spread = |median| Spread {
            min: median / 2.0,
            median,
            max: median * 2.0,
        };
        let cell = Cell {
            figure: spread(5.0),
            of_direct: Some(0.25),
            cpu: Some(spread(1.5)),
            resident: Some(3 << 20),
        };
        let all = shown_cell(&cell, false, "s/GB");
        assert_eq!(all, "5.00 [2.50 to 10.0] **×0.25**<br>1.50 s/GB, 3.00 MiB");
        let direct = Cell {
            cpu: None,
            resident: None,
            ..cell
        };
        assert_eq!(shown_cell(&direct, true, "s/GB"), "5.00 [2.50 to 10.0]");
    }
}
