//! What policies do to each kind of flow on the laptop's path: streams of one tunnel, plain ones, UDP and ping; and what
//! becomes of flows that live while a label, an identity or an address set changes.

use std::time::Duration;

use adit_flow::{CloseReason, Direction, FlowRecord, Mode, MtlsState, Protocol, VerdictKind};
use adit_platform_tests::{Mesh, MeshSpec, Running, Sandbox, UpOptions, Workload, program, wait_until};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// A server on ports 7000 and up, and shells.
fn spec(sandbox: &Sandbox, shells: impl IntoIterator<Item = Workload>) -> MeshSpec {
    let server = MeshSpec::new("paths")
        .workload(Workload::load_server(sandbox, "server", 7000))
        .policies(sandbox.folder("policies"));
    shells
        .into_iter()
        .fold(server, |spec, shell| spec.workload(shell))
}

/// A shell outside the mesh, by Istio's label.
fn outsider(sandbox: &Sandbox, name: &str) -> Workload {
    Workload::shell(sandbox, name).set("labels", json!({"app": name, "istio.io/dataplane-mode": "none"}))
}

/// The record of a flow that the policy cut while it lived, as the server's side has it.
fn wait_cut(mesh: &Mesh<'_>, from: &str) -> FlowRecord {
    mesh.wait_flow(&format!("from {from}, cut"), |flow| {
        is_from(flow, from)
            && flow.direction == Direction::Inbound
            && flow.close == CloseReason::PolicyChanged
    })
}

fn is_from(flow: &FlowRecord, workload: &str) -> bool {
    let name = format!("test/{workload}");
    flow.source
        .workload
        .as_ref()
        .is_some_and(|workload| workload.to_string() == name)
}

fn connects(mesh: &Mesh<'_>, workload: &str, port: u16) -> bool {
    let port = port.to_string();
    let probe = ["nc", "-z", "-w", "2", "server", &port];
    mesh.run_in(workload, probe).code() == 0
}

/// Waits until a new connection fares as `expected`: the policy has taken effect.
fn wait_connects(mesh: &Mesh<'_>, workload: &str, port: u16, expected: bool) {
    wait_until(
        &format!("{workload} to port {port}: {expected}"),
        LIMIT,
        || (connects(mesh, workload, port) == expected).then_some(()),
        || mesh.logs(),
    );
}

#[test]
fn streams_of_one_tunnel_are_judged_one_by_one() {
    let sandbox = Sandbox::new();
    // Two clients with one identity on one thread have one tunnel to the server.
    let shell = |name| Workload::shell(&sandbox, name).set("serviceAccountName", json!("clients"));
    let spec = spec(&sandbox, [shell("loses"), shell("keeps")]);
    let options = UpOptions {
        arguments: vec!["--workers".to_owned(), "1".to_owned()],
        ..UpOptions::default()
    };
    let mesh = sandbox.up_with(&spec, options);
    mesh.wait_ready();
    let loses = mesh.stream_in("loses", "server:7000");
    let keeps = mesh.stream_in("keeps", "server:7000");
    let other = mesh.stream_in("loses", "server:7001");
    assert_eq!(mesh.counter("tunnels"), 1, "all three are in one tunnel");
    sandbox.file(
        "policies/odd-port.yaml",
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: narrow, namespace: test}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: keeps}}}]
  - ports: [{port: 7001}]
",
    );
    let lost = loses.finish(LIMIT);
    assert!(lost.code() != 0 && lost.stderr().contains("reset"), "{lost}");
    let record = wait_cut(&mesh, "loses");
    assert_eq!(record.destination.addr.port(), 7000, "{record}");
    assert!(record.to_string().contains("narrow"), "{record}");
    // New streams of the pooled tunnel, each on its own.
    assert!(connects(&mesh, "keeps", 7000) && connects(&mesh, "loses", 7001));
    assert_eq!(mesh.counter("tunnels"), 1, "the new ones are in it too");
    assert!(!connects(&mesh, "loses", 7000));
    assert_eq!(
        keeps.finish(LIMIT).code(),
        0,
        "another client's stream was touched"
    );
    assert_eq!(
        other.finish(LIMIT).code(),
        0,
        "the client's other stream was touched"
    );
}

