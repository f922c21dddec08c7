//! A mesh that is run for a test: `adit up --once`, as a CI system does it. What it exits with, and what it leaves behind
//! for people to read. See docs/ci.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_flow::{FlowRecord, VerdictKind};
use adit_platform_tests::{Finished, MeshSpec, Running, Sandbox, Workload};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus};
use rustix::process::Signal;
use serde_json::Value;

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(90);

/// The server hears nobody.
const DENY_ALL: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody-at-all, namespace: test}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
";

/// A server that takes its time to listen, and a test that is this shell script. It doesn't try twice.
fn spec(sandbox: &Sandbox, script: &str) -> MeshSpec {
    let serve = format!("sleep 1; exec {} serve --port {PORT}", sandbox.load());
    MeshSpec::new("e2e")
        .workload(Workload::server("server", PORT, ["sh", "-c", &serve]))
        .workload(Workload::new("e2e", ["sh", "-c", script]))
        .test("e2e")
}

/// What a run left, and how it ended.
struct Kept {
    done: Finished,
    folder: PathBuf,
}

impl Kept {
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}: {}", self.done))
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name))
            .unwrap_or_else(|error| panic!("{name}: {error}: {}", self.done))
    }

    /// Every record, each a whole line.
    fn flows(&self) -> Vec<FlowRecord> {
        let text = self.text("flows.jsonl");
        let records = text.lines().map(serde_json::from_str);
        records
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("flows.jsonl: {error}:\n{text}"))
    }

    /// The only case of the report.
    fn case(&self) -> TestCase {
        let text = self.text("junit.xml");
        let report = Report::deserialize_from_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
        assert_eq!((report.tests, report.test_suites.len()), (1, 1), "{text}");
        report.test_suites[0].test_cases[0].clone()
    }

    /// Why the case didn't pass: which kind, the kind's name, and the text.
    fn failure(&self) -> (NonSuccessKind, String, String) {
        match self.case().status {
            TestCaseStatus::NonSuccess {
                kind,
                ty,
                description,
                ..
            } => (
                kind,
                ty.map(|ty| ty.into_string()).unwrap_or_default(),
                description.map(|text| text.into_string()).unwrap_or_default(),
            ),
            other => panic!("{other:?}: {}", self.done),
        }
    }
}

fn start(sandbox: &Sandbox, spec: &MeshSpec, arguments: &[&str]) -> (Running, PathBuf) {
    let file = sandbox.file("e2e.yaml", spec.text());
    let folder = sandbox.dir().join("home/out");
    let mut command = sandbox.command(sandbox.adit());
    command
        .args(["up", "-f"])
        .arg(file)
        .args(["--once", "--artifacts"]);
    command.arg(&folder).args(["--grace", "2s"]).args(arguments);
    (Running::spawn(command), folder)
}

fn run(sandbox: &Sandbox, spec: &MeshSpec, arguments: &[&str]) -> Kept {
    let (running, folder) = start(sandbox, spec, arguments);
    let done = running.finish(LIMIT);
    Kept { done, folder }
}

#[test]
fn a_test_begins_when_all_is_ready_and_what_happened_is_kept() {
    let sandbox = Sandbox::new();
    let spec = spec(&sandbox, "echo hello; nc -z -w 5 server 7000");
    let kept = run(&sandbox, &spec, &["--timeout", "60s"]);
    assert_eq!(kept.done.code(), 0, "{}", kept.done);
    let case = kept.case();
    assert_eq!(case.name.as_str(), "test/e2e");
    assert!(matches!(case.status, TestCaseStatus::Success { .. }), "{case:?}");
    assert_eq!(kept.text("logs/test/e2e.log"), "hello\n");
    assert!(
        kept.text("logs/adit.log")
            .contains("the test test/e2e ended with status 0"),
        "{}",
        kept.text("logs/adit.log")
    );
    kept.text("logs/test/server.log");
    let from = |record: &FlowRecord| record.source.workload.as_ref().map(ToString::to_string);
    let both_sides = kept
        .flows()
        .into_iter()
        .filter(|record| from(record).as_deref() == Some("test/e2e"));
    assert!(both_sides.count() >= 2, "{}", kept.text("flows.jsonl"));
    let dump = kept.json("dump.json");
    assert!(
        dump["counters"].as_object().is_some_and(|all| !all.is_empty()),
        "{dump}"
    );
    let running = |name: &str| {
        let rows = dump["workloads"].as_array().cloned().unwrap_or_default();
        rows.iter().any(|row| row["name"] == name && row["ready"] == true)
    };
    assert!(
        running("test/server"),
        "the state is that at the test's end: {dump}"
    );
    let check = kept.json("check.json");
    let codes: Vec<_> = check
        .as_array()
        .into_iter()
        .flatten()
        .map(|finding| &finding["code"])
        .collect();
    assert!(codes.iter().any(|code| *code == "ADIT-N101"), "{check}");
    // The same folder takes the next run.
    let again = run(&sandbox, &self::spec(&sandbox, "echo again"), &[]);
    assert_eq!(again.done.code(), 0, "{}", again.done);
    assert_eq!(again.text("logs/test/e2e.log"), "again\n");
}

