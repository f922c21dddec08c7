//! Between pods: both IP versions, and what isn't TCP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use adit_flow::{CloseReason, Closer, Direction, FlowRecord, Mode, MtlsState, Protocol, VerdictKind};
use adit_platform_tests::load::Stream;
use adit_platform_tests::{Mesh, MeshSpec, Sandbox, Workload, program};
use serde_json::json;

const PORT: u16 = 7000;
const UDP_PORT: u16 = 7053;

/// Answers each datagram in capitals.
const SHOUT: &str = "
import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind(('::', 7053))
while True:
    question, client = server.recvfrom(65535)
    server.sendto(question.upper(), client)
";

fn mesh(sandbox: &Sandbox) -> Mesh<'_> {
    program("python3", "python3");
    let ports = json!([{"name": "shout", "containerPort": UDP_PORT, "protocol": "UDP"}]);
    // Ready once it listens: nothing else says so of UDP.
    let listens = json!({"exec": {"command": ["grep", "-q", "1B8D", "/proc/net/udp6"]}});
    let shouter = Workload::new("shouter", ["python3", "-u", "-c", SHOUT])
        .set("ports", ports)
        .set("readinessProbe", listens);
    let mesh = sandbox.up(MeshSpec::new("inside")
        .workload(Workload::load_server(sandbox, "server", PORT))
        .workload(shouter));
    mesh.wait_ready();
    mesh
}

/// The addresses of a workload, one of each IP version.
fn addresses(mesh: &Mesh<'_>, name: &str) -> Vec<IpAddr> {
    let ps = mesh.ps();
    let row = ps.workloads.iter().find(|row| row.name.name == name);
    let addresses = row
        .unwrap_or_else(|| panic!("{name} in {ps:?}"))
        .addresses
        .clone();
    assert!(
        addresses.iter().any(IpAddr::is_ipv4) && addresses.iter().any(IpAddr::is_ipv6),
        "{addresses:?}"
    );
    addresses
}

#[test]
fn tcp_in_both_ip_versions_keeps_the_clients_address() {
    let sandbox = Sandbox::new();
    let mesh = mesh(&sandbox);
    let load = sandbox.load();
    for address in addresses(&mesh, "server") {
        let target = std::net::SocketAddr::new(address, PORT).to_string();
        let argv = [&load, "stream", &target, "--bytes", "5000000"];
        let found: Stream = mesh.run_as("test/client", argv).json();
        assert_eq!(found.sent_hashes, found.received_hashes, "{target}");
        let seen = mesh.run_as("test/client", [&load, "who", &target]).stdout();
        let seen: std::net::SocketAddr = seen.trim().trim_matches('"').parse().unwrap();
        let record = mesh.wait_flow("of that client", |flow| {
            flow.source.addr == seen && flow.direction == Direction::Inbound
        });
        assert_eq!(
            (record.mode, record.mtls, record.destination.addr.ip()),
            (Mode::Hbone, MtlsState::Mutual, address),
            "{record}"
        );
    }
}

#[test]
fn udp_reaches_a_pod_by_address_and_by_service() {
    program("nc", "netcat-openbsd");
    let sandbox = Sandbox::new();
    let mesh = mesh(&sandbox);
    let by_address = addresses(&mesh, "shouter");
    let by_name = [("-4", "shouter".to_owned()), ("-6", "shouter".to_owned())];
    let by_address = by_address.iter().map(|address| {
        let flag = if address.is_ipv4() { "-4" } else { "-6" };
        (flag, address.to_string())
    });
    for (flag, target) in by_address.chain(by_name) {
        let script = format!("printf question | nc {flag} -u -w 20 -W 1 {target} {UDP_PORT}");
        let done = mesh.run_as("test/client", ["sh", "-c", &script]);
        assert_eq!(done.stdout(), "QUESTION", "{target} {flag}\n{}", mesh.logs());
    }
    // A datagram flow has no end of its own but its pod's.
    let record = mesh.wait_flow("of UDP by address", |flow| {
        flow.protocol == Protocol::Udp && flow.direction == Direction::Outbound && flow.service.is_none()
    });
    assert_eq!(
        (record.mode, record.mtls, record.verdict),
        (Mode::Forward, MtlsState::ProtocolNotTcp, VerdictKind::Allow),
        "{record}"
    );
    assert_eq!(
        (
            record.bytes_sent,
            record.bytes_received,
            record.close,
            record.closed_by
        ),
        (8, 8, CloseReason::PeerLost, Closer::Source),
        "{record}"
    );
}

