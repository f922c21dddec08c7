//! From what happened, and what the kernel says of itself, to findings with a fix. Pure, but for [`Machine::read`].

mod links;

use std::{fs, io};

use rustix::process::Resource;
use rustix::thread::CapabilitySet;

use super::trial::{Outcome, Trials};
use super::{Finding, Options, Refusal, Status};
use crate::codes::Code;

/// Descriptors below which a mesh of any size runs out.
const FEW_DESCRIPTORS: u64 = 4096;

/// How a refusal to map the caller begins: [`laptop::Error::IdMap`](crate::laptop::Error::IdMap).
const MAPPING: &str = "mapping uid";

/// `ENOSPC`: how the kernel says that a limit on namespaces is reached.
const NO_SPACE: i32 = 28;

/// What the kernel says of itself. `None` where it doesn't know the setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// `user.max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// Debian's `kernel.unprivileged_userns_clone`.
    pub unprivileged_userns_clone: Option<u64>,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns`.
    pub apparmor_restrict_userns: Option<u64>,
    /// A seccomp filter is on this process already, as in a container.
    pub under_seccomp: bool,
    /// This process is root and lacks CAP_SETFCAP, without which Linux 5.12 and later, and 5.10 with its backport, let nobody map root.
    pub root_without_setfcap: bool,
    /// Seccomp filters exist.
    pub seccomp_filters: bool,
    /// `net.ipv4.ping_group_range`, as it reads.
    pub ping_group_range: Option<String>,
    /// Hard limit on file descriptors; `None` is none.
    pub descriptor_limit: Option<u64>,
    /// The TUN module is loaded or built in (`/sys/class/misc/tun`).
    pub tun_driver: bool,
    /// There is something where the TUN device node should be.
    pub tun_node: bool,
}

impl Machine {
    /// Asks this machine.
    #[must_use]
    pub fn read(options: &Options) -> Self {
        let text = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let number = |name: &str| text(&format!("/proc/sys/{name}")).and_then(|text| text.parse().ok());
        let status = text("/proc/self/status").unwrap_or_default();
        Self {
            max_user_namespaces: number("user/max_user_namespaces"),
            unprivileged_userns_clone: number("kernel/unprivileged_userns_clone"),
            apparmor_restrict_userns: number("kernel/apparmor_restrict_unprivileged_userns"),
            under_seccomp: is_filtered(&status),
            root_without_setfcap: rustix::process::geteuid().is_root()
                && rustix::thread::capabilities(None)
                    .is_ok_and(|held| !held.effective.contains(CapabilitySet::SETFCAP)),
            seccomp_filters: status.contains("Seccomp:"),
            ping_group_range: text("/proc/sys/net/ipv4/ping_group_range"),
            descriptor_limit: rustix::process::getrlimit(Resource::Nofile).maximum,
            tun_driver: fs::exists("/sys/class/misc/tun").unwrap_or(false),
            tun_node: fs::exists(&options.tun_device).unwrap_or(false),
        }
    }
}

/// Whether a process with this `/proc/PID/status` is under a seccomp filter.
pub(super) fn is_filtered(status: &str) -> bool {
    status.lines().any(|line| {
        line.strip_prefix("Seccomp:")
            .is_some_and(|mode| mode.trim() == "2")
    })
}

/// Judges the trials: one finding for each thing that matters, in the order in which they build on each other.
#[must_use]
pub fn judge(machine: &Machine, trials: &Trials, options: &Options) -> Vec<Finding> {
    let mut findings = vec![user_namespace(machine, trials)];
    findings.extend(links::judge(machine, trials, options));
    findings.extend(processes(machine, trials));
    findings.extend(silent(trials, options));
    findings.push(ping(machine, trials));
    findings.push(descriptors(machine));
    findings
}

pub(crate) use links::tun_fix;

pub(crate) fn finding(code: Code, status: Status, what: &'static str, reason: impl Into<String>) -> Finding {
    Finding {
        code,
        status,
        what,
        reason: reason.into(),
        fix: None,
    }
}

impl Finding {
    pub(crate) fn with_fix(self, fix: impl Into<String>) -> Self {
        Self {
            fix: Some(fix.into()),
            ..self
        }
    }
}

fn user_namespace(machine: &Machine, trials: &Trials) -> Finding {
    let made = |status, reason: &str| finding(Code::CHECK_USER_NAMESPACE, status, "user namespaces", reason);
    // The second ends with no-new-privileges, which has a finding of its own.
    let nested = trials
        .nested_user
        .as_ref()
        .filter(|_| refusal(trials, Code::CHECK_NO_NEW_PRIVILEGES).is_none());
    let outcomes = [trials.user_namespace.as_ref(), nested];
    let failure = outcomes
        .into_iter()
        .flatten()
        .find_map(|outcome| outcome.as_ref().err());
    let Some(refusal) = failure else {
        return match trials.user_namespace {
            Some(_) => made(Status::Ok, "one can be made and used"),
            None => finding(
                Code::CHECK_INCOMPLETE,
                Status::Fail,
                "user namespaces",
                "the process that tries things out said nothing",
            ),
        };
    };
    let refused = |reason: &str| made(Status::Fail, &format!("{refusal}; {reason}"));
    let full = refusal.contains(&io::Error::from_raw_os_error(NO_SPACE).to_string());
    if let Some(limit) = machine.max_user_namespaces.filter(|limit| *limit == 0 || full) {
        return refused(&format!("user.max_user_namespaces is {limit}, which is too few"))
            .with_fix("sudo sysctl user.max_user_namespaces=15000");
    }
    if machine.root_without_setfcap && refusal.starts_with(MAPPING) {
        return refused("root without CAP_SETFCAP can't be mapped (Linux 5.12 and later, 5.10 with its backport)")
            .with_fix("run adit as another user than root; in a container: runAsUser and runAsNonRoot, or the capability SETFCAP");
    }
    if machine.unprivileged_userns_clone == Some(0) {
        return refused("kernel.unprivileged_userns_clone is 0")
            .with_fix("sudo sysctl kernel.unprivileged_userns_clone=1");
    }
    if machine.apparmor_restrict_userns.is_some_and(|value| value != 0) {
        return refused("AppArmor restricts unprivileged user namespaces").with_fix(
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for adit with `userns,`",
        );
    }
    if machine.under_seccomp {
        return refused("a seccomp filter is on this process, as in a container")
            .with_fix("run outside the container, or with a seccomp profile that allows unshare and setns");
    }
    refused("the kernel gives no reason that is known")
        .with_fix("check that the kernel has CONFIG_USER_NS, and that this is no chroot")
}

fn processes(machine: &Machine, trials: &Trials) -> Vec<Finding> {
    const WHAT: &str = "pid namespace with its own /proc";
    let mut findings = Vec::new();
    let mut push = |outcome: &Option<Outcome>, status, ok: Option<&str>| match (outcome, ok) {
        (Some(Err(error)), _) => findings.push(
            finding(Code::CHECK_PID_NAMESPACE, status, WHAT, error.clone())
                .with_fix(Code::CHECK_PID_NAMESPACE.entry().map_or("", |entry| entry.fix)),
        ),
        (Some(Ok(())), Some(ok)) => findings.push(finding(Code::CHECK_PID_NAMESPACE, Status::Ok, WHAT, ok)),
        _ => {}
    };
    push(&trials.pid_namespace, Status::Fail, None);
    // Without it programs run all the same, and see the machine's processes.
    push(&trials.proc_mount, Status::Warn, Some("can be made"));
    match &trials.enter {
        Some(Ok(())) => findings.push(finding(Code::CHECK_ENTER, Status::Ok, ENTER, "can be entered")),
        Some(Err(error)) => {
            let reason = format!("{error} ({})", Code::ENTER);
            findings.push(explained(finding(Code::CHECK_ENTER, Status::Fail, ENTER, reason)));
        }
        None => {}
    }
    for (code, what, well) in GIVEN_UP {
        match refusal(trials, code) {
            Some(refusal) => findings.push(refused(code, what, refusal)),
            None if trials.helper == Some(Ok(())) => findings.push(finding(code, Status::Ok, what, well)),
            None => {}
        }
    }
    findings.push(seccomp(machine, trials));
    findings
}

const ENTER: &str = "pods' namespaces";

/// What the trials of helper and agent may find refused, and what is said of it if they don't.
const GIVEN_UP: [(Code, &str, &str); 3] = [
    (
        Code::CHECK_PROCESSES,
        "signals, events and threads",
        "can be had and waited for",
    ),
    (Code::CHECK_NO_NEW_PRIVILEGES, "no-new-privileges", "can be set"),
    (Code::CHECK_PRIVILEGES, "privileges", "can be given up"),
];

fn seccomp(machine: &Machine, trials: &Trials) -> Finding {
    const WHAT: &str = "seccomp filters";
    if !machine.seccomp_filters {
        let missing = finding(Code::CHECK_SECCOMP, Status::Fail, WHAT, "the kernel has none");
        return missing.with_fix("use a kernel with CONFIG_SECCOMP_FILTER");
    }
    match (refusal(trials, Code::CHECK_SECCOMP), &trials.agent) {
        (Some(refusal), _) => finding(Code::CHECK_SECCOMP, Status::Fail, WHAT, refusal.message.clone())
            .with_fix("the kernel has them and a sandbox forbids them: start adit outside of it"),
        (None, Some(Ok(()))) => finding(
            Code::CHECK_SECCOMP,
            Status::Ok,
            WHAT,
            "the agent's can be installed",
        ),
        (None, _) => finding(Code::CHECK_SECCOMP, Status::Ok, WHAT, "the kernel has them"),
    }
}

/// A trial of helper or agent that should have said something and didn't.
fn silent(trials: &Trials, options: &Options) -> Option<Finding> {
    const WHAT: &str = "helper and agent";
    let helper = trials.user_namespace == Some(Ok(())) && trials.helper.is_none();
    let agent = options.agent.is_some() && trials.agent.is_none();
    let who = match (helper, agent) {
        (true, _) => "the helper",
        (false, true) => "the agent",
        (false, false) => return None,
    };
    let reason = format!("the process that tries out what {who} needs said nothing");
    Some(explained(finding(
        Code::CHECK_INCOMPLETE,
        Status::Fail,
        WHAT,
        reason,
    )))
}

/// What of the helper or the agent was refused and belongs to the finding of this code.
fn refusal(trials: &Trials, code: Code) -> Option<&Refusal> {
    let refused = [&trials.helper, &trials.agent].into_iter().flatten();
    let mut refused = refused.filter_map(|trial| trial.as_ref().err());
    refused.find(|refusal| refusal.code == code)
}

fn refused(code: Code, what: &'static str, refusal: &Refusal) -> Finding {
    explained(finding(code, Status::Fail, what, refusal.message.clone()))
}

/// The same with the fix that `adit explain` gives.
fn explained(finding: Finding) -> Finding {
    match finding.code.entry() {
        Some(entry) => finding.with_fix(entry.fix),
        None => finding,
    }
}

fn ping(machine: &Machine, trials: &Trials) -> Finding {
    const WHAT: &str = "ping to the outside";
    match &trials.ping {
        Some(Err(error)) => {
            let range = machine
                .ping_group_range
                .as_deref()
                .unwrap_or("unknown")
                .replace('\t', " ");
            let reason =
                format!("an ICMP socket was refused: {error}; net.ipv4.ping_group_range is \"{range}\"");
            finding(Code::CHECK_PING, Status::Warn, WHAT, reason)
                .with_fix("sudo sysctl net.ipv4.ping_group_range='0 2147483647'")
        }
        _ => finding(Code::CHECK_PING, Status::Ok, WHAT, "ICMP sockets are allowed"),
    }
}

fn descriptors(machine: &Machine) -> Finding {
    const WHAT: &str = "file descriptors";
    match machine.descriptor_limit {
        Some(limit) if limit < FEW_DESCRIPTORS => {
            let reason = format!("at most {limit}, expected {FEW_DESCRIPTORS} or more");
            finding(Code::CHECK_DESCRIPTORS, Status::Warn, WHAT, reason).with_fix(
                "raise the hard limit, in /etc/security/limits.conf or with LimitNOFILE= of the service",
            )
        }
        Some(limit) => finding(
            Code::CHECK_DESCRIPTORS,
            Status::Ok,
            WHAT,
            format!("up to {limit}"),
        ),
        None => finding(Code::CHECK_DESCRIPTORS, Status::Ok, WHAT, "without limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::PodTrial;
    use super::*;

    fn good_machine() -> Machine {
        Machine {
            max_user_namespaces: Some(15000),
            seccomp_filters: true,
            ping_group_range: Some("0\t2147483647".into()),
            descriptor_limit: Some(524_288),
            tun_driver: true,
            tun_node: true,
            ..Machine::default()
        }
    }

    fn made(queue_bytes: Option<u32>) -> PodTrial {
        PodTrial::Made {
            ipv6: true,
            checksum_offload: true,
            queue_bytes,
            warnings: Vec::new(),
        }
    }

    fn good_trials() -> Trials {
        Trials {
            agent: Some(Ok(())),
            user_namespace: Some(Ok(())),
            helper: Some(Ok(())),
            tun: Some(made(None)),
            packet: Some(made(Some(8 << 20))),
            enter: Some(Ok(())),
            pid_namespace: Some(Ok(())),
            proc_mount: Some(Ok(())),
            nested_user: Some(Ok(())),
            ping: Some(Ok(())),
        }
    }

    fn judged(machine: &Machine, trials: &Trials) -> Vec<Finding> {
        judge(machine, trials, &Options::default())
    }

    fn of(findings: &[Finding], code: Code) -> &Finding {
        findings
            .iter()
            .find(|finding| finding.code == code)
            .expect("a finding with this code")
    }

    #[test]
    fn a_good_machine_has_nothing_to_fix() {
        let findings = judged(&good_machine(), &good_trials());
        assert!(
            findings
                .iter()
                .all(|finding| finding.status == Status::Ok && finding.fix.is_none())
        );
        let mut codes = findings.iter().map(|finding| finding.code).collect::<Vec<_>>();
        codes.dedup();
        assert_eq!(codes.len(), findings.len(), "one finding a code");
    }

    #[test]
    fn each_reason_for_refused_user_namespaces_has_its_own_fix() {
        let refused = Trials {
            user_namespace: Some(Err("EPERM".into())),
            ..Trials::default()
        };
        for (machine, fix) in [
            (
                Machine {
                    max_user_namespaces: Some(0),
                    ..good_machine()
                },
                "user.max_user_namespaces=15000",
            ),
            (
                Machine {
                    unprivileged_userns_clone: Some(0),
                    ..good_machine()
                },
                "unprivileged_userns_clone=1",
            ),
            (
                Machine {
                    apparmor_restrict_userns: Some(1),
                    ..good_machine()
                },
                "AppArmor profile",
            ),
            (
                Machine {
                    under_seccomp: true,
                    ..good_machine()
                },
                "seccomp profile",
            ),
            (good_machine(), "CONFIG_USER_NS"),
        ] {
            let findings = judged(&machine, &refused);
            let finding = of(&findings, Code::CHECK_USER_NAMESPACE);
            assert_eq!(finding.status, Status::Fail);
            assert!(
                finding.fix.as_deref().is_some_and(|text| text.contains(fix)),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn root_that_lacks_a_capability_is_told_so() {
        let error = crate::laptop::Error::IdMap {
            uid: 0,
            gid: 0,
            source: io::ErrorKind::PermissionDenied.into(),
        };
        let trials = Trials {
            user_namespace: Some(Err(error.to_string())),
            ..Trials::default()
        };
        let machine = Machine {
            root_without_setfcap: true,
            ..good_machine()
        };
        let findings = judged(&machine, &trials);
        let finding = of(&findings, Code::CHECK_USER_NAMESPACE);
        assert!(finding.reason.contains("CAP_SETFCAP"), "{finding:?}");
        assert!(
            finding
                .fix
                .as_deref()
                .is_some_and(|fix| fix.contains("runAsNonRoot"))
        );
    }

    #[test]
    fn a_limit_that_is_reached_is_told_from_one_that_is_unknown() {
        let full = io::Error::from_raw_os_error(NO_SPACE).to_string();
        let trials = Trials {
            nested_user: Some(Err(full)),
            ..good_trials()
        };
        let findings = judged(
            &Machine {
                max_user_namespaces: Some(7),
                ..good_machine()
            },
            &trials,
        );
        assert!(
            of(&findings, Code::CHECK_USER_NAMESPACE)
                .reason
                .contains("max_user_namespaces is 7")
        );
    }

    #[test]
    fn what_adit_can_do_without_is_a_warning() {
        let trials = Trials {
            tun: Some(PodTrial::Made {
                ipv6: false,
                checksum_offload: false,
                queue_bytes: None,
                warnings: vec!["no".into()],
            }),
            proc_mount: Some(Err("EPERM".into())),
            ping: Some(Err("EACCES".into())),
            ..good_trials()
        };
        let findings = judged(
            &Machine {
                descriptor_limit: Some(1024),
                ..good_machine()
            },
            &trials,
        );
        let warned = findings
            .iter()
            .filter(|finding| finding.status == Status::Warn)
            .map(|finding| finding.code);
        assert_eq!(
            warned.collect::<Vec<_>>(),
            [
                Code::CHECK_POD,
                Code::CHECK_CHECKSUM_OFFLOAD,
                Code::CHECK_IPV6,
                Code::CHECK_PID_NAMESPACE,
                Code::CHECK_PING,
                Code::CHECK_DESCRIPTORS
            ]
        );
        assert!(findings.iter().all(|finding| finding.status != Status::Fail));
    }

    #[test]
    fn what_helper_and_agent_are_refused_is_a_finding_of_its_own() {
        let refused = |code| {
            Some(Err(Refusal {
                code,
                message: "a step: EPERM (ADIT-N038)".into(),
            }))
        };
        for code in [
            Code::CHECK_PROCESSES,
            Code::CHECK_NO_NEW_PRIVILEGES,
            Code::CHECK_PRIVILEGES,
            Code::CHECK_SECCOMP,
        ] {
            for (helper, agent) in [(refused(code), Some(Ok(()))), (Some(Ok(())), refused(code))] {
                let trials = Trials {
                    helper,
                    agent,
                    // What comes of it: the program's user namespace ends with no-new-privileges, too.
                    nested_user: match code {
                        Code::CHECK_NO_NEW_PRIVILEGES => Some(Err("EPERM".into())),
                        _ => Some(Ok(())),
                    },
                    ..good_trials()
                };
                let findings = judged(&good_machine(), &trials);
                let failed = findings.iter().filter(|finding| finding.status == Status::Fail);
                let failed = failed.collect::<Vec<_>>();
                assert_eq!(failed.len(), 1, "{failed:?}");
                assert_eq!(failed[0].code, code);
                assert!(failed[0].reason.contains("ADIT-N038") && failed[0].fix.is_some());
            }
        }
        let trials = Trials {
            enter: Some(Err("entering a net namespace: EPERM".into())),
            ..good_trials()
        };
        let findings = judged(&good_machine(), &trials);
        assert_eq!(of(&findings, Code::CHECK_ENTER).status, Status::Fail);
    }

    #[test]
    fn a_child_that_said_nothing_is_no_success() {
        let findings = judged(&good_machine(), &Trials::default());
        assert_eq!(of(&findings, Code::CHECK_INCOMPLETE).status, Status::Fail);
        let silent_helper = Trials {
            helper: None,
            ..good_trials()
        };
        let findings = judged(&good_machine(), &silent_helper);
        assert_eq!(of(&findings, Code::CHECK_INCOMPLETE).status, Status::Fail);
    }
}
