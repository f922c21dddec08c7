//! From what was seen of a host to findings with a fix. Pure.

use std::io::ErrorKind;
use std::path::Path;

use adit_link::LinkKind;

use super::super::conflist::PLUGIN;
use super::super::failure::Failure;
use super::super::serve::Options;
use super::folders::{Binaries, Configuration, List, Refusal};
use super::{Helper, Host, Plugin, Tried};
use crate::codes::Code;
use crate::link::is_of_link;
use crate::probe::{Finding, Status, finding, tun_fix};

/// Types of other meshes' plugins, and the mesh.
const OTHERS: [(&str, &str); 2] = [("istio-cni", "Istio"), ("linkerd-cni", "Linkerd")];

/// Judges a host: one finding for each thing that matters. What could not be tried because of a failure before it has none.
pub(super) fn judge(host: &Host, options: &Options) -> Vec<Finding> {
    let mut findings = vec![root(host)];
    findings.extend(pod(host, options));
    if let (Some(plugin), Some(folders)) = (&host.plugin, &options.plugin) {
        findings.push(configuration_folder(
            &plugin.configuration,
            &folders.configuration,
        ));
        findings.extend(list(&plugin.configuration, &folders.configuration));
        findings.push(binaries(&plugin.binaries, &folders.binaries));
    }
    findings.push(helper(host));
    findings
}

fn root(host: &Host) -> Finding {
    const WHAT: &str = "root of the node";
    let said = |status, reason: String| finding(Code::CHECK_NODE_ROOT, status, WHAT, reason);
    if !host.root {
        return said(Status::Fail, "this process is another user's".into())
            .with_fix("sudo adit check --node");
    }
    if !host.lacking.is_empty() {
        let reason = format!("this process lacks {}", host.lacking.join(" and "));
        return said(Status::Fail, reason).with_fix(
            "give them to it; in a container: securityContext.privileged: true, as the chart has it",
        );
    }
    if !host.initial_user_namespace {
        let reason = "root of a user namespace alone: only pods that were made in it can join";
        return said(Status::Warn, reason.into()).with_fix(
            "nothing where the whole of Kubernetes runs in this user namespace; elsewhere run it outside",
        );
    }
    said(Status::Ok, "with CAP_SYS_ADMIN and CAP_NET_ADMIN".into())
}

/// The pods that were tried, from what they are made of to what they can do.
fn pod(host: &Host, options: &Options) -> Vec<Finding> {
    let tried = [(LinkKind::Tun, &host.tun), (LinkKind::Packet, &host.packet)];
    let tried = tried
        .into_iter()
        .filter_map(|(kind, tried)| Some((kind, tried.as_ref()?)))
        .collect::<Vec<_>>();
    let pinned = finding(
        Code::CHECK_NODE_NAMESPACES,
        Status::Ok,
        NAMESPACES,
        format!("can be made and bind-mounted in {}", options.state.display()),
    );
    let is_fine = tried.iter().find(|(_, tried)| tried.is_ok());
    let Some((chosen, _)) = is_fine else {
        let failures = || tried.iter().filter_map(|(_, tried)| tried.as_ref().err());
        if let Some(failure) = failures().find(|failure| !is_of_link(failure.code)) {
            return refused_pod(pinned, failure);
        }
        let refused = tried
            .iter()
            .map(|(kind, tried)| device(host, options, *kind, tried, None));
        return [pinned].into_iter().chain(refused).collect();
    };
    let mut findings = vec![pinned];
    let devices = tried
        .iter()
        .map(|(kind, tried)| device(host, options, *kind, tried, Some(*chosen)));
    findings.extend(devices);
    let by = match chosen {
        LinkKind::Packet => "veth pairs",
        LinkKind::Tun => "TUN devices",
    };
    findings.push(finding(
        Code::CHECK_NODE_JOIN,
        Status::Ok,
        JOIN,
        format!("one was made, joined by {by}, as others will, left and had all that it had before"),
    ));
    findings.push(ipv6(host));
    findings
}

const NAMESPACES: &str = "pinned network namespaces";
const JOIN: &str = "a pod behind the agent";

/// No pod could join, for a reason that isn't its devices.
fn refused_pod(pinned: Finding, failure: &Failure) -> Vec<Finding> {
    let reason = said(failure);
    match failure.code {
        Code::POD_FAILED => vec![
            finding(Code::CHECK_INCOMPLETE, Status::Fail, JOIN, reason)
                .with_fix("run adit check --node again; look for the out-of-memory killer in the kernel log"),
        ],
        Code::NAMESPACES => vec![
            finding(Code::CHECK_NODE_NAMESPACES, Status::Fail, NAMESPACES, reason)
                .with_fix(explained(Code::CHECK_NODE_NAMESPACES)),
        ],
        code => vec![
            pinned,
            finding(Code::CHECK_NODE_JOIN, Status::Fail, JOIN, reason).with_fix(explained(code)),
        ],
    }
}

