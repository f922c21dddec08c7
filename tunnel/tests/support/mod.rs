//! Two workloads, an authority, and a pool that dials a server over in-memory pipes.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary is a crate that uses its own part"
)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use adit_identity::{CertificateAuthority, PeerIdentity, SpiffeId, TrustBundle, TrustDomain};
use adit_tunnel::{
    Connect, Credentials, Destination, Dial, Drain, Drainer, Endpoint, Handler, HeadError, HeadLabel,
    Incoming, OpenError, Pool, PoolConfig, RecvHalf, SendHalf, ServeError, Stream, StreamError, TunnelConfig,
    serve,
};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub const DOMAIN: &str = "demo.local";
pub const HOUR: Duration = Duration::from_secs(3600);
/// Tests that wait longer than this hang. With paused time it costs nothing.
pub const LONG: Duration = Duration::from_secs(600);

pub fn id(service_account: &str) -> SpiffeId {
    format!("spiffe://{DOMAIN}/ns/shop/sa/{service_account}")
        .parse()
        .unwrap()
}

pub fn web_addr() -> SocketAddr {
    "10.0.0.2:8080".parse().unwrap()
}

pub fn client_addr() -> SocketAddr {
    "10.0.0.1:40000".parse().unwrap()
}

pub fn authority(domain: &str) -> CertificateAuthority {
    let domain: TrustDomain = domain.parse().unwrap();
    CertificateAuthority::new(domain, SystemTime::now() - HOUR).unwrap()
}

/// One switch for each dialled pipe, in order.
pub type Cuts = Arc<Mutex<Vec<watch::Sender<bool>>>>;

pub struct Mesh {
    pub ca: CertificateAuthority,
    pub bundle: Arc<TrustBundle>,
}

impl Mesh {
    pub fn new() -> Self {
        let ca = authority(DOMAIN);
        let bundle = Arc::new(ca.bundle().clone());
        Self { ca, bundle }
    }

    pub fn credentials(&self, service_account: &str) -> Arc<Credentials> {
        self.credentials_at(service_account, SystemTime::now(), HOUR)
    }

    pub fn credentials_at(&self, service_account: &str, at: SystemTime, ttl: Duration) -> Arc<Credentials> {
        let svid = self.ca.issue(&id(service_account), at, ttl).unwrap();
        Arc::new(Credentials::new(&svid, Arc::clone(&self.bundle)).unwrap())
    }
}

/// What a server saw.
#[derive(Default)]
pub struct Seen {
    pub bad_heads: Mutex<Vec<HeadLabel>>,
    pub server_names: Mutex<Vec<Option<String>>>,
    pub ends: Mutex<Vec<Result<(), ServeError>>>,
}

pub struct TestHandler {
    pub credentials: Arc<Mutex<Arc<Credentials>>>,
    pub incoming: mpsc::UnboundedSender<Incoming>,
    pub seen: Arc<Seen>,
}

impl Handler for TestHandler {
    fn credentials(&mut self, server_name: Option<&str>) -> Option<Arc<Credentials>> {
        self.seen
            .server_names
            .lock()
            .unwrap()
            .push(server_name.map(str::to_owned));
        (server_name != Some("nobody")).then(|| Arc::clone(&self.credentials.lock().unwrap()))
    }

    fn on_incoming(&mut self, incoming: Incoming) {
        let _ = self.incoming.send(incoming);
    }

    fn on_bad_head(&mut self, _peer: &PeerIdentity, error: HeadError) {
        self.seen.bad_heads.lock().unwrap().push(error.label());
    }
}

/// A server whose connections are pipes.
pub struct Server {
    pub credentials: Arc<Mutex<Arc<Credentials>>>,
    pub config: TunnelConfig,
    pub seen: Arc<Seen>,
    pub drain: Mutex<Drain>,
    pub sender: mpsc::UnboundedSender<Incoming>,
}

impl Server {
    pub fn serve_on<Io>(&self, io: Io) -> JoinHandle<()>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut handler = TestHandler {
            credentials: Arc::clone(&self.credentials),
            incoming: self.sender.clone(),
            seen: Arc::clone(&self.seen),
        };
        let (config, drain, seen) = (
            self.config.clone(),
            self.drain.lock().unwrap().clone(),
            Arc::clone(&self.seen),
        );
        tokio::spawn(async move {
            let end = serve(io, &config, drain, &mut handler).await;
            seen.ends.lock().unwrap().push(end);
        })
    }
}

/// A pipe's end that can be cut: both ends then read an end of file and can't write, as from a dead process. Or
/// stalled: then nothing passes, as from a dead machine.
pub struct Cuttable {
    io: DuplexStream,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
    stalled: watch::Receiver<bool>,
}