#[test]
fn a_test_that_fails_gives_its_status_and_its_last_lines() {
    let sandbox = Sandbox::new();
    let spec = spec(&sandbox, "seq 100; echo 'expected <1>, got 2' >&2; exit 3");
    let kept = run(&sandbox, &spec, &[]);
    assert_eq!(kept.done.code(), 3, "{}", kept.done);
    let (kind, ty, text) = kept.failure();
    assert_eq!(
        (kind, ty.as_str()),
        (NonSuccessKind::Failure, "exit-status"),
        "{text}"
    );
    assert!(
        text.contains("ended with status 3") && text.contains("expected <1>, got 2"),
        "{text}"
    );
    assert!(
        text.contains("\n  99\n") && !text.contains("\n  1\n"),
        "the last lines alone: {text}"
    );
    assert!(!text.contains("denied"), "nothing was: {text}");
}

#[test]
fn what_policy_denied_to_the_test_is_named_in_the_report() {
    let sandbox = Sandbox::new();
    let policies = sandbox.folder("policies");
    sandbox.file("policies/deny.yaml", DENY_ALL);
    let spec = spec(&sandbox, "nc -z -w 2 server 7000").policies(policies);
    let kept = run(&sandbox, &spec, &[]);
    assert_eq!(kept.done.code(), 1, "{}", kept.done);
    let (_, _, text) = kept.failure();
    let line = text
        .lines()
        .find(|line| line.contains("test/e2e -> test/server:7000 tcp"));
    assert!(
        line.is_some_and(|line| line.contains("nobody-at-all")),
        "{text}\n{}",
        kept.text("flows.jsonl")
    );
    let denied = kept
        .flows()
        .into_iter()
        .find(|record| record.verdict == VerdictKind::Deny);
    let denied = denied.unwrap_or_else(|| panic!("{}", kept.text("flows.jsonl")));
    assert!(denied.policy.decided_by.contains("nobody-at-all"), "{denied}");
}

#[test]
fn a_test_that_hangs_is_stopped_when_its_time_is_over() {
    let sandbox = Sandbox::new();
    let kept = run(
        &sandbox,
        &spec(&sandbox, "echo begun; exec sleep 600"),
        &["--timeout", "8s"],
    );
    assert_eq!(kept.done.code(), 124, "{}", kept.done);
    let (kind, ty, text) = kept.failure();
    assert_eq!(
        (kind, ty.as_str()),
        (NonSuccessKind::Failure, "timeout"),
        "{text}"
    );
    assert!(
        text.contains("didn't end within 8 s") && text.contains("\n  begun"),
        "{text}"
    );
    assert!(kept.done.raw_stdout().contains("ADIT-A084"), "{}", kept.done);
}

#[test]
fn what_a_test_waited_for_in_vain_is_named() {
    let sandbox = Sandbox::new();
    let spec = MeshSpec::new("e2e")
        .workload(Workload::server("deaf", PORT, ["sleep", "600"]))
        .workload(Workload::new("e2e", ["echo", "never"]))
        .test("e2e");
    let kept = run(&sandbox, &spec, &["--timeout", "4s"]);
    assert_eq!(kept.done.code(), 124, "{}", kept.done);
    let (_, _, text) = kept.failure();
    assert!(
        text.contains("didn't begin within 4 s: not ready is test/deaf (Running)"),
        "{text}"
    );
    assert_eq!(kept.text("logs/test/e2e.log"), "", "it was started all the same");
}

#[test]
fn a_workload_that_dies_first_ends_the_run_and_is_named() {
    let sandbox = Sandbox::new();
    let broken = Workload::server("broken", PORT, ["sh", "-c", "echo no disk; exit 4"]);
    let spec = MeshSpec::new("e2e")
        .workload(broken.set("restartPolicy", "Never".into()))
        .workload(Workload::new("done", ["true"]))
        .workload(Workload::new("e2e", ["echo", "never"]))
        .test("e2e");
    let kept = run(&sandbox, &spec, &[]);
    assert_eq!(kept.done.code(), 125, "{}", kept.done);
    let (kind, _, text) = kept.failure();
    assert_eq!(kind, NonSuccessKind::Error);
    assert!(
        text.contains("ADIT-A081") && text.contains("test/broken: Failed, last ended with status 4"),
        "{text}"
    );
    assert_eq!(kept.text("logs/test/broken.log"), "no disk\n");
    assert!(kept.done.stderr().contains("ADIT-A081"), "{}", kept.done);
}