#[test]
fn strict_refuses_plain_and_permissive_carries_it_without_an_identity() {
    let sandbox = Sandbox::new();
    let mesh = sandbox.up(spec(
        &sandbox,
        [
            outsider(&sandbox, "outsider"),
            Workload::shell(&sandbox, "member"),
        ],
    ));
    mesh.wait_ready();
    // PERMISSIVE is the default.
    assert!(connects(&mesh, "outsider", 7000));
    let carried = mesh.wait_flow("of the outsider at the server", |flow| {
        is_from(flow, "outsider") && flow.direction == Direction::Inbound
    });
    assert_eq!(
        (carried.mode, carried.mtls, &carried.source.identity),
        (Mode::Forward, MtlsState::PeerOutsideMesh, &None),
        "{carried}"
    );
    let left = mesh.wait_flow("of the outsider at its own side", |flow| {
        is_from(flow, "outsider") && flow.direction == Direction::Outbound
    });
    assert_eq!(
        (left.mode, left.mtls),
        (Mode::Forward, MtlsState::WorkloadOutsideMesh),
        "{left}"
    );
    assert!(
        !mesh.adit(["identity"]).stdout().contains("sa/outsider"),
        "it has no certificate"
    );
    let plain = mesh.stream_in("outsider", "server:7000");
    let mutual = mesh.stream_in("member", "server:7000");
    sandbox.file(
        "policies/strict.yaml",
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: test}
spec: {mtls: {mode: STRICT}}
",
    );
    let lost = plain.finish(LIMIT);
    assert_ne!(lost.code(), 0, "a plain stream outlived STRICT: {lost}");
    let record = wait_cut(&mesh, "outsider");
    assert_eq!(
        record.policy.decided_by, "PeerAuthentication/test/strict",
        "{record}"
    );
    assert!(!connects(&mesh, "outsider", 7000) && connects(&mesh, "member", 7000));
    assert_eq!(mutual.finish(LIMIT).code(), 0, "mutual TLS was touched");
    let why = mesh.adit([
        "policy",
        "explain",
        "test/outsider",
        "test/server:7000",
        "--mesh",
        "paths",
    ]);
    assert!(
        why.code() == 1 && why.raw_stdout().contains("requires mutual TLS"),
        "{why}"
    );
    let why = mesh.adit(["policy", "explain", "test/member", "test/server:7000"]);
    assert!(
        why.code() == 0
            && why
                .raw_stdout()
                .contains("mutual TLS as spiffe://test.local/ns/test/sa/member"),
        "{why}"
    );
    // Whoever has no identity matches no principal, be it so permissive.
    sandbox.file(
        "policies/strict.yaml",
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: members, namespace: test}
spec:
  selector: {matchLabels: {app: server}}
  rules:
  - from: [{source: {principals: ['test.local/ns/test/sa/*']}}]
",
    );
    wait_connects(&mesh, "outsider", 7000, false);
    assert!(connects(&mesh, "member", 7000));
}

#[test]
fn a_pod_outside_the_mesh_serves_and_ends_as_any_other() {
    let sandbox = Sandbox::new();
    let server = Workload::load_server(&sandbox, "bare", 7000).set(
        "labels",
        json!({"app": "bare", "istio.io/dataplane-mode": "none"}),
    );
    let mesh = sandbox.up(spec(&sandbox, [server, Workload::shell(&sandbox, "member")]));
    mesh.wait_ready();
    let load = sandbox.load();
    for direction in ["--unchecked", "--reverse"] {
        let arguments = [&*load, "stream", "bare:7000", "--bytes", "20000000", direction];
        let done = mesh.run_in("member", arguments);
        assert_eq!(done.code(), 0, "{done}\n{}", mesh.logs());
    }
    let record = mesh.wait_flow("of 20 MB to the bare server", |flow| {
        flow.direction == Direction::Outbound && flow.bytes_sent + flow.bytes_received > 20_000_000
    });
    assert_eq!(
        (record.mode, record.mtls, record.close),
        (Mode::Forward, MtlsState::PeerOutsideMesh, CloseReason::Fin),
        "{record}"
    );
    let refused = mesh.run_in("member", ["nc", "-z", "-v", "-w", "5", "bare", "6999"]);
    assert!(
        refused.code() != 0 && refused.stderr().contains("refused"),
        "nobody listens there: {refused}"
    );
}