impl Cuttable {
    pub fn new(io: DuplexStream, mut cut: watch::Receiver<bool>, stalled: watch::Receiver<bool>) -> Self {
        let cut = Box::pin(async move {
            if cut.wait_for(|cut| *cut).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        Self {
            io,
            cut,
            is_cut: false,
            stalled,
        }
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_cut = self.is_cut || self.cut.as_mut().poll(cx).is_ready();
        self.is_cut
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Ok(()));
        }
        if *self.stalled.borrow() {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if *self.stalled.borrow() {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Dials the server by a pipe that a test can cut.
pub struct PipeDialer {
    pub server: Arc<Server>,
    pub cuts: Cuts,
    pub stalls: Cuts,
    pub failures: Arc<Mutex<VecDeque<io::ErrorKind>>>,
    /// So many of the next connections are cut before their first byte.
    pub cut_at_once: Arc<Mutex<usize>>,
    pub pipe: usize,
}

impl Dial for PipeDialer {
    type Io = Cuttable;

    async fn dial(&self, _destination: &Destination) -> io::Result<Cuttable> {
        tokio::task::yield_now().await;
        if let Some(kind) = self.failures.lock().unwrap().pop_front() {
            return Err(kind.into());
        }
        let (ours, theirs) = tokio::io::duplex(self.pipe);
        let (cut, cut_watch) = watch::channel(false);
        let (stall, stall_watch) = watch::channel(false);
        let mut left = self.cut_at_once.lock().unwrap();
        if let Some(less) = left.checked_sub(1) {
            *left = less;
            cut.send_replace(true);
        }
        drop(left);
        self.server
            .serve_on(Cuttable::new(theirs, cut_watch.clone(), stall_watch.clone()));
        self.cuts.lock().unwrap().push(cut);
        self.stalls.lock().unwrap().push(stall);
        Ok(Cuttable::new(ours, cut_watch, stall_watch))
    }
}

/// A client "curl" and a server "web", connected by pipes.
pub struct Rig {
    pub mesh: Mesh,
    pub pool: Pool<PipeDialer>,
    pub server: Arc<Server>,
    pub drainer: Drainer,
    pub incoming: mpsc::UnboundedReceiver<Incoming>,
    pub cuts: Cuts,
    pub stalls: Cuts,
    pub failures: Arc<Mutex<VecDeque<io::ErrorKind>>>,
    pub cut_at_once: Arc<Mutex<usize>>,
    pub credentials: Arc<Credentials>,
    pub destination: Destination,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(PoolConfig::default(), TunnelConfig::default())
    }

    pub fn with(client: PoolConfig, server: TunnelConfig) -> Self {
        let mesh = Mesh::new();
        let web = mesh.credentials("web");
        Self::of(mesh, web, client, server)
    }

    pub fn of(mesh: Mesh, web: Arc<Credentials>, client: PoolConfig, server: TunnelConfig) -> Self {
        client.tunnel.check().unwrap();
        server.check().unwrap();
        let (sender, incoming) = mpsc::unbounded_channel();
        let (drainer, drain) = Drainer::new();
        let server = Arc::new(Server {
            credentials: Arc::new(Mutex::new(web)),
            config: server,
            seen: Arc::default(),
            drain: Mutex::new(drain),
            sender,
        });
        let (cuts, stalls, failures) = (Cuts::default(), Cuts::default(), Arc::default());
        let cut_at_once = Arc::default();
        let dialer = PipeDialer {
            server: Arc::clone(&server),
            cuts: Arc::clone(&cuts),
            stalls: Arc::clone(&stalls),
            failures: Arc::clone(&failures),
            cut_at_once: Arc::clone(&cut_at_once),
            pipe: 64 << 10,
        };
        let credentials = mesh.credentials("curl");
        let destination = Destination {
            source: id("curl"),
            expected: id("web"),
            target: Endpoint::InProcess(web_addr()),
            server_name: None,
        };
        let pool = Pool::new(client, dialer);
        Self {
            mesh,
            pool,
            server,
            drainer,
            incoming,
            cuts,
            stalls,
            failures,
            cut_at_once,
            credentials,
            destination,
        }
    }

    pub async fn open(&self) -> Result<Stream, OpenError> {
        let connect = Connect::new(web_addr(), client_addr());
        self.pool
            .open(&self.destination, &self.credentials, &connect)
            .await
    }

    /// A stream opened by the client and accepted by the server.
    pub async fn pair(&mut self) -> (Stream, Stream) {
        let connect = Connect::new(web_addr(), client_addr());
        let accepted = async { self.incoming.recv().await.unwrap().accept().unwrap() };
        let opened = self.pool.open(&self.destination, &self.credentials, &connect);
        let (opened, accepted) = tokio::join!(opened, accepted);
        (opened.unwrap(), accepted)
    }

    /// Later connections follow this drain, as if another process had taken the address over.
    pub fn replace_server_drain(&self, drain: Drain) {
        *self.server.drain.lock().unwrap() = drain;
    }

    /// Accepts all requests and keeps the streams open until the client ends them.
    pub fn accept_everything(&mut self) -> JoinHandle<()> {
        let (_, nothing) = mpsc::unbounded_channel();
        let mut incoming = std::mem::replace(&mut self.incoming, nothing);
        tokio::spawn(async move {
            while let Some(incoming) = incoming.recv().await {
                // Who gave up meanwhile has no stream.
                if let Ok(stream) = incoming.accept() {
                    tokio::spawn(async move {
                        let (_send, mut recv) = stream.split();
                        let _ = read_all(&mut recv).await;
                    });
                }
            }
        })
    }

    pub fn ends(&self) -> Vec<String> {
        let ends = self.server.seen.ends.lock().unwrap();
        ends.iter()
            .map(|end| {
                end.as_ref()
                    .map_or_else(|error| error.label().to_string(), |()| "ok".to_owned())
            })
            .collect()
    }
}

/// Lets the other tasks run until `done`; gives up loudly.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{what}: didn't come about");
}

/// Sends all of it, as the window allows.
pub async fn send_all(send: &mut SendHalf, mut bytes: Bytes) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        let room = send.ready().await?;
        send.send(bytes.split_to(room.min(bytes.len())))?;
    }
    Ok(())
}

/// Reads to the clean end.
pub async fn read_all(recv: &mut RecvHalf) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    while let Some(bytes) = recv.data().await? {
        all.extend_from_slice(&bytes);
        recv.release(bytes.len());
    }
    Ok(all)
}

/// Bytes that differ everywhere, so that a lost or repeated piece shows.
pub fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}
