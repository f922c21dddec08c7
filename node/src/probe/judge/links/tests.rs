use super::*;

fn machine(tun_driver: bool, tun_node: bool) -> Machine {
    Machine {
        tun_driver,
        tun_node,
        ..Machine::default()
    }
}

fn made(queue_bytes: Option<u32>) -> Option<PodTrial> {
    Some(PodTrial::Made {
        ipv6: true,
        checksum_offload: true,
        queue_bytes,
        warnings: Vec::new(),
    })
}

fn refused_with(code: Code) -> Option<PodTrial> {
    let message = "the step: EACCES".into();
    Some(PodTrial::Refused { code, message })
}

fn judged(tun: Option<PodTrial>, packet: Option<PodTrial>, link: LinkChoice) -> Vec<Finding> {
    let trials = Trials {
        tun,
        packet,
        ..Trials::default()
    };
    let options = Options {
        link,
        ..Options::default()
    };
    judge(&machine(true, true), &trials, &options)
}

fn status_of(findings: &[Finding], code: Code) -> Option<Status> {
    findings
        .iter()
        .find(|finding| finding.code == code)
        .map(|finding| finding.status)
}

#[test]
fn a_tun_node_that_is_closed_is_told_from_a_driver_that_is_missing() {
    for (tun_driver, tun_node, fix) in [
        (true, true, "chmod 0666"),
        (true, false, "mknod"),
        (false, false, "modprobe"),
    ] {
        let trials = Trials {
            tun: refused_with(Code::TUN_OPEN),
            ..Trials::default()
        };
        let options = Options {
            link: LinkChoice::Only(LinkKind::Tun),
            ..Options::default()
        };
        let findings = judge(&machine(tun_driver, tun_node), &trials, &options);
        let finding = findings
            .iter()
            .find(|finding| finding.code == Code::CHECK_TUN)
            .unwrap();
        assert_eq!(finding.status, Status::Fail);
        assert!(
            finding.fix.as_deref().is_some_and(|text| text.contains(fix)),
            "{finding:?}"
        );
    }
}

#[test]
fn one_link_is_enough_and_the_other_a_warning() {
    let findings = judged(
        refused_with(Code::TUN_OPEN),
        made(Some(8 << 20)),
        LinkChoice::Auto,
    );
    assert_eq!(status_of(&findings, Code::CHECK_POD), Some(Status::Ok));
    assert_eq!(status_of(&findings, Code::CHECK_TUN), Some(Status::Warn));
    assert_eq!(status_of(&findings, Code::CHECK_PACKET), Some(Status::Ok));
    let tun = findings
        .iter()
        .find(|finding| finding.code == Code::CHECK_TUN)
        .unwrap();
    assert!(tun.reason.contains("veth pair instead"), "{tun:?}");

    for code in [
        Code::VETH_PAIR,
        Code::PACKET_OPEN,
        Code::PACKET_CONFIGURE,
        Code::LINK_SILENT,
    ] {
        let findings = judged(made(None), refused_with(code), LinkChoice::Auto);
        assert_eq!(
            status_of(&findings, Code::CHECK_PACKET),
            Some(Status::Warn),
            "{code}"
        );
        assert!(
            findings.iter().all(|finding| finding.status != Status::Fail),
            "{findings:?}"
        );
    }
}

#[test]
fn without_either_link_both_fail_with_a_fix_each() {
    let findings = judged(
        refused_with(Code::TUN_OPEN),
        refused_with(Code::PACKET_OPEN),
        LinkChoice::Auto,
    );
    for code in [Code::CHECK_TUN, Code::CHECK_PACKET] {
        let finding = findings.iter().find(|finding| finding.code == code).unwrap();
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.fix.is_some(), "{finding:?}");
    }
    // The namespaces themselves were made.
    assert_eq!(status_of(&findings, Code::CHECK_POD), Some(Status::Ok));
}

#[test]
fn what_is_not_about_the_link_fails_once() {
    let findings = judged(
        refused_with(Code::MOUNT),
        refused_with(Code::MOUNT),
        LinkChoice::Auto,
    );
    let [pod] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert_eq!((pod.code, pod.status), (Code::CHECK_POD, Status::Fail));
    assert!(pod.fix.is_some());
}

#[test]
fn only_the_link_that_was_asked_for_is_judged() {
    let findings = judged(None, made(Some(8 << 20)), LinkChoice::Only(LinkKind::Packet));
    assert_eq!(status_of(&findings, Code::CHECK_TUN), None);
    assert_eq!(status_of(&findings, Code::CHECK_PACKET), Some(Status::Ok));
    assert_eq!(status_of(&findings, Code::CHECK_PACKET_BUFFER), Some(Status::Ok));
}

#[test]
fn little_room_matters_where_packets_wait_in_it() {
    let little = || made(Some(425_984));
    let used = judged(refused_with(Code::TUN_OPEN), little(), LinkChoice::Auto);
    assert_eq!(status_of(&used, Code::CHECK_PACKET_BUFFER), Some(Status::Warn));
    let unused = judged(made(None), little(), LinkChoice::Auto);
    assert_eq!(status_of(&unused, Code::CHECK_PACKET_BUFFER), None);
}

#[test]
fn a_tun_device_that_carries_nothing_fails_since_pods_would_get_it() {
    let findings = judged(
        refused_with(Code::LINK_SILENT),
        made(Some(8 << 20)),
        LinkChoice::Auto,
    );
    assert_eq!(status_of(&findings, Code::CHECK_TUN), Some(Status::Fail));
    assert_eq!(status_of(&findings, Code::CHECK_PACKET), Some(Status::Ok));
}
