//! The server: every operation on every port.
//!
//! Threads take turns: one waits in `accept`, and when it gets a connection that leaves nobody waiting it starts
//! another before it serves. So a new connection costs no hand-over between threads, which a benchmark of new
//! connections would see, and ten thousand idle ones cost ten thousand small stacks.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use super::digest::{Digest, Pattern};
use super::measure::End;
use super::op::{HEADER_LEN, Op, Report};

const STACK: usize = 64 << 10;
/// How many threads may wait on one port.
const SPARE: usize = 4;
const CHUNK: usize = 256 << 10;
const HOLD_LIMIT: Duration = Duration::from_secs(60);

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct ServeSpec {
    /// The first port.
    pub port: u16,
    /// How many ports from there on.
    pub ports: u16,
    /// How many connections may be open at once; further ones are closed.
    pub max_connections: usize,
    /// Where to write a JSON line for each connection that ended.
    pub log: Option<PathBuf>,
}

/// A line of the server's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedConnection {
    /// The client's address as the server saw it.
    pub peer: SocketAddr,
    /// What was asked, in words.
    pub op: String,
    /// Payload bytes received.
    pub received: u64,
    /// How it ended for the server.
    pub end: End,
}

/// A server could not be started.
#[derive(Debug)]
pub struct ServeError {
    /// What was tried.
    pub step: String,
    /// Why it failed.
    pub source: io::Error,
}

/// A running server. Its threads end with the process.
#[derive(Debug)]
pub struct Server {
    /// The addresses that it listens on, in the order of the ports.
    pub addresses: Vec<SocketAddr>,
}

struct Shared {
    spec: ServeSpec,
    open: AtomicUsize,
    log: Option<Mutex<File>>,
}

struct Port {
    shared: Arc<Shared>,
    listener: TcpListener,
    waiting: AtomicUsize,
}

/// How serving one connection went.
struct Served {
    received: u64,
    outcome: io::Result<()>,
}

impl Server {
    /// Listens on every address of the host, IPv6 and IPv4, and serves in the background.
    ///
    /// # Errors
    /// A port is taken, or the log can't be written.
    pub fn start(spec: ServeSpec) -> Result<Self, ServeError> {
        let failed = |step: String| move |source| ServeError { step, source };
        let log = match &spec.log {
            Some(path) => Some(File::create(path).map_err(failed(format!("creating {}", path.display())))?),
            None => None,
        };
        let shared = Arc::new(Shared {
            open: AtomicUsize::new(0),
            log: log.map(Mutex::new),
            spec,
        });
        let mut addresses = Vec::new();
        for port in (shared.spec.port..).take(usize::from(shared.spec.ports)) {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
                .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
                .map_err(failed(format!("listening on port {port}")))?;
            addresses.push(
                listener
                    .local_addr()
                    .map_err(failed("asking for the address".to_owned()))?,
            );
            let port = Arc::new(Port {
                shared: Arc::clone(&shared),
                listener,
                waiting: AtomicUsize::new(0),
            });
            port.spawn().map_err(failed("starting a thread".to_owned()))?;
        }
        Ok(Self { addresses })
    }
}

impl Port {
    fn spawn(self: &Arc<Self>) -> io::Result<()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let port = Arc::clone(self);
        let spawned = thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || port.work());
        if spawned.is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        spawned.map(drop)
    }

    /// One thread's life; it counts as waiting when it comes here.
    fn work(self: Arc<Self>) {
        loop {
            let accepted = self.listener.accept();
            let left = self.waiting.fetch_sub(1, Ordering::Relaxed) - 1;
            if left == 0 {
                // Out of threads: this one serves anyway, and accepts again afterwards.
                let _ = self.spawn();
            }
            if let Ok((stream, peer)) = accepted {
                let open = self.shared.open.fetch_add(1, Ordering::Relaxed);
                if open < self.shared.spec.max_connections {
                    self.shared.serve(stream, peer);
                }
                self.shared.open.fetch_sub(1, Ordering::Relaxed);
            }
            if self.waiting.fetch_add(1, Ordering::Relaxed) >= SPARE {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream, peer: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let mut header = [0; HEADER_LEN];
        let op = stream.read_exact(&mut header).map(|()| Op::decode(&header));
        let (name, served) = match op {
            Ok(Ok(op)) => (format!("{op:?}"), serve(op, &mut stream, peer)),
            Ok(Err(invalid)) => ("invalid".to_owned(), Served::error(io::Error::other(invalid))),
            Err(error) => ("none".to_owned(), Served::error(error)),
        };
        let Some(log) = &self.log else { return };
        let line = ServedConnection {
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            op: name,
            received: served.received,
            end: served.end(),
        };
        let mut line = serde_json::to_string(&line).expect("plain data is JSON");
        line.push('\n');
        // A full disk must not end the server: the test that misses the line says so.
        let _ = log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(line.as_bytes());
    }
}

impl Served {
    fn error(error: io::Error) -> Self {
        Self {
            received: 0,
            outcome: Err(error),
        }
    }

    fn end(&self) -> End {
        match &self.outcome {
            Ok(()) => End::Fin,
            Err(error) => End::of_io(error),
        }
    }
}

impl End {
    /// The end that an error on an open connection means.
    pub(super) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Fin,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Silence,
            _ => Self::Other,
        }
    }
}

