//! A node from within: its processes, and what is left on it.

use super::{COMMAND_LIMIT, Cluster};
use crate::process::Finished;

/// A node of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Node<'c> {
    cluster: &'c Cluster,
    number: u8,
}

/// What pods leave behind if something leaks, as counted on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Network namespaces of pods.
    pub namespaces: usize,
    /// Outer namespaces that the helper keeps.
    pub outer_namespaces: usize,
    /// Network interfaces of the node.
    pub interfaces: usize,
    /// Routing rules of the node.
    pub rules: usize,
    /// Routes of the node.
    pub routes: usize,
}

impl<'c> Node<'c> {
    pub(super) fn new(cluster: &'c Cluster, number: u8) -> Self {
        Self { cluster, number }
    }

    /// Its name.
    pub fn name(self) -> String {
        format!("kn{}", self.number)
    }

    /// Its address.
    pub fn address(self) -> String {
        format!("10.99.0.{}", self.number)
    }

    /// Runs a program on it, to its end.
    ///
    /// # Panics
    /// If it takes longer than two minutes.
    #[track_caller]
    pub fn run<'a>(self, words: impl IntoIterator<Item = &'a str>) -> Finished {
        let number = self.number.to_string();
        let mut command = self.cluster.command(["node", &number]);
        command.args(words);
        Finished::of(command, COMMAND_LIMIT)
    }

    /// The processes whose command line matches a regular expression from its beginning.
    #[track_caller]
    pub fn processes(self, command: &str) -> Vec<u32> {
        let pattern = format!("^{command}");
        let found = self.run(["pgrep", "-f", &pattern]).raw_stdout();
        found.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills the one process with such a command line, without warning.
    ///
    /// # Panics
    /// If there isn't exactly one.
    #[track_caller]
    pub fn kill(self, command: &str) {
        let pid = self.process(command).to_string();
        self.run(["kill", "-9", &pid]).stdout();
    }

    /// The one process with such a command line.
    ///
    /// # Panics
    /// If there isn't exactly one.
    #[track_caller]
    pub fn process(self, command: &str) -> u32 {
        let found = self.processes(command);
        let [pid] = found[..] else {
            panic!(
                "expected one process `{command}` on {}, found {found:?}",
                self.name()
            )
        };
        pid
    }

    /// What is on it now.
    ///
    /// # Panics
    /// If it can't be counted.
    #[track_caller]
    pub fn state(self) -> NodeState {
        let lines = |script: &str| self.run(["sh", "-c", script]).stdout().lines().count();
        NodeState {
            namespaces: lines("ls /run/netns | grep ^cni- || true"),
            outer_namespaces: lines("ls /run/adit/netns 2>/dev/null || true"),
            interfaces: lines("ip -o link"),
            rules: lines("ip rule"),
            routes: lines("ip route show table all type unicast"),
        }
    }

    /// Resident memory of a process, in KiB.
    ///
    /// # Panics
    /// If it's gone.
    #[track_caller]
    pub fn resident(self, pid: u32) -> u64 {
        let status = self.run(["cat", &format!("/proc/{pid}/status")]).stdout();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("expected a line VmRSS in:\n{status}"))
    }
}
