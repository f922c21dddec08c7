//! How connections end: what the programs see, and what the record says of it.

use std::time::Duration;

use adit_flow::{CloseReason, Closer, Direction, RefuseReason};
use adit_platform_tests::load::{Connect, End, Ended, ServedConnection};
use adit_platform_tests::{Mesh, MeshSpec, Sandbox, Workload, program, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 7000;

fn spec(sandbox: &Sandbox) -> MeshSpec {
    MeshSpec::new("ends")
        .workload(Workload::load_server(sandbox, "server", PORT))
        .workload(Workload::shell(sandbox, "reader"))
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

/// What a client does and sees, and what both records say.
#[derive(Debug)]
struct Case {
    port: u16,
    arguments: &'static str,
    seen: End,
    received: u64,
    close: CloseReason,
    closer: Option<Closer>,
}

#[test]
fn clean_ends_and_resets_arrive_as_what_they_were() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    mesh.wait_ready();
    let case = |port, arguments, seen, received, close, closer| Case {
        port,
        arguments,
        seen,
        received,
        close,
        closer,
    };
    let cases = [
        // Both ends send a FIN; which one the agent sees first is theirs to race, so nobody is named.
        case(
            7001,
            "--server sink --send 100000",
            End::Fin,
            24,
            CloseReason::Fin,
            None,
        ),
        case(
            7002,
            "--server reset --bytes 65536",
            End::Reset,
            65536,
            CloseReason::Reset,
            Some(Closer::Destination),
        ),
        case(
            7003,
            "--server echo --send 65536 --reset",
            End::Fin,
            65536,
            CloseReason::Reset,
            Some(Closer::Source),
        ),
    ];
    for case in cases {
        let arguments: Vec<&str> = case.arguments.split(' ').collect();
        let found = end(
            &mesh,
            &sandbox.load(),
            &format!("server:{}", case.port),
            &arguments,
        );
        let seen = (found.end, found.received);
        assert_eq!(
            seen,
            (case.seen, case.received),
            "{case:?}: {found:?}\n{}",
            mesh.logs()
        );
        for direction in [Direction::Outbound, Direction::Inbound] {
            mesh.wait_flow(&format!("{direction:?} of {case:?}"), |flow| {
                flow.destination.addr.port() == case.port
                    && flow.direction == direction
                    && flow.close == case.close
                    && case.closer.is_none_or(|closer| flow.closed_by == closer)
            });
        }
    }
    let clean = served(&sandbox, "Sink");
    assert_eq!((clean.end, clean.received), (End::Fin, 100_000));
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
        &["--server", "echo", "--send", "65536", "--reset"],
    );
    let reset = served(&sandbox, "Echo");
    assert_eq!(
        (reset.end, reset.received),
        (End::Reset, 65536),
        "{reset:?}\n{}",
        mesh.logs()
    );
}

/// The server answers after the question's end: what arrives then has come through a half-closed connection.
#[test]
fn half_close_works_with_netcat() {
    program("nc", "netcat-openbsd");
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    mesh.wait_ready();
    // The header of `Sink`, eleven bytes, the FIN; the first number of the report is how many bytes came.
    let header = r"S\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000";
    let script = format!("printf '{header}eleven here' | nc -N -w 20 server 7000 | od -An -tu1 -N8");
    let done = mesh.run_as("test/client", ["sh", "-c", &script]);
    assert_eq!(
        done.stdout().split_whitespace().next(),
        Some("11"),
        "{done}\n{}",
        mesh.logs()
    );
}

/// A kernel ends a killed program's connections as if it had closed them, so that is what the client gets; it is the
/// stream's own report that is missing.
#[test]
fn a_killed_server_ends_its_connection() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    let ps = mesh.wait_ready();
    let load = sandbox.load();
    let argv = [
        &load,
        "stream",
        "server:7004",
        "--seconds",
        "60",
        "--reverse",
        "--unchecked",
    ];
    let client = mesh.spawn_as("test/client", argv);
    wait_until(
        "the stream to begin",
        LIMIT,
        || (mesh.agent_usage().cpu > Duration::from_millis(300)).then_some(()),
        || mesh.logs(),
    );
    let server = ps.workloads[0].pid().expect("the server runs");
    kill_process(
        Pid::from_raw(i32::try_from(server).unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    let done = client.finish(LIMIT);
    assert_ne!(
        done.code(),
        0,
        "a truncated stream was taken for a whole one: {done}"
    );
    let record = mesh.wait_flow("of the killed server", |flow| {
        flow.destination.addr.port() == 7004 && flow.direction == Direction::Outbound
    });
    assert_eq!(record.closed_by, Closer::Destination, "{record}");
}

#[test]
fn readers_that_stall_do_not_delay_another_connection() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(&sandbox));
    mesh.wait_ready();
    let load = sandbox.load();
    let mut stalled = mesh.spawn_in(
        "reader",
        [&load, "stall", "server:7000", "--count", "32", "--hold", "100"],
    );
    stalled.wait_for("opened 32", LIMIT);
    // Long enough for every window between them to fill.
    std::thread::sleep(Duration::from_secs(1));
    let same_pair = mesh.run_in(
        "reader",
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
