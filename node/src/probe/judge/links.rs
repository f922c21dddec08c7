//! What the trials say of the links that a pod can have, and so of pods.

use std::path::Path;

use adit_link::LinkKind;

use super::super::trial::PodTrial;
use super::super::{Finding, Options, Status};
use super::{Machine, Trials, finding};
use crate::codes::Code;
use crate::link::{LinkChoice, is_of_link};
use crate::protocol::LITTLE_ROOM;

const POD: &str = "network, mount, UTS and IPC namespaces";

/// A pod that was made.
struct Made<'a> {
    ipv6: bool,
    checksum_offload: bool,
    queue_bytes: Option<u32>,
    warnings: &'a [String],
}

/// Findings on pods and their links, from what pods are made of to what they can do without.
pub(super) fn judge(machine: &Machine, trials: &Trials, options: &Options) -> Vec<Finding> {
    let tried = [&trials.tun, &trials.packet];
    if tried.iter().all(|trial| trial.is_none()) {
        return Vec::new();
    }
    let made = tried.map(|trial| trial.as_ref().and_then(Made::of));
    let [tun, packet] = &made;
    let Some(pod) = tun.as_ref().or(packet.as_ref()) else {
        return refused(machine, trials, options);
    };
    let mut findings = vec![if pod.warnings.is_empty() {
        finding(Code::CHECK_POD, Status::Ok, POD, "a pod was made")
    } else {
        let reason = format!("a pod was made, but: {}", pod.warnings.join("; "));
        finding(Code::CHECK_POD, Status::Warn, POD, reason)
    }];
    findings.extend(links(machine, trials, options, Status::Warn));
    // Only where it is the one that is used: the kernel's usual bound is little, and nothing is wrong with it.
    let is_used = tun.is_none() || options.link == LinkChoice::Only(LinkKind::Packet);
    findings.extend(packet.as_ref().filter(|_| is_used).and_then(room));
    findings.push(has(
        pod.checksum_offload,
        Code::CHECK_CHECKSUM_OFFLOAD,
        "checksum offload",
    ));
    findings.push(has(pod.ipv6, Code::CHECK_IPV6, "IPv6 in pods"));
    findings
}

/// No pod could be made, of either kind.
fn refused(machine: &Machine, trials: &Trials, options: &Options) -> Vec<Finding> {
    let of_link =
        |trial: &Option<PodTrial>| trial.as_ref().is_none_or(|trial| trial.refused_link().is_some());
    if of_link(&trials.tun) && of_link(&trials.packet) {
        let mut findings = vec![finding(Code::CHECK_POD, Status::Ok, POD, "can be made")];
        findings.extend(links(machine, trials, options, Status::Fail));
        return findings;
    }
    let other = [&trials.tun, &trials.packet]
        .into_iter()
        .flatten()
        .find_map(|trial| match trial {
            PodTrial::Refused { code, message } if !is_of_link(*code) => Some((*code, message)),
            _ => None,
        });
    other
        .map(|(code, message)| {
            let refused = finding(Code::CHECK_POD, Status::Fail, POD, format!("{message} ({code})"));
            match code.entry() {
                Some(entry) => refused.with_fix(entry.fix),
                None => refused,
            }
        })
        .into_iter()
        .collect()
}

/// A finding on each kind that was tried; `missing` says how bad it is when one can't be had.
fn links(machine: &Machine, trials: &Trials, options: &Options, missing: Status) -> Vec<Finding> {
    let device = options.tun_device.display();
    let tun = trials.tun.as_ref().map(|trial| match trial.refused_link() {
        None => {
            let reason = format!("{device} makes devices with virtio-net headers, packets went both ways");
            finding(Code::CHECK_TUN, Status::Ok, "TUN device", reason)
        }
        Some((code, message)) => {
            let (status, instead) = match missing {
                // It can be made, so pods would get it and no other, and nothing would come through.
                _ if code == Code::LINK_SILENT => (Status::Fail, ""),
                Status::Fail => (Status::Fail, ""),
                _ => (missing, "; pods get a veth pair instead"),
            };
            let reason = format!("{message} ({code}){instead}");
            finding(Code::CHECK_TUN, status, "TUN device", reason).with_fix(tun_fix(
                code,
                machine,
                &options.tun_device,
            ))
        }
    });
    let packet = trials.packet.as_ref().map(|trial| match trial.refused_link() {
        None => finding(
            Code::CHECK_PACKET,
            Status::Ok,
            PACKET,
            "can be made with virtio-net headers, packets went both ways",
        ),
        Some((code, message)) => {
            let refused = finding(Code::CHECK_PACKET, missing, PACKET, format!("{message} ({code})"));
            match code.entry() {
                Some(entry) => refused.with_fix(entry.fix),
                None => refused,
            }
        }
    });
    [tun, packet].into_iter().flatten().collect()
}

const PACKET: &str = "veth pair with a packet socket";

fn room(made: &Made<'_>) -> Option<Finding> {
    const WHAT: &str = "room for packets in a packet socket";
    let bytes = made.queue_bytes?;
    let code = Code::CHECK_PACKET_BUFFER;
    let kib = bytes >> 10;
    Some(if bytes < LITTLE_ROOM {
        let reason = format!(
            "{kib} KiB by net.core.rmem_max, expected {} or more: several streams at once lose packets",
            LITTLE_ROOM >> 10
        );
        finding(code, Status::Warn, WHAT, reason)
            .with_fix("sudo sysctl net.core.rmem_max=4194304, or make the TUN device available")
    } else {
        finding(code, Status::Ok, WHAT, format!("{kib} KiB"))
    })
}

/// A finding about something that is there, or that adit can do without.
fn has(there: bool, code: Code, what: &'static str) -> Finding {
    if there {
        return finding(code, Status::Ok, what, "works");
    }
    let entry = code.entry();
    let missing = finding(
        code,
        Status::Warn,
        what,
        entry.map_or("is missing", |entry| entry.cause),
    );
    Finding {
        fix: entry.map(|entry| entry.fix.to_owned()),
        ..missing
    }
}

/// What to do when a TUN device was refused with `code`.
pub(crate) fn tun_fix(code: Code, machine: &Machine, device: &Path) -> String {
    let device = device.display();
    match code {
        Code::TUN_OPEN if !machine.tun_driver => "sudo modprobe tun".to_owned(),
        Code::TUN_OPEN if !machine.tun_node => format!("sudo mknod -m 0666 {device} c 10 200"),
        Code::TUN_OPEN => format!("sudo chmod 0666 {device}, as distributions ship it"),
        Code::LINK_SILENT => "look for a packet filter on TUN devices, or use --link packet".to_owned(),
        _ => format!("check that {device} is character device 10:200"),
    }
}

impl PodTrial {
    /// Why the link was refused, if that is what was.
    fn refused_link(&self) -> Option<(Code, &str)> {
        match self {
            Self::Refused { code, message } if is_of_link(*code) => Some((*code, message)),
            _ => None,
        }
    }
}

impl<'a> Made<'a> {
    fn of(trial: &'a PodTrial) -> Option<Self> {
        match trial {
            PodTrial::Made {
                ipv6,
                checksum_offload,
                queue_bytes,
                warnings,
            } => Some(Self {
                ipv6: *ipv6,
                checksum_offload: *checksum_offload,
                queue_bytes: *queue_bytes,
                warnings,
            }),
            PodTrial::Refused { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
