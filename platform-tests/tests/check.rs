//! What `adit check` says, in each of its forms, and that `adit explain` has more about every code.

use std::time::Duration;

use adit_platform_tests::{Finished, Sandbox};
use quick_junit::{Report, TestCaseStatus};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn adit(sandbox: &Sandbox, arguments: &[&str]) -> Finished {
    let mut command = sandbox.command(sandbox.adit());
    command.args(arguments);
    Finished::of(command, LIMIT)
}

fn json(done: &Finished) -> Vec<Value> {
    serde_json::from_str(&done.raw_stdout()).unwrap_or_else(|error| panic!("{error}: {done}"))
}

/// Where nothing is missing and where a device is: the three forms say the same and exit with the same status.
#[test]
fn each_form_has_every_finding_with_its_fix() {
    let sandbox = Sandbox::new();
    let absent = sandbox.dir().join("no-such-device").display().to_string();
    let broken = ["--link", "tun", "--tun-device", &absent];
    for (arguments, expected) in [(&[][..], 0), (&broken[..], 1)] {
        let form = |more: &[&str]| adit(&sandbox, &[&["check"], arguments, more].concat());
        let findings = form(&["--json"]);
        assert_eq!(findings.code(), expected, "{findings}");
        let findings = json(&findings);
        let text = form(&[]);
        assert_eq!(text.code(), expected, "{text}");
        let report = form(&["--junit", "-"]);
        assert_eq!(report.code(), expected, "{report}");
        let report = Report::deserialize_from_str(&report.raw_stdout()).unwrap();
        assert_eq!(report.tests, findings.len());
        let cases: Vec<_> = report
            .test_suites
            .iter()
            .flat_map(|suite| &suite.test_cases)
            .collect();
        for finding in &findings {
            let [code, status, what] = ["code", "status", "what"].map(|key| finding[key].as_str().unwrap());
            let mark = ["√", "‼", "×"][["ok", "warn", "fail"]
                .iter()
                .position(|known| *known == status)
                .unwrap()];
            let said = text.raw_stdout();
            let mut lines = said
                .lines()
                .skip_while(|line| !line.starts_with(&format!("{mark} {what} [{code}]: ")));
            assert!(lines.next().is_some(), "{finding} isn't in:\n{said}");
            let next = lines.next().unwrap_or_default();
            match finding["fix"].as_str() {
                Some(fix) => assert_eq!(next, format!("    fix: {fix}")),
                None => assert_eq!(status, "ok", "nothing to do about {finding}"),
            }
            let case = cases
                .iter()
                .find(|case| case.name.as_str() == format!("{what} [{code}]"));
            let failed = matches!(
                case.unwrap_or_else(|| panic!("{finding} is no case")).status,
                TestCaseStatus::NonSuccess { .. }
            );
            assert_eq!(failed, status == "fail", "{finding}");
            adit(&sandbox, &["explain", code]).stdout();
        }
    }
}

#[test]
fn a_report_goes_into_a_file_beside_the_findings() {
    let sandbox = Sandbox::new();
    let file = sandbox.dir().join("home/check.xml");
    let done = adit(&sandbox, &["check", "--junit", &file.to_string_lossy()]);
    assert!(done.stdout().contains("[ADIT-N101]"), "{done}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        Report::deserialize_from_str(&text).is_ok_and(|report| report.failures == 0),
        "{text}"
    );
    let done = adit(&sandbox, &["check", "--junit", "no/such/folder/check.xml"]);
    assert_eq!(done.code(), 2, "{done}");
    assert!(
        done.stderr().contains("ADIT-A011") && done.stderr().contains("no/such/folder"),
        "{done}"
    );
}

/// What is known of a place is told, whatever the trials say: here by the variables that AWS sets.
#[test]
fn fargate_is_told_and_what_is_possible_instead() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(sandbox.adit());
    command
        .args(["check", "--json"])
        .env("AWS_EXECUTION_ENV", "AWS_ECS_FARGATE");
    let done = Finished::of(command, LIMIT);
    let findings = json(&done);
    let found = findings.iter().find(|finding| finding["code"] == "ADIT-N142");
    let found = found.unwrap_or_else(|| panic!("{done}"));
    assert_eq!(found["status"], "warn");
    assert!(
        found["fix"].as_str().is_some_and(|fix| fix.contains("EC2")),
        "{found}"
    );
}

#[test]
fn every_code_can_be_explained() {
    let sandbox = Sandbox::new();
    let all = json(&adit(&sandbox, &["explain", "--json"]));
    assert!(all.len() > 150, "only {} codes", all.len());
    for code in &all {
        for part in ["code", "summary", "cause", "fix"] {
            assert!(code[part].as_str().is_some_and(|text| !text.is_empty()), "{code}");
        }
    }
    // One of each table, as a person asks for it.
    for code in ["ADIT-A080", "ADIT-M031", "ADIT-N140", "n101", "ADIT-P003"] {
        let said = adit(&sandbox, &["explain", code]).stdout();
        assert!(said.contains("why: ") && said.contains("fix: "), "{said}");
    }
}
