//! What is measured on each path.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Plan;
use super::path::{BenchPath, PORTS};
use super::table::shown;
use crate::load;
use crate::process::Running;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Measure {
    /// One stream from the client.
    Forward,
    /// One stream to the client.
    Reverse,
    /// Eight streams from the client.
    ForwardEight,
    /// Eight streams to the client.
    ReverseEight,
    /// Requests and responses of 64 bytes on one connection.
    RequestResponse,
    /// Requests and responses of 64 bytes while another connection streams as fast as it can.
    RequestsBesideStream,
    /// Requests and responses on ten connections in turn.
    TurnsTen,
    /// The same on ten thousand connections in turn.
    TurnsTenThousand,
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The name of the row: a measure may give several.
    pub row: &'static str,
    /// In the row's unit.
    pub value: f64,
    /// The row's unit.
    pub unit: &'static str,
    /// The unit of what it cost.
    pub cpu_unit: &'static str,
    /// What it cost the carriers; `None` where there are none.
    pub cost: Option<Cost>,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.row, shown(self.value), self.unit)?;
        match self.cost {
            Some(cost) => write!(f, ", {} {}", shown(cost.cpu), self.cpu_unit),
            None => Ok(()),
        }
    }
}

/// What a measure cost the processes that carry the traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Time on processors, in the row's unit of it.
    pub cpu: f64,
    /// Bytes resident afterwards.
    pub resident: u64,
}

/// The figures of one load: row, value, unit.
type Values = Vec<(&'static str, f64, &'static str)>;

/// How much was done, and what the cost of it is counted in.
#[derive(Clone, Copy)]
enum Work {
    Bytes(u64),
    Connections(u64),
    Requests(u64),
}

/// The names of the rows that others ask for.
pub(super) mod row {
    pub(in crate::bench) const STREAM: &str = "one stream";
    pub(in crate::bench) const STREAM_BACK: &str = "one stream back";
    pub(in crate::bench) const EIGHT: &str = "eight streams";
    pub(in crate::bench) const EIGHT_BACK: &str = "eight streams back";
    pub(in crate::bench) const EIGHT_SHARES: &str = "eight streams, the slowest of the fastest";
    pub(in crate::bench) const EIGHT_BACK_SHARES: &str = "eight streams back, the slowest of the fastest";
    pub(in crate::bench) const RR_P50: &str = "request-response, median";
    pub(in crate::bench) const RR_P99: &str = "request-response, 99th percentile";
    pub(in crate::bench) const BESIDE_P99: &str = "request-response beside a stream, 99th percentile";
    pub(in crate::bench) const TURNS_10: &str = "request-response, 10 connections in turn";
    pub(in crate::bench) const TURNS_10_000: &str = "request-response, 10,000 connections in turn";
    pub(in crate::bench) const PACKETS_10: &str = "packets of a request, 10 connections in turn";
    pub(in crate::bench) const PACKETS_10_000: &str = "packets of a request, 10,000 connections in turn";
    pub(in crate::bench) const CONNECT: &str = "connect, median";
    pub(in crate::bench) const FIRST_BYTE: &str = "connect and first byte, median";
    pub(in crate::bench) const CONNECT_RATE: &str = "connections, four threads";
}

