//! A running mesh and an HBONE peer that shares no line with it: Go's TLS and HTTP/2, as a node of the mesh file.
//!
//! The peer is built with `go build`, so these are ignored unless asked for, as `just peers` does. They fail, and don't
//! pass, where Go is missing.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use adit_flow::{CloseReason, Closer, Direction, FlowRecord, MtlsState, RefuseReason};
use adit_platform_tests::load::{Active, End, Ended, HEADER_LEN, Op, ServedConnection};
use adit_platform_tests::{
    Finished, Mesh, MeshSpec, Running, Sandbox, UpOptions, Workload, free_port, wait_until,
};

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(30);

/// A mesh whose node `a` is adit's and whose other nodes are the peer's, one for each workload there.
struct World<'a> {
    sandbox: &'a Sandbox,
    mesh: Mesh<'a>,
    listen: SocketAddr,
    hbone: BTreeMap<String, SocketAddr>,
}

impl<'a> World<'a> {
    /// `elsewhere` are the workloads of the peer's nodes.
    fn new(sandbox: &'a Sandbox, elsewhere: &[&str]) -> Self {
        Self::with(sandbox, elsewhere, &[])
    }

    /// The same with further options of `adit up`.
    fn with(sandbox: &'a Sandbox, elsewhere: &[&str], arguments: &[&str]) -> Self {
        let listen = loopback();
        let mut spec = MeshSpec::new("gopeer")
            .node("a", &listen.to_string())
            .workload(Workload::load_server(sandbox, "server", PORT).on("a"))
            .workload(Workload::shell(sandbox, "shell").on("a"));
        let mut hbone = BTreeMap::new();
        for name in elsewhere {
            let address = loopback();
            hbone.insert((*name).to_owned(), address);
            spec = spec
                .node(name, &address.to_string())
                .workload(Workload::server(name, PORT, ["elsewhere"]).on(name));
        }
        let state = sandbox.folder("state").display().to_string();
        let arguments = ["--state-dir", &state]
            .into_iter()
            .chain(arguments.iter().copied());
        let options = UpOptions {
            node: Some(("a".to_owned(), listen)),
            arguments: arguments.map(str::to_owned).collect(),
            ..UpOptions::default()
        };
        let mesh = sandbox.up_with(&spec, options);
        mesh.wait_ready();
        Self {
            sandbox,
            mesh,
            listen,
            hbone,
        }
    }

    /// The peer, with the authority that the mesh's nodes share.
    fn go(&self, command: &str, id: &str) -> Command {
        let mut go = self.sandbox.command(self.sandbox.hbone_go());
        go.args([command, "--id", &identity(id), "--ca"])
            .arg(self.authority());
        go
    }

    fn authority(&self) -> PathBuf {
        self.sandbox.dir().join("state/ca-test.local.pem")
    }

