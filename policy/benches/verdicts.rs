//! What the engine costs: verdicts a second, memory, and the time from a change to a published set.
//!
//! `cargo bench -p adit-policy` prints a table; `cargo bench -p adit-policy -- 1000` takes that many workloads and
//! policies instead of 100, 1,000 and 10,000. Rates are by the thread's own time on the processor, so that a busy
//! machine disturbs them less; changes are too short for that clock and are by the wall's. Nothing is asserted.

mod cluster;

use std::hint::black_box;
use std::time::{Duration, Instant};

use adit_policy::{Change, Compiler, Options, PolicySet, Trace};
use cluster::Cluster;

fn main() {
    let sizes: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let sizes = if sizes.is_empty() {
        vec![100, 1_000, 10_000]
    } else {
        sizes
    };
    println!("one verdict is one side of one flow; a change is timed from its object to the published set");
    for size in &sizes {
        // The same workloads throughout, so that only the number of policies differs.
        measure(
            &format!("{size} policies, 10000 workloads"),
            &Cluster::new(10_000, *size),
        );
    }
    // And the same number of policies for each of the same workloads, so that a verdict has as much to look at.
    for size in &sizes {
        measure(
            &format!("{size} policies, 10000 workloads, five policies for each"),
            &Cluster::even(10_000, *size),
        );
    }
    // A cluster that grows: the number of policies that select a workload stays, and it's on them that a verdict depends.
    for size in &sizes {
        measure(
            &format!("{size} policies, {size} workloads"),
            &Cluster::new(*size, *size),
        );
    }
    // Every policy of this one is looked at for every flow, so it isn't tried at the largest size.
    for size in sizes.into_iter().filter(|size| *size <= 1_000) {
        measure(
            &format!("{size} policies, all of them global and all selecting all"),
            &Cluster::global(10_000, size),
        );
    }
}

fn measure(title: &str, cluster: &Cluster) {
    println!("\n{title}");
    let objects = cluster.objects();
    let before = resident_kib();
    let started = on_processor();
    let mut compiler = Compiler::new(Options::default());
    compiler.sync(objects);
    let set = compiler.publish();
    let compiled = on_processor() - started;
    println!("  compile from nothing     {compiled:>12.1?}");
    println!(
        "  memory, objects and set  {:>9} KiB of {} KiB resident",
        resident_kib().saturating_sub(before),
        resident_kib()
    );
    let flows = cluster.flows(20_000);
    for (name, trace) in [("trace off", Trace::Off), ("trace on", Trace::On)] {
        let (rate, allowed) = rate(&set, &flows, trace);
        println!(
            "  verdicts/s, {name:<10}   {:>12.0}  ({allowed:.0} % of flows allowed)",
            rate
        );
    }
    let changes: [(&str, Vec<Change>); 4] = [
        ("one rule changed", cluster.changed_rules(200)),
        ("one policy added", cluster.added_policies(200)),
        ("one global policy added", cluster.added_global_policies(20)),
        ("one label changed", cluster.changed_labels(200)),
    ];
    for (name, changes) in changes {
        let (median, worst) = apply(&mut compiler, changes);
        println!("  {name:<24} {median:>12.1?} median, {worst:.1?} worst");
    }
}

fn rate(set: &PolicySet, flows: &[adit_policy::Flow], trace: Trace) -> (f64, f64) {
    let mut verdicts = 0u32;
    let mut allowed = 0u32;
    let started = on_processor();
    for batch in flows.chunks(64).cycle() {
        if on_processor() - started > Duration::from_millis(500) {
            break;
        }
        for flow in batch {
            let egress = black_box(set.egress(black_box(flow), trace));
            let ingress = black_box(set.ingress(black_box(flow), trace));
            allowed += u32::from(egress.is_allowed() && ingress.is_allowed());
            verdicts += 2;
        }
    }
    let share = 200.0 * f64::from(allowed) / f64::from(verdicts);
    (
        f64::from(verdicts) / (on_processor() - started).as_secs_f64(),
        share,
    )
}

fn apply(compiler: &mut Compiler, changes: Vec<Change>) -> (Duration, Duration) {
    let mut held = compiler.publish();
    let mut times: Vec<Duration> = changes
        .into_iter()
        .map(|change| {
            let started = Instant::now();
            compiler.apply(change);
            let next = compiler.publish();
            let elapsed = started.elapsed();
            // The old set is dropped here, as an agent does when the last flow lets go of it.
            held = next;
            elapsed
        })
        .collect();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// How long this thread has run on a processor (proc(5), `schedstat`).
fn on_processor() -> Duration {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with scheduler statistics");
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.expect("schedstat's first field is a number"))
}

/// The process's resident memory; 0 where the system doesn't say.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default()
}
