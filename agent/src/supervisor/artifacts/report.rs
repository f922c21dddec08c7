//! From how a run went to its report. Pure.

use std::time::Duration;

use adit_flow::WorkloadName;

use super::super::{Ended, UpError};
use crate::admin::{PsReport, WorkloadState};
use crate::junit::{self, Outcome, Reason};

/// How a run went.
pub(super) struct Story<'a> {
    pub(super) mesh: &'a str,
    pub(super) test: &'a WorkloadName,
    pub(super) outcome: &'a Result<Ended, UpError>,
    pub(super) took: Duration,
    /// What the test printed last.
    pub(super) lines: Vec<String>,
    /// What policy denied.
    pub(super) denied: Vec<String>,
    /// What else isn't as it should be.
    pub(super) troubles: Vec<String>,
}

/// The report of a run: the test as one case.
pub(super) fn junit(story: &Story<'_>) -> String {
    let said = match story.outcome {
        Ok(ended) => ended.to_string(),
        Err(error) => error.to_string(),
    };
    let text = text(story, &said);
    let reason = |kind| Reason {
        kind,
        message: &said,
        text: &text,
    };
    let outcome = match story.outcome {
        Ok(Ended::Test { code: 0, .. }) => Outcome::Passed,
        Ok(Ended::Test { .. }) => Outcome::Failed(reason("exit-status")),
        Ok(Ended::TimedOut { .. }) => Outcome::Failed(reason("timeout")),
        Ok(Ended::Down | Ended::Signal(_)) => Outcome::Error(reason("interrupted")),
        Err(_) => Outcome::Error(reason("adit")),
    };
    let mut case = junit::case(story.mesh, &story.test.to_string(), outcome);
    case.set_time(story.took);
    junit::text("adit up --once", [junit::suite(story.mesh, [case])])
}

/// What stands in the report until there is one.
pub(super) fn unfinished(mesh: &str, test: &WorkloadName) -> String {
    let outcome = Outcome::Error(Reason {
        kind: "interrupted",
        message: "adit was killed before the test ended",
        text: "adit was killed before the test ended, with SIGKILL or together with the machine: nobody could say how it went",
    });
    let case = junit::case(mesh, &test.to_string(), outcome);
    junit::text("adit up --once", [junit::suite(mesh, [case])])
}

/// What isn't as it should be of the workloads: they don't run, or had to be started again.
pub(super) fn troubles(report: &PsReport) -> Vec<String> {
    let troubled = report.workloads.iter().filter(|row| match row.state {
        WorkloadState::Completed | WorkloadState::Elsewhere { .. } | WorkloadState::Joined => false,
        WorkloadState::Running { .. } => !row.ready || row.restarts > 0,
        _ => true,
    });
    troubled
        .map(|row| {
            let ready = match (&row.state, row.ready) {
                (WorkloadState::Running { .. }, false) => ", not ready",
                _ => "",
            };
            let again = match row.restarts {
                0 => String::new(),
                count => format!(", started again {count} times"),
            };
            let ended = row.last_exit.as_ref();
            let ended = ended
                .map(|how| format!(", last ended with {how}"))
                .unwrap_or_default();
            format!("{}: {}{ready}{again}{ended}", row.name, row.state)
        })
        .collect()
}

fn text(story: &Story<'_>, said: &str) -> String {
    let mut text = format!("{}: {said}\n", story.test);
    let lines_of = format!("last lines of {}:", story.test);
    for (heading, lines) in [
        ("flows that policy denied:", &story.denied),
        ("other workloads:", &story.troubles),
        (&lines_of, &story.lines),
    ] {
        if !lines.is_empty() {
            text.push_str(&format!("\n{heading}\n"));
            text.extend(lines.iter().map(|line| format!("  {line}\n")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use quick_junit::{NonSuccessKind, Report, TestCaseStatus};

    use super::*;

    fn told(outcome: Result<Ended, UpError>) -> (Report, TestCaseStatus) {
        let test = "shop/e2e".parse().unwrap();
        let text = junit(&Story {
            mesh: "shop",
            test: &test,
            outcome: &outcome,
            took: Duration::from_millis(1500),
            lines: vec!["1 of 2 <passed>\u{7}".to_owned()],
            denied: vec![
                "shop/e2e -> shop/db:5432 tcp by default/KubernetesNetworkPolicy/shop/db".to_owned(),
            ],
            troubles: vec!["shop/db: CrashLoop, last ended with status 1".to_owned()],
        });
        let report = Report::deserialize_from_str(&text).unwrap();
        let status = report.test_suites[0].test_cases[0].status.clone();
        (report, status)
    }

    #[test]
    fn a_test_that_passed_is_a_case_that_passed() {
        let (report, status) = told(Ok(Ended::Test {
            code: 0,
            how: "status 0".into(),
        }));
        assert_eq!((report.tests, report.failures, report.errors), (1, 0, 0));
        let case = &report.test_suites[0].test_cases[0];
        assert_eq!(
            (case.name.as_str(), case.time),
            ("shop/e2e", Some(Duration::from_millis(1500)))
        );
        assert!(matches!(status, TestCaseStatus::Success { .. }));
    }

    #[test]
    fn a_failure_says_how_and_what_was_denied_and_what_was_printed_last() {
        let ended = Ended::Test {
            code: 3,
            how: "status 3".into(),
        };
        let timed_out = Ended::TimedOut {
            limit: Duration::from_secs(9),
            missing: Vec::new(),
        };
        let no_agent = UpError::Agent {
            reason: "it ended".into(),
        };
        for (outcome, expected, kind) in [
            (Ok(ended), NonSuccessKind::Failure, "exit-status"),
            (Ok(timed_out), NonSuccessKind::Failure, "timeout"),
            (Ok(Ended::Signal(2)), NonSuccessKind::Error, "interrupted"),
            (Err(no_agent), NonSuccessKind::Error, "adit"),
        ] {
            let (_, status) = told(outcome);
            let TestCaseStatus::NonSuccess {
                kind: found,
                ty,
                description,
                ..
            } = status
            else {
                panic!("{status:?}")
            };
            assert_eq!((found, ty.unwrap().as_str()), (expected, kind));
            let text = description.unwrap();
            for part in [
                "flows that policy denied:\n  shop/e2e -> shop/db:5432",
                "other workloads:\n  shop/db: CrashLoop",
                "last lines of shop/e2e:\n  1 of 2 <passed>",
            ] {
                assert!(text.as_str().contains(part), "{}", text.as_str());
            }
        }
    }
}
