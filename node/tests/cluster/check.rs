//! `adit check --node` on a node that is as it should be, and on such as lack one thing each.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use rustix::process::Signal;

use crate::runner::Case;
use crate::world::{World, command_output, eventually};

pub(crate) const ALL: &[Case] = &[
    ("a_node_that_is_as_it_should_be_is_found_so", good),
    ("a_check_leaves_nothing_behind", nothing_behind),
    (
        "what_a_killed_check_left_is_taken_away_by_the_next_and_by_the_helper",
        killed,
    ),
    ("a_capability_that_is_missing_is_named", without_capability),
    ("a_state_folder_that_cant_be_used_is_named", bad_state),
    ("a_tun_device_that_cant_be_opened_is_named", without_tun),
    ("a_read_only_cni_folder_is_found", read_only_lists),
    ("a_list_that_cant_be_replaced_is_found", fixed_list),
    ("a_list_that_no_runtime_takes_is_found", bad_lists),
    ("another_mesh_in_the_list_is_a_warning", other_mesh),
    ("plugins_that_cant_be_executed_are_found", no_exec),
    ("a_plugin_folder_that_cant_be_written_is_found", bad_binaries),
    ("a_helper_is_asked_and_one_that_is_gone_is_missed", helpers),
];

const LIST: &str =
    r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp","mtu":1450},{"type":"portmap"}]}"#;

/// What a check said.
struct Checked(String);

impl Checked {
    /// That a finding has this status, and these words in its reason.
    #[track_caller]
    fn says(&self, code: &str, status: &str, words: &str) -> &Self {
        let line = self.line(code);
        assert!(
            line.starts_with(&format!("{code} {status} ")) && line.contains(words),
            "expected {code} {status} {words:?} in:\n{}",
            self.0
        );
        self
    }

    /// That nothing is said by a code: it was not reached.
    #[track_caller]
    fn is_silent_on(&self, code: &str) -> &Self {
        assert!(!self.0.contains(code), "expected no {code} in:\n{}", self.0);
        self
    }

    /// That no other thing is wrong.
    #[track_caller]
    fn fails_only(&self, codes: &[&str]) -> &Self {
        let failed = self.0.lines().filter(|line| line.contains(" Fail "));
        let failed = failed.filter_map(|line| line.split(' ').next());
        assert_eq!(failed.collect::<Vec<_>>(), codes, "{}", self.0);
        self
    }

    #[track_caller]
    fn line(&self, code: &str) -> &str {
        let mut lines = self.0.lines();
        lines
            .find(|line| line.starts_with(code))
            .unwrap_or_else(|| panic!("expected {code} in:\n{}", self.0))
    }
}

#[track_caller]
fn check(world: &World, options: &[&str]) -> Checked {
    let output = world.role("as-check").args(options).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Checked(String::from_utf8(output.stdout).unwrap())
}

fn lists(world: &World) -> PathBuf {
    world.folder.join("net.d")
}

fn first_list(world: &World) -> PathBuf {
    lists(world).join("10-pods.conflist")
}

/// A node with a network, and nothing of adit.
fn with_network(world: &World) {
    fs::write(first_list(world), LIST).unwrap();
}

/// Something mounted, for as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    /// Memory in the place of a folder, with these flags.
    fn memory(path: &Path, flags: MountFlags) -> Self {
        mount("tmpfs", path, "tmpfs", flags, None).unwrap();
        Self(path.to_owned())
    }

    /// The same folder once more, on which nothing can be written.
    fn read_only(path: &Path) -> Self {
        mount_bind(path, path).unwrap();
        let mounted = Self(path.to_owned());
        // In a user namespace the flags that the file system has already must stay.
        let has = rustix::fs::statvfs(path).unwrap().f_flag.bits();
        let kept = MountFlags::from_bits_truncate(u32::try_from(has).unwrap())
            & (MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC);
        mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | kept, c"").unwrap();
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn is_root_of_the_machine() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().nth(2) == Some("4294967295")
}

