//! What a pod is, and what the helper answers.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use adit_link::{Checksum, LinkKind, Queue, ReceiveError, SeqPacket};
use adit_node::codes::Code;
use adit_node::{Client, ClientError};

use crate::runner::Case;
use crate::world::{World, eventually, first_line, frame_that, pod};

/// A user that is neither root nor the helper's.
const OTHER_USER: u32 = 1000;

pub(crate) const ALL: &[Case] = &[
    (
        "packets_leave_through_the_tun_queue",
        packets_leave_through_the_tun_queue,
    ),
    ("several_queues_are_handed_out", several_queues_are_handed_out),
    ("an_interface_outlives_its_agent", an_interface_outlives_its_agent),
    ("exit_codes_are_the_programs", exit_codes_are_the_programs),
    (
        "programs_that_do_not_start_say_why",
        programs_that_do_not_start_say_why,
    ),
    (
        "the_program_is_the_caller_and_not_root_of_the_pod",
        the_program_is_the_caller_and_not_root_of_the_pod,
    ),
    (
        "environment_and_directory_are_as_told",
        environment_and_directory_are_as_told,
    ),
    ("files_and_names_are_the_pods", files_and_names_are_the_pods),
    (
        "the_helper_is_out_of_a_programs_reach",
        the_helper_is_out_of_a_programs_reach,
    ),
    ("signals_reach_the_program_once", signals_reach_the_program_once),
    (
        "what_cannot_be_is_refused_with_a_code",
        what_cannot_be_is_refused_with_a_code,
    ),
    (
        "a_bad_message_costs_only_its_sender",
        a_bad_message_costs_only_its_sender,
    ),
    (
        "too_many_clients_are_turned_away",
        too_many_clients_are_turned_away,
    ),
    (
        "a_run_directory_open_to_others_is_refused",
        a_run_directory_open_to_others_is_refused,
    ),
    ("the_probe_finds_nothing_missing", the_probe_finds_nothing_missing),
    (
        "what_the_kernel_refuses_has_a_code",
        what_the_kernel_refuses_has_a_code,
    ),
];

/// Needs another user than this one.
pub(crate) const ROOT: &[Case] = &[("other_users_are_turned_away", other_users_are_turned_away)];

fn packets_leave_through_the_tun_queue(world: &World) {
    let mut client = world.start(&[]);
    let info = client.create_pod(&pod("a", 2)).unwrap();
    assert!(info.ipv6 && info.checksum_offload, "{info:?}");
    assert_eq!((info.link, info.warnings), (LinkKind::Tun, Vec::new()));
    packets_leave(world);
}

/// What programs of pod "a" send comes out of its queue, and nothing else.
pub(crate) fn packets_leave(world: &World) {
    let queue = || client_queue(world, "a");

    assert!(world.app("a", &["send-udp", "192.0.2.9:5353"]).status.success());
    let (header, frame) = frame_that(queue(), |_, frame| frame[0] >> 4 == 4 && frame[9] == 17).unwrap();
    assert_eq!(header.checksum, Checksum::Partial { start: 20, offset: 6 });
    assert_eq!(frame[12..20], [10, 77, 0, 2, 192, 0, 2, 9]);
    assert!(frame.ends_with(b"hello from the pod"));

    assert!(world.app("a", &["connect-tcp", "192.0.2.9:80"]).status.success());
    let (header, frame) = frame_that(queue(), |_, frame| frame[0] >> 4 == 4 && frame[9] == 6).unwrap();
    assert_eq!(
        header.checksum,
        Checksum::Partial {
            start: 20,
            offset: 16
        }
    );
    assert_eq!(frame[33] & 0x3f, 2, "a SYN");

    assert!(
        world
            .app("a", &["send-udp", "[2001:db8::9]:5353"])
            .status
            .success()
    );
    // Only what programs sent: no router solicitation, no listener report came before it.
    let (_, frame) = frame_that(queue(), |_, frame| frame[0] >> 4 == 6).unwrap();
    assert_eq!(frame[6], 17, "the first IPv6 frame is the program's");
    assert_eq!(frame[8..24], *b"\xfd\x00\x00\x77\0\0\0\0\0\0\0\0\0\0\0\x02");
}

