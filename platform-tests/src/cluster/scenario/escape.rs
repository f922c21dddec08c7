//! A pod that tries to get round the agent.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::cluster::objects::{SHELL, pod, shell};
use crate::cluster::{Capture, Namespace};

/// An address of node 1's pods that no pod has: host-local gives them out from below.
const NOBODY: &str = "10.244.0.253";

/// What a pod with NET_ADMIN and NET_RAW got out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escape {
    /// Packets between the nodes that bore the address of another pod.
    pub as_another: usize,
    /// Packets between the nodes that bore an address of nobody.
    pub as_nobody: usize,
    /// The pod's interfaces, without lo, with their link type: 1 for Ethernet, 65534 for a TUN device.
    pub interfaces: Vec<(String, u32)>,
}

/// Lets a pod on node 1 speak as another pod there, and as nobody, to a pod on node 2, by TCP, UDP and ping.
///
/// # Panics
/// If it can't try.
#[track_caller]
pub fn escape(namespace: &Namespace<'_>) -> Escape {
    let mut attacker = shell();
    attacker["securityContext"] = json!({"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}});
    namespace.up([
        pod("attacker", 1, [attacker]),
        pod("another", 1, [shell()]),
        pod("victim", 2, [shell()]),
    ]);
    let victim = namespace.address("victim");
    let another = namespace.address("another").to_string();
    let count = |spoofed: &str| {
        let capture = Capture::start(namespace.cluster(), &format!("src {spoofed} and dst {victim}"));
        speak_as(namespace, spoofed, victim);
        capture.stop().len()
    };
    Escape {
        as_another: count(&another),
        as_nobody: count(NOBODY),
        interfaces: interfaces(namespace),
    }
}

/// Takes the address and uses it. That nobody answers is as good as an answer here.
fn speak_as(namespace: &Namespace<'_>, spoofed: &str, victim: Ipv4Addr) {
    let script = format!(
        "ip addr add {spoofed}/32 dev eth0 || exit 9
         ip route get {victim} from {spoofed} || exit 9
         ping -c 3 -W 1 -I {spoofed} {victim}
         echo x | nc -w 1 -s {spoofed} {victim} 8080
         echo x | nc -u -w 1 -s {spoofed} {victim} 8080
         ip addr del {spoofed}/32 dev eth0 || exit 9
         exit 0"
    );
    namespace.exec("attacker", SHELL, ["sh", "-c", &script]).stdout();
}

fn interfaces(namespace: &Namespace<'_>) -> Vec<(String, u32)> {
    let script = "cd /sys/class/net && for i in *; do echo $i $(cat $i/type); done";
    let listed = namespace.exec("attacker", SHELL, ["sh", "-c", script]).stdout();
    let of = |line: &str| {
        let (name, kind) = line.split_once(' ')?;
        Some((name.to_owned(), kind.parse().ok()?))
    };
    listed
        .lines()
        .filter_map(of)
        .filter(|(name, _)| name != "lo")
        .collect()
}