impl Measure {
    /// Every measure, in the report's order.
    pub const ALL: &'static [Self] = &[
        Self::Forward,
        Self::Reverse,
        Self::ForwardEight,
        Self::ReverseEight,
        Self::RequestResponse,
        Self::RequestsBesideStream,
        Self::TurnsTen,
        Self::TurnsTenThousand,
        Self::Connect,
        Self::ConnectRate,
    ];

    /// Its name in messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "new connections",
            Self::ConnectRate => "new connections from four threads",
            Self::Forward => row::STREAM,
            Self::ForwardEight => row::EIGHT,
            Self::RequestResponse => "request-response",
            Self::RequestsBesideStream => "request-response beside a stream",
            Self::Reverse => row::STREAM_BACK,
            Self::ReverseEight => row::EIGHT_BACK,
            Self::TurnsTen => row::TURNS_10,
            Self::TurnsTenThousand => row::TURNS_10_000,
        }
    }

    /// Takes it once.
    ///
    /// # Panics
    /// If the load fails.
    #[track_caller]
    pub fn take(self, path: &BenchPath<'_>, plan: &Plan) -> Vec<Figure> {
        let seconds = plan.seconds.to_string();
        let within = ["connect", "--seconds", &seconds];
        match self {
            Self::Connect => connect(path, plan, &within, |found| {
                vec![
                    (row::CONNECT, micros(found.connect.p50_ns), "µs"),
                    (row::FIRST_BYTE, micros(found.first_byte.p50_ns), "µs"),
                ]
            }),
            Self::ConnectRate => {
                let arguments = [&within[..], &["--parallel", "4"]].concat();
                connect(path, plan, &arguments, |found| {
                    vec![(row::CONNECT_RATE, found.per_second, "/s")]
                })
            }
            Self::Forward => stream(path, plan, &[row::STREAM], &[]),
            Self::ForwardEight => stream(path, plan, &[row::EIGHT, row::EIGHT_SHARES], &["--parallel", "8"]),
            Self::RequestResponse => {
                let count = plan.requests.to_string();
                costed(path, || {
                    let found: load::Rr = run(path, plan, &["rr", "--count", &count]);
                    let values = vec![
                        (row::RR_P50, micros(found.latency.p50_ns), "µs"),
                        (row::RR_P99, micros(found.latency.p99_ns), "µs"),
                    ];
                    // A tenth as many come first, unmeasured.
                    (values, Work::Requests(found.count + found.count / 10))
                })
            }
            Self::RequestsBesideStream => beside_stream(path, plan),
            Self::Reverse => stream(path, plan, &[row::STREAM_BACK], &["--reverse"]),
            Self::ReverseEight => {
                let rows = [row::EIGHT_BACK, row::EIGHT_BACK_SHARES];
                stream(path, plan, &rows, &["--reverse", "--parallel", "8"])
            }
            Self::TurnsTen => turns(path, plan, [row::TURNS_10, row::PACKETS_10], 10),
            Self::TurnsTenThousand => turns(path, plan, [row::TURNS_10_000, row::PACKETS_10_000], 10_000),
        }
    }
}

/// The streams' rate together and, where there are two rows, how evenly they share it.
fn stream(path: &BenchPath<'_>, plan: &Plan, rows: &[&'static str], more: &[&str]) -> Vec<Figure> {
    let seconds = plan.seconds.to_string();
    let arguments = [&["stream", "--unchecked", "--seconds", &seconds], more].concat();
    costed(path, || {
        let found: load::Stream = run(path, plan, &arguments);
        let rate = found.bytes as f64 * 8.0 / found.seconds / 1e9;
        let each = || found.bits_per_second.iter().copied();
        let share = each().fold(f64::INFINITY, f64::min) / each().fold(0.0, f64::max);
        let values = [(rate, "Gbit/s"), (share, "×")];
        let values = rows
            .iter()
            .zip(values)
            .map(|(row, (value, unit))| (*row, value, unit));
        (values.collect(), Work::Bytes(found.bytes))
    })
}

fn connect(
    path: &BenchPath<'_>,
    plan: &Plan,
    arguments: &[&str],
    values: impl Fn(&load::Connect) -> Values,
) -> Vec<Figure> {
    costed(path, || {
        let found: load::Connect = run(path, plan, arguments);
        // Under loss a SYN may be lost as often as the kernel repeats it.
        assert!(found.failed == 0 || plan.loss_percent > 0.0, "{found:?}");
        (values(&found), Work::Connections(found.count))
    })
}

