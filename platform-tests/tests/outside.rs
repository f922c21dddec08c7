//! The world outside of the mesh, from a pod: another host, by TCP, UDP, ping and DNS.
//!
//! `adit` runs on one of two hosts joined by a cable; the other one is the outside.

use std::time::Duration;

use adit_flow::{Direction, Mode, MtlsState};
use adit_platform_tests::load::Stream;
use adit_platform_tests::{Finished, Lab, MeshSpec, Running, Sandbox, User, Workload, program};

const LIMIT: Duration = Duration::from_secs(60);

struct Outside {
    // In the order in which they must end.
    _server: Running,
    inside: Sandbox,
    outside: Sandbox,
    _lab: Lab,
}

fn outside() -> Outside {
    let lab = Lab::new(&User::ordinary());
    let (inside, outside) = (Sandbox::at(Some(lab.a)), Sandbox::at(Some(lab.b)));
    let mut command = outside.command(outside.load());
    command.args(["serve", "--port", "7000"]);
    let mut server = Running::spawn(command);
    server.wait_for("listening", LIMIT);
    Outside {
        _server: server,
        inside,
        outside,
        _lab: lab,
    }
}

/// `adit run -- argv`, without any mesh.
fn run(sandbox: &Sandbox, argv: &[&str]) -> Finished {
    let mut command = sandbox.command(sandbox.adit());
    command.args(["run", "--"]).args(argv);
    Finished::of(command, LIMIT)
}

#[test]
fn tcp_reaches_another_host_both_ways() {
    let world = outside();
    let load = world.inside.load();
    for target in ["10.99.0.2:7000", "[fd99::2]:7000"] {
        for direction in ["--unchecked", "--reverse"] {
            let found: Stream = run(
                &world.inside,
                &[&load, "stream", target, "--bytes", "20000000", direction],
            )
            .json();
            assert_eq!(
                (found.bytes, &found.sent_hashes),
                (20_000_000, &found.received_hashes),
                "{target} {direction}"
            );
        }
        // Outside of the mesh there are no pods: the other host sees this host.
        let seen = run(&world.inside, &[&load, "who", target]).stdout();
        assert!(
            seen.contains("10.99.0.1:") || seen.contains("[fd99::1]:"),
            "{seen}"
        );
    }
}

#[test]
fn what_is_refused_and_unreachable_outside_is_so_inside() {
    let world = outside();
    let load = world.inside.load();
    let end = |target: &str| run(&world.inside, &[&load, "end", target, "--server", "echo"]).stdout();
    assert!(end("10.99.0.2:6999").contains("connect-refused"));
    // Its own network has that address and nobody answers ARP.
    assert!(end("10.99.0.77:7000").contains("connect-unreachable"));
}

#[test]
fn ping_reaches_another_host() {
    program("ping", "iputils-ping");
    let world = outside();
    for address in ["10.99.0.2", "fd99::2"] {
        let done = run(
            &world.inside,
            &["ping", "-c", "3", "-i", "0.2", "-W", "5", address],
        );
        assert!(done.stdout().contains(" 0% packet loss"), "{done}");
    }
}

#[test]
fn udp_carries_questions_and_answers() {
    program("nc", "netcat-openbsd");
    program("python3", "python3");
    let world = outside();
    let mut command = world.outside.command("python3");
    command.args(["-u", "-c", SHOUT]);
    let mut server = Running::spawn(command);
    server.wait_for("listening", LIMIT);
    for (flag, address) in [("-4", "10.99.0.2"), ("-6", "fd99::2")] {
        let script = format!("printf question | nc {flag} -u -w 20 -W 1 {address} 7053");
        assert_eq!(run(&world.inside, &["sh", "-c", &script]).stdout(), "QUESTION");
    }
}

/// Answers each datagram in capitals.
const SHOUT: &str = "
import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind(('::', 7053))
print('listening')
while True:
    question, client = server.recvfrom(65535)
    server.sendto(question.upper(), client)
";

#[test]
fn a_workload_of_a_mesh_is_recorded_when_it_goes_outside() {
    program("curl", "curl");
    program("python3", "python3");
    let world = outside();
    let mut command = world.outside.command("python3");
    command
        .args(["-u", "-m", "http.server", "8080", "--bind", "10.99.0.2"])
        .current_dir(world.outside.folder("home/www"));
    let mut server = Running::spawn(command);
    server.wait_for("Serving", LIMIT);
    let mesh = world
        .inside
        .up(MeshSpec::new("out").workload(Workload::idle("idle")));
    mesh.wait_ready();
    let done = mesh.run_as(
        "test/client",
        [
            "curl",
            "-sS",
            "--max-time",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://10.99.0.2:8080/",
        ],
    );
    assert_eq!(done.stdout(), "200", "{}", mesh.logs());
    let record = mesh.wait_flow("to the outside", |flow| flow.destination.addr.port() == 8080);
    assert_eq!(
        (record.direction, record.mode),
        (Direction::Outbound, Mode::Forward),
        "{record}"
    );
    assert_eq!(record.mtls, MtlsState::PeerOutsideMesh, "{record}");
    assert!(record.bytes_received > 0, "{record}");
}
