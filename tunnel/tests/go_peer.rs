//! Against an HBONE peer that shares no line with this crate: Go's TLS and HTTP/2, in `platform-tests/peers/hbone-go`.
//!
//! These build it with `go build`, so they are ignored unless asked for: `cargo test -p adit-tunnel -- --ignored`. They
//! fail, and don't pass, where Go is missing.

mod support;

use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, OnceLock};

use adit_flow::RefuseReason;
use adit_tunnel::{
    ConnectError, Destination, Dial, Endpoint, HeadLabel, OpenError, Pool, PoolConfig, ResetCode, Side,
    StreamError, TunnelEnd,
};
use support::*;
use tokio::net::{TcpListener, TcpStream};

/// Builds the peer once and gives its path.
fn peer() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let binary = scratch().join("hbone-go");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../platform-tests/peers/hbone-go");
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(&binary)
            .arg(".")
            .current_dir(source)
            .status();
        assert!(
            built.expect("go is needed: https://go.dev/dl/").success(),
            "go build failed"
        );
        binary
    })
}

fn scratch() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("go-peer-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The mesh's authority as a file, for the peer to mint from.
fn authority_file(mesh: &Mesh, name: &str) -> PathBuf {
    let path = scratch().join(format!("{name}.pem"));
    std::fs::write(&path, mesh.ca.to_pem()).unwrap();
    path
}

/// A rig whose server listens on loopback, and echoes.
struct Inbound {
    rig: Rig,
    addr: SocketAddr,
    ca: PathBuf,
}

impl Inbound {
    async fn new(name: &str) -> Self {
        let rig = Rig::new();
        let ca = authority_file(&rig.mesh, name);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = Arc::clone(&rig.server);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                server.serve_on(socket);
            }
        });
        Self { rig, addr, ca }
    }

    /// Runs the Go client to its end.
    fn client(&self, flags: &[&str]) -> tokio::task::JoinHandle<Output> {
        let mut command = Command::new(peer());
        command
            .args([
                "client",
                "--addr",
                &self.addr.to_string(),
                "--authority",
                &web_addr().to_string(),
            ])
            .args([
                "--expect",
                &id("web").to_string(),
                "--id",
                &id("curl").to_string(),
                "--ca",
            ])
            .arg(&self.ca)
            .args(flags)
            .stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap())
    }
}

