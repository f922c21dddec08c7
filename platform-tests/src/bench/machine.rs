//! Where and when figures were taken.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::Plan;

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// When and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The day on which it began, UTC: `2026-01-31`.
    pub date: String,
    /// The commit of the work tree, with `-dirty` where that has changes; empty outside of one.
    pub commit: String,
    /// How many rounds the figures are of.
    pub rounds: usize,
    /// Seconds of each stream and of each burst of connections.
    pub seconds: f64,
    /// How many requests.
    pub requests: u64,
    /// How many idle connections memory was measured with.
    pub idle: usize,
    /// Of a hundred packets that cross the cable, so many are lost, each way.
    pub loss_percent: f64,
}

/// Above this other programs take part in what is measured.
const QUIET: f64 = 0.5;

impl Machine {
    pub(super) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().and_then(|text| text.parse().ok());
        let setting = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
            text.trim().to_owned()
        };
        Self {
            processor: name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: setting("kernel/osrelease"),
            congestion_control: setting("net/ipv4/tcp_congestion_control"),
            load_average: load.unwrap_or_default(),
        }
    }

    /// Whether nothing else ran to speak of when the run began.
    pub fn was_quiet(&self) -> bool {
        self.load_average <= QUIET
    }
}

impl Run {
    pub(super) fn of(plan: &Plan) -> Self {
        let folder = env!("CARGO_MANIFEST_DIR");
        Self {
            date: said("date", &["-u", "+%F"]),
            commit: said(
                "git",
                &["-C", folder, "describe", "--always", "--dirty", "--exclude=*"],
            ),
            rounds: plan.rounds,
            seconds: plan.seconds,
            requests: plan.requests,
            idle: plan.idle,
            loss_percent: plan.loss_percent,
        }
    }
}

/// What a program prints; nothing if it fails.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or_else(String::new, |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}
