//! Where this process runs, as far as that can be told: some places can't have all of adit, and say so in riddles.
//!
//! What is found here explains, and what is tried out decides: nothing below is a failure unless nothing could be tried
//! that would succeed. Pure, but for [`Environment::read`].

use std::fs;

use super::judge::is_filtered;
use super::{Finding, Status, finding};
use crate::codes::Code;

/// The oldest kernel that adit is tried on.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// What is to run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Workloads of an ordinary user: `adit run`, `adit up`.
    Programs,
    /// The node helper of a Kubernetes node.
    Node,
}

/// What tells of the place. Texts are empty and names `None` where there is nothing to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `/proc/version`: the kernel's name, release and build.
    pub kernel: String,
    /// `kernel.osrelease`, such as `6.1.0-18-amd64`.
    pub release: String,
    /// `/proc/cmdline`: what the kernel was started with.
    pub command_line: String,
    /// `AWS_EXECUTION_ENV`.
    pub aws_execution: Option<String>,
    /// The Kubernetes node that this is, or is a pod of: `NODE_NAME`, else the host's own name.
    pub node_name: String,
    /// The file or variable that says that this is a container.
    pub container: Option<String>,
    /// A seccomp filter is on this process.
    pub under_seccomp: bool,
}

impl Environment {
    /// Asks this process' surroundings.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let file = |path: &str| fs::exists(path).unwrap_or(false).then(|| path.to_owned());
        let named = |name: &str| variable(name).map(|_| name.to_owned());
        Self {
            kernel: text("/proc/version"),
            release: text("/proc/sys/kernel/osrelease"),
            command_line: text("/proc/cmdline"),
            aws_execution: variable("AWS_EXECUTION_ENV"),
            node_name: variable("NODE_NAME").unwrap_or_else(|| text("/proc/sys/kernel/hostname")),
            container: (file("/.dockerenv").or_else(|| file("/run/.containerenv")))
                .or_else(|| named("KUBERNETES_SERVICE_HOST"))
                .or_else(|| named("container")),
            under_seccomp: is_filtered(&text("/proc/self/status")),
        }
    }

    /// gVisor calls itself 4.4.0 or 4.19.0-gvisor, with the build date of a kernel that it never was.
    fn is_gvisor(&self) -> bool {
        has(&self.kernel, "gvisor") || self.kernel.contains("#1 SMP Sun Jan 10 15:06:54 PST 2016")
    }

    /// A task of ECS on Fargate, or a pod of EKS on it, whose node has it in its name.
    fn is_fargate(&self) -> bool {
        self.aws_execution.as_deref() == Some("AWS_ECS_FARGATE") || self.node_name.starts_with("fargate-ip-")
    }

    /// GKE calls an Autopilot cluster's nodes gk3-…, where those of other clusters are gke-….
    fn is_autopilot(&self) -> bool {
        self.node_name.starts_with("gk3-")
    }

    fn is_kata(&self) -> bool {
        has(&self.command_line, "kata-containers") || has(&self.command_line, "kata-agent")
    }

    fn is_wsl(&self) -> bool {
        has(&self.kernel, "microsoft")
    }

    /// Version 1 has no Linux: its calls are translated.
    fn is_wsl1(&self) -> bool {
        self.is_wsl() && !has(&self.kernel, "wsl2") && !has(&self.kernel, "microsoft-standard")
    }

    fn is_docker_desktop(&self) -> bool {
        has(&self.kernel, "linuxkit")
    }

    /// Major and minor version; `None` for a text that is none.
    fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|letter: char| !letter.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

fn has(text: &str, word: &str) -> bool {
    text.to_ascii_lowercase().contains(word)
}

/// What there is to say of a place.
type Place = fn(Purpose) -> Finding;

/// Says where this is and what that means for what is to run: the kernel, and each place that is known for something.
#[must_use]
pub fn judge(environment: &Environment, purpose: Purpose) -> Vec<Finding> {
    let places: [(bool, Place); 7] = [
        (environment.is_fargate(), fargate),
        (environment.is_autopilot(), autopilot),
        (environment.is_gvisor(), gvisor),
        (environment.is_kata(), kata),
        (environment.is_wsl1(), wsl1),
        (environment.is_wsl() && !environment.is_wsl1(), wsl2),
        (environment.is_docker_desktop(), docker_desktop),
    ];
    let mut findings = Vec::new();
    // Neither has a version of Linux, whatever they say.
    if !environment.is_gvisor() && !environment.is_wsl1() {
        findings.push(kernel(environment));
    }
    let known = places.into_iter().filter(|(is_here, _)| *is_here);
    let known: Vec<_> = known.map(|(_, say)| say(purpose)).collect();
    let container = environment.container.as_deref().filter(|_| known.is_empty());
    findings.extend(known);
    findings.extend(container.map(|sign| in_container(sign, environment.under_seccomp)));
    findings
}

