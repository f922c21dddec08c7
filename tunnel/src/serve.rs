use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use adit_flow::RefuseReason;
use adit_identity::PeerIdentity;
use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use crate::connect::{RESETS_REMEMBERED, end_of};
use crate::load::{Slot, TunnelLoad};
use crate::observe::{Observed, Told};
use crate::tls::{self, Secured, TlsStream};
use crate::{
    Connect, Credentials, Drain, DrainState, HandshakeError, HandshakeLabel, HeadError, REASON_HEADER,
    Stream, StreamError, TunnelConfig, TunnelEnd, keepalive,
};

/// What the accepting side of a tunnel asks its owner. Called on the tunnel's own task: must not block.
pub trait Handler {
    /// The credentials of the workload that the client asked for by SNI; `None` refuses the connection.
    fn credentials(&mut self, server_name: Option<&str>) -> Option<Arc<Credentials>>;

    /// A CONNECT. To be answered by [`Incoming::accept`] or [`Incoming::refuse`], here or later. The number of those
    /// unanswered is bounded by [`TunnelConfig::max_streams`].
    fn on_incoming(&mut self, incoming: Incoming);

    /// A request that was refused without asking: to be counted.
    fn on_bad_head(&mut self, peer: &PeerIdentity, error: HeadError);
}

/// A CONNECT that waits for its answer. Dropped without one, it's reset with CANCEL.
pub struct Incoming {
    connect: Connect,
    peer: Arc<PeerIdentity>,
    respond: SendResponse<Bytes>,
    body: RecvStream,
    slot: Slot,
}

/// A refusal: the status for any HBONE peer, the reason for another adit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 401 or 503, as ztunnel uses them.
    pub status: StatusCode,
    /// The reason, sent in [`REASON_HEADER`].
    pub reason: RefuseReason,
}

/// Why a tunnel that was being served is no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It never came about.
    #[error("tunnel not accepted")]
    Handshake(#[from] HandshakeError),
    /// It ended while it had streams, or with an error.
    #[error("tunnel of {peer} ended: {end}", peer = peer.id())]
    Ended {
        /// Whose it was.
        peer: PeerIdentity,
        /// What ended it.
        end: TunnelEnd,
    },
}

/// The label of a [`ServeError`] in metrics, logs and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ServeLabel {
    /// See [`TunnelEnd::Drained`].
    Drained,
    /// See [`ServeError::Handshake`].
    Handshake(HandshakeLabel),
    /// See [`TunnelEnd::Lost`].
    Lost,
    /// See [`TunnelEnd::Silent`].
    Silent,
    /// See [`TunnelEnd::Violated`].
    Violated,
}

/// Serves one tunnel: shakes hands, hands each CONNECT to the handler, ends when the peer ends it or the drain is
/// over. The caller bounds how many run at once.
///
/// The peer must prove to be a workload of the trust domain of the credentials chosen. When its certificate
/// expires, the tunnel is drained without a deadline: streams stay, new ones need a new tunnel. When `drain` starts
/// the peer gets GOAWAY twice with a PING between (RFC 9113 §6.8), so that no stream on its way is lost, and at the
/// deadline what is left is cut.
///
/// # Errors
/// The tunnel didn't come about, or ended other than by the peer's orderly close.
pub async fn serve<Io, H>(
    io: Io,
    config: &TunnelConfig,
    mut drain: Drain,
    handler: &mut H,
) -> Result<(), ServeError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let within = config.handshake_timeout;
    let handshake = timeout(within, shake_hands(io, config, handler)).await;
    let (connection, told, peer) = match handshake {
        Ok(outcome) => outcome?,
        Err(_) => return Err(HandshakeError::TimedOut { within }.into()),
    };
    tracing::debug!(peer = %peer.id(), "tunnel accepted");
    let mut tunnel = Tunnel {
        connection,
        told,
        peer: Arc::new(peer),
        load: TunnelLoad::new(),
    };
    let end = tunnel.run(config, &mut drain, handler).await;
    let Tunnel {
        connection,
        peer,
        load,
        ..
    } = tunnel;
    match end {
        None => Ok(()),
        Some(end) => {
            tracing::debug!(peer = %peer.id(), %end, "tunnel ended");
            load.set_end(end.clone());
            // Dropped after the end is known: this is when the streams hear of it.
            drop(connection);
            Err(ServeError::Ended {
                peer: (*peer).clone(),
                end,
            })
        }
    }
}

