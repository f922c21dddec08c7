//! One tunnel from the opening side: dialled, secured, driven, and asked for streams.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_flow::RefuseReason;
use adit_identity::PeerIdentity;
use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::StatusCode;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::keepalive;
use crate::load::{Slot, TunnelLoad};
use crate::observe::{Heard, Observed};
use crate::tls::{self, Secured, TlsStream};
use crate::{
    Connect, Credentials, Destination, Dial, HandshakeError, OpenError, REASON_HEADER, ResetCode, Side,
    Stream, StreamError, TunnelConfig, TunnelEnd,
};

/// Why a tunnel could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The task that was setting it up was dropped: the runtime is stopping.
    #[error("given up: the runtime is stopping")]
    Aborted,
    /// The dialer couldn't connect.
    #[error("dialling")]
    Dial(#[source] io::Error),
    /// TLS or HTTP/2 didn't come about.
    #[error("handshake")]
    Handshake(#[source] HandshakeError),
    /// Dialling and handshakes took too long.
    #[error("not set up within {within:?}")]
    TimedOut {
        /// How long was waited.
        within: Duration,
    },
}

impl ConnectError {
    /// The reason for the flow record.
    pub fn refuse_reason(&self) -> RefuseReason {
        match self {
            Self::Handshake(HandshakeError::Verify(_)) => RefuseReason::BadIdentity,
            Self::Dial(error) => match error.kind() {
                io::ErrorKind::TimedOut => RefuseReason::TimedOut,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    RefuseReason::Unreachable
                }
                _ => RefuseReason::TunnelFailed,
            },
            Self::TimedOut { .. } => RefuseReason::TimedOut,
            Self::Aborted | Self::Handshake(_) => RefuseReason::TunnelFailed,
        }
    }

    /// Whether whoever accepted the connection has ended or is about to, so that what comes in its place may do better: it was
    /// reset before the tunnel was there, or the peer is draining. One that wasn't accepted is another matter, and one that
    /// was closed in order, or says why.
    pub(crate) fn broke_off(&self) -> bool {
        match self {
            Self::Handshake(HandshakeError::Draining) => true,
            Self::Handshake(HandshakeError::Io(error)) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ),
            _ => false,
        }
    }

    /// The label under which it is counted.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Dial(_) => "dial",
            Self::Handshake(error) => error.label().as_str(),
            Self::TimedOut { .. } => "connect-timeout",
        }
    }
}

/// A tunnel that takes streams. Dropping the last clone of its `SendRequest` lets it end after its streams.
pub(crate) struct Tunnel {
    pub(crate) id: u64,
    pub(crate) load: Arc<TunnelLoad>,
    heard: Arc<Heard>,
    request: SendRequest<Bytes>,
    generation: u64,
    valid_until: SystemTime,
}

/// The task side of a tunnel: to be polled until it ends.
pub(crate) struct Driver<Io> {
    connection: Connection<Observed<TlsStream<Io>>, Bytes>,
    load: Arc<TunnelLoad>,
    config: TunnelConfig,
}

/// A stream to be: its place is taken, its CONNECT not sent.
pub(crate) struct Lease {
    pub(crate) tunnel: u64,
    /// Whether the tunnel was there before its opener came, or has had another stream.
    pub(crate) reused: bool,
    request: SendRequest<Bytes>,
    slot: Slot,
}

/// How an attempt to open a stream failed.
pub(crate) enum Attempt {
    /// For good.
    Failed(OpenError),
    /// The peer did not process it: opening it again is safe, in another tunnel.
    Unprocessed(OpenError),
    /// The tunnel was gone before the answer.
    TunnelEnded(OpenError),
}

/// Dials and shakes hands, both within the caller's timeout; waits for the peer's SETTINGS, because only then is
/// it known that the peer took our certificate, and how many streams it takes.
pub(crate) async fn establish<D: Dial>(
    dialer: &D,
    destination: &Destination,
    credentials: &Credentials,
    config: &TunnelConfig,
    id: u64,
) -> Result<(Tunnel, Driver<D::Io>), ConnectError> {
    let io = dialer.dial(destination).await.map_err(ConnectError::Dial)?;
    let name = server_name(destination).map_err(ConnectError::Handshake)?;
    let secured = tls::connect(io, credentials, &destination.expected, name).await;
    let Secured { io, peer } = secured.map_err(ConnectError::Handshake)?;
    let (io, heard) = Observed::client(io);
    let http2 = |error| ConnectError::Handshake(preface_error(error));
    let (request, mut connection) = builder(config).handshake(io).await.map_err(http2)?;
    std::future::poll_fn(|cx| {
        use std::task::Poll;
        let polled = std::pin::Pin::new(&mut connection).poll(cx);
        // Its place is taken by the next one, whether this one has ended already or not.
        if heard.go_away() {
            return Poll::Ready(Err(ConnectError::Handshake(HandshakeError::Draining)));
        }
        match polled {
            Poll::Ready(Ok(())) => Poll::Ready(Err(ConnectError::Handshake(HandshakeError::Io(
                io::ErrorKind::UnexpectedEof.into(),
            )))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(http2(error))),
            Poll::Pending if heard.settings() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;
    let load = TunnelLoad::new();
    let tunnel = Tunnel {
        id,
        load: Arc::clone(&load),
        heard,
        request,
        generation: credentials.generation(),
        valid_until: valid_until(credentials, &peer),
    };
    Ok((
        tunnel,
        Driver {
            connection,
            load,
            config: config.clone(),
        },
    ))
}

/// A tunnel proves both ends only as long as both certificates are valid.
fn valid_until(credentials: &Credentials, peer: &PeerIdentity) -> SystemTime {
    credentials.not_after().min(peer.not_after())
}

fn server_name(destination: &Destination) -> Result<ServerName<'static>, HandshakeError> {
    match &destination.server_name {
        // An address sends no SNI, as ztunnel does.
        None => Ok(ServerName::IpAddress(destination.target.addr().ip().into())),
        Some(name) => ServerName::try_from(name.to_string()).map_err(|_| HandshakeError::BadServerName {
            got: name.to_string(),
        }),
    }
}

fn builder(config: &TunnelConfig) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window())
        .max_frame_size(config.max_frame)
        .max_header_list_size(config.max_head)
        .max_send_buffer_size(config.send_buffer)
        .max_concurrent_streams(0)
        .initial_max_send_streams(config.max_streams as usize)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        // h2 counts these over the connection's life and ends it at 1024; frames that cross a reset on the
        // wire count too, so a long-lived tunnel would be cut in honest use.
        .max_local_error_reset_streams(None);
    builder
}

