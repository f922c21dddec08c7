//! What pods are made of: their addresses, and the files by which their programs find names.

use std::net::IpAddr;

use adit_control::{Snapshot, Workload};
use adit_flow::WorkloadName;
use adit_node::protocol::{MAX_HOSTNAME, PodAddress, PodFile, PodSpec};

use crate::dns;

/// The MTU of a pod's interface: as long a packet as a TUN device carries, in whole words, so that one read brings up
/// to 64 KiB of a stream.
const MTU: u16 = 65520;

/// The pod of `name`; `None` if the snapshot has no such workload.
pub(super) fn spec(snapshot: &Snapshot, name: &WorkloadName) -> Option<PodSpec> {
    let workload = snapshot.workloads.get(name)?;
    let address = |&ip: &IpAddr| PodAddress {
        ip,
        prefix: if ip.is_ipv4() { 32 } else { 128 },
    };
    Some(PodSpec {
        name: name.to_string(),
        hostname: name.name.chars().take(MAX_HOSTNAME).collect(),
        addresses: workload.addresses.iter().map(address).collect(),
        mtu: MTU,
        queues: 1,
        files: files(workload, &snapshot.dns),
    })
}

fn files(workload: &Workload, dns: &[IpAddr]) -> Vec<PodFile> {
    // A system without the file goes by the C library's default, which is what an empty one means too.
    let nsswitch = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    let file = |path: &str, text: String| PodFile {
        path: path.to_owned(),
        content: text.into_bytes(),
    };
    vec![
        file("/etc/hosts", dns::hosts(workload)),
        file("/etc/nsswitch.conf", dns::nsswitch(&nsswitch)),
        file(
            "/etc/resolv.conf",
            dns::resolv_conf(&workload.name.namespace, dns),
        ),
    ]
}
