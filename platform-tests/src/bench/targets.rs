//! What adit is to reach, and whether it does.

use std::fmt;

use super::measure::row;
use super::ours::{DIRECT, TWO_AGENTS};
use super::report::{Report, Setting};

/// The reports that targets are looked up in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'r> {
    /// Between two hosts, without loss.
    pub(super) hosts: Option<&'r Report>,
    /// Between two nodes of a cluster.
    pub(super) cluster: Option<&'r Report>,
}

/// One figure with its floor and its aim.
pub(super) struct Target {
    pub(super) what: &'static str,
    pub(super) unit: &'static str,
    better: Better,
    floor: f64,
    aim: f64,
    value: fn(Sources<'_>) -> Option<f64>,
}

#[derive(Clone, Copy)]
enum Better {
    Less,
    More,
}

/// A target beside what was found.
pub(super) struct Judged {
    pub(super) target: &'static Target,
    pub(super) value: Option<f64>,
}

/// All of them. Both directions count: a figure of two rows is the worse one.
pub(super) const ALL: &[Target] = &[
    Target {
        what: "one HBONE stream, of the direct path",
        unit: "×",
        better: Better::More,
        floor: 0.38,
        aim: 0.60,
        value: |from| from.worse_ratio(&[row::STREAM, row::STREAM_BACK]),
    },
    Target {
        what: "eight streams, of the direct path",
        unit: "×",
        better: Better::More,
        floor: 0.38,
        aim: 0.60,
        value: |from| from.worse_ratio(&[row::EIGHT, row::EIGHT_BACK]),
    },
    Target {
        what: "forwarded plain TCP, of the direct path",
        unit: "×",
        better: Better::More,
        floor: 0.85,
        aim: 0.95,
        value: |from| {
            let cell = |path, row| from.cluster?.cell(path, row)?.of_direct;
            let paths = ["forwarded-in", "forwarded-out"];
            let cells = paths.map(|path| [cell(path, row::STREAM), cell(path, row::STREAM_BACK)]);
            least(cells.into_iter().flatten())
        },
    },
    Target {
        what: "request-response p50, added to the direct path's",
        unit: "µs",
        better: Better::Less,
        floor: 55.0,
        aim: 30.0,
        value: |from| Some(from.ours(row::RR_P50)? - from.median(DIRECT, row::RR_P50)?),
    },
    Target {
        what: "request-response p99 over p50",
        unit: "×",
        better: Better::Less,
        floor: 3.0,
        aim: 2.0,
        value: |from| Some(from.ours(row::RR_P99)? / from.ours(row::RR_P50)?),
    },
    Target {
        what: "request-response p99 beside a stream",
        unit: "µs",
        better: Better::Less,
        floor: 5000.0,
        aim: 1000.0,
        value: |from| from.ours(row::BESIDE_P99),
    },
    Target {
        what: "the slowest of eight streams, of the fastest",
        unit: "×",
        better: Better::More,
        floor: 0.8,
        aim: 0.9,
        value: |from| {
            let rows = [row::EIGHT_SHARES, row::EIGHT_BACK_SHARES];
            least(rows.into_iter().map(|row| from.ours(row)))
        },
    },
    Target {
        what: "new connection and its first byte through a warm tunnel p50, of the direct path's",
        unit: "×",
        better: Better::Less,
        floor: 2.0,
        aim: 1.3,
        value: |from| from.worse_ratio(&[row::FIRST_BYTE]),
    },
    Target {
        what: "CPU-seconds per GB of one stream, both agents",
        unit: "s/GB",
        better: Better::Less,
        floor: 1.5,
        aim: 0.9,
        value: |from| {
            let cells = [row::STREAM, row::STREAM_BACK].map(|row| from.cpu(row));
            cells
                .into_iter()
                .try_fold(0.0, |worst: f64, cpu| Some(worst.max(cpu?)))
        },
    },
    Target {
        what: "resident memory, idle agent",
        unit: "MiB",
        better: Better::Less,
        floor: 16.0,
        aim: 10.0,
        value: |from| {
            let path = from.hosts?.path(TWO_AGENTS)?;
            Some(mib(path.resident_idle) / path.processes as f64)
        },
    },
    Target {
        what: "agent memory per idle connection, one side",
        unit: "KiB",
        better: Better::Less,
        floor: 6.0,
        aim: 2.0,
        value: |from| {
            let path = from.hosts?.path(TWO_AGENTS)?;
            Some(path.idle_connection? / path.processes as f64 / 1024.0)
        },
    },
    Target {
        what: "CPU per packet with 10,000 connections in turn, of that with 10",
        unit: "×",
        better: Better::Less,
        floor: 1.5,
        aim: 1.1,
        value: |from| {
            let packet = |turns, packets| Some(from.cpu(turns)? / from.ours(packets)?);
            Some(packet(row::TURNS_10_000, row::PACKETS_10_000)? / packet(row::TURNS_10, row::PACKETS_10)?)
        },
    },
    Target {
        what: "connections opened and closed per second, of the direct path's",
        unit: "×",
        better: Better::More,
        floor: 0.35,
        aim: 0.60,
        value: |from| from.worse_ratio(&[row::CONNECT_RATE]),
    },
];

impl<'r> Sources<'r> {
    /// The first of each kind, where hosts and nodes share all processors.
    pub(super) fn of(reports: &'r [Report]) -> Self {
        Self {
            hosts: first(reports, Setting::Hosts),
            cluster: first(reports, Setting::Cluster),
        }
    }

