//! `adit check`: can this machine do it?

use adit_node::probe::{self, Finding, Options, Status};
use serde_json::json;

use super::args::Check;
use super::{CliError, print, print_json};

/// Tries everything out and tells. Must be called in a process with one thread.
pub(super) fn check(args: &Check) -> Result<u8, CliError> {
    let findings = probe::run(&Options {
        tun_device: args.tun.path.clone(),
    })?;
    match args.json {
        true => print_json(&findings.iter().map(as_json).collect::<Vec<_>>())?,
        false => print(&findings.iter().map(as_text).collect::<String>())?,
    }
    let failed = findings.iter().any(|finding| finding.status == Status::Fail);
    Ok(u8::from(failed))
}

fn as_text(finding: &Finding) -> String {
    let mark = match finding.status {
        Status::Ok => '√',
        Status::Warn => '‼',
        Status::Fail => '×',
    };
    let Finding {
        code,
        what,
        reason,
        fix,
        ..
    } = finding;
    let line = format!("{mark} {what} [{code}]: {reason}\n");
    match fix {
        Some(fix) => format!("{line}    fix: {fix}\n"),
        None => line,
    }
}

fn as_json(finding: &Finding) -> serde_json::Value {
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
        "fix": finding.fix,
    })
}
