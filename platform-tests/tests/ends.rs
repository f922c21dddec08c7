//! How connections end: what the programs see, and what the record says of it.

use std::time::Duration;

use adit_flow::{CloseReason, Closer, Direction, RefuseReason};
use adit_platform_tests::load::{Connect, End, Ended, ServedConnection};
use adit_platform_tests::{Finished, Mesh, MeshSpec, Sandbox, Workload, program, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 7000;

fn spec(sandbox: &Sandbox) -> MeshSpec {
    MeshSpec::new("ends").workload(Workload::load_server(sandbox, "server", PORT))
}

fn end(mesh: &Mesh<'_>, load: &str, target: &str, arguments: &[&str]) -> Ended {
    mesh.run_as("test/client", [&[load, "end", target], arguments].concat())
        .json()
}

/// What the server logged of a connection with `op`.
fn served(sandbox: &Sandbox, op: &str) -> ServedConnection {
    let path = sandbox.dir().join("home/server.served");
    let log = || std::fs::read_to_string(&path).unwrap_or_default();
    let find = || {
        let lines = log();
        let connections = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<ServedConnection>(line).ok());
        connections.into_iter().find(|served| served.op.starts_with(op))
    };
    wait_until(&format!("the server's log of {op}"), LIMIT, find, log)
}

#[test]
fn a_closed_port_refuses_at_connect() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    mesh.wait_ready();
    let address = mesh.address("test/server");
    let found = end(
        &mesh,
        &sandbox.load(),
        &format!("{address}:6999"),
        &["--server", "echo"],
    );
    assert_eq!(found.end, End::ConnectRefused, "{found:?}\n{}", mesh.logs());
    let record = mesh.wait_flow("refused at port 6999", |flow| {
        flow.destination.addr.port() == 6999 && flow.direction == Direction::Outbound
    });
    assert_eq!(
        (record.close, record.refused),
        (CloseReason::Refused, Some(RefuseReason::Refused)),
        "{record}"
    );
}

#[test]
fn clean_ends_and_resets_arrive_as_what_they_were() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    mesh.wait_ready();
    // What the client does and sees, what the server sees, what both records say.
    let cases: [(&str, u16, &[&str], End, u64, CloseReason, Closer); 3] = [
        (
            "fin",
            7001,
            &["--server", "sink", "--send", "100000"],
            End::Fin,
            24,
            CloseReason::Fin,
            Closer::Source,
        ),
        (
            "server's reset",
            7002,
            &["--server", "reset", "--bytes", "65536"],
            End::Reset,
            65536,
            CloseReason::Reset,
            Closer::Destination,
        ),
        (
            "client's reset",
            7003,
            &["--server", "sink", "--send", "65536", "--reset"],
            End::Fin,
            0,
            CloseReason::Reset,
            Closer::Source,
        ),
    ];
    for (name, port, arguments, seen, received, close, closer) in cases {
        let found = end(&mesh, &sandbox.load(), &format!("server:{port}"), arguments);
        assert_eq!(
            (found.end, found.received),
            (seen, received),
            "{name}: {found:?}\n{}",
            mesh.logs()
        );
        for direction in [Direction::Outbound, Direction::Inbound] {
            if close == CloseReason::Fin {
                // Both ends send a FIN here; which was first at the agent is theirs to race.
                mesh.wait_flow(name, |flow| {
                    flow.destination.addr.port() == port && flow.direction == direction && flow.close == close
                });
            } else {
                mesh.wait_close(port, direction, close, closer);
            }
        }
    }
    let reset = served(&sandbox, "Sink");
    assert_eq!((reset.end, reset.received), (End::Fin, 100_000));
}

#[test]
fn a_clients_reset_reaches_the_server_as_a_reset() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    mesh.wait_ready();
    end(
        &mesh,
        &sandbox.load(),
        "server:7000",
        &["--server", "sink", "--send", "65536", "--reset"],
    );
    let reset = served(&sandbox, "Sink");
    assert_eq!(reset.end, End::Reset, "{reset:?}\n{}", mesh.logs());
}

#[test]
fn half_close_works_with_netcat() {
    program("nc", "netcat-openbsd");
    let sandbox = Sandbox::new();
    // Answers after the question's end: what arrives then has come through a connection that is half closed.
    let answer = "until [ -s home/got ]; do sleep 0.05; done; sleep 0.3; echo answer";
    let script = format!("({answer}) | nc -N -l 7777 > home/got");
    let server = Workload::new("nc", ["sh", "-c", &script]);
    let mesh = sandbox.up(MeshSpec::new("halves").workload(server));
    mesh.wait_ready();
    let address = mesh.address("test/nc").to_string();
    let ask = || {
        let script = format!("printf 'eleven here' | nc -N -w 20 {address} 7777");
        mesh.run_as("test/client", ["sh", "-c", &script])
    };
    // Until nc listens it is refused.
    let done: Finished = wait_until(
        "netcat to answer",
        LIMIT,
        || Some(ask()).filter(|done| !done.raw_stdout().trim().is_empty()),
        || mesh.logs(),
    );
    assert_eq!(done.stdout().trim(), "answer");
    let got = std::fs::read_to_string(sandbox.dir().join("home/got"));
    assert_eq!(got.unwrap(), "eleven here");
}

#[test]
fn a_killed_server_is_a_reset_and_not_an_end() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    let ps = mesh.wait_ready();
    let load = sandbox.load();
    let client = mesh.spawn_as(
        "test/client",
        [
            &load,
            "stream",
            "server:7004",
            "--seconds",
            "60",
            "--reverse",
            "--unchecked",
        ],
    );
    wait_until(
        "the stream to begin",
        LIMIT,
        || (mesh.agent_usage().cpu > Duration::from_millis(300)).then_some(()),
        || mesh.logs(),
    );
    let server = ps.workloads[0].pid().expect("the server runs");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(server).unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let done = client.finish(LIMIT);
    assert_ne!(
        done.code(),
        0,
        "a truncated stream was taken for a whole one: {done}"
    );
    assert!(
        done.stderr().contains("reset"),
        "expected a reset: {done}\n{}",
        mesh.logs()
    );
    let record = mesh.wait_flow("of the killed server", |flow| {
        flow.destination.addr.port() == 7004 && flow.direction == Direction::Outbound
    });
    assert_ne!(record.close, CloseReason::Fin, "{record}");
    assert_eq!(record.closed_by, Closer::Destination, "{record}");
}

#[test]
fn readers_that_stall_do_not_delay_another_connection() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    mesh.wait_ready();
    let load = sandbox.load();
    let mut stalled = mesh.spawn_as(
        "test/stalled",
        [&load, "stall", "server:7000", "--count", "32", "--hold", "100"],
    );
    stalled.wait_for("opened 32", LIMIT);
    // Long enough for every window between them to fill.
    std::thread::sleep(Duration::from_secs(1));
    let same_pair = mesh.run_as(
        "test/other",
        [
            &load,
            "connect",
            "server:7000",
            "--count",
            "20",
            "--target-ports",
            "16",
        ],
    );
    let found: Connect = same_pair.json();
    assert_eq!((found.count, found.failed), (20, 0), "{found:?}");
    stalled.say("enough");
    stalled.finish(LIMIT).stdout();
}
