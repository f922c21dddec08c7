//! A capture of what nodes say to each other.

use std::path::PathBuf;
use std::time::Duration;

use super::Cluster;
use super::pcap::{Packet, packets};
use crate::process::Running;

const LIMIT: Duration = Duration::from_secs(20);

/// tcpdump on the bridge between the nodes.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Running,
    file: PathBuf,
}

impl Capture {
    /// Begins to capture; `filter` is tcpdump's.
    ///
    /// # Panics
    /// If it can't.
    #[track_caller]
    pub fn start(cluster: &Cluster, filter: &str) -> Self {
        crate::program("tcpdump", "tcpdump");
        let file = std::env::temp_dir().join(format!("adit-cluster-{}.pcap", std::process::id()));
        let path = file.to_str().expect("temporary folders have simple names");
        let mut tcpdump = Running::spawn(cluster.command([
            "api",
            "tcpdump",
            "-i",
            "br0",
            "-s",
            "0",
            "-B",
            "65536",
            "--immediate-mode",
            "-U",
            "-Z",
            "root",
            "-w",
            path,
            filter,
        ]));
        tcpdump.wait_for_stderr("listening on", LIMIT);
        Self { tcpdump, file }
    }

    /// Ends it; the IP packets that passed the filter.
    ///
    /// # Panics
    /// If the kernel dropped some, or the file can't be read.
    #[track_caller]
    pub fn stop(self) -> Vec<Packet> {
        // Immediate mode hands packets on at once, but tcpdump has to get its turn to write them.
        std::thread::sleep(Duration::from_millis(500));
        self.tcpdump.signal(rustix::process::Signal::INT);
        let done = self.tcpdump.finish(LIMIT);
        assert!(
            done.stderr().contains("\n0 packets dropped by kernel"),
            "the capture isn't whole: {done}"
        );
        let bytes =
            std::fs::read(&self.file).unwrap_or_else(|error| panic!("{}: {error}", self.file.display()));
        let _ = std::fs::remove_file(&self.file);
        packets(&bytes).unwrap_or_else(|error| panic!("{}: {error}", self.file.display()))
    }
}