    /// A client that asks for the server's pod as the workload `peer` would.
    fn client(&self) -> Client<'_> {
        Client {
            world: self,
            id: "peer",
            authority: SocketAddr::new(self.mesh.address("test/server"), PORT),
            forwarded: SocketAddr::new(self.mesh.address("test/peer"), 40_000),
            server_name: Some(server_name(self.mesh.address("test/server"))),
        }
    }

    /// The peer as the listener of the workload `name`'s node, which proves to be `id`.
    fn server(&self, name: &str, id: &str, arguments: &[&str]) -> Running {
        let mut go = self.go("server", id);
        go.args(["--listen", &self.hbone[name].to_string()])
            .args(arguments);
        let mut server = Running::spawn(go);
        server.wait_for("listening", LIMIT);
        server
    }

    /// How a connection from the pod `shell` to the workload `name` of the peer ends.
    fn end(&self, name: &str) -> Ended {
        let target = format!("{name}:{PORT}");
        let argv = [&self.sandbox.load(), "end", &target, "--server", "echo"];
        self.mesh.run_in("shell", argv).json()
    }

    /// The record of the connection to the workload `name` of the peer.
    fn record_to(&self, name: &str) -> FlowRecord {
        self.mesh.wait_flow(&format!("to {name}"), |flow| {
            flow.direction == Direction::Outbound && names(&flow.destination, name)
        })
    }

    /// The record of the connection that a peer spoke for as `client`.
    fn record_from(&self, client: SocketAddr) -> FlowRecord {
        self.mesh
            .wait_flow(&format!("from {client}"), |flow| flow.source.addr == client)
    }

    /// What the server in the pod logged of `client`.
    fn served(&self, client: SocketAddr) -> ServedConnection {
        let path = self.sandbox.dir().join("home/server.served");
        let log = || std::fs::read_to_string(&path).unwrap_or_default();
        let find = || {
            let lines = log();
            let all = lines
                .lines()
                .filter_map(|line| serde_json::from_str::<ServedConnection>(line).ok());
            all.into_iter().find(|served| served.peer == client)
        };
        wait_until(&format!("the server's log of {client}"), LIMIT, find, log)
    }
}

/// A client of the peer, before it's started.
#[derive(Clone)]
struct Client<'a> {
    world: &'a World<'a>,
    id: &'a str,
    authority: SocketAddr,
    forwarded: SocketAddr,
    server_name: Option<String>,
}

impl Client<'_> {
    fn start(&self, arguments: &[&str]) -> Running {
        let mut go = self.world.go("client", self.id);
        go.args(["--addr", &self.world.listen.to_string()])
            .args(["--authority", &self.authority.to_string()])
            .args(["--forwarded", &self.forwarded.to_string()])
            .args(["--expect", &identity("server")]);
        if let Some(name) = &self.server_name {
            go.args(["--sni", name]);
        }
        go.args(arguments);
        Running::spawn(go)
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        self.start(arguments).finish(LIMIT)
    }

    fn with_port(&self, port: u16) -> Self {
        let mut other = self.clone();
        other.forwarded.set_port(port);
        other
    }
}

/// A stream to the server's echo that is used now and then, to show that it's well.
struct Healthy {
    client: Running,
    lines: u32,
}

impl Healthy {
    fn start(client: &Client<'_>) -> Self {
        let mut healthy = Self {
            client: client.start(&[]),
            lines: 0,
        };
        healthy.write(&Op::Echo.encode());
        healthy.speak();
        healthy
    }

    fn write(&mut self, bytes: &[u8]) {
        let stdin = self.client.stdin().expect("it was not closed");
        stdin.write_all(bytes).expect("the peer reads");
    }

    /// A line goes there and comes back.
    fn speak(&mut self) {
        self.lines += 1;
        let line = format!("line {} is well", self.lines);
        self.client.say(&line);
        self.client.wait_for(&line, LIMIT);
    }

    fn finish(self) {
        let said = self.client.finish(LIMIT).stdout();
        assert_eq!(said.lines().count() as u32, self.lines, "{said}");
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn identity(account: &str) -> String {
    format!("spiffe://test.local/ns/test/sa/{account}")
}

/// See docs/adr/0004-server-names.md.
fn server_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08x}.v4.pod.adit.internal", address.to_bits()),
        IpAddr::V6(address) => format!("{:032x}.v6.pod.adit.internal", address.to_bits()),
    }
}

fn names(peer: &adit_flow::Peer, name: &str) -> bool {
    peer.workload
        .as_ref()
        .is_some_and(|workload| workload.name == name)
}

