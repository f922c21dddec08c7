//! cyclonus: NetworkPolicy cases that nobody here wrote, each probed between nine pods.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Cluster, Membership};
use crate::process::Running;

/// The namespaces that cyclonus makes its pods in.
const NAMESPACES: [&str; 3] = ["x", "y", "z"];

/// A run of cyclonus.
#[derive(Clone, Copy, Debug)]
pub struct Cyclonus<'a> {
    /// Cases with one of these tags; all if empty.
    pub include: &'a str,
    /// Whether its pods are in the mesh.
    pub membership: Membership,
    /// Whether to probe TCP on one port alone, and not two ports of each protocol: a quarter of the time.
    pub quick: bool,
    /// How long it may take.
    pub limit: Duration,
}

/// The cases of a run, each with its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuiteReport {
    /// Those in which every probe was as it should be.
    pub passed: Vec<String>,
    /// The others.
    pub failed: Vec<String>,
}

impl Cyclonus<'_> {
    /// Runs it. Its exit status says nothing, so its table is read.
    ///
    /// # Panics
    /// If it isn't built, doesn't end in time, or prints no table.
    #[track_caller]
    pub fn run(self, cluster: &Cluster) -> SuiteReport {
        let state = std::env::var("ADIT_CLUSTER_DIR").unwrap_or_else(|_| {
            let home = std::env::var("HOME").expect("a user has a home");
            format!("{home}/.cache/adit-cluster")
        });
        let program = format!("{state}/bin/cyclonus");
        assert!(
            std::path::Path::new(&program).is_file(),
            "{program} isn't built: `platform-tests/cluster/cluster.sh build np`"
        );
        let protocols = match (self.quick, kernel_has_sctp()) {
            (true, _) => "TCP",
            (false, true) => "TCP,UDP,SCTP",
            (false, false) => "TCP,UDP",
        };
        eprintln!("cyclonus: {protocols} (SCTP needs a kernel that has it)");
        let include = format!("--include={}", self.include);
        let protocols = format!("--server-protocol={protocols}");
        let mut words = vec![
            "api",
            &program,
            "generate",
            "--image-registry=localhost",
            "--destination-type=pod-ip",
            "--perturbation-wait-seconds=2",
            // Ten seconds unless told: with nine pods, a minute for each denied port.
            "--job-timeout-seconds=2",
            // A pod's packets to itself never leave its namespace, and no policy may cut them off (NetworkPolicy's page:
            // "Pods cannot block access to themselves").
            "--ignore-loopback",
            "--cleanup-namespaces",
            &protocols,
        ];
        if self.quick {
            words.push("--server-port=80");
        }
        if !self.include.is_empty() {
            words.push(&include);
        }
        let running = Running::spawn(cluster.command(words));
        let done = AtomicBool::new(false);
        let finished = thread::scope(|scope| {
            if self.membership == Membership::Mesh {
                scope.spawn(|| keep_in_mesh(cluster, &done));
            }
            let finished = running.try_finish(self.limit);
            done.store(true, Ordering::Relaxed);
            finished
        });
        let finished = finished.unwrap_or_else(|_| panic!("cyclonus still runs after {:?}", self.limit));
        let report = SuiteReport::of(&finished.raw_stdout());
        assert!(!report.is_empty(), "cyclonus printed no table: {finished}");
        report
    }
}

/// Without it the servers of its pods would not start, and cyclonus would wait for them for ever.
fn kernel_has_sctp() -> bool {
    std::fs::read_to_string("/proc/net/protocols").is_ok_and(|protocols| protocols.contains("SCTP"))
}

/// cyclonus makes and labels the namespaces itself, and takes off labels that it doesn't know.
fn keep_in_mesh(cluster: &Cluster, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        for namespace in NAMESPACES {
            // It may not be there yet, or may be being deleted.
            let _ = cluster.kubectl(["label", "namespace", namespace, "istio.io/dataplane-mode=ambient"]);
        }
        thread::sleep(Duration::from_millis(200));
    }
}

impl SuiteReport {
    /// Reads the summary table: rows that begin with a number and a colon, whose names go on in rows below.
    pub fn of(output: &str) -> Self {
        let table = output.split("SummaryTable:").nth(1).unwrap_or_default();
        let mut cases: BTreeMap<u32, (String, String)> = BTreeMap::new();
        let mut current = None;
        for line in table.lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, name, result, ..] = cells[..] else {
                continue;
            };
            let number = name.split_once(": ").and_then(|(number, _)| number.parse().ok());
            match (number, current) {
                (Some(number), _) => {
                    cases.insert(number, (name.to_owned(), result.to_owned()));
                    current = Some(number);
                }
                (None, Some(number)) if !name.is_empty() => {
                    if let Some((whole, _)) = cases.get_mut(&number) {
                        whole.push(' ');
                        whole.push_str(name);
                    }
                }
                _ => {}
            }
        }
        let mut report = Self::default();
        for (name, result) in cases.into_values() {
            match result.as_str() {
                "passed" => report.passed.push(name),
                _ => report.failed.push(name),
            }
        }
        report
    }

    fn is_empty(&self) -> bool {
        self.passed.is_empty() && self.failed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_together_and_results_kept_apart() {
        let table = "\
| not | a case |
SummaryTable:
+--------------------------------+--------+---------------+-------+
|              TEST              | RESULT |   STEP/TRY    | WRONG |
+--------------------------------+--------+---------------+-------+
| 1: egress: deny all            | failed |               |       |
+--------------------------------+--------+---------------+-------+
|                                |        | Step 1, try 1 |    13 |
+--------------------------------+--------+---------------+-------+
| 3: deny all from source, allow | passed |               |       |
| all to dest                    |        |               |       |
+--------------------------------+--------+---------------+-------+
";
        assert_eq!(
            SuiteReport::of(table),
            SuiteReport {
                passed: vec!["3: deny all from source, allow all to dest".to_owned()],
                failed: vec!["1: egress: deny all".to_owned()],
            }
        );
        assert!(SuiteReport::of("no table").is_empty());
    }
}
