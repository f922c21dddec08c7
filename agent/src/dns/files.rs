//! The files that point a workload's C library at the mesh's resolver.

use std::fmt::Write;
use std::net::IpAddr;

use adit_control::Workload;

use super::zone::CLUSTER_DOMAIN;

/// The contents of a workload's `/etc/resolv.conf`: the search list and `ndots` of Kubernetes, so that `web`,
/// `web.shop` and `web.shop.svc` are found. The C library takes three servers at most.
pub(crate) fn resolv_conf(namespace: &str, dns: &[IpAddr]) -> String {
    let mut text = format!("search {namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}\n");
    for address in dns.iter().take(3) {
        writeln!(text, "nameserver {address}").expect("a String takes every write");
    }
    text.push_str("options ndots:5\n");
    text
}

/// The contents of a workload's `/etc/hosts`: the loopback names and its own.
pub(crate) fn hosts(workload: &Workload) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let (name, namespace) = (&workload.name.name, &workload.name.namespace);
    for address in &workload.addresses {
        writeln!(text, "{address}\t{name}.{namespace}.svc.{CLUSTER_DOMAIN} {name}")
            .expect("a String takes every write");
    }
    text
}

/// The contents of a workload's `/etc/nsswitch.conf`, made of the user's own: host names come from the two files
/// above and nothing else. Modules such as `resolve` and `mdns` would ask a daemon outside, which knows no name of
/// the mesh. All other databases stay as they are, so that users and groups are still found.
pub(crate) fn nsswitch(own: &str) -> String {
    let others = own
        .lines()
        .filter(|line| line.trim_start().split(':').next().map(str::trim_end) != Some("hosts"));
    let mut text: String = others.flat_map(|line| [line, "\n"]).collect();
    text.push_str("hosts: files dns\n");
    text
}