#[test]
fn an_http_client_sees_of_a_policy_what_a_packet_filter_would_show_it() {
    let sandbox = Sandbox::new();
    program("curl", "curl");
    let site = sandbox.folder("home/site");
    let large = std::fs::File::create(site.join("large")).unwrap();
    large.set_len(1 << 32).unwrap();
    std::fs::set_permissions(
        site.join("large"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let python = program("python3", "python3-minimal").display().to_string();
    let arguments = [
        &*python,
        "-m",
        "http.server",
        "8000",
        "--directory",
        &site.to_string_lossy(),
    ];
    let web = Workload::server("web", 8000, arguments);
    let mesh = sandbox.up(spec(&sandbox, [web, Workload::shell(&sandbox, "client")]));
    mesh.wait_ready();
    let curl = |path: &str| {
        let url = format!("http://web:8000/{path}");
        let out = sandbox.dir().join("home/got").to_string_lossy().into_owned();
        let words = [
            "curl",
            "-sS",
            "--connect-timeout",
            "2",
            "--limit-rate",
            "1M",
            "-o",
            &out,
            &url,
        ];
        mesh.spawn_in("client", words)
    };
    let before = mesh.live_flows();
    let download = curl("large");
    wait_until(
        "the download to begin",
        LIMIT,
        || (mesh.live_flows() >= before + 2).then_some(()),
        || mesh.logs(),
    );
    sandbox.file(
        "policies/closed.yaml",
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: test}
spec: {podSelector: {matchLabels: {app: web}}}
",
    );
    // curl's 56: a failure in receiving, which a reset is and a clean end (18) isn't.
    let cut = download.finish(LIMIT);
    assert_eq!(cut.code(), 56, "{cut}\n{}", mesh.logs());
    let record = wait_cut(&mesh, "client");
    assert_eq!(
        record.policy.decided_by,
        "default/KubernetesNetworkPolicy/test/closed/end"
    );
    let shown = mesh.adit(["flows", "--verdict", "deny"]).stdout();
    assert!(
        shown.contains("policy-changed by agent") && shown.contains("test/closed"),
        "{shown}"
    );
    // Denied: silence, as from a packet filter (28 is a timeout). Nobody there: a refusal (7). Neither is accepted first.
    let denied = curl("").finish(LIMIT);
    assert_eq!(denied.code(), 28, "{denied}");
    let absent = mesh.run_in("client", ["curl", "-sS", "http://server:6999/"]);
    assert_eq!(absent.code(), 7, "{absent}");
}

/// Prints a line for each datagram that it sends: whether it was answered within half a second.
const UDP_CLIENT: &str = "
import socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(0.5)
client.connect((sys.argv[1], 9000))
for number in range(200):
    try:
        client.send(b'ping')
        client.recv(16)
        print('answer', flush=True)
    except OSError:
        print('silence', flush=True)
    time.sleep(0.05)
";

const UDP_SERVER: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('', 9000))
while True:
    data, peer = server.recvfrom(16)
    server.sendto(data, peer)
";

/// Waits until `said` appears in what a program writes from now on.
fn wait_says(program: &Running, said: &str) {
    let before = program.stdout().len();
    wait_until(
        &format!("{said:?} once more"),
        LIMIT,
        || program.stdout()[before..].contains(said).then_some(()),
        || format!("{}\n{}", program.stdout(), program.stderr()),
    );
}

