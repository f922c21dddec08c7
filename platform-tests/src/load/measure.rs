//! What a load found, as it is printed: one JSON object.

use serde::{Deserialize, Serialize};

use crate::stats;

/// The outcome of one or more streams in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Payload bytes that arrived, all streams together.
    pub bytes: u64,
    /// From the first byte to the last at the receivers, in seconds; the longest stream's.
    pub seconds: f64,
    /// Each stream's bits a second at its receiver.
    pub bits_per_second: Vec<f64>,
    /// Each stream's hash at the sending end; 0 where unchecked.
    pub sent_hashes: Vec<u64>,
    /// Each stream's hash at the receiving end; 0 where unchecked.
    pub received_hashes: Vec<u64>,
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median, in nanoseconds.
    pub p50_ns: u64,
    /// 90th percentile, in nanoseconds.
    pub p90_ns: u64,
    /// 99th percentile, in nanoseconds.
    pub p99_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
}

/// The outcome of requests and responses on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rr {
    /// How many were answered.
    pub count: u64,
    /// Their round-trip times.
    pub latency: Latency,
}

/// The outcome of requests and responses on many connections in turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// How many were answered.
    pub count: u64,
    /// Their round-trip times.
    pub latency: Latency,
    /// Packets that the client's devices carried meanwhile, both ways.
    pub packets: u64,
}

/// The outcome of opening and closing connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    /// How many were opened, carried a byte each way and were closed.
    pub count: u64,
    /// How many failed.
    pub failed: u64,
    /// How the first of them did.
    pub first_failure: Option<String>,
    /// Connections a second over the whole time, all threads together.
    pub per_second: f64,
    /// The time that `connect` took.
    pub connect: Latency,
    /// From `connect` to the first byte of the answer.
    pub first_byte: Latency,
}

/// The outcome of connections that were left idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// How many were opened.
    pub opened: u64,
    /// How many still carried a byte each way at the end.
    pub usable: u64,
}

/// The outcome of connections that were all busy at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// How many were opened.
    pub opened: u64,
    /// How many got back exactly what they sent.
    pub correct: u64,
    /// Bytes sent and got back on the correct ones.
    pub bytes: u64,
}

/// How a connection ended, as its program saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// `connect` failed with ECONNREFUSED.
    ConnectRefused,
    /// `connect` failed with EHOSTUNREACH or ENETUNREACH.
    ConnectUnreachable,
    /// `connect` gave up waiting.
    ConnectTimedOut,
    /// End of file.
    Fin,
    /// ECONNRESET or EPIPE.
    Reset,
    /// Nothing came within the limit.
    Silence,
    /// Another error.
    Other,
}

/// The end of one connection and what came before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How it ended.
    pub end: End,
    /// Bytes received before.
    pub received: u64,
    /// The error's own words, where there was one.
    pub error: Option<String>,
}

impl Latency {
    /// The distribution of `samples` in nanoseconds, which get sorted.
    pub fn of(samples: &mut [u64]) -> Self {
        samples.sort_unstable();
        let at = |percent| stats::percentile(samples, percent).unwrap_or_default();
        Self {
            p50_ns: at(50.0),
            p90_ns: at(90.0),
            p99_ns: at(99.0),
            max_ns: at(100.0),
        }
    }
}

/// Lets this process open as many descriptors as the system allows it, and says how many that is.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused or not, what counts is the limit in force afterwards.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