#[tokio::test]
#[ignore = "builds a peer: needs go"]
async fn a_go_client_gets_back_what_it_sent_on_many_streams() {
    let mut inbound = Inbound::new("echo").await;
    let client = inbound.client(&["--check", "3000000", "--streams", "16"]);
    for _ in 0..16 {
        let incoming = inbound.rig.incoming.recv().await.unwrap();
        assert_eq!(incoming.peer().id(), &id("curl"));
        assert_eq!(incoming.connect().client, Some(client_addr()));
        tokio::spawn(async move {
            let (mut send, mut recv) = incoming.accept().unwrap().split();
            while let Some(bytes) = recv.data().await.unwrap() {
                let length = bytes.len();
                send_all(&mut send, bytes).await.unwrap();
                recv.release(length);
            }
            send.finish().unwrap();
        });
    }
    let output = client.await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
#[ignore = "builds a peer: needs go"]
async fn each_go_client_that_must_not_get_in_is_refused_by_its_own_label() {
    let mut inbound = Inbound::new("bad-clients").await;
    let cases = [
        ("expired", "expired"),
        ("two-sans", "several-uri-sans"),
        ("unknown-issuer", "unknown-issuer untrusted-chain"),
        ("wrong-trust-domain", "wrong-trust-domain"),
        ("no-client-cert", "no-certificate"),
        ("plain-bytes", "not-tls"),
    ];
    for (index, (bad, labels)) in cases.into_iter().enumerate() {
        let output = inbound.client(&["--bad", bad, "--check", "10"]).await.unwrap();
        assert_eq!(output.status.code(), Some(5), "{bad}: {output:?}");
        while inbound.rig.ends().len() <= index {
            tokio::task::yield_now().await;
        }
        let got = inbound.rig.ends().pop().unwrap();
        assert!(labels.split(' ').any(|label| label == got), "{bad}: {got}");
    }
    let heads = [
        ("oversized-connect", HeadLabel::Oversized),
        ("malformed-authority", HeadLabel::Malformed),
    ];
    for (bad, label) in heads {
        let output = inbound.client(&["--bad", bad]).await.unwrap();
        assert!(matches!(output.status.code(), Some(3..=5)), "{bad}: {output:?}");
        let seen = Arc::clone(&inbound.rig.server.seen);
        until(bad, || seen.bad_heads.lock().unwrap().last() == Some(&label)).await;
    }
    assert!(
        inbound.rig.incoming.try_recv().is_err(),
        "none of them got a stream"
    );
    // And a good one does, afterwards.
    let client = inbound.client(&["--check", "0"]);
    let (mut send, mut recv) = inbound
        .rig
        .incoming
        .recv()
        .await
        .unwrap()
        .accept()
        .unwrap()
        .split();
    send.finish().unwrap();
    assert_eq!(recv.data().await.unwrap(), None);
    assert!(client.await.unwrap().status.success());
}

#[tokio::test]
#[ignore = "builds a peer: needs go"]
async fn a_go_client_that_breaks_off_is_never_a_clean_end() {
    let mut inbound = Inbound::new("breaking-clients").await;
    for code in [0, 2, 8, 10, 0xabcd] {
        let client = inbound.client(&["--bad", "rst-code", "--rst-code", &code.to_string()]);
        let (_send, mut recv) = inbound
            .rig
            .incoming
            .recv()
            .await
            .unwrap()
            .accept()
            .unwrap()
            .split();
        let error = read_all(&mut recv).await.unwrap_err();
        assert_eq!(
            error,
            StreamError::Reset {
                by: Side::Peer,
                code: ResetCode(code)
            }
        );
        client.await.unwrap();
    }
    let client = inbound.client(&["--bad", "truncate"]);
    let (_send, mut recv) = inbound
        .rig
        .incoming
        .recv()
        .await
        .unwrap()
        .accept()
        .unwrap()
        .split();
    let error = read_all(&mut recv).await.unwrap_err();
    assert!(
        matches!(
            error,
            StreamError::TunnelEnded {
                end: TunnelEnd::Lost { .. }
            }
        ),
        "{error:?}"
    );
    client.await.unwrap();
}

#[tokio::test]
#[ignore = "builds a peer: needs go"]
async fn a_go_client_sees_our_resets_and_refusals() {
    let mut inbound = Inbound::new("refused-clients").await;
    let client = inbound.client(&[]);
    let refusal = adit_tunnel::Refusal::of(RefuseReason::Denied);
    inbound.rig.incoming.recv().await.unwrap().refuse(refusal);
    let output = client.await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("status 401 denied"),
        "{output:?}"
    );
    let client = inbound.client(&[]);
    let (send, _recv) = inbound
        .rig
        .incoming
        .recv()
        .await
        .unwrap()
        .accept()
        .unwrap()
        .split();
    send.reset(ResetCode::CONNECT_ERROR);
    let output = client.await.unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("CONNECT_ERROR"),
        "{output:?}"
    );
}

/// A Go server; ends with its standard input.
struct GoServer {
    child: Child,
    addr: SocketAddr,
    output: BufReader<ChildStdout>,
}

impl GoServer {
    fn start(ca: &Path, flags: &[&str]) -> Self {
        let mut child = Command::new(peer())
            .args(["server", "--id", &id("web").to_string(), "--ca"])
            .arg(ca)
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("listening ").unwrap().parse().unwrap();
        Self { child, addr, output }
    }

