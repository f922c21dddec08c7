//! HBONE over rustls and h2: client, server, pool, drain.
//!
//! An HBONE tunnel is one TLS 1.3 connection (ALPN `h2`, both sides prove a SPIFFE id) that carries HTTP/2 CONNECT
//! streams; each stream is one TCP connection of an application. This crate knows no sockets: a tunnel runs over
//! anything that is `AsyncRead + AsyncWrite`, a TCP connection between two agents or a pipe within one.
//!
//! * The opening side: a [`Pool`] (one per worker) keeps the tunnels, [`Pool::open`] opens a [`Stream`] in one.
//! * The accepting side: [`serve()`] drives one tunnel and hands each CONNECT to a [`Handler`] as an [`Incoming`],
//!   which is answered by [`Incoming::accept`] or [`Incoming::refuse`].
//! * **An end is a FIN only if it was a FIN.** [`RecvHalf::data`] gives `None` for the peer's END_STREAM and nothing
//!   else; every other end is a [`StreamError`] that says who caused it. A half that is dropped before its end
//!   resets the stream.
//! * **Back-pressure is the caller's.** Received bytes are credited to the peer when
//!   [`RecvHalf::release`] says that they were passed on, never before.

mod config;
mod connect;
mod drain;
mod error;
mod head;
mod hello;
mod keepalive;
mod load;
mod observe;
mod pool;
mod serve;
mod stream;
mod tls;

pub use config::{InvalidConfig, PoolConfig, TunnelConfig};
pub use connect::ConnectError;
pub use drain::{Drain, DrainState, Drainer};
pub use error::{OpenError, ResetCode, Side, StreamError, TunnelEnd};
pub use head::{Baggage, Connect, HeadError, HeadLabel, REASON_HEADER};
pub use hello::{Hello, read_hello};
pub use pool::{Destination, Dial, Endpoint, Pool, PoolStats};
pub use serve::{Handler, Incoming, Refusal, ServeError, ServeLabel, serve};
pub use stream::{RecvHalf, SendHalf, Stream};
pub use tls::{BadCredentials, Credentials, HandshakeError, HandshakeLabel};
