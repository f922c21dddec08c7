//! `adit check`: can this machine do it, and can it be a node of a cluster?

use std::collections::BTreeMap;
use std::path::PathBuf;

use adit_node::LinkChoice;
use adit_node::cluster::{self, PluginFolders};
use adit_node::probe::environment::{self, Environment, Purpose};
use adit_node::probe::{self, Finding, Options, Section, Status};
use clap::Args;
use quick_junit::TestCase;
use serde_json::json;

use super::args::{Check, PodLink};
use super::{CliError, print, print_json};
use crate::agent::trial;
use crate::junit::{self, Outcome, Reason, Target};

/// What is checked of a cluster's node, and where its folders are.
#[derive(Debug, Args)]
pub(super) struct NodeCheck {
    /// Try out what the node path in a Kubernetes node needs instead, as root there
    #[arg(long = "node")]
    is_wanted: bool,
    /// The node helper's folder
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/run/adit",
        requires = "is_wanted"
    )]
    state: PathBuf,
    /// The container runtime's CNI configuration
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/etc/cni/net.d",
        requires = "is_wanted"
    )]
    cni_conf_dir: PathBuf,
    /// The container runtime's CNI plugins
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/opt/cni/bin",
        requires = "is_wanted"
    )]
    cni_bin_dir: PathBuf,
}

impl NodeCheck {
    fn options(&self, link: LinkChoice, tun_device: PathBuf) -> cluster::Options {
        cluster::Options {
            state: self.state.clone(),
            link,
            tun_device,
            plugin: Some(PluginFolders {
                configuration: self.cni_conf_dir.clone(),
                binaries: self.cni_bin_dir.clone(),
            }),
            ..cluster::Options::default()
        }
    }
}

/// Tries everything out and tells. Must be called in a process with one thread.
pub(super) fn check(args: &Check) -> Result<u8, CliError> {
    let findings = match args.node.is_wanted {
        true => {
            let mut findings = environment::judge(&Environment::read(), Purpose::Node);
            findings.extend(cluster::check(
                &args.node.options(args.link.choice, args.link.tun.path.clone()),
            )?);
            findings
        }
        false => laptop(&args.link)?,
    };
    match &args.junit {
        Some(Target::Stdout) => Target::Stdout.write(&as_junit(&findings))?,
        Some(target @ Target::File(path)) => {
            let written = target.write(&as_junit(&findings));
            written.map_err(|source| CliError::Usage {
                problem: format!("--junit: writing {}: {source}", path.display()),
            })?;
            print(&as_text(&findings))?;
        }
        None if args.json => print_json(&as_json(&findings))?,
        None => print(&as_text(&findings))?,
    }
    let failed = findings.iter().any(|finding| finding.status == Status::Fail);
    Ok(u8::from(failed))
}

/// Tries out what it takes to run workloads here. Must be called in a process with one thread.
pub(super) fn laptop(link: &PodLink) -> Result<Vec<Finding>, CliError> {
    let mut findings = environment::judge(&Environment::read(), Purpose::Programs);
    findings.extend(probe::run(&Options {
        link: link.choice,
        tun_device: link.tun.path.clone(),
        agent: Some(trial::trial),
    })?);
    Ok(findings)
}

/// The findings in sections, each in the order in which they build on each other.
fn sections(findings: &[Finding]) -> BTreeMap<Section, Vec<&Finding>> {
    let mut sections: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for finding in findings {
        sections.entry(finding.section()).or_default().push(finding);
    }
    sections
}

fn as_text(findings: &[Finding]) -> String {
    let sections = sections(findings).into_iter().map(|(section, findings)| {
        let lines: String = findings.into_iter().map(line).collect();
        format!("{section}\n{lines}")
    });
    sections.collect::<Vec<_>>().join("\n")
}

fn line(finding: &Finding) -> String {
    let mark = match finding.status {
        Status::Ok => '√',
        Status::Warn => '‼',
        Status::Fail => '×',
    };
    let Finding {
        code, what, reason, ..
    } = finding;
    let line = format!("{mark} {what} [{code}]: {reason}\n");
    match finding.remedy() {
        Some(fix) => format!("{line}    fix: {fix}\n"),
        None => line,
    }
}

