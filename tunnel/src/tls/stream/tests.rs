//! Our record layer against rustls' own, in both roles.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use adit_identity::{CertificateAuthority, SpiffeId};
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};

use super::*;
use crate::Credentials;
use crate::tls::{Verifier, client_config, handshake, server_config};

type Ours = TlsStream<DuplexStream>;
type Theirs = tokio_rustls::TlsStream<DuplexStream>;

/// Who is the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Ours,
    Theirs,
}

/// A connection between our stream and rustls', over a pipe of `capacity` bytes.
async fn pair(client: Client, capacity: usize) -> (Ours, Theirs) {
    let ca = CertificateAuthority::new("demo.local".parse().unwrap(), SystemTime::now()).unwrap();
    let id: SpiffeId = "spiffe://demo.local/ns/shop/sa/web".parse().unwrap();
    let svid = ca.issue(&id, SystemTime::now(), Duration::from_secs(60)).unwrap();
    let credentials = Credentials::new(&svid, Arc::new(ca.bundle().clone())).unwrap();
    let verifier = |expected| Verifier::new(&credentials, expected);
    let connecting = client_config(&credentials, &verifier(Some(&id))).unwrap();
    let accepting = server_config(&credentials, &verifier(None)).unwrap();
    let name = ServerName::try_from("web.example").unwrap();
    let (near, far) = duplex(capacity);
    match client {
        Client::Ours => {
            let theirs = tokio_rustls::TlsAcceptor::from(Arc::new(accepting)).accept(far);
            let ours = handshake::client(near, Arc::new(connecting), name);
            let (ours, theirs) = tokio::join!(ours, theirs);
            (ours.unwrap(), theirs.unwrap().into())
        }
        Client::Theirs => {
            let theirs = tokio_rustls::TlsConnector::from(Arc::new(connecting)).connect(name, far);
            let ours = async {
                let hello = handshake::read_hello(near).await.unwrap();
                hello.answer(Arc::new(accepting)).await
            };
            let (ours, theirs) = tokio::join!(ours, theirs);
            (ours.unwrap(), theirs.unwrap().into())
        }
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}

fn pattern(length: usize, salt: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31 + salt) % 251) as u8).collect()
}

/// Writes `sent` in pieces of the given sizes, flushing where one is odd, and ends with close_notify.
async fn send(io: &mut (impl AsyncWrite + Unpin), sent: &[u8], pieces: &[usize]) {
    let mut rest = sent;
    for piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        let (front, back) = now.split_at(now.len().min(9));
        // As h2 writes: the frame's header, then its payload.
        let mut slices = &mut [IoSlice::new(front), IoSlice::new(back)][..];
        while slices.iter().any(|slice| !slice.is_empty()) {
            let written = io.write_vectored(slices).await.unwrap();
            IoSlice::advance_slices(&mut slices, written);
        }
        if piece % 2 == 1 {
            io.flush().await.unwrap();
        }
        rest = later;
    }
    io.shutdown().await.unwrap();
}

async fn receive(io: &mut (impl AsyncRead + Unpin), pieces: &[usize]) -> Vec<u8> {
    let mut received = Vec::new();
    for piece in pieces.iter().cycle() {
        let mut part = vec![0; *piece];
        match io.read(&mut part).await.unwrap() {
            0 => break,
            count => received.extend_from_slice(&part[..count]),
        }
    }
    received
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn bytes_arrive_both_ways_however_they_are_cut(
        ours_is_client: bool,
        capacity in 100_usize..100_000,
        length in 0_usize..600_000,
        writes in prop::collection::vec(1_usize..150_000, 1..6),
        reads in prop::collection::vec(1_usize..150_000, 1..6),
        key_limit in prop_oneof![Just(KEY_LIMIT), 1_u64..20],
    ) {
        block_on(async {
            let client = if ours_is_client { Client::Ours } else { Client::Theirs };
            let (mut ours, theirs) = pair(client, capacity).await;
            ours.key_limit = key_limit;
            let (mut our_read, mut our_write) = split(ours);
            let (mut their_read, mut their_write) = split(theirs);
            let (forth, back) = (pattern(length, 1), pattern(length / 2, 2));
            let (_, _, at_theirs, at_ours) = tokio::join!(
                send(&mut our_write, &forth, &writes),
                send(&mut their_write, &back, &writes),
                receive(&mut their_read, &reads),
                receive(&mut our_read, &reads),
            );
            assert!(at_theirs == forth, "what we sent differs from what came");
            assert!(at_ours == back, "what they sent differs from what came");
        });
    }
}

#[test]
fn a_change_of_the_peers_key_is_followed() {
    for client in [Client::Ours, Client::Theirs] {
        block_on(async {
            let (mut ours, mut theirs) = pair(client, 4096).await;
            for round in 0..3_u8 {
                match &mut theirs {
                    Theirs::Client(io) => io.get_mut().1.refresh_traffic_keys().unwrap(),
                    Theirs::Server(io) => io.get_mut().1.refresh_traffic_keys().unwrap(),
                }
                theirs.write_all(&[round; 100]).await.unwrap();
                theirs.flush().await.unwrap();
                let mut received = [0; 100];
                ours.read_exact(&mut received).await.unwrap();
                assert_eq!(received, [round; 100]);
                // Whether or not it asked for ours, what we send arrives.
                ours.write_all(&received).await.unwrap();
                ours.flush().await.unwrap();
                theirs.read_exact(&mut received).await.unwrap();
                assert_eq!(received, [round; 100]);
            }
        });
    }
}