/// What is said of one kind of device, when pods will have the `chosen` ones, or none.
fn device(
    host: &Host,
    options: &Options,
    kind: LinkKind,
    tried: &Tried,
    chosen: Option<LinkKind>,
) -> Finding {
    let (code, what) = match kind {
        LinkKind::Packet => (Code::CHECK_NODE_PACKET, "veth pairs of a pod"),
        LinkKind::Tun => (Code::CHECK_NODE_TUN, "TUN devices of a pod"),
    };
    let path = &options.tun_device;
    let Err(failure) = tried else {
        let works = match kind {
            LinkKind::Packet => {
                "both can be made, with virtio-net headers and their packet sockets".to_owned()
            }
            LinkKind::Tun => format!(
                "{} makes both, with virtio-net headers and their queues",
                path.display()
            ),
        };
        return finding(code, Status::Ok, what, works);
    };
    let (status, instead) = match (chosen, kind) {
        (None, _) => (Status::Fail, ""),
        (Some(_), LinkKind::Packet) => (Status::Warn, "; pods have TUN devices"),
        (Some(_), LinkKind::Tun) => (Status::Warn, "; pods get veth pairs instead"),
    };
    let fix = match kind {
        LinkKind::Packet => explained(failure.code).to_owned(),
        LinkKind::Tun => tun_fix(failure.code, &host.machine, path),
    };
    finding(code, status, what, format!("{}{instead}", said(failure))).with_fix(fix)
}

fn ipv6(host: &Host) -> Finding {
    let found = |status, reason: String| finding(Code::CHECK_NODE_IPV6, status, "a pod with IPv6", reason);
    let missing = |reason| found(Status::Warn, reason).with_fix(explained(Code::CHECK_NODE_IPV6));
    match &host.dual_stack_pod {
        Some(Ok(())) => found(Status::Ok, "joined and left as well".into()),
        Some(Err(failure)) => missing(format!("pods with an IPv6 address can't join: {}", said(failure))),
        None => missing("the kernel has no IPv6".into()),
    }
}

fn configuration_folder(configuration: &Configuration, folder: &Path) -> Finding {
    const WHAT: &str = "CNI configuration folder";
    let path = folder.display();
    let list = configuration.list.as_ref().ok().and_then(Option::as_ref);
    let refusal = [
        configuration.writable.as_ref().err(),
        list.and_then(|list| list.replaceable.as_ref().err()),
    ];
    match refusal.into_iter().flatten().next() {
        None => finding(
            Code::CHECK_CNI_FOLDER,
            Status::Ok,
            WHAT,
            format!("files in {path} can be replaced"),
        ),
        Some(refusal) => refused(Code::CHECK_CNI_FOLDER, WHAT, refusal, folder, "--cni-conf-dir"),
    }
}

/// The list, and who else is in it.
fn list(configuration: &Configuration, folder: &Path) -> Vec<Finding> {
    const WHAT: &str = "CNI list";
    let bad = |reason| finding(Code::CHECK_CNI_LIST, Status::Fail, WHAT, reason);
    let install = "install the cluster's network, or name the runtime's folder with --cni-conf-dir";
    let found = match &configuration.list {
        // Said of the folder already.
        Ok(None) if is_missing(&configuration.writable) => return Vec::new(),
        Ok(None) => return vec![bad(format!("{} has none", folder.display())).with_fix(install)],
        Err(failure) => {
            let fix = "correct or remove the file; the runtime reads the first in order of names, and it must be a list (.conflist)";
            return vec![bad(said(failure)).with_fix(fix)];
        }
        Ok(Some(found)) => found,
    };
    let path = found.path.display();
    let types = match &found.types {
        Ok(types) => types,
        Err(reason) => {
            return vec![
                bad(format!("{path}: {reason}"))
                    .with_fix("correct the file, or let its installer write it again"),
            ];
        }
    };
    let chain = types.join(", ");
    let reason = match types.iter().rposition(|kind| kind == PLUGIN) {
        None => format!("{path} is valid, without {PLUGIN} so far: {chain}"),
        Some(at) if at + 1 == types.len() => format!("{path} has {PLUGIN}, at its end: {chain}"),
        Some(_) => format!("{path} has {PLUGIN}, which the helper will move to its end: {chain}"),
    };
    vec![
        finding(Code::CHECK_CNI_LIST, Status::Ok, WHAT, reason),
        others(found, types),
    ]
}

