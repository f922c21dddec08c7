use super::*;
use crate::probe::Machine;

fn list_of(types: &[&str]) -> List {
    List {
        path: "/etc/cni/net.d/10-pods.conflist".into(),
        types: Ok(types.iter().map(|kind| (*kind).to_owned()).collect()),
        replaceable: Ok(()),
    }
}

/// A host with a cluster's network, before adit is installed.
fn good() -> Host {
    Host {
        root: true,
        lacking: Vec::new(),
        initial_user_namespace: true,
        machine: Machine {
            tun_driver: true,
            tun_node: true,
            ..Machine::default()
        },
        tun: Some(Ok(())),
        packet: Some(Ok(())),
        dual_stack_pod: Some(Ok(())),
        plugin: Some(Plugin {
            configuration: Configuration {
                writable: Ok(()),
                list: Ok(Some(list_of(&["ptp", "portmap"]))),
            },
            binaries: Binaries {
                writable: Ok(()),
                executable: Some(true),
            },
            remains: Vec::new(),
        }),
        helper: Helper::Absent,
    }
}

/// No pod joins, whatever devices it is to have.
fn refuse(host: &mut Host, code: Code, message: &str) {
    for tried in [&mut host.tun, &mut host.packet] {
        *tried = Some(Err(Failure::new(code, message)));
    }
}

fn plugin(host: &mut Host) -> &mut Plugin {
    host.plugin.as_mut().unwrap()
}

fn refusal(kind: ErrorKind) -> Refusal {
    Refusal {
        kind,
        message: format!("replacing a file in /x: {kind}"),
    }
}

/// One thing that is otherwise, what is said of it, and in which words.
struct Case {
    change: fn(&mut Host),
    code: Code,
    status: Status,
    reason: &'static str,
    fix: &'static str,
}