pub(crate) fn client_queue(world: &World, pod: &str) -> std::os::fd::OwnedFd {
    let mut client = Client::connect(&world.socket()).unwrap();
    client.open_queues(pod).unwrap().pop().unwrap()
}

fn several_queues_are_handed_out(world: &World) {
    let mut client = world.start(&[]);
    let mut spec = pod("many", 2);
    spec.queues = 4;
    client.create_pod(&spec).unwrap();
    let queues = client.open_queues("many").unwrap();
    assert_eq!(queues.len(), 4);
    for queue in queues {
        assert_eq!(Queue::from_fd(queue).unwrap().kind(), LinkKind::Tun);
    }
}

fn an_interface_outlives_its_agent(world: &World) {
    let mut client = world.start(&[]);
    client.create_pod(&pod("a", 2)).unwrap();
    drop(client.open_queues("a").unwrap());
    drop(client);
    // The first agent is gone, a second one comes.
    assert!(world.app("a", &["send-udp", "192.0.2.9:7"]).status.success());
    assert!(
        frame_that(client_queue(world, "a"), |_, frame| frame[0] >> 4 == 4
            && frame[9] == 17)
        .is_some()
    );
}

fn exit_codes_are_the_programs(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    for code in [0, 1, 42, 255] {
        assert_eq!(
            world.app("a", &["exit", &code.to_string()]).status.code(),
            Some(code)
        );
    }
    // 40 is a real-time signal, which has no name.
    for signal in [6, 9, 11, 15, 40] {
        let script = format!("kill -{signal} $$");
        let status = world
            .enter("a")
            .args(["--", "sh", "-c", &script])
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(128 + signal));
    }
}