/// Requests for as long as other measures take, or fewer if they are many; the stream is begun before and ends after them.
fn beside_stream(path: &BenchPath<'_>, plan: &Plan) -> Vec<Figure> {
    let seconds = plan.seconds.to_string();
    let count = plan.requests.min(1000).to_string();
    let arguments = ["rr", "--beside-stream", "--count", &count, "--seconds", &seconds];
    costed(path, || {
        let found: load::Rr = run(path, plan, &arguments);
        let p99 = (row::BESIDE_P99, micros(found.latency.p99_ns), "µs");
        (vec![p99], Work::Requests(found.count))
    })
}

/// How long a request takes, and how many packets it makes at the client's end, acknowledgements too: a connection that is
/// used again soon carries them along, another sends them alone. Opening and closing the connections isn't measured.
fn turns(path: &BenchPath<'_>, plan: &Plan, rows: [&'static str; 2], connections: u32) -> Vec<Figure> {
    let (count, requests) = (connections.to_string(), plan.requests.to_string());
    let mut client = start(path, &["turns", "--count", &count, "--requests", &requests]);
    client.wait_for("opened", limit(plan));
    let mut figures = costed(path, || {
        client.say("begin");
        client.wait_for("answered", limit(plan));
        let units = ["µs", "packets"];
        let values = rows.iter().zip(units).map(|(row, unit)| (*row, f64::NAN, unit));
        (values.collect(), Work::Requests(plan.requests))
    });
    client.say("enough");
    let found: load::Turns = client.finish(limit(plan)).json();
    let values = [
        micros(found.latency.p50_ns),
        found.packets as f64 / found.count as f64,
    ];
    for (figure, value) in figures.iter_mut().zip(values) {
        figure.value = value;
    }
    figures
}

/// Runs a load, and says of its figures what they cost the carriers.
fn costed(path: &BenchPath<'_>, load: impl FnOnce() -> (Values, Work)) -> Vec<Figure> {
    let before = path.usage();
    let (values, work) = load();
    let after = path.usage();
    let (per_second, cpu_unit) = match work {
        Work::Bytes(bytes) => (1e9 / bytes as f64, "s/GB"),
        Work::Connections(count) => (1e6 / count as f64, "µs each"),
        Work::Requests(count) => (1e6 / count as f64, "µs each"),
    };
    let cost = (!path.carriers.is_empty()).then(|| Cost {
        cpu: after.cpu.saturating_sub(before.cpu).as_secs_f64() * per_second,
        resident: after.resident,
    });
    let figure = |(row, value, unit)| Figure {
        row,
        value,
        unit,
        cpu_unit,
        cost,
    };
    values.into_iter().map(figure).collect()
}

/// What a client finds that runs with `arguments` and the path's target.
#[track_caller]
fn run<T: DeserializeOwned>(path: &BenchPath<'_>, plan: &Plan, arguments: &[&str]) -> T {
    start(path, arguments).finish(limit(plan)).json()
}

/// A client with `arguments`, the first of them its command, and the path's target.
#[track_caller]
pub(super) fn start(path: &BenchPath<'_>, arguments: &[&str]) -> Running {
    let mut command = path.client();
    command
        .args(&arguments[..1])
        .arg(&path.target)
        .args(["--target-ports", &PORTS.to_string()])
        .args(&arguments[1..]);
    Running::spawn(command)
}

/// What each idle connection adds to the carriers' own memory, in bytes.
#[track_caller]
pub(super) fn memory_of_idle(path: &BenchPath<'_>, plan: &Plan) -> f64 {
    let count = plan.idle.to_string();
    let before = path.usage().anonymous;
    let mut client = start(path, &["idle", "--count", &count]);
    client.wait_for("opened", limit(plan));
    let with = path.usage().anonymous;
    client.say("enough");
    let found: load::Idle = client.finish(limit(plan)).json();
    assert_eq!(found.usable, plan.idle as u64, "{found:?}");
    (with as f64 - before as f64) / plan.idle as f64
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Far more than any measure takes on a machine that works.
fn limit(plan: &Plan) -> Duration {
    Duration::from_secs_f64(plan.seconds * 2.0 + 180.0)
}
