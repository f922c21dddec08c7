//! The benchmark as a program: what it has started goes with it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use adit_platform_tests::{Running, pids_mentioning, wait_until};
use rustix::process::Signal;

const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(60);

/// Someone who has seen enough presses Ctrl-C; a job that is cancelled gets SIGTERM.
#[test]
fn a_signal_ends_it_and_all_that_it_has_started() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit-bench"));
        // Far more rounds than anybody waits for.
        command.args(["--only", "adit-two", "--measure", "connect", "--no-laptop-tools"]);
        command.args(["--seconds", "0.2", "--rounds", "10000"]);
        let mut bench = Running::spawn(command);
        bench.wait_for_stderr("round 2 of 10000", START_LIMIT);
        let own = std::env::temp_dir().join(format!("adit-{}-", bench.pid()));
        let begun = pids_mentioning(&own);
        assert!(begun.iter().any(|(_, line)| line.contains(" up ")), "{begun:?}");

        bench.signal(signal);
        let done = bench.finish(END_LIMIT);
        assert_eq!(done.code(), 1, "{done}");
        let said = done.stderr();
        let last = said.lines().next_back().unwrap_or_default();
        assert!(last.starts_with("adit-bench: ended by a signal"), "{done}");
        assert_eq!(done.raw_stdout(), "", "no report is made of half a run");
        wait_until(
            "what it had started to be gone",
            END_LIMIT,
            || pids_mentioning(&own).is_empty().then_some(()),
            || format!("{:?}", pids_mentioning(&own)),
        );
        assert_eq!(folders(&own), Vec::<PathBuf>::new());
    }
}

/// The sandboxes whose path begins so.
fn folders(beginning: &std::path::Path) -> Vec<PathBuf> {
    let beginning = beginning.as_os_str().as_encoded_bytes();
    let all = std::fs::read_dir(std::env::temp_dir()).expect("the folder is there");
    let paths = all.map(|entry| entry.expect("an entry can be read").path());
    paths
        .filter(|path| path.as_os_str().as_encoded_bytes().starts_with(beginning))
        .collect()
}