fn header_in_hex() -> String {
    Op::Echo
        .encode()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
#[ignore = "builds a peer: needs go"]
fn the_peer_opens_streams_to_a_pod() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox, &["peer"]);
    let client = world.client();
    let preamble = header_in_hex();
    let many = client.run(&["--check", "3000000", "--streams", "16", "--preamble", &preamble]);
    assert_eq!(many.code(), 0, "{many}\n{}", world.mesh.logs());
    // The program in the pod sees the client that the peer speaks for.
    let mut who = client.start(&[]);
    who.stdin().unwrap().write_all(&Op::Who.encode()).unwrap();
    assert_eq!(who.finish(LIMIT).stdout(), client.forwarded.to_string());
    let record = world.record_from(client.forwarded);
    assert_eq!(
        (record.mtls, record.wire_port, record.close),
        (MtlsState::Mutual, Some(world.listen.port()), CloseReason::Fin),
        "{record}"
    );
    assert_eq!(record.source.identity, Some(identity("peer")), "{record}");
}

#[test]
#[ignore = "builds a peer: needs go"]
fn the_peer_accepts_streams_from_a_pod() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox, &["peer"]);
    let target = loopback();
    let mut load = sandbox.command(sandbox.load());
    load.args(["serve", "--port", &target.port().to_string()]);
    let mut behind = Running::spawn(load);
    behind.wait_for("listening", LIMIT);
    let server = world.server("peer", "peer", &["--target", &target.to_string()]);
    // Both ways, and the client's FIN first: Go's server can't end its answer while the request goes on.
    let argv = [
        &sandbox.load(),
        "active",
        "peer:7000",
        "--count",
        "8",
        "--bytes",
        "2000000",
    ];
    let found: Active = world.mesh.run_in("shell", argv).json();
    assert_eq!(
        (found.opened, found.correct),
        (8, 8),
        "{found:?}\n{}",
        world.mesh.logs()
    );
    let log = server.stdout();
    let line = format!(":{PORT} from {} for for=", identity("shell"));
    assert_eq!(log.matches(&line).count(), 8, "{log}");
    let record = world.record_to("peer");
    assert_eq!(
        (record.mtls, record.close),
        (MtlsState::Mutual, CloseReason::Fin),
        "{record}"
    );
}

/// What a peer does wrong, how that ends for it, and the counter that says so.
#[derive(Debug)]
struct Misdeed {
    what: &'static str,
    arguments: &'static str,
    change: fn(&mut Client<'_>),
    exit: i32,
    counter: &'static str,
}

#[test]
#[ignore = "builds a peer: needs go"]
fn each_misdeed_is_refused_for_its_own_reason_and_harms_nobody_else() {
    const REFUSED: i32 = 5;
    const STATUS: i32 = 3;
    const RESET: i32 = 4;
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox, &["peer"]);
    let misdeed = |what, arguments, exit, counter| Misdeed {
        what,
        arguments,
        change: |_| {},
        exit,
        counter,
    };
    let as_another = |what, change, exit, counter| Misdeed {
        what,
        arguments: "--check 10",
        change,
        exit,
        counter,
    };
    let misdeeds = [
        misdeed(
            "a wrong trust domain",
            "--bad wrong-trust-domain --check 10",
            REFUSED,
            "tunnels_ended_total{reason=wrong-trust-domain}",
        ),
        misdeed(
            "an expired certificate",
            "--bad expired --check 10",
            REFUSED,
            "tunnels_ended_total{reason=expired}",
        ),
        misdeed(
            "an issuer nobody knows",
            "--bad unknown-issuer --check 10",
            REFUSED,
            "tunnels_ended_total{reason=unknown-issuer}",
        ),
        misdeed(
            "no certificate",
            "--bad no-client-cert --check 10",
            REFUSED,
            "tunnels_ended_total{reason=no-certificate}",
        ),
        misdeed(
            "two URI SANs",
            "--bad two-sans --check 10",
            REFUSED,
            "tunnels_ended_total{reason=several-uri-sans}",
        ),
        misdeed(
            "plain bytes",
            "--bad plain-bytes",
            REFUSED,
            "tunnels_ended_total{reason=not-tls}",
        ),
        misdeed(
            "an oversized CONNECT",
            "--bad oversized-connect",
            REFUSED,
            "bad_connects_total{reason=oversized-head}",
        ),
        misdeed(
            "a malformed CONNECT",
            "--bad malformed-authority",
            RESET,
            "bad_connects_total{reason=malformed-head}",
        ),
        as_another(
            "an identity that isn't the address's",
            |client| client.id = "shell",
            STATUS,
            "flows_refused_total{reason=bad-identity}",
        ),
        as_another(
            "an address of nobody",
            |client| client.forwarded.set_ip(IpAddr::from([10, 250, 0, 1])),
            STATUS,
            "flows_refused_total{reason=bad-identity}",
        ),
        as_another(
            "another pod's address",
            |client| client.authority.set_ip(client.forwarded.ip()),
            STATUS,
            "flows_refused_total{reason=unreachable}",
        ),
        as_another(
            "no pod's name",
            |client| client.server_name = None,
            REFUSED,
            "tunnels_ended_total{reason=no-credentials}",
        ),
    ];
    let mut healthy = Healthy::start(&world.client().with_port(41_000));
    for misdeed in misdeeds {
        let before = world.mesh.counters();
        let mut client = world.client();
        (misdeed.change)(&mut client);
        let arguments: Vec<&str> = misdeed.arguments.split(' ').collect();
        let done = client.run(&arguments);
        assert_eq!(
            done.code(),
            misdeed.exit,
            "{misdeed:?}: {done}\n{}",
            world.mesh.logs()
        );
        let risen = wait_until(
            misdeed.what,
            LIMIT,
            || Some(refusals_since(&before, &world.mesh.counters())).filter(|risen| !risen.is_empty()),
            || format!("{:?}\n{}", world.mesh.counters(), world.mesh.logs()),
        );
        assert_eq!(
            risen,
            BTreeMap::from([(misdeed.counter.to_owned(), 1)]),
            "{misdeed:?}"
        );
        healthy.speak();
    }
    healthy.finish();
}