fn kernel(environment: &Environment) -> Finding {
    const WHAT: &str = "kernel";
    let said = |status, reason: String| finding(Code::CHECK_KERNEL, status, WHAT, reason);
    let release = &environment.release;
    let (major, minor) = OLDEST_KERNEL;
    match environment.version() {
        Some(version) if version >= OLDEST_KERNEL => said(Status::Ok, format!("Linux {release}")),
        Some(_) => said(
            Status::Warn,
            format!("Linux {release}, and adit isn't tried on any before {major}.{minor}"),
        )
        .with_fix(format!("use a kernel of {major}.{minor} or later")),
        None => said(
            Status::Warn,
            format!("expected a version such as 6.1, got {release:?}"),
        )
        .with_fix(format!(
            "use Linux of {major}.{minor} or later, with /proc mounted"
        )),
    }
}

fn fargate(purpose: Purpose) -> Finding {
    let said = |status, reason| finding(Code::CHECK_FARGATE, status, "AWS Fargate", reason);
    match purpose {
        Purpose::Programs => said(
            Status::Warn,
            "this is a Fargate task: what its containers may do is AWS's choice, and namespaces are mostly not among it",
        )
        .with_fix("run `adit up` on an EC2 instance or a CI runner of your own; `adit policy lint` and `adit policy test` work here"),
        Purpose::Node => said(
            Status::Fail,
            "Fargate has no node of yours: no DaemonSet runs there, and no container is privileged",
        )
        .with_fix("schedule pods that are to be in the mesh on EC2 nodes; those on Fargate stay outside, and policies see them by address"),
    }
}

fn autopilot(purpose: Purpose) -> Finding {
    let said = |reason| finding(Code::CHECK_AUTOPILOT, Status::Warn, "GKE Autopilot", reason);
    match purpose {
        Purpose::Programs => said("Autopilot gives pods no namespaces of their own choice")
            .with_fix("run `adit up` on a Standard node or a CI runner; `adit policy lint` and `adit policy test` work here"),
        Purpose::Node => said("Autopilot refuses privileged pods that no allow-list of the cluster names")
            .with_fix("install a WorkloadAllowlist for the DaemonSets adit-helper and adit-agent with an AllowlistSynchronizer, or use a Standard cluster or node pool"),
    }
}

fn gvisor(purpose: Purpose) -> Finding {
    let said = |reason| finding(Code::CHECK_GVISOR, Status::Warn, "gVisor", reason);
    match purpose {
        Purpose::Programs => said(
            "the kernel here is gVisor, which has not all of Linux' namespaces, devices and filters",
        )
        .with_fix(
            "run it outside of the sandbox; a gVisor pod is captured from its node, where the agent runs",
        ),
        Purpose::Node => said("inside of a gVisor sandbox no other pod's network can be reached")
            .with_fix("let the helper's pod run with runc: leave its runtimeClassName out"),
    }
}

fn kata(purpose: Purpose) -> Finding {
    let said = |status, reason| finding(Code::CHECK_KATA, status, "Kata Containers", reason);
    match purpose {
        Purpose::Programs => said(
            Status::Ok,
            "the kernel here is the guest's of a Kata pod: what follows is true of it",
        ),
        Purpose::Node => said(
            Status::Warn,
            "inside of a Kata guest no other pod's network can be reached",
        )
        .with_fix("let the helper's pod run with runc: leave its runtimeClassName out"),
    }
}

fn wsl1(_: Purpose) -> Finding {
    let reason = "version 1 of Windows' subsystem for Linux has no Linux kernel, and neither namespaces nor TUN devices";
    finding(Code::CHECK_WSL1, Status::Fail, "WSL 1", reason)
        .with_fix("in PowerShell: wsl --set-version DISTRIBUTION 2")
}

fn wsl2(_: Purpose) -> Finding {
    let reason = "a Linux kernel of its own, in Windows: what is asked of it below is all that adit needs";
    finding(Code::CHECK_WSL2, Status::Ok, "WSL 2", reason)
}

fn docker_desktop(_: Purpose) -> Finding {
    let reason = "the kernel here is that of Docker Desktop's virtual machine: what follows is true of it, and not of macOS or Windows around it";
    finding(Code::CHECK_DOCKER_DESKTOP, Status::Ok, "Docker Desktop", reason)
}

