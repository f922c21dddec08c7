//! Which plots a report gets.

use crate::bench::measure::row;
use crate::bench::plot::{Bar, Bars, Group, Lines, Series};
use crate::bench::report::{Cell, PathReport, Report, Row};
use crate::bench::soak::{Carried, MemorySample, Soak};
use crate::bench::targets::mib;
use crate::stats::Spread;

/// A file's name, a title and the plot.
pub(super) type Plot = (String, String, String);

/// What is plotted of each report: a name, a title, the rows.
const FIGURES: &[(&str, &str, &[&str])] = &[
    (
        "streams",
        "Streams: more is better",
        &[row::STREAM, row::STREAM_BACK, row::EIGHT, row::EIGHT_BACK],
    ),
    (
        "latency",
        "Requests and responses of 64 bytes: less is better",
        &[row::RR_P50, row::RR_P99, row::TURNS_10, row::TURNS_10_000],
    ),
    (
        "connect",
        "New connections, one after another: less is better",
        &[row::CONNECT, row::FIRST_BYTE],
    ),
    (
        "rate",
        "New connections, four threads: more is better",
        &[row::CONNECT_RATE],
    ),
];

/// What the carriers spent is plotted of these rows.
const COSTS: &[&str] = &[row::STREAM, row::STREAM_BACK, row::RR_P50, row::FIRST_BYTE];

/// Figures, costs and memory; what wasn't measured has no plot.
pub(super) fn of(report: &Report, prefix: &str) -> Vec<Plot> {
    let file = |name: &str| format!("{prefix}-{name}.svg");
    let figures = FIGURES.iter().map(|(name, title, rows)| {
        let rows = rows.iter().filter_map(|name| report.row(name));
        let group = |row: &Row| group(report, row, &row.unit, |cell| Some(cell.figure));
        (file(name), *title, rows.map(group).collect())
    });
    let costs = COSTS.iter().filter_map(|name| report.row(name));
    let cost = |row: &Row| group(report, row, &row.cpu_unit, |cell| cell.cpu);
    let costs = (
        file("cpu"),
        "Time on processors of all that carries: less is better",
        costs.map(cost).collect(),
    );
    let memory = (
        file("memory"),
        "Resident memory of all that carries: less is better",
        vec![memory(report)],
    );
    let all = figures.chain([costs, memory]);
    all.filter_map(|(file, title, groups): (String, &str, Vec<Group>)| {
        let groups: Vec<Group> = groups
            .into_iter()
            .filter(|group| !group.bars.is_empty())
            .collect();
        let title = title.to_owned();
        let bars = Bars {
            title: title.clone(),
            groups,
        };
        (!bars.groups.is_empty()).then(|| (file, title, bars.to_string()))
    })
    .collect()
}

fn group(report: &Report, row: &Row, unit: &str, value: impl Fn(&Cell) -> Option<Spread>) -> Group {
    let bar = |(index, cell): (usize, &Option<Cell>)| {
        Some(Bar {
            name: report.paths.get(index)?.name.clone(),
            colour: index,
            value: value(cell.as_ref()?)?,
        })
    };
    Group {
        name: row.name.clone(),
        unit: unit.to_owned(),
        bars: row.cells.iter().enumerate().filter_map(bar).collect(),
    }
}

/// Idle memory, with what it was after all loads as its spread.
fn memory(report: &Report) -> Group {
    let carried = report
        .paths
        .iter()
        .enumerate()
        .filter(|(_, path)| path.processes > 0);
    let bar = |(index, path): (usize, &PathReport)| {
        let (idle, after) = (mib(path.resident_idle), mib(path.resident_after));
        Bar {
            name: path.name.clone(),
            colour: index,
            value: Spread {
                min: idle,
                median: idle,
                max: after.max(idle),
            },
        }
    };
    Group {
        name: "idle, and after all loads".to_owned(),
        unit: "MiB".to_owned(),
        bars: carried.map(bar).collect(),
    }
}

/// Memory and what was carried, over time.
pub(super) fn of_soak(soak: &Soak) -> Vec<Plot> {
    let series = |name: &str, points: Vec<(f64, f64)>| Series {
        name: name.to_owned(),
        points,
    };
    let memory = |bytes: fn(&MemorySample) -> u64| {
        let samples = soak.memory.iter();
        samples.map(|sample| (sample.at, mib(bytes(sample)))).collect()
    };
    let carried = |rate: fn(&Carried) -> f64| {
        let slices = soak.carried.iter();
        slices.map(|slice| (slice.at, rate(slice))).collect()
    };
    let plots = [
        (
            "soak-memory.svg",
            "Resident memory of all that carries",
            "MiB",
            vec![
                series("all", memory(|sample| sample.resident)),
                series("its own (anonymous)", memory(|sample| sample.anonymous)),
            ],
        ),
        (
            "soak-carried.svg",
            "What was carried",
            "Gbit/s",
            vec![
                series("from the client", carried(|slice| slice.forward)),
                series("to the client", carried(|slice| slice.back)),
            ],
        ),
    ];
    let plot = |(file, title, unit, series): (&str, &str, &str, Vec<Series>)| {
        let lines = Lines {
            title: title.to_owned(),
            unit: unit.to_owned(),
            series,
        };
        (file.to_owned(), title.to_owned(), lines.to_string())
    };
    plots.into_iter().map(plot).collect()
}