/// Connections that say nothing are looked at for two seconds and counted all the while.
#[test]
#[ignore = "builds a peer: needs go"]
fn peers_that_say_nothing_are_counted_and_hold_nobody_up() {
    const SILENT: usize = 20;
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox, &["peer"]);
    let count = |name: &str| world.mesh.counters()[name];
    let silent: Vec<TcpStream> = (0..SILENT)
        .map(|_| TcpStream::connect(world.listen).unwrap())
        .collect();
    wait_until(
        "them to be awaited",
        LIMIT,
        || (count("hellos_awaited") == SILENT as u64).then_some(()),
        || format!("{:?}", world.mesh.counters()),
    );
    let healthy = Healthy::start(&world.client());
    healthy.finish();
    wait_until(
        "them to be given up",
        LIMIT,
        || (count("connections_accepted_total{hello=slow}") == SILENT as u64).then_some(()),
        || format!("{:?}", world.mesh.counters()),
    );
    assert_eq!(count("connections_accepted_total{hello=named}"), 1);
    assert_eq!(count("hellos_awaited"), 0);
    drop(silent);
}

/// New tunnels get the certificate that is in force, and those that live keep theirs.
#[test]
#[ignore = "builds a peer: needs go"]
fn a_new_tunnel_gets_the_new_certificate_while_an_old_one_goes_on() {
    let sandbox = Sandbox::new();
    let world = World::with(&sandbox, &["peer"], &["--svid-ttl", "10s"]);
    let presented = |client: &Client<'_>| {
        let said = client.run(&["--check", "1000", "--preamble", &header_in_hex()]);
        let serial = said.stderr();
        let serial = serial
            .lines()
            .find_map(|line| line.strip_prefix("hbone-go: peer's serial "));
        serial.unwrap_or_else(|| panic!("no serial in {said}")).to_owned()
    };
    let mut healthy = Healthy::start(&world.client().with_port(41_000));
    let first = presented(&world.client());
    let second = wait_until(
        "another certificate",
        LIMIT,
        || Some(presented(&world.client())).filter(|serial| *serial != first),
        || world.mesh.adit(["identity"]).stdout(),
    );
    let in_force = world.mesh.adit(["identity", "--json"]).stdout();
    assert!(
        in_force.contains(&second) && !in_force.contains(&first),
        "{first}, then {second}, but in force are {in_force}"
    );
    healthy.speak();
    healthy.finish();
}