const CASES: &[Case] = &[
    Case {
        change: |host| host.root = false,
        code: Code::CHECK_NODE_ROOT,
        status: Status::Fail,
        reason: "another user",
        fix: "sudo",
    },
    Case {
        change: |host| host.lacking = vec!["CAP_SYS_ADMIN", "CAP_NET_ADMIN"],
        code: Code::CHECK_NODE_ROOT,
        status: Status::Fail,
        reason: "CAP_SYS_ADMIN and CAP_NET_ADMIN",
        fix: "privileged",
    },
    Case {
        change: |host| host.initial_user_namespace = false,
        code: Code::CHECK_NODE_ROOT,
        status: Status::Warn,
        reason: "user namespace",
        fix: "outside",
    },
    Case {
        change: |host| refuse(host, Code::NAMESPACES, "pinning: EROFS"),
        code: Code::CHECK_NODE_NAMESPACES,
        status: Status::Fail,
        reason: "pinning: EROFS (ADIT-N003)",
        fix: "--state",
    },
    Case {
        change: |host| host.tun = Some(Err(Failure::new(Code::TUN_OPEN, "opening: EACCES"))),
        code: Code::CHECK_NODE_TUN,
        status: Status::Warn,
        reason: "opening: EACCES (ADIT-N004); pods get veth pairs instead",
        fix: "chmod",
    },
    Case {
        change: |host| {
            host.tun = Some(Err(Failure::new(Code::TUN_OPEN, "opening: EACCES")));
            host.packet = None;
        },
        code: Code::CHECK_NODE_TUN,
        status: Status::Fail,
        reason: "opening: EACCES (ADIT-N004)",
        fix: "chmod",
    },
    Case {
        change: |host| host.packet = Some(Err(Failure::new(Code::PACKET_OPEN, "opening: EPERM"))),
        code: Code::CHECK_NODE_PACKET,
        status: Status::Warn,
        reason: "opening: EPERM (ADIT-N041); pods have TUN devices",
        fix: "af_packet",
    },
    Case {
        change: |host| refuse(host, Code::INTERPOSE, "adding a rule: EOPNOTSUPP"),
        code: Code::CHECK_NODE_JOIN,
        status: Status::Fail,
        reason: "adding a rule: EOPNOTSUPP (ADIT-N025)",
        fix: "names the step",
    },
    Case {
        change: |host| refuse(host, Code::POD_FAILED, "waiting: timed out"),
        code: Code::CHECK_INCOMPLETE,
        status: Status::Fail,
        reason: "timed out",
        fix: "again",
    },
    Case {
        change: |host| host.dual_stack_pod = None,
        code: Code::CHECK_NODE_IPV6,
        status: Status::Warn,
        reason: "no IPv6",
        fix: "kernel",
    },
    Case {
        change: |host| {
            host.dual_stack_pod = Some(Err(Failure::new(Code::INTERPOSE, "adding a rule: EAFNOSUPPORT")))
        },
        code: Code::CHECK_NODE_IPV6,
        status: Status::Warn,
        reason: "can't join: adding a rule: EAFNOSUPPORT",
        fix: "kernel",
    },
    Case {
        change: |host| plugin(host).configuration.writable = Err(refusal(ErrorKind::ReadOnlyFilesystem)),
        code: Code::CHECK_CNI_FOLDER,
        status: Status::Fail,
        reason: "read-only",
        fix: "mount /etc/cni/net.d writable",
    },
    Case {
        change: |host| plugin(host).configuration.writable = Err(refusal(ErrorKind::PermissionDenied)),
        code: Code::CHECK_CNI_FOLDER,
        status: Status::Fail,
        reason: "permission denied",
        fix: "let root write",
    },
    Case {
        change: |host| {
            let mut list = list_of(&["ptp"]);
            list.replaceable = Err(refusal(ErrorKind::PermissionDenied));
            plugin(host).configuration.list = Ok(Some(list));
        },
        code: Code::CHECK_CNI_FOLDER,
        status: Status::Fail,
        reason: "permission denied",
        fix: "lsattr",
    },
    Case {
        change: |host| plugin(host).configuration.list = Ok(None),
        code: Code::CHECK_CNI_LIST,
        status: Status::Fail,
        reason: "/etc/cni/net.d has none",
        fix: "network",
    },
    Case {
        change: |host| {
            plugin(host).configuration.list = Err(Failure::new(Code::CONFLIST, "reading: no JSON"))
        },
        code: Code::CHECK_CNI_LIST,
        status: Status::Fail,
        reason: "no JSON (ADIT-N031)",
        fix: ".conflist",
    },
    Case {
        change: |host| {
            let mut list = list_of(&[]);
            list.types = Err("it has no name".into());
            plugin(host).configuration.list = Ok(Some(list));
        },
        code: Code::CHECK_CNI_LIST,
        status: Status::Fail,
        reason: "10-pods.conflist: it has no name",
        fix: "installer",
    },
    Case {
        change: |host| {
            plugin(host).configuration.list = Ok(Some(list_of(&["ptp", "istio-cni", "linkerd-cni"])))
        },
        code: Code::CHECK_CNI_OTHERS,
        status: Status::Warn,
        reason: "istio-cni and linkerd-cni",
        fix: "uninstall Istio and Linkerd",
    },
    Case {
        change: |host| plugin(host).binaries.executable = Some(false),
        code: Code::CHECK_CNI_BINARIES,
        status: Status::Fail,
        reason: "noexec",
        fix: "remount,exec",
    },
    Case {
        change: |host| {
            plugin(host).binaries = Binaries {
                writable: Err(refusal(ErrorKind::NotFound)),
                executable: None,
            };
        },
        code: Code::CHECK_CNI_BINARIES,
        status: Status::Fail,
        reason: "not found",
        fix: "--cni-bin-dir",
    },
    Case {
        change: |host| {
            plugin(host).binaries = Binaries {
                writable: Err(refusal(ErrorKind::StorageFull)),
                executable: None,
            };
        },
        code: Code::CHECK_CNI_BINARIES,
        status: Status::Fail,
        reason: "no storage space",
        fix: "free space",
    },
    Case {
        change: |host| plugin(host).remains = vec!["/opt/cni/bin/adit-cni".into()],
        code: Code::CHECK_NODE_HELPER,
        status: Status::Fail,
        reason: "new pods wait for it because of /opt/cni/bin/adit-cni",
        fix: "--uninstall",
    },
    Case {
        change: |host| {
            host.helper = Helper::NotReady {
                code: Code::JOURNAL,
                message: "an entry can't be read".into(),
            };
        },
        code: Code::CHECK_NODE_HELPER,
        status: Status::Fail,
        reason: "isn't ready: an entry can't be read (ADIT-N028)",
        fix: "free the disk",
    },
    Case {
        change: |host| {
            host.helper = Helper::Silent {
                code: Code::UNREACHABLE,
                message: "no answer".into(),
            };
        },
        code: Code::CHECK_NODE_HELPER,
        status: Status::Fail,
        reason: "no answer (ADIT-N009)",
        fix: "log",
    },
];

