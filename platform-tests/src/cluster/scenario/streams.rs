//! Long streams whose every byte counts.

use std::time::Duration;

use crate::cluster::Namespace;
use crate::cluster::objects::{LOAD, LOAD_PORT, load, pod};
use crate::load::Stream;
use crate::process::Running;

/// Mbit/s of each stream.
const RATE: &str = "100";

/// The two namespaces of a stream's ends; they may be the same.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'n, 'c> {
    /// Where the client's pod is.
    pub client: &'n Namespace<'c>,
    /// Where the server's is.
    pub server: &'n Namespace<'c>,
}

/// Streams of 100 Mbit/s from a pod on node 1 to one on node 2, and back.
#[derive(Debug)]
pub struct Streams {
    there: Running,
    back: Running,
    seconds: u64,
}

impl Streams {
    /// The pods, started; they are `client` and `server`.
    ///
    /// # Panics
    /// If they don't start.
    #[track_caller]
    pub fn pods(ends: Ends<'_, '_>) {
        ends.server.up([pod("server", 2, [load()])]);
        ends.client.up([pod("client", 1, [load()])]);
    }

    /// Starts streams that last for so many seconds between pods that are there.
    ///
    /// # Panics
    /// If a pod isn't there.
    #[track_caller]
    pub fn start(ends: Ends<'_, '_>, seconds: u64) -> Self {
        let target = format!("{}:{LOAD_PORT}", ends.server.address("server"));
        let time = seconds.to_string();
        let stream = [
            "/adit-load",
            "--limit",
            "300",
            "stream",
            &target,
            "--seconds",
            &time,
            "--rate",
            RATE,
        ];
        let there = ends.client.start("client", LOAD, stream);
        let back = ends
            .client
            .start("client", LOAD, stream.into_iter().chain(["--reverse"]));
        let started = Self { there, back, seconds };
        // Both are under way when this returns.
        std::thread::sleep(Duration::from_secs(1));
        started
    }

    /// Waits for both to end.
    ///
    /// # Panics
    /// If a byte was lost, doubled or moved, or a stream ended before its time.
    #[track_caller]
    pub fn whole(self) {
        for (way, running) in [("there", self.there), ("back", self.back)] {
            let done = running.finish(Duration::from_secs(self.seconds + 60));
            let stream: Stream = done.json();
            assert!(stream.bytes > 0, "{way}: {done}");
            assert_eq!(stream.sent_hashes, stream.received_hashes, "{way}: {done}");
            eprintln!(
                "{way}: {} bytes in {:.1} s, all the same",
                stream.bytes, stream.seconds
            );
        }
    }
}