fn others(list: &List, types: &[String]) -> Finding {
    const WHAT: &str = "other meshes on the node";
    let is_there = |kind: &&str| types.iter().any(|there| there == kind);
    let there = OTHERS
        .iter()
        .filter(|(kind, _)| is_there(kind))
        .collect::<Vec<_>>();
    if there.is_empty() {
        return finding(Code::CHECK_CNI_OTHERS, Status::Ok, WHAT, "none in the list");
    }
    let kinds = there
        .iter()
        .map(|(kind, _)| *kind)
        .collect::<Vec<_>>()
        .join(" and ");
    let meshes = there
        .iter()
        .map(|(_, mesh)| *mesh)
        .collect::<Vec<_>>()
        .join(" and ");
    let reason = format!(
        "{} has {kinds}: a pod that both {meshes} and adit capture has no working network",
        list.path.display()
    );
    finding(Code::CHECK_CNI_OTHERS, Status::Warn, WHAT, reason).with_fix(format!(
        "keep the namespaces of the two apart by their labels, or uninstall {meshes}; adit takes those with istio.io/dataplane-mode=ambient"
    ))
}

fn binaries(binaries: &Binaries, folder: &Path) -> Finding {
    const WHAT: &str = "CNI plugin folder";
    let path = folder.display();
    match (&binaries.writable, binaries.executable) {
        (Ok(()), Some(true)) => finding(
            Code::CHECK_CNI_BINARIES,
            Status::Ok,
            WHAT,
            format!("what is put into {path} can be executed"),
        ),
        (Ok(()), _) => finding(
            Code::CHECK_CNI_BINARIES,
            Status::Fail,
            WHAT,
            format!("what is put into {path} can't be executed: its file system is mounted with noexec"),
        )
        .with_fix(format!("mount -o remount,exec on the file system of {path}, or name the runtime's folder with --cni-bin-dir")),
        (Err(refusal), _) => refused(Code::CHECK_CNI_BINARIES, WHAT, refusal, folder, "--cni-bin-dir"),
    }
}

/// A folder that can't be used, and what to do about it.
fn refused(code: Code, what: &'static str, refusal: &Refusal, folder: &Path, option: &str) -> Finding {
    let path = folder.display();
    let fix = match refusal.kind {
        ErrorKind::NotFound => {
            format!("install the container runtime's CNI, or name its folder with {option}")
        }
        ErrorKind::ReadOnlyFilesystem => format!("mount {path} writable"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("free space on the file system of {path}")
        }
        _ => format!("let root write to {path}, and to what is in it: owner, mode, lsattr"),
    };
    finding(code, Status::Fail, what, refusal.message.clone()).with_fix(fix)
}

fn is_missing(tried: &Result<(), Refusal>) -> bool {
    matches!(tried, Err(refusal) if refusal.kind == ErrorKind::NotFound)
}

fn helper(host: &Host) -> Finding {
    let found = |status, reason| finding(Code::CHECK_NODE_HELPER, status, "node helper", reason);
    let remains = host.plugin.iter().flat_map(|plugin: &Plugin| &plugin.remains);
    let remains = remains.map(|path| path.display().to_string()).collect::<Vec<_>>();
    match &host.helper {
        Helper::Ready => found(Status::Ok, "it answers and is ready".into()),
        Helper::Absent if remains.is_empty() => found(Status::Ok, "not installed".into()),
        Helper::Absent => {
            let reason = format!(
                "it isn't running, but was installed: new pods wait for it because of {}",
                remains.join(" and ")
            );
            found(Status::Fail, reason).with_fix(explained(Code::CHECK_NODE_HELPER))
        }
        Helper::NotReady { code, message } => found(
            Status::Fail,
            format!("it answers, but isn't ready: {message} ({code})"),
        )
        .with_fix(explained(*code)),
        Helper::Silent { code, message } => {
            found(Status::Fail, format!("{message} ({code})")).with_fix(explained(Code::CHECK_NODE_HELPER))
        }
    }
}

fn said(failure: &Failure) -> String {
    format!("{} ({})", failure.message, failure.code)
}

fn explained(code: Code) -> &'static str {
    code.entry()
        .map_or("run adit explain with the code in the reason", |entry| entry.fix)
}

#[cfg(test)]
mod tests;
