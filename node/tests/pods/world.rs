//! A helper to talk to, and everything a case starts, taken away at the end.

use std::cell::RefCell;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeWriter, Read};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use adit_link::{Frame, Queue};
use adit_node::protocol::{PodAddress, PodFile, PodSpec};
use adit_node::{Client, laptop};

/// Names the TUN device node to use instead of the machine's own.
pub(crate) const TUN_VARIABLE: &str = "ADIT_TUN";

/// Turns of a bounded wait, 20 ms each.
const PATIENCE: u32 = 500;

/// One case's folder, its TUN device node, and what it started.
pub(crate) struct World {
    folder: PathBuf,
    pub(crate) tun: PathBuf,
    node: RefCell<Option<(Child, PipeWriter)>>,
}

impl World {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("adit-node-{}-{number}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let run = folder.join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
        let tun = std::env::var_os(TUN_VARIABLE)
            .map_or_else(|| adit_link::DEFAULT_TUN_DEVICE.into(), PathBuf::from);
        Self {
            folder,
            tun,
            node: RefCell::new(None),
        }
    }

    pub(crate) fn run_directory(&self) -> PathBuf {
        self.folder.join("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_directory().join("node.sock")
    }

    /// A file that the caller may read and write.
    pub(crate) fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// This executable in another role.
    pub(crate) fn role(&self, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(role);
        command
    }

    pub(crate) fn node_command(&self, options: &[&str], tun: &Path) -> Command {
        let mut command = self.role("as-node");
        command
            .arg("--socket")
            .arg(self.socket())
            .arg("--tun")
            .arg(tun)
            .arg("--remove")
            .args(options);
        command
    }

    /// Starts the helper and connects to it.
    pub(crate) fn start(&self, options: &[&str]) -> Client {
        self.start_with_tun(options, &self.tun)
    }

    pub(crate) fn start_with_tun(&self, options: &[&str], tun: &Path) -> Client {
        self.start_command(self.node_command(options, tun));
        Client::connect(&self.socket()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts the helper and waits until it is ready.
    pub(crate) fn start_command(&self, mut command: Command) {
        let (lifeline, keep) = io::pipe().unwrap();
        let mut node = command.stdin(lifeline).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; laptop::READY.len()];
        node.stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .expect("the helper says that it is ready");
        assert_eq!(ready, laptop::READY);
        *self.node.borrow_mut() = Some((node, keep));
    }

    /// Runs the helper where it is expected not to start.
    pub(crate) fn fail_to_start(&self) -> Output {
        self.node_command(&[], &self.tun)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub(crate) fn node_pid(&self) -> rustix::process::Pid {
        let node = self.node.borrow();
        let (child, _) = node.as_ref().expect("the helper was started");
        rustix::process::Pid::from_child(child)
    }

    /// Waits for the helper to end.
    pub(crate) fn node_ended(&self) -> bool {
        let mut node = self.node.borrow_mut();
        let (child, _) = node.as_mut().expect("the helper was started");
        eventually(|| child.try_wait().unwrap().is_some())
    }

    /// `enter`, ready to be given options, `--` and a program.
    pub(crate) fn enter(&self, pod: &str) -> Command {
        let mut command = self.role("as-enter");
        command.arg("--socket").arg(self.socket()).args(["--pod", pod]);
        command
    }

    /// Runs this executable as a program in the pod.
    pub(crate) fn app(&self, pod: &str, arguments: &[&str]) -> Output {
        self.app_command(pod, arguments).output().unwrap()
    }

    pub(crate) fn app_command(&self, pod: &str, arguments: &[&str]) -> Command {
        let mut command = self.enter(pod);
        command
            .arg("--")
            .arg(std::env::current_exe().unwrap())
            .arg("as-app")
            .args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a program in the pod and returns what it wrote to standard output.
    pub(crate) fn output_of(&self, pod: &str, argv: &[&str]) -> String {
        let output = self
            .enter(pod)
            .arg("--")
            .args(argv)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{argv:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((mut node, keep)) = self.node.borrow_mut().take() {
            drop(keep);
            let _ = node.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A pod with addresses ending in `number`.
pub(crate) fn pod(name: &str, number: u8) -> PodSpec {
    let v6 = format!("fd00:77::{number:x}").parse::<IpAddr>().unwrap();
    PodSpec {
        name: name.into(),
        hostname: format!("{name}-0"),
        addresses: vec![
            PodAddress {
                ip: [10, 77, 0, number].into(),
                prefix: 32,
            },
            PodAddress { ip: v6, prefix: 128 },
        ],
        mtu: 65520,
        queues: 1,
        files: vec![PodFile {
            path: "/etc/hosts".into(),
            content: format!("10.77.0.{number} {name}\n").into_bytes(),
        }],
    }
}

/// Takes frames from a queue until one satisfies `wanted`.
pub(crate) fn frame_that(
    queue: OwnedFd,
    wanted: impl Fn(&adit_link::VnetHeader, &[u8]) -> bool,
) -> Option<(adit_link::VnetHeader, Vec<u8>)> {
    frame_of(&Queue::from_fd(queue).unwrap(), wanted)
}

/// The same from a queue whose counters matter.
pub(crate) fn frame_of(
    queue: &Queue,
    wanted: impl Fn(&adit_link::VnetHeader, &[u8]) -> bool,
) -> Option<(adit_link::VnetHeader, Vec<u8>)> {
    let mut frame = Frame::default();
    let mut found = None;
    eventually(|| {
        while let Ok(received) = queue.recv(&mut frame) {
            if let Some(header) = received.filter(|header| wanted(header, frame.packet())) {
                found = Some((header, frame.packet().to_vec()));
                return true;
            }
        }
        false
    });
    found
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

/// The first line that a child writes.
pub(crate) fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    line
}

/// Processes that are in this namespace (as `net:[4026531840]`), as far as the caller of the tests may see.
pub(crate) fn processes_in(namespace: &str) -> Vec<u32> {
    let kind = namespace.split(':').next().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        fs::read_link(format!("/proc/{pid}/ns/{kind}")).is_ok_and(|link| link.as_os_str() == namespace)
    })
    .collect()
}