type ServerConnection<Io> = Connection<Observed<TlsStream<Io>>, Bytes>;

async fn shake_hands<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    config: &TunnelConfig,
    handler: &mut impl Handler,
) -> Result<(ServerConnection<Io>, Arc<Told>, PeerIdentity), HandshakeError> {
    let Secured { io, peer } = tls::accept(io, |server_name| handler.credentials(server_name)).await?;
    let (io, told) = Observed::server(io);
    let connection = builder(config)
        .handshake(io)
        .await
        .map_err(HandshakeError::Http2)?;
    Ok((connection, told, peer))
}

fn builder(config: &TunnelConfig) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window())
        .max_frame_size(config.max_frame)
        .max_header_list_size(config.max_head)
        .max_send_buffer_size(config.send_buffer)
        .max_concurrent_streams(config.max_streams)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        // Openers that give up before their answer are ordinary; as many as there may be streams.
        .max_pending_accept_reset_streams(config.max_streams as usize)
        // As on the opening side: honest crossings count too, over the whole life of the tunnel.
        .max_local_error_reset_streams(None);
    builder
}

struct Tunnel<Io> {
    connection: ServerConnection<Io>,
    told: Arc<Told>,
    peer: Arc<PeerIdentity>,
    load: Arc<TunnelLoad>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Tunnel<Io> {
    /// Until the end; `None` for an orderly one.
    async fn run(
        &mut self,
        config: &TunnelConfig,
        drain: &mut Drain,
        handler: &mut impl Handler,
    ) -> Option<TunnelEnd> {
        let ping_pong = self.connection.ping_pong();
        let mut silent = pin!(keepalive::watch(
            ping_pong,
            config.ping_interval,
            config.ping_timeout
        ));
        let mut expiry = pin!(sleep_until(instant_of(self.peer.not_after())));
        let mut expired = false;
        let mut deadline = self.heed(drain.state());
        loop {
            tokio::select! {
                next = self.accept(handler) => match next {
                    Some(Ok((request, respond))) => self.on_request(request, respond, handler),
                    // A peer that hangs up on an idle tunnel takes nothing away.
                    Some(Err(error)) if error.is_io() && self.load.streams() == 0 => return None,
                    Some(Err(error)) => return Some(end_of(&error)),
                    // Also when the peer closed TLS in the middle of streams: they get their errors from h2.
                    None => return None,
                },
                () = &mut silent => return Some(TunnelEnd::Silent),
                () = &mut expiry, if !expired => {
                    expired = true;
                    self.connection.graceful_shutdown();
                }
                state = drain.changed() => deadline = self.heed(state),
                () = until(deadline) => {
                    self.connection.abrupt_shutdown(Reason::NO_ERROR);
                    return Some(TunnelEnd::Drained);
                }
            }
        }
    }

    /// Drives the connection to its next request. What h2 refuses by itself is counted on the way.
    async fn accept(
        &mut self,
        handler: &mut impl Handler,
    ) -> Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>> {
        let mut next = pin!(self.connection.accept());
        poll_fn(|cx| {
            let outcome = next.as_mut().poll(cx);
            for _ in 0..self.told.take_malformed() {
                handler.on_bad_head(&self.peer, HeadError::Malformed);
            }
            for _ in 0..self.told.take_oversized() {
                handler.on_bad_head(&self.peer, HeadError::Oversized);
            }
            outcome
        })
        .await
    }

    fn heed(&mut self, state: DrainState) -> Option<Instant> {
        match state {
            DrainState::Open => None,
            DrainState::Draining { deadline } => {
                self.connection.graceful_shutdown();
                Some(deadline)
            }
        }
    }

    fn on_request(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        handler: &mut impl Handler,
    ) {
        match Connect::parse(&request) {
            Ok(connect) => handler.on_incoming(Incoming {
                connect,
                peer: Arc::clone(&self.peer),
                respond,
                body: request.into_body(),
                slot: self.load.slot(),
            }),
            Err(error) => {
                handler.on_bad_head(&self.peer, error);
                // The stream may be gone already; then nobody waits for the answer.
                let _ = respond.send_response(answer(StatusCode::BAD_REQUEST), true);
            }
        }
    }
}

/// The wall clock's time as one of the runtime's clock. Past times are now.
fn instant_of(time: SystemTime) -> Instant {
    // The day keeps a certificate of a far future within what the runtime's clock can count.
    const FARTHEST: Duration = Duration::from_secs(30 * 24 * 3600);
    Instant::now()
        + time
            .duration_since(SystemTime::now())
            .unwrap_or_default()
            .min(FARTHEST)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn answer(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

impl Incoming {
    /// What is asked for. **Not yet checked**: whether the authority is the workload's own address and the wire port's
    /// is for the caller to see.
    pub fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Who asks, proven.
    pub fn peer(&self) -> &Arc<PeerIdentity> {
        &self.peer
    }

    /// Waits for the client to give up. Pending for ever while it doesn't.
    pub async fn gone(&mut self) -> StreamError {
        poll_fn(|cx| self.poll_gone(cx)).await
    }

    /// The same as a poll function.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.respond.poll_reset(cx).map(|outcome| match outcome {
            Ok(code) => StreamError::Reset {
                by: crate::Side::Peer,
                code: code.into(),
            },
            Err(error) => StreamError::of(&error, self.slot.end()),
        })
    }