#[test]
fn udp_and_ping_are_judged_and_judged_again() {
    let sandbox = Sandbox::new();
    sandbox.folder("home");
    let server = sandbox.file("home/server.py", UDP_SERVER);
    let client = sandbox.file("home/client.py", UDP_CLIENT);
    let python = program("python3", "python3-minimal").display().to_string();
    program("ping", "iputils-ping");
    let echo = Workload::new("echo", [&*python, &server.to_string_lossy()]);
    let mesh = sandbox.up(spec(&sandbox, [echo, Workload::shell(&sandbox, "client")]));
    mesh.wait_ready();
    let address = mesh.address("test/echo").to_string();
    let datagrams = mesh.spawn_in("client", [&*python, &client.to_string_lossy(), &address]);
    // A shell takes its next job once the one before has begun.
    wait_says(&datagrams, "answer");
    let pings = mesh.spawn_in("client", ["ping", "-O", "-i", "0.2", "-c", "100", &address]);
    wait_says(&pings, "bytes from");
    let policy = |rules: &str| {
        let text = format!(
            "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: echo, namespace: test}}
spec: {{podSelector: {{matchLabels: {{app: echo}}}}, ingress: {rules}}}
"
        );
        sandbox.file("policies/echo.yaml", text);
    };
    policy("[]");
    wait_says(&datagrams, "silence");
    wait_says(&pings, "no answer yet");
    // One of them comes back by a rule of its own: a rule with ports is never about ping.
    policy("[{ports: [{protocol: UDP, port: 9000}]}]");
    wait_says(&datagrams, "answer");
    wait_says(&pings, "no answer yet");
    policy("[{}]");
    wait_says(&pings, "bytes from");
    for protocol in [Protocol::Udp, Protocol::Icmp] {
        let record = mesh.wait_flow(&format!("{protocol}, cut"), |flow| {
            flow.protocol == protocol
                && flow.direction == Direction::Inbound
                && flow.verdict == VerdictKind::Deny
                && flow.bytes_received > 0
        });
        assert_eq!(
            (record.mode, record.mtls, record.close),
            (
                Mode::Forward,
                MtlsState::ProtocolNotTcp,
                CloseReason::PolicyChanged
            ),
            "{record}"
        );
        assert!(
            record.to_string().contains("KubernetesNetworkPolicy/test/echo"),
            "{record}"
        );
    }
}

#[test]
fn live_flows_are_judged_again_when_labels_identities_and_address_sets_change() {
    let sandbox = Sandbox::new();
    let shells = ["labelled", "named", "listed"].map(|name| Workload::shell(&sandbox, name));
    let with = |role: &str, account: &str| {
        let [labelled, named, listed] = shells.clone();
        let labelled = labelled.set("labels", json!({"role": role}));
        spec(
            &sandbox,
            [labelled, named.set("serviceAccountName", json!(account)), listed],
        )
    };
    sandbox.folder("policies");
    sandbox.file(
        "policies/server.yaml",
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: server, namespace: test}
spec:
  selector: app == 'server'
  ingress:
  - {action: Deny, source: {selector: kind == 'banned'}}
  - {action: Allow, protocol: TCP, source: {selector: role == 'reader'}, destination: {ports: [7000]}}
  - {action: Allow, protocol: TCP, destination: {ports: ['7001:7002']}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: named, namespace: test}
spec:
  selector: {matchLabels: {app: server}}
  rules:
  - to: [{operation: {ports: ['7000', '7002']}}]
  - from: [{source: {principals: [test.local/ns/test/sa/first]}}]
",
    );
    let mesh = sandbox.up(with("reader", "first"));
    mesh.wait_ready();
    let labelled = mesh.stream_in("labelled", "server:7000");
    let named = mesh.stream_in("named", "server:7001");
    let listed = mesh.stream_in("listed", "server:7002");
    mesh.save(&with("none", "first"));
    assert_ne!(labelled.finish(LIMIT).code(), 0, "it outlived its label");
    assert_eq!(
        wait_cut(&mesh, "labelled").policy.decided_by,
        "default/NetworkPolicy/test/server/end"
    );
    mesh.save(&with("none", "second"));
    assert_ne!(named.finish(LIMIT).code(), 0, "it outlived its identity");
    let record = wait_cut(&mesh, "named");
    assert!(
        record
            .to_string()
            .contains("no longer belongs to spiffe://test.local/ns/test/sa/first"),
        "{record}"
    );
    wait_connects(&mesh, "named", 7001, false);
    let ps = mesh.ps();
    let row = ps.workloads.iter().find(|row| row.name.name == "listed");
    let addresses = &row.expect("it runs").addresses;
    sandbox.file(
        "policies/banned.yaml",
        format!(
            "
apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {{name: banned, namespace: test, labels: {{kind: banned}}}}
spec: {{nets: {addresses:?}}}
"
        ),
    );
    assert_ne!(listed.finish(LIMIT).code(), 0, "it outlived its listing");
    assert_eq!(
        wait_cut(&mesh, "listed").policy.decided_by,
        "default/NetworkPolicy/test/server/0"
    );
}
