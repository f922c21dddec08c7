//! What is measured on each path.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Plan;
use super::path::{BenchPath, PORTS};
use crate::load;
use crate::process::{Finished, Running};
use crate::procfs::usage;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// One stream from the client.
    Forward,
    /// One stream to the client.
    Reverse,
    /// Eight streams from the client.
    ForwardEight,
    /// Requests and responses of 64 bytes on one connection.
    RequestResponse,
    /// New connections, one after another: how long `connect()` takes, and how long from its call until a byte that was
    /// sent has come back. On every path the client and the server are the same programs, the server's threads are there
    /// already, and all 16 ports take turns. The path is warm: of the thousands that the median is of, all but the first
    /// find their tunnel there; its handshakes show in the maximum alone.
    Connect,
    /// The same from four threads: how many in a second are opened, carry a byte each way and are closed, first by the
    /// client and then by the server, whose FIN is waited for.
    ConnectRate,
}

/// What one measure gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The name of the row: a measure may give several.
    pub row: &'static str,
    /// In the row's unit.
    pub value: f64,
    /// The row's unit.
    pub unit: &'static str,
}

impl Measure {
    /// Every measure, in the report's order.
    pub const ALL: &'static [Self] = &[
        Self::Forward,
        Self::Reverse,
        Self::ForwardEight,
        Self::RequestResponse,
        Self::Connect,
        Self::ConnectRate,
    ];

    /// Its name in messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "new connections",
            Self::ConnectRate => "new connections from four threads",
            Self::Forward => "one stream",
            Self::ForwardEight => "eight streams",
            Self::RequestResponse => "request-response",
            Self::Reverse => "one stream back",
        }
    }

    /// Takes it once.
    ///
    /// # Panics
    /// If the load fails.
    #[track_caller]
    pub fn take(self, path: &BenchPath<'_>, plan: &Plan) -> Vec<Figure> {
        let seconds = plan.seconds.to_string();
        let figure = |row, value, unit| Figure { row, value, unit };
        match self {
            Self::Connect => {
                let found: load::Connect = run(path, plan, &["connect", "--seconds", &seconds]);
                assert_eq!(found.failed, 0, "{found:?}");
                vec![
                    figure("connect, median", found.connect.p50_ns as f64 / 1e3, "µs"),
                    figure(
                        "connect and first byte, median",
                        found.first_byte.p50_ns as f64 / 1e3,
                        "µs",
                    ),
                ]
            }
            Self::ConnectRate => {
                let found: load::Connect =
                    run(path, plan, &["connect", "--parallel", "4", "--seconds", &seconds]);
                assert_eq!(found.failed, 0, "{found:?}");
                vec![figure("connections, four threads", found.per_second, "/s")]
            }
            Self::Forward => stream(path, plan, ["one stream", "one stream, CPU"], &[]),
            Self::ForwardEight => stream(
                path,
                plan,
                ["eight streams", "eight streams, CPU"],
                &["--parallel", "8"],
            ),
            Self::RequestResponse => {
                let count = plan.requests.to_string();
                let found: load::Rr = run(path, plan, &["rr", "--count", &count]);
                vec![
                    figure(
                        "request-response, median",
                        found.latency.p50_ns as f64 / 1e3,
                        "µs",
                    ),
                    figure(
                        "request-response, 99th percentile",
                        found.latency.p99_ns as f64 / 1e3,
                        "µs",
                    ),
                ]
            }
            Self::Reverse => stream(
                path,
                plan,
                ["one stream back", "one stream back, CPU"],
                &["--reverse"],
            ),
        }
    }
}

/// The throughput, and the carriers' time for each gigabyte.
fn stream(path: &BenchPath<'_>, plan: &Plan, rows: [&'static str; 2], more: &[&str]) -> Vec<Figure> {
    let cpu = || {
        path.carriers
            .iter()
            .filter_map(|pid| usage(*pid))
            .map(|usage| usage.cpu)
            .sum::<Duration>()
    };
    let seconds = plan.seconds.to_string();
    let before = cpu();
    let found: load::Stream = run(
        path,
        plan,
        &[&["stream", "--unchecked", "--seconds", &seconds], more].concat(),
    );
    let used = (cpu() - before).as_secs_f64();
    let mut figures = vec![Figure {
        row: rows[0],
        value: found.bytes as f64 * 8.0 / found.seconds / 1e9,
        unit: "Gbit/s",
    }];
    if !path.carriers.is_empty() {
        figures.push(Figure {
            row: rows[1],
            value: used / (found.bytes as f64 / 1e9),
            unit: "s/GB",
        });
    }
    figures
}

/// What a client finds that runs with `arguments` and the path's target.
#[track_caller]
fn run<T: DeserializeOwned>(path: &BenchPath<'_>, plan: &Plan, arguments: &[&str]) -> T {
    let mut command = path.client();
    let ports = PORTS.to_string();
    command
        .args(&arguments[..1])
        .arg(&path.target)
        .args(["--target-ports", &ports])
        .args(&arguments[1..]);
    Finished::of(command, limit(plan)).json()
}

/// The carriers' own memory, in bytes, with so many idle connections open and without them.
#[track_caller]
pub(super) fn memory_of_idle(path: &BenchPath<'_>, plan: &Plan) -> (u64, u64) {
    let memory = || {
        path.carriers
            .iter()
            .filter_map(|pid| usage(*pid))
            .map(|usage| usage.anonymous)
            .sum::<u64>()
    };
    let mut command = path.client();
    command.args([
        "idle",
        &path.target,
        "--target-ports",
        &PORTS.to_string(),
        "--count",
        &plan.idle.to_string(),
    ]);
    let before = memory();
    let mut client = Running::spawn(command);
    client.wait_for("opened", limit(plan));
    let with = memory();
    client.say("enough");
    let found: load::Idle = client.finish(limit(plan)).json();
    assert_eq!(found.usable, plan.idle as u64, "{found:?}");
    (before, with)
}

/// Far more than any measure takes on a machine that works.
fn limit(plan: &Plan) -> Duration {
    Duration::from_secs_f64(plan.seconds * 2.0 + 120.0)
}