fn programs_that_do_not_start_say_why(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let plain = world.file("plain", "no program\n", 0o644);
    let orphan = world.file("orphan", "#!/nonexistent/interpreter\n", 0o755);
    let orphan = orphan.to_str().unwrap();
    for (argv, code, says) in [
        (
            vec!["no-such-program-anywhere"],
            127,
            "not found in PATH (ADIT-N018)",
        ),
        (vec!["/nonexistent/program"], 127, "no such file"),
        (vec![orphan], 127, "interpreter is missing"),
        (vec![plain.to_str().unwrap()], 126, "ADIT-N019"),
        (vec!["/"], 126, "ADIT-N019"),
        (vec![], 125, "no program given"),
        (vec![""], 125, "no program given"),
    ] {
        let output = world
            .enter("a")
            .arg("--")
            .args(&argv)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{argv:?}: {text}");
        assert!(text.contains(says), "{argv:?}: {text}");
    }
    let output = world
        .enter("a")
        .args(["--directory", "/nonexistent", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("working directory /nonexistent"));
}

fn the_program_is_the_caller_and_not_root_of_the_pod(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let status = world.output_of("a", &["cat", "/proc/self/status"]);
    let field = |name: &str| field_of(&status, name);
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    assert_eq!(field("Uid:"), vec![uid.to_string(); 4]);
    assert_eq!(field("Gid:"), vec![gid.to_string(); 4]);
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(field("SigBlk:"), ["0000000000000000"]);
    // What the caller ignores stays ignored, but for SIGPIPE, which only Rust programs like this one ignore.
    let here = field_of(&fs::read_to_string("/proc/self/status").unwrap(), "SigIgn:");
    // glibc's posix_spawn leaves its own two signals, 32 and 33, ignored in every child.
    let ignored = |mask: &[String]| u64::from_str_radix(&mask[0], 16).unwrap() & 0x7fff_ffff;
    assert_eq!(ignored(&field("SigIgn:")), ignored(&here) & !(1 << 12));
    if uid != 0 {
        assert_eq!(field("CapEff:"), ["0000000000000000"]);
        assert_eq!(field("CapPrm:"), ["0000000000000000"]);
    }
    // Root or not, the pod's network is not the program's to change.
    let written = world.app("a", &["write", "/proc/sys/net/ipv4/conf/all/rp_filter", "1"]);
    let refused = ["PermissionDenied\n", "ReadOnlyFilesystem\n"];
    assert!(
        refused.contains(&&*String::from_utf8_lossy(&written.stdout)),
        "{written:?}"
    );
    let changed = world
        .enter("a")
        .args(["--", "ip", "link", "set", "eth0", "down"])
        .output()
        .unwrap();
    assert!(!changed.status.success(), "{changed:?}");
    assert!(
        String::from_utf8_lossy(&changed.stderr).contains("not permitted"),
        "{changed:?}"
    );
    let mounted = world
        .enter("a")
        .args(["--", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output()
        .unwrap();
    assert!(!mounted.status.success(), "{mounted:?}");
    // Its processes are all that it sees, and pid 1 is out of its reach.
    let listed = world.output_of(
        "a",
        &[
            "sh",
            "-c",
            "echo /proc/[0-9]*; readlink /proc/1/ns/net || echo refused",
        ],
    );
    assert_eq!(listed.lines().next(), Some("/proc/1 /proc/2"));
    assert_eq!(listed.lines().next_back(), Some("refused"));
}

/// The values of one line of /proc/PID/status.
fn field_of(status: &str, name: &str) -> Vec<String> {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

fn environment_and_directory_are_as_told(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let output = world
        .enter("a")
        .args([
            "--only-env",
            "ONLY=this",
            "--directory",
            "/usr",
            "--",
            "/bin/sh",
            "-c",
            "echo $ONLY ${HOME-none} $PWD",
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "this none /usr\n");
    let inherited = world
        .enter("a")
        .args(["--", "/bin/sh", "-c", "echo $INHERITED $PWD"])
        .env("INHERITED", "yes")
        .current_dir("/usr/bin")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&inherited.stdout), "yes /usr/bin\n");
}

fn files_and_names_are_the_pods(world: &World) {
    let machine = fs::read("/etc/hosts").unwrap();
    let mut client = world.start(&[]);
    client.create_pod(&pod("a", 2)).unwrap();
    let mut spec = pod("b", 3);
    spec.files[0].path = "/etc/adit-has-no-such-file".into();
    let info = client.create_pod(&spec).unwrap();
    assert!(
        info.warnings[0].contains("/etc/adit-has-no-such-file"),
        "{info:?}"
    );
    assert!(!fs::exists("/etc/adit-has-no-such-file").unwrap());

    assert_eq!(world.output_of("a", &["cat", "/etc/hosts"]), "10.77.0.2 a\n");
    assert_eq!(world.output_of("a", &["uname", "-n"]), "a-0\n");
    let written = world.app("a", &["write", "/etc/hosts", "mine"]);
    assert_ne!(String::from_utf8_lossy(&written.stdout), "written\n");
    assert_eq!(fs::read("/etc/hosts").unwrap(), machine);
    // Port 80 and ping need no privilege.
    assert_eq!(
        world.output_of("a", &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]),
        "0\n"
    );
    let gid = rustix::process::getegid().as_raw();
    assert_eq!(
        world.output_of("a", &["cat", "/proc/sys/net/ipv4/ping_group_range"]),
        format!("{gid}\t{gid}\n")
    );
    assert_eq!(client.list().unwrap(), ["a", "b"]);
}

fn the_helper_is_out_of_a_programs_reach(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let run = world.run_directory();
    assert_eq!(world.output_of("a", &["ls", "-A", run.to_str().unwrap()]), "");
    assert!(fs::exists(world.socket()).unwrap());

    // And with it, if so told, its neighbours.
    let other = World::new();
    let above = other.run_directory().parent().unwrap().to_owned();
    let above = above.to_str().unwrap();
    other.start(&["--hide", above]).create_pod(&pod("a", 2)).unwrap();
    assert_eq!(other.output_of("a", &["ls", "-A", above]), "");
}

fn signals_reach_the_program_once(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    for detach in [false, true] {
        let mut command = world.enter("a");
        if detach {
            command.arg("--detach");
        }
        command
            .arg("--")
            .arg(std::env::current_exe().unwrap())
            .args(["as-app", "wait-for-term"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        assert_eq!(first_line(&mut child), "ready\n");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(42), "detach: {detach}");
    }
}

fn refusal(error: &ClientError) -> Code {
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    error.code()
}

fn what_cannot_be_is_refused_with_a_code(world: &World) {
    let mut client = world.start(&["--pods", "2"]);
    client.create_pod(&pod("a", 2)).unwrap();
    assert_eq!(
        refusal(&client.create_pod(&pod("a", 3)).unwrap_err()),
        Code::POD_EXISTS
    );
    assert_eq!(refusal(&client.open_queues("b").unwrap_err()), Code::NO_SUCH_POD);
    assert_eq!(refusal(&client.namespaces("b").unwrap_err()), Code::NO_SUCH_POD);
    assert_eq!(refusal(&client.delete_pod("b").unwrap_err()), Code::NO_SUCH_POD);
    let mut twice = pod("b", 3);
    twice.addresses.push(twice.addresses[0]);
    assert_eq!(refusal(&client.create_pod(&twice).unwrap_err()), Code::NETWORK);
    client.create_pod(&pod("b", 3)).unwrap();
    assert_eq!(
        refusal(&client.create_pod(&pod("c", 4)).unwrap_err()),
        Code::TOO_MANY
    );
    client.delete_pod("a").unwrap();
    client.create_pod(&pod("c", 4)).unwrap();
    assert_eq!(client.list().unwrap(), ["b", "c"]);
    assert_eq!(client.create_pod(&pod("", 4)).unwrap_err().code(), Code::REQUEST);
    let stats = client.stats().unwrap();
    assert_eq!((stats.pods_created, stats.requests_refused), (3, 6));
    drop(client);

    let other = World::new();
    let mut client = other.start_with_tun(&["--link", "tun"], std::path::Path::new("/dev/null"));
    assert_eq!(
        refusal(&client.create_pod(&pod("a", 2)).unwrap_err()),
        Code::TUN_CONFIGURE
    );
    let other = World::new();
    let mut client = other.start_with_tun(&["--link", "tun"], std::path::Path::new("/nonexistent/tun"));
    assert_eq!(
        refusal(&client.create_pod(&pod("a", 2)).unwrap_err()),
        Code::TUN_OPEN
    );
    assert_eq!(client.list().unwrap(), [""; 0]);
}

fn a_bad_message_costs_only_its_sender(world: &World) {
    let mut client = world.start(&[]);
    let stranger = || SeqPacket::connect(&world.socket()).unwrap();
    let file = fs::File::open("/dev/null").unwrap();
    for message in [&b"\x01\x63"[..], b"x", &[1; 70_000]] {
        let socket = stranger();
        socket.send(message, &[file.as_fd()]).unwrap();
        assert!(is_closed(&socket));
    }
    assert_eq!(client.stats().unwrap().malformed_messages, 3);
    client.create_pod(&pod("a", 2)).unwrap();
}

fn other_users_are_turned_away(world: &World) {
    let theirs = |command: &mut Command| {
        command.uid(OTHER_USER).gid(OTHER_USER);
    };
    std::os::unix::fs::chown(world.run_directory(), Some(OTHER_USER), Some(OTHER_USER)).unwrap();
    let mut node = world.node_command(&[], &world.tun);
    theirs(&mut node);
    world.start_command(node);
    // Root gets past the folder's mode, and no further.
    let stranger = SeqPacket::connect(&world.socket()).unwrap();
    assert!(is_closed(&stranger));
    let mut stats = world.role("as-stats");
    theirs(&mut stats);
    let output = stats.arg("--socket").arg(world.socket()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("clients_of_other_users: 1"), "{output:?}");
}

/// Whether the helper has closed this connection, without a word.
fn is_closed(socket: &SeqPacket) -> bool {
    match socket.recv(&mut [0; 64]) {
        Ok(received) => received.len == 0,
        Err(ReceiveError::Io(error)) => error.kind() == std::io::ErrorKind::ConnectionReset,
        Err(_) => false,
    }
}

fn too_many_clients_are_turned_away(world: &World) {
    let mut client = world.start(&["--clients", "3"]);
    let others = [(); 2].map(|()| SeqPacket::connect(&world.socket()).unwrap());
    let one_more = SeqPacket::connect(&world.socket()).unwrap();
    assert!(is_closed(&one_more));
    assert_eq!(client.stats().unwrap().clients_over_limit, 1);
    drop(others);
    // Places are free again.
    assert!(eventually(
        || Client::connect(&world.socket()).is_ok_and(|mut client| client.list().is_ok())
    ));
}

fn a_run_directory_open_to_others_is_refused(world: &World) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
    fs::set_permissions(world.run_directory(), mode).unwrap();
    let output = world.fail_to_start();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("mode 0750, expected 0700 (ADIT-N008)"), "{text}");
    assert!(
        fs::exists(world.run_directory()).unwrap(),
        "what is not ours alone is not ours to remove"
    );
}

fn the_probe_finds_nothing_missing(world: &World) {
    let output = world
        .role("as-probe")
        .arg("--tun")
        .arg(&world.tun)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains(" Fail "), "{text}");
    for code in [
        "ADIT-N101 Ok",
        "ADIT-N102 Ok",
        "ADIT-N103 Ok",
        "ADIT-N112 Ok",
        "ADIT-N104 Ok",
    ] {
        assert!(text.contains(code), "{code} in {text}");
    }
    let output = world
        .role("as-probe")
        .args(["--tun", "/nonexistent/tun"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("ADIT-N103 Warn") && text.contains("ADIT-N112 Ok"),
        "{text}"
    );
    assert!(!text.contains(" Fail "), "{text}");
    let output = world
        .role("as-probe")
        .args(["--link", "tun", "--tun", "/nonexistent/tun"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("ADIT-N103 Fail"), "{text}");
}

/// The limits of a user namespace count for what is made below it, so the refusals are the kernel's own.
fn what_the_kernel_refuses_has_a_code(world: &World) {
    let here = std::env::current_exe().unwrap();
    let under = |limit: &str, role: &str| {
        let script = format!("echo 0 > /proc/sys/user/{limit}; exec \"$@\"");
        let output = Command::new("unshare")
            .args(["-Ur", "sh", "-c", &script, "sh"])
            .arg(&here)
            .args([role, "--socket"])
            .arg(world.socket())
            .arg("--tun")
            .arg(&world.tun)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let text = under("max_user_namespaces", "as-probe");
    assert!(text.contains("ADIT-N101 Fail"), "{text}");
    assert!(text.contains("max_user_namespaces is 0"), "{text}");
    let text = under("max_net_namespaces", "as-probe");
    assert!(
        text.contains("ADIT-N102 Fail") && text.contains("(ADIT-N003)"),
        "{text}"
    );
    let text = under("max_pid_namespaces", "as-probe");
    assert!(text.contains("ADIT-N107 Fail"), "{text}");
    let text = under("max_user_namespaces", "as-node");
    assert!(text.contains("(ADIT-N001)"), "{text}");
}
