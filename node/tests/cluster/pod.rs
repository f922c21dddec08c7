//! A pod as the `ptp` CNI plugin makes it: a namespace, a veth to the node, and a route by which each finds the other.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use adit_node::cluster::PodRef;
use nix::sched::CloneFlags;

use crate::world::{World, command_output, eventually, ip_in};

/// The node's own address on every pod's link.
pub(crate) const GATEWAY: &str = "10.244.0.1";
pub(crate) const GATEWAY_V6: &str = "fd00:244::1";

/// One pod. Its namespace goes with it.
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Where its network namespace is mounted.
    pub(crate) path: PathBuf,
    /// Its interface on the node.
    pub(crate) veth: String,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    number: u8,
}

impl Pod {
    pub(crate) fn new(world: &World, namespace: &str) -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(2);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = world.folder.join(format!("netns/cni-{number}"));
        let pod = Self {
            uid: format!("0000-{number:04}"),
            namespace: namespace.into(),
            name: format!("web-{number}"),
            path,
            veth: format!("veth{number}"),
            v4: [10, 244, 0, number].into(),
            v6: format!("fd00:244::{number:x}").parse().unwrap(),
            number,
        };
        pod.make();
        pod
    }

    fn make(&self) {
        fs::write(&self.path, []).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
                skip_duplicate_detection();
                rustix::mount::mount_bind("/proc/thread-self/ns/net", &self.path).unwrap();
            });
        });
        let Self {
            veth, v4, v6, path, ..
        } = self;
        let node = std::process::id();
        ip_in(path, "link set lo up");
        ip_in(
            path,
            &format!("link add eth0 mtu 1450 type veth peer name {veth} mtu 1450 netns {node}"),
        );
        for (address, gateway, bits) in [(v4, GATEWAY, 32), (v6, GATEWAY_V6, 128)] {
            let flag = if address.is_ipv6() { " nodad" } else { "" };
            here(&format!("addr add {gateway}/{bits} dev {veth}{flag}"));
        }
        here(&format!("link set {veth} up"));
        here(&format!("route add {v4}/32 dev {veth}"));
        here(&format!("-6 route add {v6}/128 dev {veth}"));
        ip_in(path, &format!("addr add {v4}/24 dev eth0"));
        ip_in(path, &format!("addr add {v6}/64 dev eth0 nodad"));
        ip_in(path, "link set eth0 up");
        ip_in(path, "route del 10.244.0.0/24 dev eth0");
        ip_in(path, &format!("route add {GATEWAY} dev eth0 scope link"));
        ip_in(path, &format!("route add 10.244.0.0/24 via {GATEWAY} src {v4}"));
        ip_in(path, &format!("route add default via {GATEWAY}"));
        ip_in(path, &format!("-6 route add {GATEWAY_V6} dev eth0"));
        ip_in(path, &format!("-6 route add default via {GATEWAY_V6}"));
        let hardware = hardware_address(veth);
        let neighbour = format!(
            "neigh replace {GATEWAY} lladdr {} dev eth0 nud permanent",
            hardware
        );
        ip_in(path, &neighbour);
    }

    pub(crate) fn reference(&self) -> PodRef {
        PodRef {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            addresses: vec![self.v4, self.v6],
        }
    }

    pub(crate) fn container(&self) -> String {
        format!("c0ffee{:02}", self.number)
    }

    /// Runs something in the pod's network namespace, in a thread.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        in_namespace(&self.path, body)
    }

    /// All that a join changes, as `ip` shows it. Without numbers of interfaces, and two flags: one by which the kernel
    /// knows that the network's route is not the address's own, and one that a fresh link-local address has for a while.
    pub(crate) fn state(&self) -> Vec<String> {
        let lines = [
            "-o link show",
            "-o addr show",
            "route show table all",
            "-6 route show table all",
            "neigh show nud permanent",
            "rule show",
            "-6 rule show",
        ];
        let mut all = Vec::new();
        for arguments in lines {
            let mut shown = ip_in(&self.path, arguments)
                .lines()
                .map(|line| {
                    let line = line.split_once(": ").map_or(line, |(number, rest)| {
                        if number.parse::<u32>().is_ok() { rest } else { line }
                    });
                    // The end of a pair is up some time before the kernel says so.
                    let line = line
                        .replace(" noprefixroute", "")
                        .replace(" tentative", "")
                        .replace(" state UNKNOWN ", " state UP ");
                    let cut = line.split_once("@if").map(|(name, rest)| {
                        format!("{name}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
                    });
                    cut.unwrap_or(line)
                        .split_whitespace()
                        .collect::<Vec<_>>()
                        .join(" ")
                })
                .collect::<Vec<_>>();
            shown.sort();
            all.extend(shown);
        }
        all
    }

    /// Checks that all is as it was once. Some of it comes only when the link is up.
    pub(crate) fn assert_state(&self, before: &[String], when: &str) {
        let mut now = Vec::new();
        let same = eventually(|| {
            now = self.state();
            now == before
        });
        if !same {
            let lost = before
                .iter()
                .filter(|line| !now.contains(line))
                .collect::<Vec<_>>();
            let new = now
                .iter()
                .filter(|line| !before.contains(line))
                .collect::<Vec<_>>();
            panic!("{when}: {} differs; lost: {lost:#?}; new: {new:#?}", self.name);
        }
    }

    /// Takes the pod's namespace away without a word to anybody, as a crash of the runtime would.
    pub(crate) fn vanish(&self) {
        rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH).unwrap();
        fs::remove_file(&self.path).unwrap();
    }

    /// Whether the node still has the pod's interface.
    pub(crate) fn is_on_node(&self) -> bool {
        command_output("ip", &["-o", "link", "show"]).contains(&format!(" {}@", self.veth))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
        let _ = fs::remove_file(&self.path);
        let _ = std::process::Command::new("ip")
            .args(["link", "del", &self.veth])
            .stderr(std::process::Stdio::null())
            .status();
    }
}

/// Runs something in a network namespace, in a thread.
pub(crate) fn in_namespace<T: Send>(path: &Path, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = fs::File::open(path).unwrap();
            nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            body()
        });
        thread.join().unwrap()
    })
}

/// Nobody else is on these links, and it takes a second for each address.
pub(crate) fn skip_duplicate_detection() {
    fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
}

fn here(arguments: &str) {
    command_output("ip", &arguments.split(' ').collect::<Vec<_>>());
}

fn hardware_address(interface: &str) -> String {
    let shown = command_output("ip", &["-o", "link", "show", interface]);
    let mut words = shown.split_whitespace();
    words.find(|word| *word == "link/ether").unwrap();
    words.next().unwrap().to_owned()
}
