//! Each thing that adit needs of the kernel is taken away alone, by a seccomp filter: `adit check` has a finding of its own on
//! it, the command that fails says a code too, nothing hangs, and neither says yes to what the other can't do.

use std::time::Duration;

use adit_platform_tests::{Finished, Sandbox};
use serde_json::Value;

/// Nothing that is refused may take anybody's patience: all the limits inside are shorter.
const LIMIT: Duration = Duration::from_secs(60);

/// What is taken away, over which link, and what is said of it.
struct Case {
    denied: &'static str,
    link: &'static str,
    said: Said,
}

enum Said {
    /// The finding that fails, and the code of the command that does.
    Refused {
        finding: &'static str,
        command: &'static str,
    },
    /// There is less: a warning, and the command works.
    Less { finding: &'static str },
    /// The check itself can't be done, nor the command.
    Neither {
        check: &'static str,
        command: &'static str,
    },
}

const fn refused(
    denied: &'static str,
    link: &'static str,
    finding: &'static str,
    command: &'static str,
) -> Case {
    let said = Said::Refused { finding, command };
    Case { denied, link, said }
}

const fn less(denied: &'static str, link: &'static str, finding: &'static str) -> Case {
    let said = Said::Less { finding };
    Case { denied, link, said }
}

const fn neither(denied: &'static str, check: &'static str, command: &'static str) -> Case {
    let said = Said::Neither { check, command };
    let link = "auto";
    Case { denied, link, said }
}

const CASES: &[Case] = &[
    refused("user-namespace", "auto", "ADIT-N101", "ADIT-N001"),
    refused("network-namespace", "auto", "ADIT-N102", "ADIT-N003"),
    refused("mount-namespace", "auto", "ADIT-N102", "ADIT-N003"),
    refused("pid-namespace", "auto", "ADIT-N107", "ADIT-N021"),
    refused("setns", "tun", "ADIT-N116", "ADIT-N017"),
    refused("mount", "auto", "ADIT-N102", "ADIT-N007"),
    refused("host-name", "auto", "ADIT-N102", "ADIT-N006"),
    refused("tun", "tun", "ADIT-N103", "ADIT-N005"),
    less("tun", "auto", "ADIT-N103"),
    less("tun-offload", "tun", "ADIT-N104"),
    refused("packet-socket", "packet", "ADIT-N112", "ADIT-N041"),
    less("packet-socket", "auto", "ADIT-N112"),
    refused("packet-header", "packet", "ADIT-N112", "ADIT-N042"),
    refused("tun,packet-socket", "auto", "ADIT-N103", "ADIT-N043"),
    refused("netlink", "tun", "ADIT-N102", "ADIT-N006"),
    refused("netlink", "packet", "ADIT-N112", "ADIT-N040"),
    refused("seccomp", "auto", "ADIT-N108", "ADIT-A023"),
    refused("no-new-privileges", "auto", "ADIT-N109", "ADIT-N038"),
    refused("capset", "auto", "ADIT-N117", "ADIT-N038"),
    refused("epoll", "auto", "ADIT-N118", "ADIT-A014"),
    refused("eventfd", "auto", "ADIT-N118", "ADIT-A014"),
    refused("signalfd", "auto", "ADIT-N118", "ADIT-N021"),
    refused("listen", "auto", "ADIT-N118", "ADIT-N008"),
    refused("threads", "auto", "ADIT-N118", "ADIT-A004"),
    less("ping", "auto", "ADIT-N106"),
    neither("socket-pair", "ADIT-N021", "ADIT-A014"),
    neither("processes", "ADIT-N021", "ADIT-A004"),
];

/// The program, with `denied` taken away from it and from all that it starts.
fn without(sandbox: &Sandbox, denied: &str, arguments: &[&str]) -> Finished {
    let mut command = sandbox.command(sandbox.deny());
    command.arg(denied).arg(sandbox.adit()).args(arguments);
    Finished::of(command, LIMIT)
}

/// The codes of the findings with a status.
fn with_status<'a>(findings: &'a [Value], status: &str) -> Vec<&'a str> {
    let found = findings.iter().filter(|finding| finding["status"] == status);
    found.filter_map(|finding| finding["code"].as_str()).collect()
}

/// What isn't as the case says.
fn wrong(sandbox: &Sandbox, case: &Case) -> Vec<String> {
    let Case { denied, link, said } = case;
    let check = without(sandbox, denied, &["check", "--json", "--link", link]);
    let run = without(sandbox, denied, &["run", "--link", link, "--", "true"]);
    let findings: Vec<Value> = serde_json::from_str(&check.raw_stdout()).unwrap_or_default();
    let (failed, warned) = (with_status(&findings, "fail"), with_status(&findings, "warn"));
    let mut wrong = Vec::new();
    let mut expect = |what: String, holds: bool| {
        if !holds {
            wrong.push(format!("{denied} over {link}: expected {what}\n{check}\n{run}"));
        }
    };
    match said {
        Said::Refused { finding, command } => {
            expect(format!("{finding} to fail"), failed.contains(finding));
            expect("the check to say no".into(), check.code() == 1);
            expect(
                format!("the run to say {command}"),
                run.stderr().contains(command),
            );
            expect("the run to fail by itself".into(), run.code() == 125);
        }
        Said::Less { finding } => {
            expect(format!("{finding} to be a warning"), warned.contains(finding));
            expect("the check to say yes".into(), check.code() == 0);
            expect("the run to work".into(), run.code() == 0);
        }
        Said::Neither { check: code, command } => {
            expect(
                format!("the check to say {code}"),
                check.code() == 1 && check.stderr().contains(code),
            );
            expect(
                format!("the run to say {command}"),
                run.code() == 125 && run.stderr().contains(command),
            );
        }
    }
    wrong
}

#[test]
fn what_is_refused_is_named_by_the_check_and_by_what_fails() {
    let sandbox = Sandbox::new();
    let wrong = CASES
        .iter()
        .flat_map(|case| wrong(&sandbox, case))
        .collect::<Vec<_>>();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        CASES.len(),
        wrong.join("\n")
    );
}
