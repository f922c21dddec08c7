//! What is refused, by which label, and that it harms nobody else.

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_flow::RefuseReason;
use adit_identity::{CertificateAuthority, Svid, TrustBundle};
use adit_tunnel::{
    ConnectError, Credentials, HandshakeError, HeadLabel, OpenError, PoolConfig, ServeLabel, TunnelConfig,
};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use rcgen::{CertificateParams, DistinguishedName, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client certificate and key; `None` for a client without.
type Proof = Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>;

fn proof(svid: &Svid) -> Proof {
    Some((svid.chain().to_vec(), svid.key().clone_key()))
}

/// A certificate that the mesh's own root signed and no honest authority would have.
fn forged(ca: &CertificateAuthority, change: impl FnOnce(&mut CertificateParams)) -> Proof {
    let pem = ca.to_pem();
    let key = KeyPair::from_pem(pem.split_inclusive("END CERTIFICATE-----\n").nth(1).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&ca.bundle().roots()[0], key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params.subject_alt_names = vec![uri("spiffe://demo.local/ns/shop/sa/curl")];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Some((vec![certificate.into()], key.into()))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Takes any server: these tests are about the server.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn client_config(proof: Proof) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match proof {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A pipe to the server of `rig`.
fn dial(rig: &Rig) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    rig.server.serve_on(theirs);
    ours
}

async fn tls(rig: &Rig, config: ClientConfig) -> std::io::Result<TlsStream<DuplexStream>> {
    let name = ServerName::try_from("web.shop").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, dial(rig))
        .await
}

/// Waits until the server has ended `count` connections and gives their labels.
async fn ends(rig: &Rig, count: usize) -> Vec<String> {
    until("the end of a connection", || rig.ends().len() >= count).await;
    rig.ends()
}

async fn good_peers_still_get_through(rig: &mut Rig) {
    let (client, server) = rig.pair().await;
    let ((mut send, _client_recv), (_server_send, mut recv)) = (client.split(), server.split());
    send_all(&mut send, Bytes::from_static(b"hello")).await.unwrap();
    send.finish().unwrap();
    assert_eq!(read_all(&mut recv).await.unwrap(), b"hello");
}

#[tokio::test]
async fn each_bad_client_is_refused_by_its_own_label() {
    let mut rig = Rig::new();
    let now = SystemTime::now();
    let other = authority("other.local");
    let stranger = authority(DOMAIN);
    let old = rig.mesh.ca.issue(&id("curl"), now - 2 * HOUR, HOUR);
    let early = rig.mesh.ca.issue(&id("curl"), now + HOUR, HOUR);
    let foreign = other.issue(
        &"spiffe://other.local/ns/shop/sa/curl".parse().unwrap(),
        now,
        HOUR,
    );
    let unknown = stranger.issue(&id("curl"), now, HOUR);
    let two = [
        "spiffe://demo.local/ns/shop/sa/curl",
        "spiffe://demo.local/ns/shop/sa/web",
    ];
    let cases: [(&str, Proof); 8] = [
        ("no-certificate", None),
        ("expired", proof(&old.unwrap())),
        ("not-yet-valid", proof(&early.unwrap())),
        ("wrong-trust-domain", proof(&foreign.unwrap())),
        ("unknown-issuer untrusted-chain", proof(&unknown.unwrap())),
        (
            "several-uri-sans",
            forged(&rig.mesh.ca, |params| {
                params.subject_alt_names = two.map(uri).to_vec()
            }),
        ),
        (
            "no-uri-san",
            forged(&rig.mesh.ca, |params| params.subject_alt_names.clear()),
        ),
        (
            "not-spiffe",
            forged(&rig.mesh.ca, |params| {
                params.subject_alt_names = vec![uri("https://x/")]
            }),
        ),
    ];
    for (index, (labels, proof)) in cases.into_iter().enumerate() {
        // TLS 1.3: the client is through before the server looks at its certificate; the alert comes at the first read.
        let mut stream = tls(&rig, client_config(proof)).await.unwrap();
        let refused = stream.read_u8().await.unwrap_err();
        assert!(refused.to_string().contains("alert"), "{labels}: {refused}");
        let got = ends(&rig, index + 1).await.pop().unwrap();
        assert!(
            labels.split(' ').any(|label| label == got),
            "expected {labels}, got {got}"
        );
    }
    assert!(rig.incoming.try_recv().is_err(), "nobody got a stream");
    good_peers_still_get_through(&mut rig).await;
}

#[tokio::test]
async fn what_is_not_tls_or_not_http2_is_told_apart() {
    let mut rig = Rig::new();
    for plain in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 64],
    ] {
        let mut pipe = dial(&rig);
        pipe.write_all(plain).await.unwrap();
        let mut answer = Vec::new();
        pipe.read_to_end(&mut answer).await.unwrap();
        // At most a TLS alert: nothing that a plain client could take for an answer.
        assert!(answer.len() <= 7, "{answer:?}");
    }
    assert_eq!(ends(&rig, 4).await, ["not-tls"; 4]);
    let svid = rig.mesh.ca.issue(&id("curl"), SystemTime::now(), HOUR).unwrap();
    let mut http1 = client_config(proof(&svid));
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(tls(&rig, http1).await.is_err());
    assert_eq!(ends(&rig, 5).await[4], "no-http2");
    let mut none = client_config(proof(&svid));
    none.alpn_protocols.clear();
    drop(tls(&rig, none).await);
    assert_eq!(ends(&rig, 6).await[5], "no-http2");
    let mut silent = tls(&rig, client_config(proof(&svid))).await.unwrap();
    silent.write_all(b"hello, is this HTTP?").await.unwrap();
    assert_eq!(ends(&rig, 7).await[6], "http2");
    good_peers_still_get_through(&mut rig).await;
}