#[test]
fn a_workload_that_keeps_failing_beside_a_test_is_in_its_report() {
    let sandbox = Sandbox::new();
    // Ready for once, so that the test begins.
    let flag = sandbox.dir().join("home/seen").display().to_string();
    let flaky = format!("[ ! -e {flag} ] || exit 5; touch {flag}; sleep 3; exit 5");
    let spec = MeshSpec::new("e2e")
        .workload(Workload::new("flaky", ["sh", "-c", &flaky]).set("restartPolicy", "Always".into()))
        .workload(Workload::new("e2e", ["sh", "-c", "sleep 6; exit 9"]))
        .test("e2e");
    let kept = run(&sandbox, &spec, &[]);
    assert_eq!(kept.done.code(), 9, "{}", kept.done);
    let (_, _, text) = kept.failure();
    assert!(
        text.contains("other workloads:") && text.contains("test/flaky: ") && text.contains("status 5"),
        "{text}"
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_before_anything_starts() {
    let sandbox = Sandbox::new();
    let spec = spec(&sandbox, "touch home/started");
    sandbox.file("home/out", "a file is in the way");
    let kept = run(&sandbox, &spec, &[]);
    assert_eq!(kept.done.code(), 125, "{}", kept.done);
    let said = kept.done.stderr();
    assert!(
        said.contains("[ADIT-A080] --artifacts:") && said.contains(&*kept.folder.to_string_lossy()),
        "{said}"
    );
    assert_eq!(kept.done.raw_stdout(), "", "something was started");
    assert!(!sandbox.dir().join("home/started").exists());
}

#[test]
fn ctrl_c_stops_all_and_the_report_says_so() {
    let sandbox = Sandbox::new();
    let (mut running, folder) = start(&sandbox, &spec(&sandbox, "echo begun; exec sleep 600"), &[]);
    running.wait_for("begun", LIMIT);
    running.signal(Signal::INT);
    let done = running.finish(LIMIT);
    let kept = Kept { done, folder };
    assert_eq!(kept.done.code(), 130, "{}", kept.done);
    let (kind, ty, text) = kept.failure();
    assert_eq!(
        (kind, ty.as_str()),
        (NonSuccessKind::Error, "interrupted"),
        "{text}"
    );
    assert!(text.contains("signal 2") && text.contains("\n  begun"), "{text}");
}

#[test]
fn adit_down_under_a_test_is_no_success() {
    let sandbox = Sandbox::new();
    let (mut running, folder) = start(&sandbox, &spec(&sandbox, "echo begun; exec sleep 600"), &[]);
    running.wait_for("begun", LIMIT);
    let mut down = sandbox.command(sandbox.adit());
    down.arg("down");
    Finished::of(down, LIMIT).stdout();
    let done = running.finish(LIMIT);
    let kept = Kept { done, folder };
    assert_eq!(kept.done.code(), 125, "{}", kept.done);
    assert!(kept.failure().2.contains("ADIT-A082"), "{}", kept.done);
}

#[test]
fn a_mesh_without_a_test_says_how_to_name_one() {
    let sandbox = Sandbox::new();
    let spec = MeshSpec::new("e2e").workload(Workload::new("client", ["true"]));
    let kept = run(&sandbox, &spec, &[]);
    assert_eq!(kept.done.code(), 125, "{}", kept.done);
    let said = kept.done.stderr();
    assert!(
        said.contains("[ADIT-A083]") && said.contains("test/client"),
        "{said}"
    );
    let kept = run(&sandbox, &spec.test("cleint"), &[]);
    assert_eq!(kept.done.code(), 125, "{}", kept.done);
    let said = kept.done.stderr();
    assert!(
        said.contains("ADIT-M031") && said.contains("did you mean `test/client`"),
        "{said}"
    );
}

/// The files that docs/ci.md and the examples for CI systems go by.
#[test]
fn the_example_runs() {
    adit_platform_tests::program("curl", "curl");
    adit_platform_tests::program("python3", "python3");
    let sandbox = Sandbox::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ci");
    sandbox.folder("home/ci");
    sandbox.folder("home/ci/policies");
    for name in ["e2e.yaml", "e2e.sh", "cases.yaml", "policies/shop.yaml"] {
        sandbox.file(&format!("home/ci/{name}"), fs::read(example.join(name)).unwrap());
    }
    let home = sandbox.dir().join("home/ci");
    let adit = |arguments: &[&str]| {
        let mut command = sandbox.command(sandbox.adit());
        command.args(arguments).current_dir(&home);
        Finished::of(command, LIMIT)
    };
    for arguments in [
        &["policy", "lint", "policies"][..],
        &["policy", "test", "cases.yaml", "--junit", "policy.xml"],
        &["check", "--junit", "check.xml"],
        &[
            "up",
            "-f",
            "e2e.yaml",
            "--once",
            "--timeout",
            "1m",
            "--artifacts",
            "e2e",
        ],
    ] {
        let done = adit(arguments);
        assert_eq!(done.code(), 0, "{done}");
    }
    for report in ["policy.xml", "check.xml", "e2e/junit.xml"] {
        let text = fs::read_to_string(home.join(report)).unwrap();
        let report = Report::deserialize_from_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
        assert!(report.tests > 0 && report.failures + report.errors == 0, "{text}");
    }
}
