//! Checks of readiness probes.

use std::time::Duration;

use adit_flow::Protocol;

use super::{parts, workload};
use crate::codes;
use crate::diagnostic::{Finding, Findings};
use crate::file::{PortFile, ProbeFile};
use crate::mesh::{Probe, ProbeAction, WorkloadSpec};
use crate::tree::At;

/// Shorter than Kubernetes' 10 s: a laptop has few workloads, and people wait for them.
const DEFAULT_PERIOD_SECONDS: u32 = 1;
const DEFAULT_TIMEOUT_SECONDS: u32 = 1;
const DEFAULT_SUCCESSES: u32 = 1;
const DEFAULT_FAILURES: u32 = 3;

/// Checks the probe of `owner`. `None` where there is nothing that could be run.
pub(super) fn check(
    file: &ProbeFile,
    owner: &WorkloadSpec,
    at: &At,
    findings: &mut Findings<'_>,
) -> Option<Probe> {
    let seconds = |value: Option<u32>, default: u32| Duration::from_secs(value.unwrap_or(default).into());
    Some(Probe {
        action: action(file, owner, at, findings)?,
        initial_delay: seconds(file.initial_delay_seconds, 0),
        period: seconds(file.period_seconds, DEFAULT_PERIOD_SECONDS),
        timeout: seconds(file.timeout_seconds, DEFAULT_TIMEOUT_SECONDS),
        success_threshold: file.success_threshold.unwrap_or(DEFAULT_SUCCESSES),
        failure_threshold: file.failure_threshold.unwrap_or(DEFAULT_FAILURES),
    })
}

fn action(
    file: &ProbeFile,
    owner: &WorkloadSpec,
    at: &At,
    findings: &mut Findings<'_>,
) -> Option<ProbeAction> {
    match (&file.exec, &file.http_get, &file.tcp_socket) {
        (Some(exec), None, None) => {
            workload::command(&exec.command, &at.field("exec").field("command"), findings);
            Some(ProbeAction::Exec(exec.command.clone()))
        }
        (None, Some(http), None) => {
            let at = at.field("httpGet");
            let path = http.path.clone().unwrap_or_else(|| "/".to_owned());
            if !path.starts_with('/') || path.bytes().any(|byte| !byte.is_ascii_graphic()) {
                let finding = Finding {
                    message: format!(
                        "expected the path of a URL, got {:?}",
                        crate::schema::shorten(&path)
                    ),
                    label: "expected a slash and then ASCII characters without spaces".to_owned(),
                    fix: "begin with a slash and escape other characters: `/a%20b?c=d`".to_owned(),
                    also: None,
                };
                findings.error(&codes::BAD_PROBE, &at.field("path"), finding);
            }
            Some(ProbeAction::HttpGet {
                port: port(&http.port, owner, &at.field("port"), findings)?,
                path,
            })
        }
        (None, None, Some(tcp)) => {
            let at = at.field("tcpSocket").field("port");
            Some(ProbeAction::TcpSocket {
                port: port(&tcp.port, owner, &at, findings)?,
            })
        }
        (exec, http, tcp) => {
            let given = [exec.is_some(), http.is_some(), tcp.is_some()]
                .into_iter()
                .filter(|given| *given)
                .count();
            let finding = Finding {
                message: format!("expected exactly one of `exec`, `httpGet` and `tcpSocket`, got {given}"),
                label: "this probe".to_owned(),
                fix: match given {
                    0 => "add one: `tcpSocket: {port: 8080}`".to_owned(),
                    _ => "keep one of them".to_owned(),
                },
                also: None,
            };
            findings.error(&codes::BAD_PROBE, at, finding);
            None
        }
    }
}

fn port(file: &PortFile, owner: &WorkloadSpec, at: &At, findings: &mut Findings<'_>) -> Option<u16> {
    let name = match file {
        PortFile::Number(number) => return Some(*number),
        PortFile::Name(name) => name,
    };
    let tcp = || owner.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let found = tcp()
        .find(|port| port.name.as_ref() == Some(name))
        .map(|port| port.number);
    if found.is_none() {
        let known: Vec<&str> = tcp().filter_map(|port| port.name.as_deref()).collect();
        findings.error(
            &codes::UNKNOWN_PORT,
            at,
            parts::unknown_port(name, Protocol::Tcp, &owner.name, &known),
        );
    }
    found
}