fn good(world: &World) {
    with_network(world);
    let checked = check(world, &[]);
    match is_root_of_the_machine() {
        true => checked.says("ADIT-N120", "Ok", "CAP_NET_ADMIN"),
        false => checked.says("ADIT-N120", "Warn", "user namespace"),
    };
    checked
        .says("ADIT-N121", "Ok", "bind-mounted")
        .says("ADIT-N122", "Ok", "virtio-net")
        .says("ADIT-N130", "Ok", "virtio-net")
        .says("ADIT-N123", "Ok", "joined by TUN devices")
        .says("ADIT-N124", "Ok", "joined and left")
        .says("ADIT-N125", "Ok", "can be replaced")
        .says("ADIT-N126", "Ok", "without adit-cni so far: ptp, portmap")
        .says("ADIT-N127", "Ok", "none")
        .says("ADIT-N128", "Ok", "can be executed")
        .says("ADIT-N129", "Ok", "not installed")
        .fails_only(&[]);
    // And it is as it was found: a helper starts, and takes pods in.
    world.start(&[]);
    let pod = crate::pod::Pod::new(world, "shop");
    let (_, _queues) = world.client().join(&pod.reference()).unwrap();
}

/// Files, links and mounts of the node.
fn seen(world: &World) -> Vec<String> {
    let find = command_output(
        "find",
        &[world.folder.to_str().unwrap(), "-printf", "%p %i %m %T@ %C@\n"],
    );
    // A folder's own times change with what was in it for a while.
    let find = find.lines().map(|line| match line.split_once(' ') {
        Some((path, _)) if Path::new(path).is_dir() => path.to_owned(),
        _ => line.to_owned(),
    });
    let links = command_output("ip", &["-o", "link", "show"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    find.chain(links.lines().map(str::to_owned))
        .chain(mounts.lines().map(str::to_owned))
        .collect()
}

fn nothing_behind(world: &World) {
    with_network(world);
    let before = seen(world);
    check(world, &[]).fails_only(&[]);
    assert_eq!(seen(world), before);
    // Nor where something fails on the way.
    check(world, &["--link", "tun", "--tun", "/nonexistent/tun"]).fails_only(&["ADIT-N122"]);
    check(world, &["--without", "net-admin"]);
    assert_eq!(seen(world), before);
    // Nor where it's told to end in the middle, which it does once it has.
    let mut interrupted = world.role("as-check");
    let output = interrupted.args(["--term-at", "move-out"]).output().unwrap();
    assert_eq!(output.status.signal(), Some(Signal::TERM.as_raw()), "{output:?}");
    assert_eq!(seen(world), before);
    // Nor in a folder that is somebody else's already.
    world.start(&[]);
    assert!(eventually(|| {
        fs::read_to_string(first_list(world))
            .unwrap()
            .contains("adit-cni")
    }));
    let before = seen(world);
    check(world, &[]).fails_only(&[]);
    assert_eq!(seen(world), before);
}

fn killed(world: &World) {
    with_network(world);
    fs::create_dir(world.folder.join("state")).unwrap();
    let kill = || {
        let before = seen(world);
        let mut check = world.role("as-check");
        let output = check.args(["--kill-at", "move-out"]).output().unwrap();
        assert_eq!(output.status.signal(), Some(Signal::KILL.as_raw()), "{output:?}");
        // As one leaves it that is killed a little later.
        let id = left(world).pop().expect("a folder is left");
        let plugin = world.folder.join(format!("bin/.adit-check-{id}-new"));
        fs::write(plugin, "a plugin").unwrap();
        before
    };
    let before = kill();
    // The processes of the one before hold its folder for as long as they take to end with it.
    assert!(eventually(|| {
        check(world, &[]).fails_only(&[]);
        left(world).is_empty()
    }));
    assert_eq!(seen(world), before);
    kill();
    assert!(eventually(|| {
        world.start(&[]);
        world.end_node(Signal::TERM);
        left(world).is_empty()
    }));
    assert_eq!(fs::read_dir(world.folder.join("bin")).unwrap().count(), 1);
}

/// Ids of checks whose folders are there.
fn left(world: &World) -> Vec<String> {
    let entries = fs::read_dir(world.folder.join("state")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter_map(|name| name.strip_prefix("check-").map(str::to_owned))
        .collect()
}

fn without_capability(world: &World) {
    with_network(world);
    check(world, &["--without", "net-admin"])
        .says("ADIT-N120", "Fail", "lacks CAP_NET_ADMIN")
        .says("ADIT-N121", "Ok", "")
        .says(
            "ADIT-N123",
            "Fail",
            "making a veth: Operation not permitted (os error 1)",
        )
        .is_silent_on("ADIT-N122")
        .is_silent_on("ADIT-N124")
        .fails_only(&["ADIT-N120", "ADIT-N123"]);
    check(world, &["--without", "sys-admin"])
        .says("ADIT-N120", "Fail", "lacks CAP_SYS_ADMIN")
        .says(
            "ADIT-N121",
            "Fail",
            "making a mount namespace: Operation not permitted (os error 1)",
        )
        .is_silent_on("ADIT-N123")
        .fails_only(&["ADIT-N120", "ADIT-N121"]);
}

fn bad_state(world: &World) {
    with_network(world);
    let folder = world.folder.join("run");
    fs::create_dir(&folder).unwrap();
    let _mounted = Mounted::read_only(&folder);
    let state = folder.join("adit");
    check(world, &["--state", state.to_str().unwrap()])
        .says("ADIT-N121", "Fail", "Read-only file system (os error 30)")
        .is_silent_on("ADIT-N123")
        .fails_only(&["ADIT-N121"]);
}

fn without_tun(world: &World) {
    with_network(world);
    check(world, &["--tun", "/nonexistent/tun"])
        .says("ADIT-N121", "Ok", "")
        .says("ADIT-N122", "Warn", "No such file or directory (os error 2)")
        .says("ADIT-N130", "Ok", "")
        .says("ADIT-N123", "Ok", "joined by veth pairs")
        .says("ADIT-N124", "Ok", "")
        .fails_only(&[]);
    check(world, &["--link", "tun", "--tun", "/nonexistent/tun"])
        .says("ADIT-N121", "Ok", "")
        .says("ADIT-N122", "Fail", "No such file or directory (os error 2)")
        .is_silent_on("ADIT-N130")
        .is_silent_on("ADIT-N123")
        .fails_only(&["ADIT-N122"]);
    check(world, &["--link", "tun", "--tun", "/dev/null"])
        .says("ADIT-N122", "Fail", "(ADIT-N005)")
        .fails_only(&["ADIT-N122"]);
    check(world, &["--link", "packet"])
        .is_silent_on("ADIT-N122")
        .says("ADIT-N130", "Ok", "")
        .fails_only(&[]);
    // What the helper starts without, and opens no packet socket.
    check(world, &["--without", "net-raw"])
        .says(
            "ADIT-N120",
            if is_root_of_the_machine() { "Ok" } else { "Warn" },
            "",
        )
        .says("ADIT-N122", "Ok", "")
        .says("ADIT-N130", "Warn", "(ADIT-N041); pods have TUN devices")
        .fails_only(&[]);
}

fn read_only_lists(world: &World) {
    with_network(world);
    let _mounted = Mounted::read_only(&lists(world));
    check(world, &[])
        .says("ADIT-N125", "Fail", "Read-only file system (os error 30)")
        .says("ADIT-N126", "Ok", "ptp")
        .fails_only(&["ADIT-N125"]);
}

fn fixed_list(world: &World) {
    with_network(world);
    // As a file of the host that is mounted into a container by itself.
    let path = first_list(world);
    let file = world.folder.join("list");
    fs::write(&file, LIST).unwrap();
    mount_bind(&file, &path).unwrap();
    let mounted = Mounted(path.clone());
    check(world, &[])
        .says("ADIT-N125", "Fail", "something is mounted on it")
        .fails_only(&["ADIT-N125"]);
    drop(mounted);
    // By a link the list is replaced where it is.
    let elsewhere = world.folder.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&file, elsewhere.join("list")).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("list"), &path).unwrap();
    check(world, &[]).fails_only(&[]);
    let _mounted = Mounted::read_only(&elsewhere);
    check(world, &[])
        .says("ADIT-N125", "Fail", "elsewhere: Read-only file system")
        .fails_only(&["ADIT-N125"]);
}

fn bad_lists(world: &World) {
    check(world, &[])
        .says("ADIT-N126", "Fail", "has none")
        .fails_only(&["ADIT-N126"]);
    for (text, words) in [
        ("{", "EOF while parsing"),
        (r#"{"type":"bridge"}"#, "it is no list of plugins"),
        (
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}"#,
            "it has no name",
        ),
        (
            r#"{"cniVersion":"0.2.0","name":"a","plugins":[{"type":"ptp"}]}"#,
            "expected one of 0.3.0",
        ),
    ] {
        fs::write(first_list(world), text).unwrap();
        check(world, &[])
            .says("ADIT-N126", "Fail", words)
            .says("ADIT-N126", "Fail", "10-pods.conflist")
            .is_silent_on("ADIT-N127")
            .fails_only(&["ADIT-N126"]);
        assert_eq!(fs::read_to_string(first_list(world)).unwrap(), text);
    }
    // One that comes later is not the one that the runtime reads.
    fs::rename(first_list(world), lists(world).join("20-broken.conflist")).unwrap();
    with_network(world);
    check(world, &[]).fails_only(&[]);
    fs::remove_dir_all(lists(world)).unwrap();
    check(world, &[])
        .says("ADIT-N125", "Fail", "No such file or directory (os error 2)")
        .is_silent_on("ADIT-N126")
        .fails_only(&["ADIT-N125"]);
}

fn other_mesh(world: &World) {
    for kind in ["istio-cni", "linkerd-cni"] {
        fs::write(first_list(world), LIST.replace("portmap", kind)).unwrap();
        check(world, &[]).says("ADIT-N127", "Warn", kind).fails_only(&[]);
    }
}

fn no_exec(world: &World) {
    with_network(world);
    let _mounted = Mounted::memory(&world.folder.join("bin"), MountFlags::NOEXEC);
    check(world, &[])
        .says("ADIT-N128", "Fail", "noexec")
        .fails_only(&["ADIT-N128"]);
}

fn bad_binaries(world: &World) {
    with_network(world);
    let folder = world.folder.join("bin");
    let mounted = Mounted::read_only(&folder);
    check(world, &[])
        .says("ADIT-N128", "Fail", "Read-only file system (os error 30)")
        .fails_only(&["ADIT-N128"]);
    drop(mounted);
    // Too little room for the executable, of which nothing is left.
    mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), Some(c"size=64k")).unwrap();
    let mounted = Mounted(folder.clone());
    check(world, &[])
        .says("ADIT-N128", "Fail", "No space left on device (os error 28)")
        .fails_only(&["ADIT-N128"]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    drop(mounted);
    fs::create_dir(folder.join("adit-cni")).unwrap();
    check(world, &[])
        .says("ADIT-N128", "Fail", "adit-cni is a folder")
        .says("ADIT-N129", "Fail", "new pods wait for it");
    fs::remove_dir_all(&folder).unwrap();
    check(world, &[])
        .says("ADIT-N128", "Fail", "No such file or directory (os error 2)")
        .fails_only(&["ADIT-N128"]);
}

fn helpers(world: &World) {
    with_network(world);
    world.start(&[]);
    let installed = || {
        fs::read_to_string(first_list(world))
            .unwrap()
            .contains("adit-cni")
    };
    assert!(eventually(installed));
    check(world, &[])
        .says("ADIT-N126", "Ok", "has adit-cni, at its end")
        .says("ADIT-N129", "Ok", "is ready")
        .fails_only(&[]);
    world.end_node(Signal::KILL);
    check(world, &[])
        .says("ADIT-N129", "Fail", "10-pods.conflist and ")
        .fails_only(&["ADIT-N129"]);
    fs::write(world.folder.join("state/pods/unreadable"), "?").unwrap();
    world.start(&[]);
    check(world, &[])
        .says("ADIT-N129", "Fail", "(ADIT-N028)")
        .fails_only(&["ADIT-N129"]);
}