fn of(findings: &[Finding], code: Code) -> &Finding {
    let found = findings.iter().find(|finding| finding.code == code);
    found.unwrap_or_else(|| panic!("no finding with {code} in {findings:#?}"))
}

#[test]
fn a_good_host_has_nothing_to_fix_and_one_finding_a_code() {
    let findings = judge(&good(), &Options::default());
    let mut codes = findings.iter().map(|finding| finding.code).collect::<Vec<_>>();
    assert!(
        findings
            .iter()
            .all(|finding| finding.status == Status::Ok && finding.fix.is_none()),
        "{findings:#?}"
    );
    assert_eq!(codes.len(), 11);
    codes.dedup();
    assert_eq!(codes.len(), 11);
    assert_eq!(of(&findings, Code::CHECK_NODE_HELPER).reason, "not installed");
}

#[test]
fn each_thing_that_is_wrong_has_its_code_its_reason_and_its_fix() {
    for case in CASES {
        let mut host = good();
        (case.change)(&mut host);
        let findings = judge(&host, &Options::default());
        let found = of(&findings, case.code);
        assert_eq!(found.status, case.status, "{found:?}");
        assert!(
            found.reason.contains(case.reason),
            "{found:?} without {:?}",
            case.reason
        );
        let fix = found.fix.as_deref().unwrap_or_default();
        assert!(fix.contains(case.fix), "{found:?} without {:?}", case.fix);
        let wrong = findings.iter().filter(|finding| finding.status != Status::Ok);
        assert_eq!(wrong.count(), 1, "{findings:#?}");
    }
}

#[test]
fn the_devices_that_pods_will_have_are_named() {
    let joined = |host: &Host| {
        of(&judge(host, &Options::default()), Code::CHECK_NODE_JOIN)
            .reason
            .clone()
    };
    let mut host = good();
    assert!(joined(&host).contains("by TUN devices"));
    host.tun = Some(Err(Failure::new(Code::TUN_OPEN, "no")));
    assert!(joined(&host).contains("by veth pairs"));
    host.packet = Some(Err(Failure::new(Code::VETH_PAIR, "no")));
    let findings = judge(&host, &Options::default());
    for code in [Code::CHECK_NODE_TUN, Code::CHECK_NODE_PACKET] {
        let found = of(&findings, code);
        assert!(found.status == Status::Fail && found.fix.is_some(), "{found:?}");
    }
    assert!(
        findings
            .iter()
            .all(|finding| finding.code != Code::CHECK_NODE_JOIN)
    );
}

#[test]
fn what_was_not_reached_is_not_said_to_work() {
    let mut host = good();
    let codes = |host: &Host| {
        let findings = judge(host, &Options::default());
        findings.iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    refuse(&mut host, Code::NAMESPACES, "no");
    for unreached in [Code::CHECK_NODE_TUN, Code::CHECK_NODE_JOIN, Code::CHECK_NODE_IPV6] {
        assert!(!codes(&host).contains(&unreached), "{unreached}");
    }
    refuse(&mut host, Code::POD_FAILED, "no");
    assert!(!codes(&host).contains(&Code::CHECK_NODE_NAMESPACES));
    refuse(&mut host, Code::INTERPOSE, "no");
    assert!(!codes(&host).contains(&Code::CHECK_NODE_TUN));
    // A folder that isn't there has no list, which needn't be said twice.
    plugin(&mut host).configuration = Configuration {
        writable: Err(refusal(ErrorKind::NotFound)),
        list: Ok(None),
    };
    assert!(!codes(&host).contains(&Code::CHECK_CNI_LIST));
}

#[test]
fn the_place_of_the_plugin_in_the_list_is_told() {
    for (types, words) in [
        (&["ptp"][..], "without adit-cni so far: ptp"),
        (&["ptp", "adit-cni"], "at its end: ptp, adit-cni"),
        (&["adit-cni", "ptp"], "will move to its end"),
    ] {
        let mut host = good();
        plugin(&mut host).configuration.list = Ok(Some(list_of(types)));
        host.helper = Helper::Ready;
        let findings = judge(&host, &Options::default());
        let found = of(&findings, Code::CHECK_CNI_LIST);
        assert_eq!(found.status, Status::Ok);
        assert!(found.reason.contains(words), "{found:?}");
    }
}

#[test]
fn a_helper_without_a_plugin_needs_no_folders() {
    let host = Host {
        plugin: None,
        ..good()
    };
    let options = Options {
        plugin: None,
        ..Options::default()
    };
    assert_eq!(judge(&host, &options).len(), 7);
}