    /// The first where they have processors of their own.
    pub(super) fn apart(reports: &'r [Report]) -> Self {
        Self {
            hosts: first(reports, Setting::HostsApart),
            cluster: None,
        }
    }

    /// Every target with its figure.
    pub(super) fn judge(self) -> impl Iterator<Item = Judged> {
        ALL.iter().map(move |target| Judged {
            target,
            value: (target.value)(self),
        })
    }

    fn median(self, path: &str, row: &str) -> Option<f64> {
        Some(self.hosts?.cell(path, row)?.figure.median)
    }

    fn ours(self, row: &str) -> Option<f64> {
        self.median(TWO_AGENTS, row)
    }

    fn cpu(self, row: &str) -> Option<f64> {
        Some(self.hosts?.cell(TWO_AGENTS, row)?.cpu?.median)
    }

    /// The ratio to the direct path, of more rows the least; of none without all of them.
    fn worse_ratio(self, rows: &[&str]) -> Option<f64> {
        least(
            rows.iter()
                .map(|row| self.hosts?.cell(TWO_AGENTS, row)?.of_direct),
        )
    }
}

fn first(reports: &[Report], setting: Setting) -> Option<&Report> {
    let plain = |report: &&Report| {
        report.setting == setting && report.run.loss_percent == 0.0 && report.soak.is_none()
    };
    reports.iter().find(plain)
}

/// The least, if all are there.
fn least(mut values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    values.try_fold(f64::INFINITY, |least, value| Some(least.min(value?)))
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Target {
    fn reaches(&self, value: f64, bound: f64) -> bool {
        match self.better {
            Better::Less => value <= bound,
            Better::More => value >= bound,
        }
    }

    /// A bound with the sign that says on which side of it figures are to be.
    fn bound(&self, bound: f64) -> String {
        let sign = match self.better {
            Better::Less => "≤",
            Better::More => "≥",
        };
        format!("{sign} {bound}")
    }

    pub(super) fn floor(&self) -> String {
        self.bound(self.floor)
    }

    pub(super) fn aim(&self) -> String {
        self.bound(self.aim)
    }
}

/// Whether it's met.
impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, value } = self;
        f.write_str(match value {
            None => "not measured",
            Some(value) if target.reaches(*value, target.aim) => "aim met",
            Some(value) if target.reaches(*value, target.floor) => "floor met",
            Some(_) => "**not met**",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_judged_by_the_side_that_is_better() {
        let judged = |index: usize, value| {
            let target = &ALL[index];
            Judged { target, value }.to_string()
        };
        let more = [Some(0.37), Some(0.38), Some(0.6), None].map(|value| judged(0, value));
        assert_eq!(more, ["**not met**", "floor met", "aim met", "not measured"]);
        let less = [Some(55.1), Some(55.0), Some(30.0)].map(|value| judged(3, value));
        assert_eq!(less, ["**not met**", "floor met", "aim met"]);
    }

    #[test]
    fn the_worse_direction_counts_and_both_are_needed() {
        assert_eq!(least([Some(0.5), Some(0.4)].into_iter()), Some(0.4));
        assert_eq!(least([Some(0.5), None].into_iter()), None);
    }

    #[test]
    fn an_aim_is_beyond_its_floor() {
        for target in ALL {
            assert!(target.reaches(target.aim, target.floor), "{}", target.what);
        }
    }
}
