//! Reports as JUnit XML, which CI systems show case by case. There is no standard of it: what is written is valid by the schema
//! that most go by, junit-10.xsd of Jenkins' xUnit plugin.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// Where a report is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Replaced if it is there.
    File(PathBuf),
    Stdout,
}

impl From<OsString> for Target {
    /// A dash is standard output, everything else a path.
    fn from(text: OsString) -> Self {
        match text == "-" {
            true => Self::Stdout,
            false => Self::File(text.into()),
        }
    }
}

impl Target {
    /// Writes a report.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn write(&self, text: &str) -> io::Result<()> {
        match self {
            Self::File(path) => fs::write(path, text),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes())?;
                out.flush()
            }
        }
    }
}

/// How a case went.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    Passed,
    /// What was looked at isn't as it should be.
    Failed(Reason<'a>),
    /// It couldn't be looked at.
    Error(Reason<'a>),
}

/// Why a case didn't pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason<'a> {
    /// A word to tell reasons apart by.
    pub(crate) kind: &'a str,
    /// In one line.
    pub(crate) message: &'a str,
    /// In full.
    pub(crate) text: &'a str,
}

/// A case, of a class as the readers of JUnit call what cases are grouped by.
pub(crate) fn case(class: &str, name: &str, outcome: Outcome<'_>) -> TestCase {
    let with = |kind, reason: Reason<'_>| {
        let mut status = TestCaseStatus::non_success(kind);
        status
            .set_type(reason.kind)
            .set_message(reason.message)
            .set_description(reason.text);
        status
    };
    let status = match outcome {
        Outcome::Passed => TestCaseStatus::success(),
        Outcome::Failed(reason) => with(NonSuccessKind::Failure, reason),
        Outcome::Error(reason) => with(NonSuccessKind::Error, reason),
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(class);
    case
}

/// A suite of cases.
pub(crate) fn suite(name: &str, cases: impl IntoIterator<Item = TestCase>) -> TestSuite {
    let mut suite = TestSuite::new(name);
    suite.add_test_cases(cases);
    suite
}

/// The document. What XML can't hold, as control characters and colours, is left out of it.
pub(crate) fn text(name: &str, suites: impl IntoIterator<Item = TestSuite>) -> String {
    let mut report = Report::new(name);
    report.add_test_suites(suites);
    let text = report
        .to_string()
        .expect("writing to memory doesn't fail, and all of it is UTF-8");
    // Of the root the schema knows no such count, and none of ours is ever skipped. A quote in a name is written otherwise.
    text.replacen(r#" skipped="0""#, "", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_is_standard_output() {
        assert_eq!(Target::from(OsString::from("-")), Target::Stdout);
        assert_eq!(Target::from(OsString::from("./-")), Target::File("./-".into()));
    }

    /// Each element with each of its attributes, as the schema has them.
    #[test]
    fn the_document_is_what_the_schema_knows() {
        let reason = Reason {
            kind: "verdict",
            message: "expected allow",
            text: "expected allow, got deny",
        };
        let cases = [
            case("a.yaml", "one", Outcome::Passed),
            case("a.yaml", "two", Outcome::Failed(reason)),
        ];
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="adit" tests="2" failures="1" errors="0">
    <testsuite name="a.yaml" tests="2" skipped="0" errors="0" failures="1">
        <testcase name="one" classname="a.yaml"/>
        <testcase name="two" classname="a.yaml">
            <failure message="expected allow" type="verdict">expected allow, got deny</failure>
        </testcase>
    </testsuite>
</testsuites>
"#;
        assert_eq!(text("adit", [suite("a.yaml", cases)]), expected);
    }

    #[test]
    fn what_is_written_reads_back() {
        let reason = Reason {
            kind: "ADIT-N101",
            message: "a \"quoted\" <reason> & more",
            text: "line 1\nline 2 \u{1b}[31mred\u{1b}[0m\u{0}",
        };
        let cases = [
            case("namespaces", "one", Outcome::Passed),
            case("namespaces", "two", Outcome::Failed(reason)),
            case("namespaces", "three", Outcome::Error(reason)),
        ];
        let text = text("adit check", [suite("namespaces", cases), suite("limits", [])]);
        let report = Report::deserialize_from_str(&text).unwrap();
        assert_eq!((report.tests, report.failures, report.errors), (3, 1, 1));
        let two = &report.test_suites[0].test_cases[1];
        assert_eq!(
            two.classname.as_ref().map(|class| class.as_str()),
            Some("namespaces")
        );
        let TestCaseStatus::NonSuccess {
            message, description, ..
        } = &two.status
        else {
            panic!("{text}")
        };
        assert_eq!(message.as_ref().map(|text| text.as_str()), Some(reason.message));
        assert_eq!(
            description.as_ref().map(|text| text.as_str()),
            Some("line 1\nline 2 red")
        );
    }
}