/// The counters of refusals that rose, and by how much. A tunnel whose CONNECT was refused ends too, in whatever way
/// its peer chooses.
fn refusals_since(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    const AFTER_A_REFUSAL: [&str; 3] = ["reason=orderly}", "reason=lost}", "reason=violated}"];
    let of_refusals = ["tunnels_ended_total", "bad_connects_total", "flows_refused_total"];
    after
        .iter()
        .filter(|(name, _)| of_refusals.iter().any(|family| name.starts_with(family)))
        .filter(|(name, _)| !AFTER_A_REFUSAL.iter().any(|end| name.ends_with(end)))
        .map(|(name, count)| {
            (
                name.clone(),
                count - before.get(name).copied().unwrap_or_default(),
            )
        })
        .filter(|(_, risen)| *risen > 0)
        .collect()
}

#[test]
#[ignore = "builds a peer: needs go"]
fn a_node_that_cannot_be_trusted_gets_no_stream_from_a_pod() {
    let sandbox = Sandbox::new();
    let misdeeds = [
        ("expired", "expired"),
        ("two-sans", "several-uri-sans"),
        ("unknown-issuer", "unknown-issuer"),
        ("wrong-trust-domain", "wrong-trust-domain"),
    ];
    let elsewhere: Vec<&str> = ["peer", "impostor"]
        .into_iter()
        .chain(misdeeds.iter().map(|(bad, _)| *bad))
        .collect();
    let world = World::new(&sandbox, &elsewhere);
    let _good = world.server("peer", "peer", &[]);
    let _impostor = world.server("impostor", "somebody-else", &[]);
    let _bad: Vec<Running> = misdeeds
        .iter()
        .map(|(bad, _)| world.server(bad, bad, &["--bad", bad]))
        .collect();
    for (name, label) in misdeeds.into_iter().chain([("impostor", "wrong-identity")]) {
        let before = world.mesh.counters();
        let found = world.end(name);
        assert_eq!(
            found.end,
            End::ConnectRefused,
            "{name}: {found:?}\n{}",
            world.mesh.logs()
        );
        let record = world.record_to(name);
        assert_eq!(
            (record.refused, record.bytes_sent),
            (Some(RefuseReason::BadIdentity), 0),
            "{record}"
        );
        let counter = format!("tunnels_failed_total{{reason={label}}}");
        let count = |counters: &BTreeMap<String, u64>| counters.get(&counter).copied().unwrap_or_default();
        assert_eq!(
            count(&world.mesh.counters()) - count(&before),
            1,
            "{counter}: {record}"
        );
    }
    let argv = [
        &sandbox.load(),
        "end",
        "peer:7000",
        "--server",
        "echo",
        "--send",
        "65536",
    ];
    let found: Ended = world.mesh.run_in("shell", argv).json();
    // The peer echoes everything, the header too.
    assert_eq!(
        (found.end, found.received),
        (End::Fin, 65_536 + HEADER_LEN as u64),
        "{found:?}"
    );
}

/// Codes of RFC 9113 section 7 and one that isn't: none of them makes an end of file, NO_ERROR least of all.
const CODES: [(&str, u16); 7] = [
    ("0", 42_000),
    ("2", 42_002),
    ("5", 42_005),
    ("7", 42_007),
    ("8", 42_008),
    ("10", 42_010),
    ("43981", 42_999),
];