/// The findings as they are for programs: a list in the order of trial, each with all of its fields.
pub(super) fn as_json(findings: &[Finding]) -> serde_json::Value {
    let json = |finding: &Finding| {
        let status = match finding.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        json!({
            "code": finding.code.to_string(),
            "status": status,
            "what": finding.what,
            "reason": finding.reason,
            "fix": finding.remedy(),
        })
    };
    findings.iter().map(json).collect()
}

/// The findings as a report: a suite for each section. JUnit has no warnings: one is a case that passed and has an output.
fn as_junit(findings: &[Finding]) -> String {
    let suites = sections(findings).into_iter().map(|(section, findings)| {
        let section = section.to_string();
        junit::suite(
            &section,
            findings.into_iter().map(|finding| junit_case(&section, finding)),
        )
    });
    junit::text("adit check", suites)
}

fn junit_case(section: &str, finding: &Finding) -> TestCase {
    let text = line(finding);
    let outcome = match finding.status {
        Status::Ok | Status::Warn => Outcome::Passed,
        Status::Fail => Outcome::Failed(Reason {
            kind: &finding.code.to_string(),
            message: &finding.reason,
            text: &text,
        }),
    };
    let mut case = junit::case(section, &format!("{} [{}]", finding.what, finding.code), outcome);
    if finding.status == Status::Warn {
        case.set_system_out(text);
    }
    case
}

#[cfg(test)]
mod tests {
    use adit_node::codes::Code;
    use quick_junit::Report;

    use super::*;

    fn findings() -> Vec<Finding> {
        let found = |code, status, what, reason: &str, fix: Option<&str>| Finding {
            code,
            status,
            what,
            reason: reason.to_owned(),
            fix: fix.map(str::to_owned),
        };
        vec![
            found(Code::CHECK_KERNEL, Status::Ok, "kernel", "Linux 6.1", None),
            found(
                Code::CHECK_USER_NAMESPACE,
                Status::Fail,
                "user namespaces",
                "EPERM",
                Some("sysctl"),
            ),
            found(
                Code::CHECK_PING,
                Status::Warn,
                "ping",
                "refused",
                Some("another sysctl"),
            ),
            found(
                Code::CHECK_INCOMPLETE,
                Status::Fail,
                "user namespaces",
                "nothing was said",
                None,
            ),
        ]
    }

    #[test]
    fn each_section_has_its_findings_and_each_of_them_its_fix() {
        assert_eq!(
            as_text(&findings()),
            "host\n\
             √ kernel [ADIT-N140]: Linux 6.1\n\
             \n\
             namespaces\n\
             × user namespaces [ADIT-N101]: EPERM\n    fix: sysctl\n\
             × user namespaces [ADIT-N111]: nothing was said\n    fix: run adit check again\n\
             \n\
             limits\n\
             ‼ ping [ADIT-N106]: refused\n    fix: another sysctl\n"
        );
    }

    #[test]
    fn a_section_is_a_suite_and_a_failed_finding_a_failed_case() {
        let report = Report::deserialize_from_str(&as_junit(&findings())).unwrap();
        let suites: Vec<_> = report
            .test_suites
            .iter()
            .map(|suite| (suite.name.as_str(), suite.tests, suite.failures))
            .collect();
        assert_eq!(suites, [("host", 1, 0), ("namespaces", 2, 2), ("limits", 1, 0)]);
        let warned = &report.test_suites[2].test_cases[0];
        let said = warned.system_out.as_ref().map(|text| text.as_str());
        assert!(
            said.is_some_and(|said| said.contains("fix: another sysctl")),
            "{said:?}"
        );
    }

    /// The fields are an interface.
    #[test]
    fn the_json_has_the_fields_that_scripts_know() {
        assert_eq!(
            as_json(&findings()[1..2]),
            json!([{
                "code": "ADIT-N101", "status": "fail", "what": "user namespaces", "reason": "EPERM", "fix": "sysctl",
            }])
        );
    }
}
