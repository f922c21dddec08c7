//! What pods' packets go through: a TUN device, or where none can be had a veth pair with a packet socket.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use adit_flow::Direction;
use adit_platform_tests::load::Stream;
use adit_platform_tests::{Finished, Mesh, MeshSpec, Sandbox, UpOptions, Workload};
use serde_json::Value;

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(60);

fn spec(sandbox: &Sandbox, name: &str) -> MeshSpec {
    MeshSpec::new(name)
        .workload(Workload::load_server(sandbox, "server", PORT))
        .workload(Workload::shell(sandbox, "client"))
}

fn up<'a>(sandbox: &'a Sandbox, name: &str, arguments: &[&str]) -> Mesh<'a> {
    let options = UpOptions {
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        ..UpOptions::default()
    };
    let mesh = sandbox.up_with(&spec(sandbox, name), options);
    mesh.wait_ready();
    mesh
}

/// Checks that streams arrive whole, that the mesh says what carried them, and that nothing of it was lost.
fn check_streams(mesh: &Mesh<'_>, sandbox: &Sandbox, link: &str) {
    for direction in [None, Some("--reverse")] {
        let load = sandbox.load();
        let mut argv = vec![load.as_str(), "stream", "server:7000", "--bytes", "100000000"];
        argv.extend(direction);
        let found: Stream = mesh.run_in("client", argv).json();
        assert_eq!(found.sent_hashes, found.received_hashes);
        mesh.wait_hbone(Direction::Outbound, "test/client", "test/server", PORT);
    }
    let ps = mesh.ps();
    assert!(
        ps.workloads.iter().all(|row| row.link.as_deref() == Some(link)),
        "{ps:?}"
    );
    let shown = mesh.adit(["ps"]).stdout();
    assert!(
        shown
            .lines()
            .next()
            .is_some_and(|line| line.contains(&format!(", link {link}"))),
        "{shown}"
    );
    let counters = mesh.counters();
    assert_eq!(
        counters.get(&format!("links{{kind={link}}}")),
        Some(&2),
        "{counters:?}"
    );
    for name in [
        "link_frames_invalid_total",
        "link_frames_undescribed_total",
        "link_packets_summed_total",
    ] {
        assert_eq!(counters.get(name), Some(&0), "{name}");
    }
}

/// Device nodes that a user can't open: one that isn't there, and one that isn't the user's.
fn closed_nodes(sandbox: &Sandbox) -> [PathBuf; 2] {
    let closed = sandbox.file("closed-tun", "");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    [sandbox.dir().join("no-tun"), closed]
}

#[test]
fn each_link_carries_streams_and_says_so() {
    for link in ["tun", "packet"] {
        let sandbox = Sandbox::new();
        let mut mesh = up(&sandbox, link, &["--link", link]);
        check_streams(&mesh, &sandbox, link);
        assert!(!mesh.logs().contains("ADIT-N044"), "{}", mesh.logs());
        mesh.down();
    }
}

#[test]
fn without_a_tun_device_pods_get_a_veth_pair_and_adit_says_why() {
    for which in [0, 1] {
        let sandbox = Sandbox::new();
        let node = closed_nodes(&sandbox)[which].display().to_string();
        let arguments = ["--link", "auto", "--tun-device", &node];
        let mut mesh = up(&sandbox, "closed", &arguments);
        check_streams(&mesh, &sandbox, "packet");
        let logs = mesh.logs();
        let said = logs
            .lines()
            .filter(|line| line.contains("[ADIT-N044]"))
            .collect::<Vec<_>>();
        assert_eq!(said.len(), 1, "once, not for each pod: {logs}");
        assert!(
            said[0].contains(&node) && said[0].contains("ADIT-N004"),
            "{said:?}"
        );
        mesh.down();
    }
}

/// As in a container without the device: nothing is given on the command line, and nothing is where the device should be.
#[test]
fn where_the_device_is_hidden_a_program_runs_all_the_same() {
    let sandbox = Sandbox::new();
    let hidden = |arguments: &[&str]| {
        let mut command = sandbox.command("unshare");
        let script = "[ ! -d /dev/net ] || mount -t tmpfs none /dev/net && exec \"$@\"";
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .arg(sandbox.adit())
            .args(arguments)
            .env_remove("ADIT_TUN")
            .env("ADIT_LINK", "auto");
        command
    };
    let done = Finished::of(hidden(&["check", "--json"]), LIMIT);
    assert_eq!(done.code(), 0, "{done}");
    let findings: Vec<Value> = serde_json::from_str(&done.raw_stdout()).unwrap();
    let status = |code: &str| {
        let found = findings.iter().find(|finding| finding["code"] == code);
        found.map(|finding| finding["status"].clone())
    };
    assert_eq!(status("ADIT-N103"), Some("warn".into()), "{findings:?}");
    assert_eq!(status("ADIT-N112"), Some("ok".into()), "{findings:?}");
    assert!(
        status("ADIT-N113").is_some(),
        "the room in its socket matters here: {findings:?}"
    );
    let done = Finished::of(hidden(&["run", "--", "cat", "/proc/net/arp"]), LIMIT);
    assert_eq!(done.code(), 0, "{done}");
    assert!(done.stdout().contains("02:61:64:69:74:01"), "{done}");
}

#[test]
fn a_link_that_was_asked_for_is_not_replaced() {
    let sandbox = Sandbox::new();
    let [missing, _] = closed_nodes(&sandbox);
    let mut command: Command = sandbox.command(sandbox.adit());
    command
        .args(["run", "--link", "tun", "--tun-device"])
        .arg(&missing)
        .args(["--", "true"]);
    let done = Finished::of(command, LIMIT);
    assert_eq!(done.code(), 125, "{done}");
    let mut command: Command = sandbox.command(sandbox.adit());
    command
        .args(["check", "--link", "packet", "--tun-device"])
        .arg(&missing);
    let done = Finished::of(command, LIMIT);
    assert_eq!(done.code(), 0, "{done}");
    let said = done.stdout();
    assert!(
        said.contains("ADIT-N112") && !said.contains("ADIT-N103"),
        "{said}"
    );
}