#[test]
#[ignore = "builds a peer: needs go"]
fn a_stream_that_the_opener_breaks_off_is_a_reset_in_the_pod() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox, &["peer"]);
    let mut healthy = Healthy::start(&world.client().with_port(41_000));
    for (code, port) in CODES {
        let client = world.client().with_port(port);
        let done = client.run(&["--bad", "rst-code", "--rst-code", code]);
        assert_eq!(done.code(), 0, "{code}: {done}");
        assert_eq!(
            world.served(client.forwarded).end,
            End::Reset,
            "code {code}\n{}",
            world.mesh.logs()
        );
        let record = world.record_from(client.forwarded);
        assert_eq!(
            (record.close, record.closed_by),
            (CloseReason::Reset, Closer::Source),
            "code {code}: {record}"
        );
    }
    let lost = world.client().with_port(43_000);
    lost.run(&["--bad", "truncate"]);
    assert_eq!(world.served(lost.forwarded).end, End::Reset);
    let record = world.record_from(lost.forwarded);
    assert_eq!(
        (record.close, record.closed_by),
        (CloseReason::PeerLost, Closer::Network),
        "{record}"
    );
    healthy.speak();
    healthy.finish();
}

#[test]
#[ignore = "builds a peer: needs go"]
fn a_stream_that_the_accepting_side_breaks_off_is_a_reset_in_the_pod() {
    let sandbox = Sandbox::new();
    let broken: Vec<(String, &str)> = CODES
        .iter()
        .map(|(code, _)| (format!("code-{code}"), *code))
        .collect();
    let elsewhere: Vec<&str> = broken
        .iter()
        .map(|(name, _)| name.as_str())
        .chain(["lost"])
        .collect();
    let world = World::new(&sandbox, &elsewhere);
    for (name, code) in &broken {
        let _server = world.server(
            name,
            name,
            &["--bad", "rst-code", "--rst-code", code, "--after-data"],
        );
        let found = world.end(name);
        assert_eq!(found.end, End::Reset, "{name}: {found:?}\n{}", world.mesh.logs());
        let record = world.record_to(name);
        assert_eq!(
            (record.close, record.closed_by),
            (CloseReason::Reset, Closer::Destination),
            "{record}"
        );
    }
    let _server = world.server("lost", "lost", &["--bad", "truncate", "--after-data"]);
    assert_eq!(world.end("lost").end, End::Reset);
    let record = world.record_to("lost");
    assert_eq!(
        (record.close, record.closed_by),
        (CloseReason::PeerLost, Closer::Network),
        "{record}"
    );
}

#[test]
#[ignore = "builds a peer: needs go"]
fn a_programs_reset_reaches_the_peer_as_a_reset() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox, &["peer"]);
    // The server resets as soon as one byte has come.
    let client = world.client();
    let mut running = client.start(&[]);
    let stdin = running.stdin().unwrap();
    stdin.write_all(&Op::Reset { bytes: 0 }.encode()).unwrap();
    stdin.write_all(&[0]).unwrap();
    let record = world.record_from(client.forwarded);
    assert_eq!(
        (record.close, record.closed_by),
        (CloseReason::Reset, Closer::Destination),
        "{record}"
    );
    // Only now may its standard input end, which would be a FIN.
    let done = running.finish(LIMIT);
    assert_eq!(done.code(), 4, "{done}");
    assert!(done.stderr().contains("CONNECT_ERROR"), "{done}");
    // And the other way: a client in a pod resets.
    let server = world.server("peer", "peer", &[]);
    let argv = [
        &sandbox.load(),
        "end",
        "peer:7000",
        "--server",
        "echo",
        "--send",
        "65536",
        "--reset",
    ];
    world.mesh.run_in("shell", argv).stdout();
    wait_until(
        "the peer to see CONNECT_ERROR",
        LIMIT,
        || server.stdout().contains("CONNECT_ERROR").then_some(()),
        || format!("{}\n{}", server.stdout(), world.mesh.logs()),
    );
}
