//! A port scan, which must leave nothing and cost others nothing.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::cluster::Namespace;
use crate::cluster::objects::{LOAD, LOAD_PORT, load, pod};
use crate::load::{Rr, Scan};
use crate::process::Running;

const LIMIT: Duration = Duration::from_secs(120);

/// Looks at ports of a pod on node 2 from a pod on node 1.
///
/// # Panics
/// If the scan doesn't end in two minutes.
#[track_caller]
pub fn ports(namespace: &Namespace<'_>, ports: RangeInclusive<u16>) -> Scan {
    namespace.up([pod("server", 2, [load()]), pod("client", 1, [load()])]);
    let (first, last) = (ports.start().to_string(), ports.end().to_string());
    start(namespace, &["--first", &first, "--last", &last])
        .finish(LIMIT)
        .json()
}

/// Requests and responses on an open port: first alone, then while a thousand closed ports a second are tried.
///
/// The pods are those of [`ports`].
///
/// # Panics
/// If a request fails.
#[track_caller]
pub fn scan_under_load(namespace: &Namespace<'_>) -> [Rr; 2] {
    let target = format!("{}:{LOAD_PORT}", namespace.address("server"));
    let rr = || -> Rr {
        namespace
            .exec(
                "client",
                LOAD,
                ["/adit-load", "--limit", "100", "rr", &target, "--count", "20000"],
            )
            .json()
    };
    let alone = rr();
    let scanner = start(
        namespace,
        &["--first", "20000", "--last", "30000", "--rate", "1000"],
    );
    let under_load = rr();
    let found: Scan = scanner.finish(LIMIT).json();
    assert_eq!(
        (found.open.len(), found.refused),
        (0, 10_001),
        "closed ports of the server: {found:?}"
    );
    [alone, under_load]
}

#[track_caller]
fn start(namespace: &Namespace<'_>, options: &[&str]) -> Running {
    let server = namespace.address("server").to_string();
    let words = ["/adit-load", "--limit", "110", "scan", &server];
    namespace.start("client", LOAD, words.into_iter().chain(options.iter().copied()))
}
