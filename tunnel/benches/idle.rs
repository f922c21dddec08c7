//! Memory of idle streams: 10,000 between two workloads, both ends in this process, as an agent with both pods has them.
//!
//! `cargo bench -p adit-tunnel --bench idle`. What is counted is the growth of the process' resident memory, so
//! that the allocator's own cost is in it.

#[path = "../tests/support/mod.rs"]
mod support;

use support::Rig;

const STREAMS: usize = 10_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut rig = Rig::new();
        // The first of everything: code pages, tables, the first tunnel.
        let first = rig.pair().await;
        let before = resident();
        let mut streams = Vec::with_capacity(STREAMS);
        for _ in 0..STREAMS {
            streams.push(rig.pair().await);
        }
        let grown = resident() - before;
        let tunnels = rig.pool.stats().tunnels;
        println!(
            "{STREAMS} idle streams in {tunnels} tunnels: {} bytes a stream, both ends",
            grown / STREAMS
        );
        drop((first, streams));
    });
}

/// Bytes of resident memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
