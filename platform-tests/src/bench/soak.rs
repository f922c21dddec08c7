//! Full load for a long time: does memory stay flat?

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::measure::start;
use super::path::BenchPath;
use super::progress::tell;
use super::stop::{Stop, Stopped};
use crate::load;
use crate::process::Running;
use crate::stats::Spread;

/// What a long run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Soak {
    /// On which path.
    pub path: String,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// The carriers' memory, by time.
    pub memory: Vec<MemorySample>,
    /// What was carried, by time.
    pub carried: Vec<Carried>,
}

/// Memory at one time, of all carriers together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemorySample {
    /// Seconds since the beginning.
    pub at: f64,
    /// Resident bytes, with the pages of programs and libraries.
    pub resident: u64,
    /// Those of them that are the carriers' own.
    pub anonymous: u64,
}

/// What one slice of the time carried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// Seconds from the beginning to the slice's end.
    pub at: f64,
    /// Gbit/s from the client, four streams together.
    pub forward: f64,
    /// Gbit/s to the client, four streams together.
    pub back: f64,
    /// Connections opened and closed beside them.
    pub connections: u64,
}

/// The load is made of clients that run so long: connections of all ages, and a figure for each slice.
const SLICE: Duration = Duration::from_secs(60);
/// Samples of memory in the whole run, and the least time between two.
const SAMPLES: u32 = 360;
const LEAST_PAUSE: Duration = Duration::from_millis(250);
/// How much memory may grow from the second quarter to the last: pages that are used for the first time late.
const FLAT_PERCENT: f64 = 5.0;

impl Soak {
    /// Loads a path with four streams each way and new connections beside them.
    ///
    /// # Errors
    /// `stop` asked for the end.
    ///
    /// # Panics
    /// If a load fails.
    #[track_caller]
    pub(super) fn run(path: &BenchPath<'_>, time: Duration, stop: &Stop) -> Result<Self, Stopped> {
        let begun = Instant::now();
        let (mut memory, mut carried) = (Vec::new(), Vec::new());
        let pause = (time / SAMPLES).max(LEAST_PAUSE);
        while begun.elapsed() < time {
            let slice = SLICE.min(time - begun.elapsed()).max(Duration::from_secs(1));
            let mut clients = Clients::start(path, slice);
            while !clients.have_ended() {
                stop.check()?;
                memory.push(sample(path, begun));
                thread::sleep(pause.min(slice));
            }
            carried.push(clients.finish(begun, slice));
            tell(format_args!(
                "{:.0} s of {:.0}: {:?}",
                begun.elapsed().as_secs_f64(),
                time.as_secs_f64(),
                carried.last()
            ));
        }
        memory.push(sample(path, begun));
        Ok(Self {
            path: path.name.clone(),
            seconds: begun.elapsed().as_secs_f64(),
            memory,
            carried,
        })
    }

    /// By how many of a hundred the resident memory's median grew from the second quarter of the time to the last.
    /// The first quarter is left out, in which everything is used for the first time.
    pub fn growth_percent(&self) -> Option<f64> {
        let quarter = |nth: f64| {
            let (from, to) = (nth * self.seconds / 4.0, (nth + 1.0) * self.seconds / 4.0);
            let inside = self
                .memory
                .iter()
                .filter(move |sample| (from..=to).contains(&sample.at));
            Spread::of(inside.map(|sample| sample.resident as f64))
        };
        Some((quarter(3.0)?.median / quarter(1.0)?.median - 1.0) * 100.0)
    }

    /// Whether that is no growth to speak of.
    pub fn is_flat(&self) -> bool {
        self.growth_percent()
            .is_some_and(|percent| percent <= FLAT_PERCENT)
    }
}

/// The clients of one slice.
struct Clients {
    forward: Running,
    back: Running,
    connect: Running,
}

impl Clients {
    #[track_caller]
    fn start(path: &BenchPath<'_>, time: Duration) -> Self {
        let seconds = time.as_secs_f64().to_string();
        let streams = ["stream", "--unchecked", "--parallel", "4", "--seconds", &seconds];
        Self {
            forward: start(path, &streams),
            back: start(path, &[&streams[..], &["--reverse"]].concat()),
            connect: start(path, &["connect", "--seconds", &seconds]),
        }
    }

    fn have_ended(&mut self) -> bool {
        self.forward.has_ended() && self.back.has_ended() && self.connect.has_ended()
    }

    #[track_caller]
    fn finish(self, begun: Instant, time: Duration) -> Carried {
        let limit = time * 2 + Duration::from_secs(60);
        let rate = |client: Running| {
            let found: load::Stream = client.finish(limit).json();
            found.bytes as f64 * 8.0 / found.seconds / 1e9
        };
        let (forward, back) = (rate(self.forward), rate(self.back));
        let connections: load::Connect = self.connect.finish(limit).json();
        assert_eq!(connections.failed, 0, "{connections:?}");
        Carried {
            at: begun.elapsed().as_secs_f64(),
            forward,
            back,
            connections: connections.count,
        }
    }
}

fn sample(path: &BenchPath<'_>, begun: Instant) -> MemorySample {
    let used = path.usage();
    MemorySample {
        at: begun.elapsed().as_secs_f64(),
        resident: used.resident,
        anonymous: used.anonymous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soak(resident: impl Fn(u64) -> u64) -> Soak {
        let sample = |second| MemorySample {
            at: second as f64,
            resident: resident(second),
            anonymous: 0,
        };
        Soak {
            path: "adit-two".to_owned(),
            seconds: 100.0,
            memory: (0..=100).map(sample).collect(),
            carried: Vec::new(),
        }
    }

    #[test]
    fn memory_that_is_used_once_early_is_flat_and_a_leak_is_not() {
        assert!(soak(|second| if second < 20 { 1_000 } else { 3_000 }).is_flat());
        let leak = soak(|second| 1_000 + 10 * second);
        assert!(!leak.is_flat());
        assert!(
            leak.growth_percent().unwrap() > 30.0,
            "{:?}",
            leak.growth_percent()
        );
    }

    #[test]
    fn a_run_without_samples_says_nothing() {
        let mut nothing = soak(|_| 1);
        nothing.memory.clear();
        assert_eq!(nothing.growth_percent(), None);
        assert!(!nothing.is_flat());
    }
}