fn in_container(sign: &str, under_seccomp: bool) -> Finding {
    let filter = match under_seccomp {
        true => "under a seccomp filter, which may refuse some of what follows",
        false => "without a seccomp filter",
    };
    finding(
        Code::CHECK_CONTAINER,
        Status::Ok,
        "container",
        format!("this is one ({sign}), {filter}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str =
        "Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) #1 SMP PREEMPT_DYNAMIC";

    fn host() -> Environment {
        Environment {
            kernel: DEBIAN.into(),
            release: "6.1.0-18-amd64".into(),
            node_name: "build-7".into(),
            ..Environment::default()
        }
    }

    fn kernel_of(kernel: &str, release: &str) -> Environment {
        Environment {
            kernel: kernel.into(),
            release: release.into(),
            ..host()
        }
    }

    /// Code and status of each finding, for programs and for a node.
    fn judged(environment: &Environment) -> [Vec<(Code, Status)>; 2] {
        [Purpose::Programs, Purpose::Node].map(|purpose| {
            let findings = judge(environment, purpose);
            for finding in &findings {
                assert_eq!(finding.fix.is_some(), finding.status != Status::Ok, "{finding:?}");
                assert!(finding.code.entry().is_some(), "{finding:?}");
            }
            findings
                .into_iter()
                .map(|finding| (finding.code, finding.status))
                .collect()
        })
    }

    #[test]
    fn an_ordinary_host_is_known_by_its_kernel_alone() {
        let ok = vec![(Code::CHECK_KERNEL, Status::Ok)];
        assert_eq!(judged(&host()), [ok.clone(), ok.clone()]);
        assert_eq!(judged(&kernel_of(DEBIAN, "5.10.0")), [ok.clone(), ok]);
        for old in ["5.9.16", "4.18.0-553.el8", "", "6", "unknown"] {
            let warned = vec![(Code::CHECK_KERNEL, Status::Warn)];
            assert_eq!(judged(&kernel_of(DEBIAN, old)), [warned.clone(), warned], "{old}");
        }
    }

    #[test]
    fn each_place_has_a_code_of_its_own() {
        let kernel = (Code::CHECK_KERNEL, Status::Ok);
        let ecs = Environment {
            aws_execution: Some("AWS_ECS_FARGATE".into()),
            ..host()
        };
        let eks = Environment {
            node_name: "fargate-ip-10-0-1-7.eu-west-1.compute.internal".into(),
            ..host()
        };
        for fargate in [ecs, eks] {
            let said = [Status::Warn, Status::Fail].map(|status| vec![kernel, (Code::CHECK_FARGATE, status)]);
            assert_eq!(judged(&fargate), said);
        }
        let autopilot = Environment {
            node_name: "gk3-shop-pool-2-0d1e2f".into(),
            container: Some("KUBERNETES_SERVICE_HOST".into()),
            ..host()
        };
        let said = vec![kernel, (Code::CHECK_AUTOPILOT, Status::Warn)];
        assert_eq!(judged(&autopilot), [said.clone(), said]);
        let kata = Environment {
            command_line: "quiet systemd.unit=kata-containers.target agent.log=debug".into(),
            ..host()
        };
        let said = [Status::Ok, Status::Warn].map(|status| vec![kernel, (Code::CHECK_KATA, status)]);
        assert_eq!(judged(&kata), said);
        for ec2 in ["AWS_ECS_EC2", ""] {
            let environment = Environment {
                aws_execution: Some(ec2.into()),
                ..host()
            };
            assert_eq!(judged(&environment)[0], [kernel]);
        }
    }

    #[test]
    fn kernels_say_whose_they_are() {
        let both = |code, status| [(); 2].map(|()| (code, status));
        for (kernel, release, expected) in [
            (
                "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016",
                "4.4.0",
                both(Code::CHECK_GVISOR, Status::Warn),
            ),
            (
                "Linux version 4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016",
                "4.19.0-gvisor",
                both(Code::CHECK_GVISOR, Status::Warn),
            ),
            (
                "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) #1237-Microsoft",
                "4.4.0-19041-Microsoft",
                both(Code::CHECK_WSL1, Status::Fail),
            ),
            (
                "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1)",
                "5.15.153.1-microsoft-standard-WSL2",
                both(Code::CHECK_WSL2, Status::Ok),
            ),
            (
                "Linux version 6.10.14-linuxkit (root@buildkitsandbox)",
                "6.10.14-linuxkit",
                both(Code::CHECK_DOCKER_DESKTOP, Status::Ok),
            ),
        ] {
            let said = judged(&kernel_of(kernel, release));
            let last = said.map(|findings| *findings.last().unwrap());
            assert_eq!(last, expected, "{kernel}");
        }
        // The kernel of an old distribution, which is Linux indeed.
        let old = judged(&kernel_of(
            "Linux version 4.4.0-210-generic (buildd@lcy01)",
            "4.4.0-210-generic",
        ));
        assert_eq!(old[0], [(Code::CHECK_KERNEL, Status::Warn)]);
    }

    #[test]
    fn a_container_is_told_where_nothing_else_is_known() {
        let docker = Environment {
            container: Some("/.dockerenv".into()),
            under_seccomp: true,
            ..host()
        };
        let findings = judge(&docker, Purpose::Programs);
        let container = findings.last().unwrap();
        assert_eq!(
            (container.code, container.status),
            (Code::CHECK_CONTAINER, Status::Ok)
        );
        assert!(
            container.reason.contains("/.dockerenv") && container.reason.contains("under a seccomp filter"),
            "{container:?}"
        );
    }
}
