//! A node: a helper to talk to, folders of a container runtime, and everything a case starts, taken away at the end.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use adit_node::cluster::Client;
use nix::sched::CloneFlags;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, Signal, kill_process};

use crate::pod::Pod;

/// Names the TUN device node to use instead of the machine's own.
pub(crate) const TUN_VARIABLE: &str = "ADIT_TUN";

/// Turns of a bounded wait, 20 ms each.
const PATIENCE: u32 = 500;

/// Goes to namespaces of our own, as root of them. What is mounted there is seen nowhere else.
pub(crate) fn become_node() {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut wanted = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if !uid.is_root() {
        wanted |= CloneFlags::CLONE_NEWUSER;
    }
    nix::sched::unshare(wanted).expect("namespaces are allowed; `adit check` says more");
    if !uid.is_root() {
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw())).unwrap();
        fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw())).unwrap();
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    crate::pod::skip_duplicate_detection();
    command_output("ip", &["link", "set", "lo", "up"]);
}

/// One case's node.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) tun: PathBuf,
    /// What pods' packets go through, as the helper is told.
    pub(crate) link: &'static str,
    node: RefCell<Option<Child>>,
}

impl World {
    pub(crate) fn new(link: &'static str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("adit-cluster-{}-{number}", std::process::id()));
        for name in ["netns", "net.d", "bin"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let tun = std::env::var_os(TUN_VARIABLE)
            .map_or_else(|| adit_link::DEFAULT_TUN_DEVICE.into(), PathBuf::from);
        Self {
            folder,
            tun,
            link,
            node: RefCell::new(None),
        }
    }

    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.folder.join("state/agent/agent.sock")
    }

    /// This executable in another role.
    pub(crate) fn role(&self, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(role).arg("--folder").arg(&self.folder);
        command.arg("--tun").arg(&self.tun).args(["--link", self.link]);
        command
    }

    /// Starts the helper and waits until it is ready; with `--die-at` it may end before.
    pub(crate) fn start(&self, options: &[&str]) {
        let mut node = self
            .role("as-node")
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(node.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        *self.node.borrow_mut() = Some(node);
        assert!(
            ready == "ready\n" || options.contains(&"--die-at"),
            "the helper is ready"
        );
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.agent_socket()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Ends the helper by a signal and waits for it.
    pub(crate) fn end_node(&self, signal: Signal) {
        let mut node = self.node.borrow_mut().take().expect("the helper was started");
        kill_process(Pid::from_child(&node), signal).unwrap();
        node.wait().unwrap();
    }

    /// Waits for the helper to end by itself.
    pub(crate) fn node_died(&self) -> bool {
        let mut node = self.node.borrow_mut();
        let ended = eventually(|| node.as_mut().unwrap().try_wait().unwrap().is_some());
        if ended {
            *node = None;
        }
        ended
    }

    /// What the journal and the folder of pinned namespaces hold.
    pub(crate) fn remembered(&self) -> Vec<String> {
        let list = |name: &str| {
            let files = fs::read_dir(self.folder.join("state").join(name)).unwrap();
            let names = files.map(|file| format!("{name}/{}", file.unwrap().file_name().display()));
            names.collect::<Vec<_>>()
        };
        [list("pods"), list("netns")].concat()
    }

    /// How much of that there is for one pod that joined: an entry, O's pin and, with veth pairs, W's.
    pub(crate) fn remembered_of_one(&self) -> usize {
        if self.link == "packet" { 3 } else { 2 }
    }

    /// Runs the CNI plugin for a pod as the runtime would.
    pub(crate) fn plugin(&self, command: &str, pod: &Pod, configuration: &str) -> Output {
        self.plugin_for(command, pod, &pod.path, configuration)
    }

    /// The same for a runtime that has its namespaces at another path.
    pub(crate) fn plugin_for(&self, command: &str, pod: &Pod, path: &Path, configuration: &str) -> Output {
        let input = self.folder.join("configuration");
        fs::write(&input, configuration).unwrap();
        self.role("as-cni")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", pod.container())
            .env("CNI_NETNS", path)
            .env("CNI_IFNAME", "eth0")
            .env(
                "CNI_ARGS",
                format!(
                    "K8S_POD_NAME={};K8S_POD_NAMESPACE={};K8S_POD_UID={}",
                    pod.name, pod.namespace, pod.uid
                ),
            )
            .stdin(fs::File::open(&input).unwrap())
            .output()
            .unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.borrow_mut().take() {
            let _ = node.kill();
            let _ = node.wait();
        }
        // Pinned namespaces that a failed case left.
        for folder in ["state/netns", "netns"] {
            for file in fs::read_dir(self.folder.join(folder))
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = rustix::mount::unmount(file.path(), rustix::mount::UnmountFlags::DETACH);
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs a program that must succeed, and returns its standard output.
pub(crate) fn command_output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `ip` in a network namespace.
pub(crate) fn ip_in(namespace: &Path, arguments: &str) -> String {
    let enter = format!("--net={}", namespace.display());
    let words = [enter.as_str(), "ip"];
    let all = words.into_iter().chain(arguments.split(' ')).collect::<Vec<_>>();
    command_output("nsenter", &all)
}

/// Whether something becomes true, looked at again and again for a bounded while.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    (0..PATIENCE).any(|turn| {
        if turn > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        holds()
    })
}
