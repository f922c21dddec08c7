//! Output that nobody reads or that cannot be written: it costs lines, which are counted, and never a flow.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use adit_flow::FlowRecord;
use adit_platform_tests::load::{Connect, Stream};
use adit_platform_tests::{Mesh, MeshSpec, Running, Sandbox, UpOptions, Workload, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// What the chatty workload prints: far more than a pipe and the queue before it hold.
const LINES: u64 = 100_000;
/// More flows than the agent keeps records of.
const FLOWS: u64 = 6_000;
const RECORDS_KEPT: u64 = 4_096;

/// A mesh with a workload that prints [`LINES`] lines at once, with `output` as standard output.
fn up(sandbox: &Sandbox, output: impl Into<OwnedFd>) -> Mesh<'_> {
    let script = format!("yes a line that nobody reads | head -n {LINES}; exec sleep infinity");
    let spec = MeshSpec::new("output")
        .workload(Workload::load_server(sandbox, "server", 7000))
        .workload(Workload::new("chatty", ["sh", "-c", &script]));
    let options = UpOptions {
        output: Some(Arc::new(output.into())),
        ..UpOptions::default()
    };
    let mesh = sandbox.up_with(&spec, options);
    mesh.wait_ready();
    mesh
}

/// Waits until most of the chatty workload's lines are lost, which `adit ps` says.
fn wait_for_losses(mesh: &Mesh<'_>) {
    wait_until(
        "most lines to be dropped",
        LIMIT,
        || (mesh.ps().lines_dropped > LINES / 2).then_some(()),
        || format!("{:?}", mesh.ps()),
    );
}

/// Bytes each way, and new connections.
fn carries_data(mesh: &Mesh<'_>, load: &str) {
    for direction in ["--unchecked", "--reverse"] {
        let argv = [load, "stream", "server:7000", "--bytes", "20000000", direction];
        let found: Stream = mesh.run_as("test/client", argv).json();
        assert_eq!(
            (found.bytes, &found.sent_hashes),
            (20_000_000, &found.received_hashes)
        );
    }
    let argv = [load, "connect", "server:7000", "--count", "200"];
    let found: Connect = mesh.run_as("test/client", argv).json();
    assert_eq!((found.count, found.failed), (200, 0), "{found:?}");
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_and_no_flow() {
    let sandbox = Sandbox::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut mesh = up(&sandbox, writer);
    wait_for_losses(&mesh);
    carries_data(&mesh, &sandbox.load());
    // Somebody reads after all: the losses are told in place, and none is silent.
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    mesh.down();
    let text = reading.join().unwrap().unwrap();
    let shown = text
        .lines()
        .filter(|line| line.contains("a line that nobody reads"))
        .count() as u64;
    let told: u64 = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("adit: ")?
                .split_once(" lines were dropped here")
        })
        .map(|(count, _)| count.parse::<u64>().unwrap())
        .sum();
    assert!(
        shown > 0 && told > 0 && shown + told >= LINES,
        "shown {shown}, told {told}"
    );
}

#[test]
fn a_full_disk_costs_lines_and_no_flow() {
    let sandbox = Sandbox::new();
    // Every write to it fails with ENOSPC.
    let mut mesh = up(&sandbox, File::options().write(true).open("/dev/full").unwrap());
    wait_for_losses(&mesh);
    carries_data(&mesh, &sandbox.load());
    mesh.down();
}

#[test]
fn a_follower_of_flows_that_does_not_read_misses_records_and_is_told() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(MeshSpec::new("output").workload(Workload::load_server(&sandbox, "server", 7000)));
    mesh.wait_ready();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut follow = mesh.command();
    follow.args(["flows", "--follow", "--json"]).stdout(writer);
    let (mut said, errors) = std::io::pipe().unwrap();
    follow.stderr(errors);
    let mut follower = follow.spawn().unwrap();
    drop(follow);
    let count = FLOWS.to_string();
    let argv = [
        &sandbox.load(),
        "connect",
        "server:7000",
        "--parallel",
        "4",
        "--count",
        &count,
    ];
    let found: Connect = mesh.run_as("test/client", argv).json();
    assert_eq!((found.count, found.failed), (FLOWS, 0), "{found:?}");
    // Two records a flow. The pipes on the way hold some hundreds of records; the rest beyond those kept is missed.
    let read = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&read);
    std::thread::spawn(move || {
        for _line in BufReader::new(reader).lines().map_while(Result::ok) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let missed = || mesh.counters()["flow_records_missed_total"];
    wait_until(
        "each record to be read or counted as missed",
        LIMIT,
        || (read.load(Ordering::Relaxed) + missed() == 2 * FLOWS).then_some(()),
        || format!("{read:?} read, {} missed", missed()),
    );
    let missed = missed();
    assert!((1..2 * FLOWS - RECORDS_KEPT).contains(&missed), "{missed}");
    drop(mesh);
    follower.wait().unwrap();
    let mut told = String::new();
    said.read_to_string(&mut told).unwrap();
    assert!(
        told.contains(&format!("{missed} flows were missed here")),
        "{told}"
    );
}

#[test]
fn a_follower_of_flows_is_told_of_the_last_ones_before_the_agent_ends() {
    /// Flows that live until everything is stopped: their records are more than a socket holds.
    const HELD: usize = 500;
    let sandbox = Sandbox::new();
    let mut mesh =
        sandbox.up(MeshSpec::new("output").workload(Workload::load_server(&sandbox, "server", 7000)));
    mesh.wait_ready();
    let mut follow = mesh.command();
    follow.args(["flows", "--follow", "--json"]);
    let follower = Running::spawn(follow);
    let (load, count) = (sandbox.load(), HELD.to_string());
    let idle = [&load, "idle", "server:7000", "--count", &count, "--hold", "100"];
    let client = mesh.spawn_as("test/client", idle);
    wait_until(
        "the flows to be there, at both of their pods",
        LIMIT,
        || (mesh.live_flows() >= 2 * HELD as u64).then_some(()),
        || format!("{}\n{}", mesh.live_flows(), mesh.logs()),
    );
    mesh.down();
    // It ends with the mesh, and not well.
    client.finish(LIMIT);
    let followed = follower.finish(LIMIT);
    let of_them = |line: &&str| {
        let record: FlowRecord =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        record.destination.addr.port() == 7000
    };
    assert_eq!(
        (followed.code(), followed.stderr().as_str()),
        (0, ""),
        "{followed}"
    );
    assert_eq!(followed.raw_stdout().lines().filter(of_them).count(), 2 * HELD);
}