    /// Stops it and gives what it logged.
    fn stop(mut self) -> String {
        drop(self.child.stdin.take());
        let mut log = String::new();
        self.output.read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for GoServer {
    fn drop(&mut self) {
        // Gone already after `stop`; else nothing is to be left running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Tcp;

impl Dial for Tcp {
    type Io = TcpStream;

    async fn dial(&self, destination: &Destination) -> io::Result<TcpStream> {
        TcpStream::connect(destination.target.addr()).await
    }
}

struct Outbound {
    mesh: Mesh,
    ca: PathBuf,
    pool: Pool<Tcp>,
}

impl Outbound {
    fn new(name: &str) -> Self {
        let mesh = Mesh::new();
        let ca = authority_file(&mesh, name);
        Self {
            mesh,
            ca,
            pool: Pool::new(PoolConfig::default(), Tcp),
        }
    }

    async fn open(&self, addr: SocketAddr) -> Result<adit_tunnel::Stream, OpenError> {
        let credentials = self.mesh.credentials("curl");
        let destination = Destination {
            source: id("curl"),
            expected: id("web"),
            target: Endpoint::Wire(addr),
            server_name: None,
        };
        let connect = adit_tunnel::Connect::new(web_addr(), client_addr());
        self.pool.open(&destination, &credentials, &connect).await
    }
}

#[tokio::test]
#[ignore = "builds a peer: needs go"]
async fn a_go_server_echoes_many_streams_and_learns_whom_they_are_for() {
    let outbound = Outbound::new("go-echo");
    let server = GoServer::start(&outbound.ca, &[]);
    let mut running = tokio::task::JoinSet::new();
    for seed in 0..16 {
        let (mut send, mut recv) = outbound.open(server.addr).await.unwrap().split();
        running.spawn(async move {
            let bytes = pattern(3_000_000, seed);
            let sending = async {
                send_all(&mut send, bytes.clone()).await.unwrap();
                send.finish().unwrap();
            };
            let ((), back) = tokio::join!(sending, read_all(&mut recv));
            assert!(back.unwrap() == bytes);
        });
    }
    running.join_all().await;
    let log = server.stop();
    let line = format!(
        "connect {} from {} for for=\"{}\"",
        web_addr(),
        id("curl"),
        client_addr()
    );
    assert_eq!(log.matches(&line).count(), 16, "{log}");
}

#[tokio::test]
#[ignore = "builds a peer: needs go"]
async fn a_go_server_that_must_not_be_trusted_gets_no_stream() {
    for (bad, labels) in [
        ("expired", "expired"),
        ("two-sans", "several-uri-sans"),
        ("unknown-issuer", "unknown-issuer untrusted-chain"),
        ("wrong-trust-domain", "wrong-trust-domain"),
    ] {
        let outbound = Outbound::new(&format!("go-{bad}"));
        let server = GoServer::start(&outbound.ca, &["--bad", bad]);
        let error = outbound.open(server.addr).await.unwrap_err();
        assert_eq!(
            error.refuse_reason(),
            RefuseReason::BadIdentity,
            "{bad}: {error:?}"
        );
        let OpenError::Connect { source, .. } = error else {
            panic!("{error:?}");
        };
        let ConnectError::Handshake(handshake) = &*source else {
            panic!("{source:?}");
        };
        assert!(
            labels.split(' ').any(|label| label == handshake.label().as_str()),
            "{bad}: {handshake:?}"
        );
    }
}

#[tokio::test]
#[ignore = "builds a peer: needs go"]
async fn a_go_servers_resets_truncations_and_refusals_are_told_apart() {
    let outbound = Outbound::new("go-breaking");
    for code in [0, 5, 10, 0xabcd] {
        let server = GoServer::start(
            &outbound.ca,
            &["--bad", "rst-code", "--rst-code", &code.to_string()],
        );
        let (_send, mut recv) = outbound.open(server.addr).await.unwrap().split();
        let error = read_all(&mut recv).await.unwrap_err();
        assert_eq!(
            error,
            StreamError::Reset {
                by: Side::Peer,
                code: ResetCode(code)
            }
        );
    }
    let server = GoServer::start(&outbound.ca, &["--bad", "truncate"]);
    let (_send, mut recv) = outbound.open(server.addr).await.unwrap().split();
    let error = read_all(&mut recv).await.unwrap_err();
    assert!(
        matches!(
            error,
            StreamError::TunnelEnded {
                end: TunnelEnd::Lost { .. }
            }
        ),
        "{error:?}"
    );
    for (status, reason) in [("401", RefuseReason::Denied), ("503", RefuseReason::Refused)] {
        let server = GoServer::start(&outbound.ca, &["--status", status]);
        assert_eq!(
            outbound.open(server.addr).await.unwrap_err().refuse_reason(),
            reason
        );
    }
}