    /// Answers 200. To be called only once the application has accepted: the opener's `connect()` succeeds by this.
    ///
    /// # Errors
    /// The client gave up, or the tunnel ended.
    pub fn accept(mut self) -> Result<Stream, StreamError> {
        match self.respond.send_response(answer(StatusCode::OK), false) {
            Ok(send) => Ok(Stream::new(send, self.body, self.slot)),
            Err(error) => Err(StreamError::of(&error, self.slot.end())),
        }
    }

    /// Answers that it isn't to be.
    pub fn refuse(mut self, refusal: Refusal) {
        let mut response = answer(refusal.status);
        response
            .headers_mut()
            .insert(REASON_HEADER, HeaderValue::from_static(refusal.reason.label()));
        // The client may be gone; then nobody waits for the answer.
        let _ = self.respond.send_response(response, true);
    }
}

impl Refusal {
    /// A request that doesn't fit where it came in: another workload's address, a port that differs from the wire's.
    pub const BAD_REQUEST: Self = Self {
        status: StatusCode::BAD_REQUEST,
        reason: RefuseReason::Refused,
    };

    /// The status that other HBONE peers know for the reason.
    pub fn of(reason: RefuseReason) -> Self {
        let status = match reason {
            RefuseReason::BadIdentity | RefuseReason::Denied => StatusCode::UNAUTHORIZED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, reason }
    }
}

impl ServeError {
    /// The label under which it is counted.
    pub fn label(&self) -> ServeLabel {
        match self {
            Self::Handshake(error) => ServeLabel::Handshake(error.label()),
            Self::Ended { end, .. } => match end {
                TunnelEnd::Drained => ServeLabel::Drained,
                TunnelEnd::Lost { .. } => ServeLabel::Lost,
                TunnelEnd::Silent => ServeLabel::Silent,
                TunnelEnd::Violated { .. } => ServeLabel::Violated,
            },
        }
    }
}

impl ServeLabel {
    /// Every label.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Drained, Self::Lost, Self::Silent, Self::Violated]
            .into_iter()
            .chain(HandshakeLabel::all().map(Self::Handshake))
    }

    /// As metrics, logs and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Handshake(label) => label.as_str(),
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::Violated => "violated",
        }
    }
}

impl fmt::Display for ServeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("connect", &self.connect)
            .field("peer", &format_args!("{}", self.peer.id()))
            .finish_non_exhaustive()
    }
}