#[tokio::test]
async fn a_name_that_nobody_has_is_refused() {
    let mut rig = Rig::new();
    rig.destination.server_name = Some("nobody".into());
    let error = rig.open().await.unwrap_err();
    assert_eq!(error.refuse_reason(), RefuseReason::TunnelFailed);
    assert_eq!(ends(&rig, 1).await, ["no-credentials"]);
    rig.destination.server_name = Some("not a name".into());
    let error = rig.open().await.unwrap_err();
    assert!(matches!(
        &error,
        OpenError::Connect { source, .. }
            if matches!(**source, ConnectError::Handshake(HandshakeError::BadServerName { .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_slow_handshake_is_cut() {
    let rig = Rig::new();
    let mut pipe = dial(&rig);
    // The beginning of a record, a byte at a time.
    let drip = async {
        for byte in [0x16_u8, 3, 1, 2, 0, 1].iter().cycle() {
            if pipe.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    };
    drip.await;
    assert_eq!(ends(&rig, 1).await, ["handshake-timeout"]);
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_gets_no_stream() {
    let now = SystemTime::now();
    let mesh = Mesh::new();
    let other = authority("other.local");
    let foreign = other
        .issue(&"spiffe://other.local/ns/shop/sa/web".parse().unwrap(), now, HOUR)
        .unwrap();
    let bundle =
        Arc::new(TrustBundle::new(DOMAIN.parse().unwrap(), other.bundle().roots().to_vec()).unwrap());
    let foreign = Arc::new(Credentials::new(&foreign, bundle).unwrap());
    let expired = mesh.credentials_at("web", now - 2 * HOUR, HOUR);
    let impostor = mesh.credentials("db");
    let mut rig = Rig::of(mesh, impostor, PoolConfig::default(), TunnelConfig::default());
    for (label, credentials) in [
        ("wrong-identity", None),
        ("wrong-trust-domain", Some(foreign)),
        ("expired", Some(expired)),
    ] {
        if let Some(credentials) = credentials {
            *rig.server.credentials.lock().unwrap() = credentials;
        }
        let error = rig.open().await.unwrap_err();
        let OpenError::Connect { source, .. } = &error else {
            panic!("{error:?}");
        };
        let ConnectError::Handshake(handshake) = &**source else {
            panic!("{error:?}");
        };
        assert_eq!(handshake.label().as_str(), label);
        assert_eq!(error.refuse_reason(), RefuseReason::BadIdentity);
    }
    assert!(rig.incoming.try_recv().is_err());
    *rig.server.credentials.lock().unwrap() = rig.mesh.credentials("web");
    good_peers_still_get_through(&mut rig).await;
}

#[tokio::test]
async fn a_client_learns_that_its_certificate_was_not_taken() {
    let mut rig = Rig::new();
    rig.credentials = rig
        .mesh
        .credentials_at("curl", SystemTime::now() - 2 * HOUR, HOUR);
    let error = rig.open().await.unwrap_err();
    let OpenError::Connect { source, .. } = error else {
        panic!("{error:?}");
    };
    let ConnectError::Handshake(handshake) = &*source else {
        panic!("{source:?}");
    };
    let words = format!(
        "{handshake}: {:?}",
        std::error::Error::source(handshake).map(ToString::to_string)
    );
    assert!(words.to_lowercase().contains("expired"), "{words}");
}

/// An HTTP/2 client that says what it likes.
async fn raw_client(rig: &Rig) -> h2::client::SendRequest<Bytes> {
    let svid = rig.mesh.ca.issue(&id("curl"), SystemTime::now(), HOUR).unwrap();
    let stream = tls(rig, client_config(proof(&svid))).await.unwrap();
    let (request, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    request
}

async fn status(
    client: &h2::client::SendRequest<Bytes>,
    request: Request<()>,
) -> Result<StatusCode, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, _send) = client.send_request(request, false)?;
    Ok(response.await?.status())
}

fn connect(authority: &str) -> http::request::Builder {
    Request::builder().method(Method::CONNECT).uri(authority)
}

#[tokio::test]
async fn each_bad_head_is_refused_by_its_own_label_and_the_tunnel_goes_on() {
    let mut rig = Rig::new();
    let client = raw_client(&rig).await;
    let huge = "x".repeat(20_000);
    let cases = [
        (HeadLabel::BadAuthority, connect("web.shop:80").body(())),
        (HeadLabel::BadAuthority, connect("10.0.0.2:0").body(())),
        (HeadLabel::BadAuthority, connect("10.0.0.2:99999").body(())),
        (
            HeadLabel::BadForwarded,
            connect("10.0.0.2:80")
                .header("forwarded", "for=\"nowhere")
                .body(()),
        ),
        (
            HeadLabel::NotConnect,
            Request::builder().uri("https://10.0.0.2:80/").body(()),
        ),
    ];
    for (index, (label, request)) in cases.into_iter().enumerate() {
        assert_eq!(
            status(&client, request.unwrap()).await.unwrap(),
            StatusCode::BAD_REQUEST
        );
        assert_eq!(rig.server.seen.bad_heads.lock().unwrap().len(), index + 1);
        assert_eq!(rig.server.seen.bad_heads.lock().unwrap().last(), Some(&label));
    }
    let oversized = connect("10.0.0.2:80").header("baggage", huge).body(()).unwrap();
    assert_eq!(
        status(&client, oversized).await.unwrap(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    wait_for(&rig, HeadLabel::Oversized).await;
    // The same tunnel still carries good streams.
    let good = async {
        status(&client, connect("10.0.0.2:80").body(()).unwrap())
            .await
            .unwrap()
    };
    let accept = async { rig.incoming.recv().await.unwrap().accept().unwrap() };
    let (status, _stream) = tokio::join!(good, accept);
    assert_eq!(status, StatusCode::OK);
    good_peers_still_get_through(&mut rig).await;
}

async fn wait_for(rig: &Rig, label: HeadLabel) {
    until(label.as_str(), || {
        rig.server.seen.bad_heads.lock().unwrap().last() == Some(&label)
    })
    .await;
}

/// A TLS client that writes HTTP/2 frames by hand.
struct Frames(TlsStream<DuplexStream>);

impl Frames {
    async fn new(rig: &Rig) -> Self {
        let svid = rig.mesh.ca.issue(&id("curl"), SystemTime::now(), HOUR).unwrap();
        let mut stream = tls(rig, client_config(proof(&svid))).await.unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let mut frames = Self(stream);
        frames.send(4, 0, 0, &[]).await;
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        // The server may have hung up already, which is what these tests are about.
        let _ = self.0.write_all(&bytes).await;
        let _ = self.0.flush().await;
    }

    /// A HEADERS frame with END_HEADERS.
    async fn head(&mut self, stream: u32, block: &[u8]) {
        self.send(1, 4, stream, block).await;
    }
}

/// A literal header field without indexing and without Huffman coding (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend(name.bytes());
    bytes.push(value.len() as u8);
    bytes.extend(value.bytes());
    bytes
}

#[tokio::test]
async fn heads_that_http2_itself_forbids_are_counted_too() {
    let mut rig = Rig::new();
    let mut frames = Frames::new(&rig).await;
    let connect = || field(":method", "CONNECT");
    let heads = [
        // No method.
        field(":authority", "10.0.0.2:80"),
        // A path in a CONNECT (RFC 9113 §8.5).
        [connect(), field(":authority", "10.0.0.2:80"), field(":path", "/")].concat(),
        // An authority with a space.
        [connect(), field(":authority", "10.0.0.2 :80")].concat(),
        // A pseudo-header after a header, and one twice.
        [connect(), field("x", "y"), field(":authority", "10.0.0.2:80")].concat(),
        [connect(), connect(), field(":authority", "10.0.0.2:80")].concat(),
        // A header of HTTP/1.
        [
            connect(),
            field(":authority", "10.0.0.2:80"),
            field("connection", "close"),
        ]
        .concat(),
    ];
    let count = heads.len();
    for (index, block) in heads.iter().enumerate() {
        frames.head(2 * index as u32 + 1, block).await;
        let counted = || rig.server.seen.bad_heads.lock().unwrap().len() > index;
        until(&format!("head {index} counted, ends {:?}", rig.ends()), counted).await;
    }
    assert_eq!(
        *rig.server.seen.bad_heads.lock().unwrap(),
        vec![HeadLabel::Malformed; count]
    );
    // No authority at all gets to us.
    frames.head(101, &connect()).await;
    wait_for(&rig, HeadLabel::NoAuthority).await;
    assert!(rig.incoming.try_recv().is_err());
    good_peers_still_get_through(&mut rig).await;
}

#[tokio::test]
async fn a_peer_that_breaks_http2_loses_its_own_tunnel_only() {
    let mut rig = Rig::new();
    good_peers_still_get_through(&mut rig).await;
    let connect = [field(":method", "CONNECT"), field(":authority", "10.0.0.2:80")].concat();
    let mut ended = 0;
    for attack in 0..6 {
        let mut frames = Frames::new(&rig).await;
        match attack {
            // DATA on a stream that never was.
            0 => frames.send(0, 0, 1, b"hello").await,
            // HPACK that points nowhere.
            1 => frames.head(1, &[0xff, 0xff, 0xff, 0xff, 0x0f]).await,
            // A frame longer than the limit that we gave.
            2 => frames.send(0, 0, 1, &vec![0; 100_000]).await,
            // An even stream id.
            3 => frames.head(2, &connect).await,
            // CONTINUATION without end.
            4 => {
                frames.send(1, 0, 1, &connect).await;
                for _ in 0..2000 {
                    frames.send(9, 0, 1, &field("x", "y")).await;
                }
            }
            // Rapid reset.
            _ => {
                for stream in 0..3000 {
                    frames.head(2 * stream + 1, &connect).await;
                    frames.send(3, 0, 2 * stream + 1, &8_u32.to_be_bytes()).await;
                    while rig.incoming.try_recv().is_ok() {}
                }
            }
        }
        if attack < 5 {
            ended += 1;
            let labels = ends(&rig, ended).await;
            assert_eq!(
                labels.last().unwrap(),
                ServeLabel::Violated.as_str(),
                "attack {attack}"
            );
        }
    }
    while rig.incoming.try_recv().is_ok() {}
    good_peers_still_get_through(&mut rig).await;
    assert_eq!(
        rig.pool.stats().connected_total,
        1,
        "the good peer's tunnel was never touched"
    );
}

#[tokio::test]
async fn trailers_are_not_a_clean_end() {
    let mut rig = Rig::new();
    let client = raw_client(&rig).await;
    let mut client = client.ready().await.unwrap();
    let (response, mut send) = client
        .send_request(connect("10.0.0.2:80").body(()).unwrap(), false)
        .unwrap();
    let accepted = rig.incoming.recv().await.unwrap().accept().unwrap();
    response.await.unwrap();
    send.send_data(Bytes::from_static(b"body"), false).unwrap();
    send.send_trailers(http::HeaderMap::new()).unwrap();
    let (_server_send, mut server_recv) = accepted.split();
    assert_eq!(server_recv.data().await.unwrap().unwrap(), "body");
    assert_eq!(server_recv.data().await, Err(adit_tunnel::StreamError::Malformed));
}

#[tokio::test]
async fn more_streams_than_agreed_are_refused_one_by_one() {
    let (client, server) = (
        PoolConfig::default(),
        TunnelConfig {
            max_streams: 2,
            ..TunnelConfig::default()
        },
    );
    let mut rig = Rig::with(client, server);
    let mut frames = Frames::new(&rig).await;
    let connect = [field(":method", "CONNECT"), field(":authority", "10.0.0.2:80")].concat();
    for stream in 0..5 {
        frames.head(2 * stream + 1, &connect).await;
    }
    let mut kept = vec![
        rig.incoming.recv().await.unwrap(),
        rig.incoming.recv().await.unwrap(),
    ];
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(rig.incoming.try_recv().is_err());
    kept.clear();
    // The server has to have written the resets before it has places again.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    frames.head(101, &connect).await;
    rig.incoming.recv().await.unwrap();
}

#[tokio::test]
async fn only_tls_1_3_will_do_and_aes_128_is_preferred() {
    let mut rig = Rig::new();
    let svid = rig.mesh.ca.issue(&id("curl"), SystemTime::now(), HOUR).unwrap();
    let (chain, key) = proof(&svid).unwrap();
    let mut old =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(chain, key)
            .unwrap();
    old.alpn_protocols = vec![b"h2".to_vec()];
    assert!(tls(&rig, old).await.is_err());
    assert_eq!(ends(&rig, 1).await, ["tls"]);
    let stream = tls(&rig, client_config(proof(&svid))).await.unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    good_peers_still_get_through(&mut rig).await;
}

#[test]
fn a_key_of_another_certificate_makes_no_credentials() {
    let mesh = Mesh::new();
    let issue = |name| mesh.ca.issue(&id(name), SystemTime::now(), HOUR).unwrap();
    let (web, db) = (issue("web"), issue("db"));
    let mixed = Svid::new(web.chain().to_vec(), db.key().clone_key()).unwrap();
    assert!(Credentials::new(&mixed, Arc::clone(&mesh.bundle)).is_err());
}

/// A peer as stock ones are: its connection window is that of one stream.
struct NarrowPeer(Arc<rustls::ServerConfig>);

impl adit_tunnel::Dial for NarrowPeer {
    type Io = DuplexStream;

    async fn dial(&self, _: &adit_tunnel::Destination) -> std::io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.0));
        tokio::spawn(async move {
            let tls = acceptor.accept(theirs).await.unwrap();
            let mut builder = h2::server::Builder::new();
            builder
                .initial_window_size(1 << 20)
                .initial_connection_window_size(1 << 20);
            let mut connection = builder.handshake::<_, Bytes>(tls).await.unwrap();
            let mut streams = Vec::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let send = respond.send_response(http::Response::new(()), false).unwrap();
                // Kept open, and never read.
                streams.push((request.into_body(), send));
            }
        });
        Ok(ours)
    }
}

#[tokio::test]
async fn a_stream_that_fell_idle_holds_nothing_of_the_peers_connection_window() {
    let rig = Rig::new();
    let (chain, key) = proof(&rig.mesh.ca.issue(&id("web"), SystemTime::now(), HOUR).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let pool = adit_tunnel::Pool::new(PoolConfig::default(), NarrowPeer(Arc::new(config)));
    let connect = adit_tunnel::Connect::new(web_addr(), client_addr());
    let sending = async {
        let mut idle = Vec::new();
        for _ in 0..20 {
            let (mut send, recv) = pool
                .open(&rig.destination, &rig.credentials, &connect)
                .await
                .unwrap()
                .split();
            send_all(&mut send, Bytes::from_static(b"x")).await.unwrap();
            idle.push((send, recv));
        }
        let (mut send, _recv) = pool
            .open(&rig.destination, &rig.credentials, &connect)
            .await
            .unwrap()
            .split();
        send_all(&mut send, pattern(1 << 19, 1)).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), sending)
        .await
        .expect("the window is free");
    assert_eq!(pool.stats().tunnels, 1);
}
