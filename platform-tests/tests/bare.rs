//! The static executable on a disk that holds nothing else but a test program. `just static-test` runs these.

use std::process::Command;
use std::time::Duration;

use adit_platform_tests::bare::{BareRoot, static_executable};
use adit_platform_tests::{
    Finished, MeshSpec, Ps, Running, Sandbox, Workload, free_port, program, wait_until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 7000;

fn adit(root: &BareRoot<'_>, arguments: &[&str]) -> Finished {
    let mut command = root.command("/adit");
    command.args(arguments);
    Finished::of(command, LIMIT)
}

fn readelf(what: &str, name: &str) -> String {
    let mut command = Command::new(program("readelf", "binutils"));
    command.args(["--wide", what]).arg(static_executable(name));
    Finished::of(command, LIMIT).stdout()
}

#[test]
#[ignore = "of the static executable: `just static-test`"]
fn it_names_no_interpreter_and_no_library() {
    for name in ["adit", "adit-load"] {
        let segments = readelf("--segments", name);
        assert!(
            segments.contains("LOAD") && !segments.contains("INTERP"),
            "{segments}"
        );
        let dynamic = readelf("--dynamic", name);
        assert!(!dynamic.contains("NEEDED"), "{dynamic}");
        let sections = readelf("--sections", name);
        assert!(
            sections.contains(".gnu_debuglink") && !sections.contains(".debug_line"),
            "its debug information is beside it: {sections}"
        );
    }
}

#[test]
#[ignore = "of the static executable: `just static-test`"]
fn the_check_finds_all_that_is_needed_and_a_program_runs() {
    let sandbox = Sandbox::new();
    let root = BareRoot::new(&sandbox, &[]);
    let check = adit(&root, &["check", "--json"]);
    let findings: Vec<Value> = serde_json::from_str(&check.stdout()).unwrap();
    assert!(
        !findings.is_empty() && findings.iter().all(|finding| finding["status"] != "fail"),
        "{findings:?}"
    );
    let run = adit(&root, &["run", "--", "/adit", "--version"]);
    assert!(run.stdout().starts_with("adit "), "{run}");
}

#[test]
#[ignore = "of the static executable: `just static-test`"]
fn a_mesh_runs_over_either_link() {
    for link in ["tun", "packet"] {
        let sandbox = Sandbox::new();
        let server = Workload::server("server", PORT, ["/adit-load", "serve", "--port", "7000"]);
        let text = MeshSpec::new("bare").workload(server).text();
        let root = BareRoot::new(&sandbox, &[("mesh.yaml", &text)]);
        let mut up = root.command("/adit");
        up.args(["up", "/mesh.yaml", "--link", link]);
        let up = Running::spawn(up);
        let server = wait_until(
            "the server to be ready",
            LIMIT,
            || {
                let ps = adit(&root, &["ps", "--json"]).raw_stdout();
                let meshes: Vec<Ps> = serde_json::from_str(&ps).ok()?;
                let server = meshes.into_iter().next()?.workloads.into_iter().next()?;
                server.ready.then_some(server)
            },
            || format!("{}{}", up.stdout(), up.stderr()),
        );
        assert_eq!(server.link.as_deref(), Some(link));
        for address in &server.addresses {
            let target = std::net::SocketAddr::new(*address, PORT).to_string();
            let stream = ["/adit-load", "stream", &target, "--bytes", "20000000"];
            let client = [
                &["run", "--mesh", "bare", "--as", "test/client", "--"][..],
                &stream,
            ]
            .concat();
            let found: Value = adit(&root, &client).json();
            assert_eq!(found["sent_hashes"], found["received_hashes"], "{found}");
        }
        let flows = adit(&root, &["flows", "--json"]).stdout();
        assert!(
            flows.contains(r#""mode":"hbone""#) && flows.contains(r#""mtls":"mutual""#),
            "{flows}"
        );
        assert_eq!(adit(&root, &["down"]).code(), 0);
        let up = up.finish(LIMIT);
        assert_eq!(up.code(), 0, "{up}");
    }
}

/// What `/etc/nsswitch.conf` names are libraries of the machine's C library. None is loaded, and names are found.
#[test]
#[ignore = "of the static executable: `just static-test`"]
fn names_are_looked_up_without_the_machines_modules() {
    let sandbox = Sandbox::new();
    let server = format!("http://api.example:{}", free_port());
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
    });
    // A client of the API wants some roots to trust before it looks for anybody.
    let roots =
        std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").expect("Debian's ca-certificates");
    let files = [
        ("etc/ssl/certs/ca-certificates.crt", roots.as_str()),
        ("etc/hosts", "127.0.0.1 api.example\n"),
        ("etc/nsswitch.conf", "hosts: nowhere\n"),
        ("kubeconfig", &kubeconfig.to_string()),
    ];
    let root = BareRoot::new(&sandbox, &files);
    let status = adit(&root, &["mesh", "status", "shop", "--kubeconfig", "/kubeconfig"]);
    let said = status.stderr();
    assert!(
        said.contains("refused"),
        "nobody listens where the name leads: {status}"
    );
    assert_eq!(status.code(), 1, "{status}");
}
