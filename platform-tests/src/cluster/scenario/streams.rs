//! Long streams whose every byte counts.

use std::time::Duration;

use crate::cluster::Namespace;
use crate::cluster::objects::{LOAD_PORT, load, load_once, pod};
use crate::load::Stream;

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

impl<'n, 'c> Ends<'n, 'c> {
    /// Both in one.
    pub fn within(namespace: &'n Namespace<'c>) -> Self {
        Self {
            client: namespace,
            server: namespace,
        }
    }
}

/// Streams of 100 Mbit/s from pods on node 1 to one on node 2, `there`, and the other way, `back`.
///
/// Their clients are pods of their own, so that they live on when the API server, and with it `kubectl exec`, is away.
#[derive(Debug)]
pub struct Streams<'n, 'c> {
    ends: Ends<'n, 'c>,
    seconds: u64,
}

impl<'n, 'c> Streams<'n, 'c> {
    /// The pods that streams begin in.
    pub const CLIENTS: [&'static str; 2] = ["there", "back"];
    /// The pod that they end in.
    pub const SERVER: &'static str = "sink";

    /// Starts streams that last for so many seconds, and their server if it isn't there yet.
    ///
    /// # Panics
    /// If they don't start.
    #[track_caller]
    pub fn start(ends: Ends<'n, 'c>, seconds: u64) -> Self {
        ends.server.up([pod(Self::SERVER, 2, [load()])]);
        let target = format!("{}:{LOAD_PORT}", ends.server.address(Self::SERVER));
        let time = seconds.to_string();
        let stream = [
            "--limit",
            "300",
            "stream",
            &target,
            "--seconds",
            &time,
            "--rate",
            RATE,
        ];
        ends.client.up(Self::CLIENTS.map(|way| {
            let reverse: &[&str] = if way == "back" { &["--reverse"] } else { &[] };
            load_once(way, 1, &[&stream[..], reverse].concat())
        }));
        Self { ends, seconds }
    }

    /// Waits for both to end.
    ///
    /// # Panics
    /// If a byte was lost, doubled or moved, or a stream ended before its time.
    #[track_caller]
    pub fn whole(self) {
        for way in Self::CLIENTS {
            let limit = Duration::from_secs(self.seconds + 60);
            let stream: Stream = self.ends.client.finish(way, limit).json();
            assert!(stream.bytes > 0, "{way}: {stream:?}");
            assert_eq!(stream.sent_hashes, stream.received_hashes, "{way}: {stream:?}");
            eprintln!(
                "{way}: {} bytes in {:.1} s, all the same",
                stream.bytes, stream.seconds
            );
            self.ends.client.kubectl(["delete", "pod", way]).stdout();
        }
    }
}