fn serve(op: Op, stream: &mut TcpStream, peer: SocketAddr) -> Served {
    let mut received = 0;
    let outcome = match op {
        Op::Echo => echo(stream, &mut received),
        Op::Hold => hold(stream),
        Op::RequestResponse { request, response } => {
            respond(stream, request as usize, response as usize, &mut received)
        }
        Op::Reset { bytes } => source(stream, SourceSpec::new(Some(bytes), None, false))
            .and_then(|_| stream.read_exact(&mut [0]))
            .and_then(|()| reset(stream)),
        Op::Sink { checked } => sink(stream, checked, &mut received),
        Op::Source { bytes, checked } => source(stream, SourceSpec::new(Some(bytes), None, checked))
            .and_then(|report| stream.write_all(&report.encode())),
        Op::SourceFor { time, rate, checked } => source(
            stream,
            SourceSpec {
                rate: Some(rate).filter(|rate| *rate > 0),
                ..SourceSpec::new(None, Some(time), checked)
            },
        )
        .and_then(|report| stream.write_all(&report.encode())),
        Op::Who => {
            let seen = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            stream.write_all(seen.to_string().as_bytes())
        }
    };
    Served { received, outcome }
}

fn echo(stream: &mut TcpStream, received: &mut u64) -> io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => {
                *received += read as u64;
                stream.write_all(&buffer[..read])?;
            }
        }
    }
}

fn hold(stream: &TcpStream) -> io::Result<()> {
    // Only an error wakes a peek on a full buffer; so look from time to time instead.
    let until = Instant::now() + HOLD_LIMIT;
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(100));
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(())
}

fn respond(stream: &mut TcpStream, request: usize, response: usize, received: &mut u64) -> io::Result<()> {
    let mut question = vec![0; request];
    let answer = vec![b'a'; response];
    loop {
        match stream.read_exact(&mut question) {
            Ok(()) => *received += request as u64,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        stream.write_all(&answer)?;
    }
}

fn sink(stream: &mut TcpStream, checked: bool, received: &mut u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut digest = Digest::new();
    let mut first = None;
    loop {
        let read = stream.read(&mut buffer)?;
        let first = *first.get_or_insert_with(Instant::now);
        if read == 0 {
            let hash = if checked { digest.value() } else { 0 };
            let report = Report {
                bytes: *received,
                hash,
                nanos: nanos(first.elapsed()),
            };
            stream.write_all(&report.encode())?;
            return stream.shutdown(Shutdown::Write);
        }
        *received += read as u64;
        if checked {
            digest.update(&buffer[..read]);
        }
    }
}

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceSpec {
    /// So many bytes,
    pub(super) bytes: Option<u64>,
    /// for so long at most.
    pub(super) time: Option<Duration>,
    /// Mbit/s; as fast as it can if unset.
    pub(super) rate: Option<u32>,
    /// Whether the bytes are the pattern, and hashed.
    pub(super) checked: bool,
}

impl SourceSpec {
    pub(super) fn new(bytes: Option<u64>, time: Option<Duration>, checked: bool) -> Self {
        Self {
            bytes,
            time,
            rate: None,
            checked,
        }
    }
}

/// Sends until either limit is reached and reports what was sent.
pub(super) fn source(stream: &mut TcpStream, spec: SourceSpec) -> io::Result<Report> {
    let SourceSpec {
        bytes,
        time,
        rate,
        checked,
    } = spec;
    let bytes_a_second = rate.map(|rate| f64::from(rate) * 1e6 / 8.0);
    // Some fifty chunks a second, so that a slow stream isn't a burst and a pause.
    let size = bytes_a_second.map_or(CHUNK, |rate| (rate / 50.0) as usize);
    let mut buffer = vec![0; size.next_multiple_of(8).clamp(8, CHUNK)];
    let mut digest = Digest::new();
    let begun = Instant::now();
    let mut sent = 0;
    while bytes.is_none_or(|bytes| sent < bytes) && time.is_none_or(|time| begun.elapsed() < time) {
        let left = bytes.map_or(u64::MAX, |bytes| bytes - sent);
        let chunk = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if checked {
            Pattern::new(0).fill(sent, &mut buffer[..chunk]);
            digest.update(&buffer[..chunk]);
        }
        stream.write_all(&buffer[..chunk])?;
        sent += chunk as u64;
        if let Some(rate) = bytes_a_second {
            let due = Duration::from_secs_f64(sent as f64 / rate);
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    let hash = if checked { digest.value() } else { 0 };
    Ok(Report {
        bytes: sent,
        hash,
        nanos: nanos(begun.elapsed()),
    })
}

/// Makes the close that follows a reset, and closes.
pub(super) fn reset(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