#[test]
fn pods_answer_ping() {
    program("ping", "iputils-ping");
    let sandbox = Sandbox::new();
    let mesh = mesh(&sandbox);
    for address in addresses(&mesh, "server") {
        let address = address.to_string();
        let argv = ["ping", "-c", "3", "-i", "0.2", "-W", "5", &address];
        let done = mesh.run_as("test/client", argv);
        assert!(done.stdout().contains(" 0% packet loss"), "{done}");
    }
}

#[test]
fn names_resolve_in_all_their_forms() {
    program("getent", "libc-bin");
    let sandbox = Sandbox::new();
    let mesh = mesh(&sandbox);
    let names = [
        "server",
        "server.test",
        "server.test.svc",
        "server.test.svc.cluster.local",
    ];
    let looked_up = |name: &str, version: &str| {
        let done = mesh.run_as("test/client", ["getent", version, name]);
        let first = done
            .stdout()
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        first
            .parse::<IpAddr>()
            .unwrap_or_else(|error| panic!("{error}: {done}"))
    };
    let service = ["ahostsv4", "ahostsv6"].map(|version| looked_up(names[0], version));
    assert!(service[0].is_ipv4() && service[1].is_ipv6(), "{service:?}");
    for name in names {
        let found = ["ahostsv4", "ahostsv6"].map(|version| looked_up(name, version));
        assert_eq!(found, service, "{name}");
    }
    let absent = mesh.run_as(
        "test/client",
        ["getent", "hosts", "absent.test.svc.cluster.local"],
    );
    assert_ne!(absent.code(), 0, "{absent}");
}

#[test]
fn flows_are_chosen_by_either_end_and_by_verdict() {
    let sandbox = Sandbox::new();
    let mesh = mesh(&sandbox);
    let load = sandbox.load();
    for client in ["test/one", "test/two"] {
        mesh.run_as(client, [&load, "rr", "server:7000", "--count", "1"])
            .stdout();
    }
    mesh.wait_hbone(Direction::Outbound, "test/two", "test/server", PORT);
    mesh.wait_hbone(Direction::Outbound, "test/one", "test/server", PORT);
    let chosen = |filter: &[&str]| -> BTreeSet<String> {
        let said = mesh.adit([&["flows", "--json"], filter].concat()).stdout();
        let records = said
            .lines()
            .map(|line| serde_json::from_str::<FlowRecord>(line).unwrap());
        let of_tcp = records.filter(|record| record.protocol == Protocol::Tcp);
        of_tcp
            .filter_map(|record| record.source.workload)
            .map(|workload| workload.name)
            .collect()
    };
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(chosen(&[]), set(&["one", "two"]));
    assert_eq!(chosen(&["--from", "test/one"]), set(&["one"]));
    assert_eq!(
        chosen(&["--to", "server", "--verdict", "allow"]),
        set(&["one", "two"])
    );
    assert_eq!(
        chosen(&["--from", "test/two", "--to", "test/server"]),
        set(&["two"])
    );
    assert_eq!(chosen(&["--to", "test/one"]), set(&[]));
    assert_eq!(chosen(&["--verdict", "deny"]), set(&[]));
}

#[test]
fn a_mesh_of_one_ip_version_works() {
    for (pods, services) in [("10.20.0.0/20", "10.21.0.0/20"), ("fd20:1::/64", "fd20:2::/64")] {
        let sandbox = Sandbox::new();
        let mesh = sandbox.up(MeshSpec::new("single")
            .addresses(&[pods], &[services])
            .workload(Workload::load_server(&sandbox, "server", PORT)));
        mesh.wait_ready();
        let argv = [&sandbox.load(), "stream", "server:7000", "--bytes", "5000000"];
        let found: Stream = mesh.run_as("test/client", argv).json();
        assert_eq!(found.sent_hashes, found.received_hashes, "{pods}");
    }
}