/// Streams whose late frames are ignored for a second after we reset them.
pub(crate) const RESETS_REMEMBERED: usize = 1024;

/// A peer that doesn't take our certificate says so after our side of the handshake is over.
fn preface_error(error: h2::Error) -> HandshakeError {
    if !error.is_io() {
        return HandshakeError::Http2(error);
    }
    match error.into_io() {
        Some(error) => HandshakeError::Io(error),
        None => HandshakeError::Io(io::ErrorKind::Other.into()),
    }
}

impl Tunnel {
    /// Whether it may take another stream for an opener with these credentials.
    pub(crate) fn has_room(&self, config: &TunnelConfig) -> bool {
        let peers_limit = self.request.current_max_send_streams();
        self.load.streams() < peers_limit.min(config.max_streams as usize)
    }

    /// Whether it will never take another stream: the peer drains, it ended, or its certificates don't do any more.
    pub(crate) fn is_retired(&self, generation: u64, now: SystemTime) -> bool {
        self.heard.go_away()
            || self.load.end().is_some()
            || self.generation < generation
            || now > self.valid_until
    }

    pub(crate) fn lease(&self) -> Lease {
        // Evaluated before the slot is taken, which counts as use.
        let reused = self.load.is_used();
        Lease {
            tunnel: self.id,
            reused,
            request: self.request.clone(),
            slot: self.load.slot(),
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// Drives the tunnel to its end, which it records.
    pub(crate) async fn run(mut self) {
        let ping_pong = self.connection.ping_pong();
        let keepalive = keepalive::watch(ping_pong, self.config.ping_interval, self.config.ping_timeout);
        let load = &self.load;
        let end = tokio::select! {
            outcome = &mut self.connection => match outcome {
                Ok(()) => TunnelEnd::Lost { detail: "closed by the peer".to_owned() },
                Err(error) => end_of(&error),
            },
            () = keepalive => TunnelEnd::Silent,
        };
        tracing::debug!(%end, "tunnel ended");
        load.set_end(end);
        // Dropped after the end is known: this is when the streams hear of it.
        drop(self.connection);
    }
}

/// What ended a connection, from h2's error of it.
pub(crate) fn end_of(error: &h2::Error) -> TunnelEnd {
    match error.reason() {
        Some(code) => {
            let by = if error.is_remote() {
                Side::Peer
            } else {
                Side::Local
            };
            TunnelEnd::Violated {
                by,
                code: code.into(),
            }
        }
        None => TunnelEnd::Lost {
            detail: error.to_string(),
        },
    }
}

impl Lease {
    /// Sends the CONNECT and waits for the answer.
    pub(crate) async fn open(mut self, connect: &Connect, patience: Duration) -> Result<Stream, Attempt> {
        let authority = connect.authority;
        let ended = |error: &h2::Error, load: &TunnelLoad| attempt_of(error, load, authority);
        let load = self.slot.load();
        let (response, send) = match self.request.send_request(connect.to_request(), false) {
            Ok(sent) => sent,
            Err(error) => return Err(ended(&error, &load)),
        };
        // Made before the answer: if we give up waiting, dropping it resets the stream.
        let Ok(outcome) = timeout(patience, response).await else {
            drop(send);
            return Err(Attempt::Failed(OpenError::NoAnswer {
                authority,
                within: patience,
            }));
        };
        let response = outcome.map_err(|error| ended(&error, &load))?;
        if response.status() != StatusCode::OK {
            let reason = response
                .headers()
                .get(REASON_HEADER)
                .and_then(|value| value.to_str().ok());
            let reason = reason.and_then(|text| {
                RefuseReason::ALL
                    .iter()
                    .copied()
                    .find(|reason| reason.label() == text)
            });
            let status = response.status();
            return Err(Attempt::Failed(OpenError::Refused {
                authority,
                status,
                reason,
            }));
        }
        Ok(Stream::new(send, response.into_body(), self.slot))
    }
}

fn attempt_of(error: &h2::Error, load: &TunnelLoad, authority: std::net::SocketAddr) -> Attempt {
    let source = StreamError::of(error, load.end());
    let unprocessed = error.is_remote()
        && (error.is_go_away() || error.reason().map(ResetCode::from) == Some(ResetCode::REFUSED_STREAM));
    let ended = matches!(source, StreamError::TunnelEnded { .. }) || !error.is_reset();
    let error = OpenError::Stream { authority, source };
    if unprocessed {
        Attempt::Unprocessed(error)
    } else if ended {
        Attempt::TunnelEnded(error)
    } else {
        Attempt::Failed(error)
    }
}

/// When a tunnel that has no stream now would have been idle long enough.
pub(crate) fn idle_deadline(load: &TunnelLoad, idle_close: Duration) -> Instant {
    load.idle_since() + idle_close
}
