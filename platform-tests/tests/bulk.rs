//! Large transfers in both directions, and what is on the wire between two agents.

use adit_flow::Direction;
use adit_platform_tests::load::Stream;
use adit_platform_tests::{Mesh, MeshSpec, RecordingRelay, Sandbox, Workload, configured, free_port};

const PORT: u16 = 7000;

fn transfer(mesh: &Mesh<'_>, load: &str, reverse: bool) -> Stream {
    let bytes = configured("ADIT_TEST_BULK_BYTES", 1 << 30).to_string();
    let mut argv = vec![load, "stream", "server:7000", "--bytes", &bytes];
    argv.extend(reverse.then_some("--reverse"));
    let found: Stream = mesh.run_in("client", argv).json();
    eprintln!("reverse {reverse}: {:.2} Gbit/s", found.bits_per_second[0] / 1e9);
    assert_eq!(found.bytes.to_string(), bytes);
    assert_eq!(found.sent_hashes, found.received_hashes);
    assert_ne!(found.sent_hashes[0], 0);
    found
}

#[test]
fn within_one_agent() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(MeshSpec::new("bulk")
        .workload(Workload::load_server(&sandbox, "server", PORT))
        .workload(Workload::shell(&sandbox, "client")));
    mesh.wait_ready();
    for reverse in [false, true] {
        let found = transfer(&mesh, &sandbox.load(), reverse);
        let record = mesh.wait_hbone(Direction::Outbound, "test/client", "test/server", PORT);
        let most = record.bytes_sent.max(record.bytes_received);
        assert!(
            most >= found.bytes,
            "the record counts {most} of {} bytes",
            found.bytes
        );
    }
}

#[test]
fn between_two_agents_with_nothing_but_tls_on_the_wire() {
    let sandbox = Sandbox::new();
    let ports = [free_port(), free_port()];
    let listen = ports.map(|port| format!("127.0.0.1:{port}").parse().unwrap());
    // What a test's plaintext has, and what names and headers of HBONE would have if they weren't encrypted.
    let relays = listen.map(|address| RecordingRelay::start(address, b"spiffe://test.local"));
    let spec = MeshSpec::new("wire")
        .node("a", &relays[0].address.to_string())
        .node("b", &relays[1].address.to_string())
        .workload(Workload::load_server(&sandbox, "server", PORT).on("b"))
        .workload(Workload::shell(&sandbox, "client").on("a"));
    let state = sandbox.folder("state");
    let far = sandbox.up_node(&spec, "b", listen[1], &state);
    let near = sandbox.up_node(&spec, "a", listen[0], &state);
    for reverse in [false, true] {
        transfer(&near, &sandbox.load(), reverse);
    }
    let seen = relays[1].seen();
    eprintln!("{seen:?}");
    assert!(
        seen.connections >= 1 && seen.records > 0,
        "nothing went between the agents: {seen:?}"
    );
    let carried = 2 * configured("ADIT_TEST_BULK_BYTES", 1 << 30);
    assert!(
        seen.bytes > carried,
        "only {} of {carried} bytes went between the agents",
        seen.bytes
    );
    let spread = near.counter("tunnels_spread_total");
    assert!(
        spread >= 1 && seen.connections > 1,
        "bulk has no tunnel beside its own: {spread}, {seen:?}"
    );
    assert_eq!((seen.violations, seen.markers), (Vec::new(), 0));
    let outbound = near.wait_hbone(Direction::Outbound, "test/client", "test/server", PORT);
    assert!(outbound.wire_port.is_some(), "{outbound}");
    let inbound = far.wait_hbone(Direction::Inbound, "test/client", "test/server", PORT);
    let identity = |identity: &Option<String>| identity.clone().unwrap_or_default();
    assert_eq!(
        identity(&inbound.source.identity),
        "spiffe://test.local/ns/test/sa/client",
        "{inbound}"
    );
    assert_eq!(
        identity(&outbound.destination.identity),
        "spiffe://test.local/ns/test/sa/server",
        "{outbound}"
    );
    assert_eq!(
        inbound.source.addr, outbound.source.addr,
        "the server's side sees another client"
    );
}