#[test]
fn after_much_data_little_is_read_with_a_small_buffer_again() {
    block_on(async {
        let (mut ours, mut theirs) = pair(Client::Ours, 256 << 10).await;
        // The last record of many lies far back in a large buffer, and there is no room for it elsewhere.
        let sent = pattern(1 << 20, 0);
        let mut received = vec![0; sent.len()];
        let (read, _) = tokio::join!(ours.read_exact(&mut received), async {
            theirs.write_all(&sent).await.unwrap();
            theirs.flush().await.unwrap();
        });
        read.unwrap();
        assert!(received == sent, "the bytes changed");
        for round in 0..40_u8 {
            theirs.write_all(&[round; 10]).await.unwrap();
            theirs.flush().await.unwrap();
            let count = ours.read(&mut received).await.unwrap();
            assert_eq!(received[..count], [round; 10]);
        }
    });
}

#[test]
fn an_end_without_close_notify_is_no_end_of_file() {
    block_on(async {
        let (mut ours, mut theirs) = pair(Client::Ours, 4096).await;
        theirs.write_all(b"the beginning of").await.unwrap();
        theirs.flush().await.unwrap();
        drop(theirs);
        let mut received = Vec::new();
        let error = ours.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(received, b"the beginning of");
    });
}

#[test]
fn a_record_that_does_not_authenticate_ends_the_connection_and_the_peer_is_told() {
    block_on(async {
        let (mut ours, mut theirs) = pair(Client::Theirs, 4096).await;
        theirs.write_all(b"before").await.unwrap();
        theirs.flush().await.unwrap();
        let forged = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
        theirs.get_mut().0.write_all(&forged).await.unwrap();

        let mut received = [0; 6];
        ours.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"before");
        for _ in 0..2 {
            let error = ours.read(&mut received).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert_eq!(error.to_string(), "a TLS record doesn't authenticate");
        }
        assert_eq!(
            ours.write(b"after").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        let told = theirs.read(&mut received).await.unwrap_err();
        assert!(told.to_string().contains("BadRecordMac"), "{told}");
    });
}

#[test]
fn what_the_peer_sends_with_the_end_of_its_handshake_is_not_lost() {
    /// Keeps what is written until it's told to let go, so that it arrives as one piece.
    struct Held(Arc<Mutex<Option<Vec<u8>>>>, DuplexStream);

    impl AsyncRead for Held {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.1).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Held {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if let Some(held) = self.0.lock().unwrap().as_mut() {
                held.extend_from_slice(bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
            Pin::new(&mut self.1).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.1).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.1).poll_shutdown(cx)
        }
    }

    block_on(async {
        let ca = CertificateAuthority::new("demo.local".parse().unwrap(), SystemTime::now()).unwrap();
        let id: SpiffeId = "spiffe://demo.local/ns/shop/sa/web".parse().unwrap();
        let svid = ca.issue(&id, SystemTime::now(), Duration::from_secs(60)).unwrap();
        let credentials = Credentials::new(&svid, Arc::new(ca.bundle().clone())).unwrap();
        let (near, far) = duplex(64 << 10);
        let accepting = server_config(&credentials, &Verifier::new(&credentials, None)).unwrap();
        let ours = tokio::spawn(async move {
            let hello = handshake::read_hello(near).await.unwrap();
            let mut ours = hello.answer(Arc::new(accepting)).await.unwrap();
            let mut received = vec![0; 20_000];
            ours.read_exact(&mut received).await.unwrap();
            received
        });
        let config = client_config(&credentials, &Verifier::new(&credentials, Some(&id))).unwrap();
        let held = Arc::new(Mutex::new(None));
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("web.example").unwrap();
        let hold = Arc::clone(&held);
        // The ClientHello goes out; what follows it is held back.
        let io = Held(Arc::clone(&held), far);
        let connecting = connector.connect(name, io);
        let mut connecting = std::pin::pin!(connecting);
        let sent = pattern(20_000, 3);
        let first = std::future::poll_fn(|cx| Poll::Ready(connecting.as_mut().poll(cx))).await;
        assert!(first.is_pending(), "the server has not answered yet");
        *hold.lock().unwrap() = Some(Vec::new());
        let mut theirs = connecting.await.unwrap();
        theirs.write_all(&sent).await.unwrap();
        theirs.flush().await.unwrap();
        let bytes = held.lock().unwrap().take().unwrap();
        theirs.get_mut().0.1.write_all(&bytes).await.unwrap();
        assert!(
            ours.await.unwrap() == sent,
            "bytes behind the Finished message were lost or changed"
        );
    });
}
