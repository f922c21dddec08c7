//! The client's side of every load.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::digest::{Digest, Pattern};
use super::measure::{Active, Connect, End, Ended, Idle, Latency, Rr, Stream, Turns};
use super::op::{Op, REPORT_LEN, Report};
use super::server::{SourceSpec, nanos, reset, source};
use crate::procfs::packets_of_devices;

const STACK: usize = 128 << 10;
const CHUNK: usize = 256 << 10;
/// How long one step of a connection (opening, one read, one write) may take.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Where to connect.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The server's first port.
    pub address: SocketAddr,
    /// How many ports from there on it has; successive connections take turns on them.
    pub ports: u16,
}

/// What to stream.
#[derive(Clone, Copy, Debug)]
pub struct StreamSpec {
    /// How many streams at once.
    pub parallel: usize,
    /// Bytes of each stream.
    pub bytes: Option<u64>,
    /// How long; one of this and `bytes` must be set.
    pub time: Option<Duration>,
    /// From the server to the client.
    pub reverse: bool,
    /// How fast, in Mbit/s; as fast as it can if unset. A server that sends a number of bytes knows no rate.
    pub rate: Option<u32>,
    /// Whether both ends hash what they send and get.
    pub checked: bool,
}

/// What to ask, and how often.
#[derive(Clone, Copy, Debug)]
pub struct RrSpec {
    /// How often at most, after a tenth as many unmeasured ones.
    pub count: u64,
    /// For how long at most, the unmeasured ones left out.
    pub time: Option<Duration>,
    /// Bytes of a request.
    pub request: u32,
    /// Bytes of a response.
    pub response: u32,
}

/// How many connections to open and close.
#[derive(Clone, Copy, Debug)]
pub struct ConnectSpec {
    /// All threads together; ends at this or at `time`.
    pub count: Option<u64>,
    /// How long at most.
    pub time: Option<Duration>,
    /// How many threads.
    pub parallel: usize,
    /// How many a second, all threads together; as many as there can be if unset.
    pub rate: Option<u32>,
}

/// What busy connections carry.
#[derive(Clone, Copy, Debug)]
pub struct ActiveSpec {
    /// How many connections at once.
    pub count: usize,
    /// Bytes that each sends and gets back.
    pub bytes: usize,
}

/// What to do with a connection whose end is of interest.
#[derive(Clone, Copy, Debug)]
pub struct EndSpec {
    /// What the server shall do.
    pub op: Op,
    /// Send so many bytes after the header.
    pub send: u64,
    /// Then, when as much has come back, reset rather than send a FIN.
    pub reset: bool,
}

/// How far [`turns`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All requests are answered; the connections are open still.
    Answered,
    /// All connections are open, and nothing was measured yet.
    Opened,
}

/// A load failed.
#[derive(Debug)]
pub struct ClientError {
    /// What was being done.
    pub step: &'static str,
    /// To whom.
    pub target: SocketAddr,
    /// Why it failed.
    pub source: io::Error,
}

impl Target {
    /// The first address of `host:port`.
    ///
    /// # Errors
    /// The name doesn't resolve.
    pub fn resolve(text: &str, ports: u16) -> io::Result<Self> {
        let address = text.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| io::Error::other(format!("{text} has no address")))?;
        Ok(Self {
            address,
            ports: ports.max(1),
        })
    }

    fn nth(&self, index: u64) -> SocketAddr {
        let offset = u16::try_from(index % u64::from(self.ports)).expect("less than a 16-bit number");
        SocketAddr::new(self.address.ip(), self.address.port() + offset)
    }

    fn open(&self, index: u64, op: Op, payload: &[u8]) -> Result<TcpStream, ClientError> {
        let address = self.nth(index);
        let failed = |step| failing(step, address);
        let mut stream = TcpStream::connect_timeout(&address, STEP_LIMIT).map_err(failed("connecting"))?;
        prepare(&stream).map_err(failed("setting socket options"))?;
        let first = [&op.encode(), payload].concat();
        stream.write_all(&first).map_err(failed("sending the header"))?;
        Ok(stream)
    }
}

/// What failed, and towards whom, for errors that say neither.
fn failing(step: &'static str, target: SocketAddr) -> impl FnOnce(io::Error) -> ClientError {
    move |source| ClientError { step, target, source }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STEP_LIMIT))?;
    stream.set_write_timeout(Some(STEP_LIMIT))
}

/// Streams in one direction.
///
/// # Errors
/// Any stream failed, or its ends disagree on the number of bytes.
pub fn stream(target: Target, spec: StreamSpec) -> Result<Stream, ClientError> {
    let start = Barrier::new(spec.parallel);
    let results = on_threads(spec.parallel as u64, |index| {
        start.wait();
        if spec.reverse {
            receive(target, index, spec)
        } else {
            send(target, index, spec)
        }
    });
    let mut all = Stream::default();
    for result in results {
        let (sent, received) = result?;
        let seconds = received.nanos as f64 / 1e9;
        all.bytes += received.bytes;
        all.seconds = all.seconds.max(seconds);
        all.bits_per_second
            .push(received.bytes as f64 * 8.0 / seconds.max(1e-9));
        all.sent_hashes.push(sent.hash);
        all.received_hashes.push(received.hash);
    }
    Ok(all)
}

/// Does the same on so many threads, which are told their number, and waits for all.
pub(super) fn on_threads<T: Send>(count: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for index in 0..count {
            let work = &work;
            threads.push(scope.spawn(move || work(index)));
        }
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a load's thread doesn't panic"))
            .collect()
    })
}

/// The sender's and the receiver's report of one stream to the server.
fn send(target: Target, index: u64, spec: StreamSpec) -> Result<(Report, Report), ClientError> {
    let mut stream = target.open(
        index,
        Op::Sink {
            checked: spec.checked,
        },
        &[],
    )?;
    let failed = |step| failing(step, target.nth(index));
    let limits = SourceSpec {
        bytes: spec.bytes,
        time: spec.time,
        rate: spec.rate,
        checked: spec.checked,
    };
    let sent = source(&mut stream, limits).map_err(failed("sending"))?;
    stream
        .shutdown(Shutdown::Write)
        .map_err(failed("sending the FIN"))?;
    let mut report = [0; REPORT_LEN];
    stream
        .read_exact(&mut report)
        .map_err(failed("reading the report"))?;
    let received = Report::decode(&report);
    if received.bytes == sent.bytes {
        return Ok((sent, received));
    }
    let message = format!("{} bytes were sent and {} arrived", sent.bytes, received.bytes);
    Err(failed("comparing")(io::Error::other(message)))
}

/// The sender's and the receiver's report of one stream from the server. The sender's ends the stream.
fn receive(target: Target, index: u64, spec: StreamSpec) -> Result<(Report, Report), ClientError> {
    let op = match (spec.bytes, spec.time) {
        (Some(bytes), _) => Op::Source {
            bytes,
            checked: spec.checked,
        },
        (None, time) => Op::SourceFor {
            time: time.unwrap_or_default(),
            rate: spec.rate.unwrap_or_default(),
            checked: spec.checked,
        },
    };
    let mut stream = target.open(index, op, &[])?;
    let failed = |step| failing(step, target.nth(index));
    let mut buffer = vec![0; CHUNK];
    let mut digest = Digest::new();
    let mut received = Report::default();
    let mut kept = 0;
    let mut first = None;
    loop {
        let read = stream.read(&mut buffer[kept..]).map_err(failed("receiving"))?;
        let first = *first.get_or_insert_with(Instant::now);
        if read == 0 {
            received.nanos = nanos(first.elapsed());
            break;
        }
        let payload = (kept + read).saturating_sub(REPORT_LEN);
        if spec.checked {
            digest.update(&buffer[..payload]);
        }
        received.bytes += payload as u64;
        buffer.copy_within(payload..kept + read, 0);
        kept = kept + read - payload;
    }
    if kept < REPORT_LEN {
        return Err(failed("receiving the report")(
            io::ErrorKind::UnexpectedEof.into(),
        ));
    }
    received.hash = if spec.checked { digest.value() } else { 0 };
    let sent = Report::decode(buffer[..REPORT_LEN].try_into().expect("exactly its length"));
    if received.bytes == sent.bytes {
        return Ok((sent, received));
    }
    let message = format!("{} bytes were sent and {} arrived", sent.bytes, received.bytes);
    Err(failed("comparing")(io::Error::other(message)))
}

/// Requests and responses, one after another on one connection.
///
/// # Errors
/// The connection broke.
pub fn rr(target: Target, spec: RrSpec) -> Result<Rr, ClientError> {
    let failed = |step| failing(step, target.address);
    let op = Op::RequestResponse {
        request: spec.request,
        response: spec.response,
    };
    let mut stream = target.open(0, op, &[])?;
    let request = vec![b'q'; spec.request as usize];
    let mut response = vec![0; spec.response as usize];
    let warm_up = spec.count / 10;
    let mut times = Vec::with_capacity(usize::try_from(spec.count).unwrap_or(0).min(1 << 24));
    let mut begun = None;
    for turn in 0..spec.count + warm_up {
        let asked = Instant::now();
        if turn == warm_up {
            begun = Some(asked);
        }
        if let (Some(begun), Some(time)) = (begun, spec.time)
            && asked.duration_since(begun) >= time
        {
            break;
        }
        stream.write_all(&request).map_err(failed("asking"))?;
        stream
            .read_exact(&mut response)
            .map_err(failed("waiting for the answer"))?;
        if turn >= warm_up {
            times.push(nanos(asked.elapsed()));
        }
    }
    Ok(Rr {
        count: times.len() as u64,
        latency: Latency::of(&mut times),
    })
}

/// The same while another connection streams to the server as fast as it can, for longer than `time`.
///
/// # Errors
/// Either connection broke.
pub fn rr_beside_stream(target: Target, spec: RrSpec, time: Duration) -> Result<Rr, ClientError> {
    let stream = StreamSpec {
        bytes: None,
        time: Some(time + time / 2 + Duration::from_secs(1)),
        rate: None,
        reverse: false,
        parallel: 1,
        checked: false,
    };
    let spec = RrSpec {
        time: Some(time),
        ..spec
    };
    thread::scope(|scope| {
        let streaming = scope.spawn(move || send(target, 1, stream));
        let found = rr(target, spec);
        streaming.join().expect("a load's thread doesn't panic")?;
        found
    })
}

/// Opens `count` connections, tells through `stage`, sends `requests` requests of 64 bytes on them, each on one chosen
/// at random, awaits each answer, tells once more, and closes them. What `stage` does in between isn't measured.
///
/// # Errors
/// A connection could not be opened, or broke.
pub fn turns(
    target: Target,
    count: u64,
    requests: u64,
    mut stage: impl FnMut(Stage),
) -> Result<Turns, ClientError> {
    const BYTES: usize = 64;
    let failed = |step| failing(step, target.address);
    let op = Op::RequestResponse {
        request: BYTES as u32,
        response: BYTES as u32,
    };
    let opened: Result<Vec<_>, _> = (0..count).map(|index| target.open(index, op, &[])).collect();
    let mut streams = opened?;
    let mut ask = |turn: usize| {
        let mut answer = [0; BYTES];
        let stream = &mut streams[turn];
        stream.write_all(&[b'q'; BYTES]).map_err(failed("asking"))?;
        stream
            .read_exact(&mut answer)
            .map_err(failed("waiting for the answer"))
    };
    // Every connection has carried something before it counts.
    (0..count as usize).try_for_each(&mut ask)?;
    stage(Stage::Opened);
    let before = packets_of_devices().map_err(failed("counting packets"))?;
    let mut turn = 1_u64;
    let mut times = Vec::new();
    for _ in 0..requests {
        // Xorshift: the same connections in every run.
        turn ^= turn << 13;
        turn ^= turn >> 7;
        turn ^= turn << 17;
        let asked = Instant::now();
        ask((turn % count) as usize)?;
        times.push(nanos(asked.elapsed()));
    }
    let after = packets_of_devices().map_err(failed("counting packets"))?;
    stage(Stage::Answered);
    Ok(Turns {
        count: requests,
        latency: Latency::of(&mut times),
        packets: after.saturating_sub(before),
    })
}

/// Opens connections, carries a byte each way on each and closes them, the client first.
///
/// # Errors
/// None of them succeeded; the first failure.
pub fn connect(target: Target, spec: ConnectSpec) -> Result<Connect, ClientError> {
    let begun = Instant::now();
    let parallel = spec.parallel.max(1) as u64;
    let share = spec.count.map_or(u64::MAX, |count| count.div_ceil(parallel));
    let results = on_threads(parallel, |thread| {
        let (mut connects, mut bytes, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 0..share {
            if spec.time.is_some_and(|time| begun.elapsed() >= time) {
                break;
            }
            let index = turn * parallel + thread;
            if let Some(rate) = spec.rate {
                let due = Duration::from_secs_f64(index as f64 / f64::from(rate.max(1)));
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            match open_and_close(target, index) {
                Ok((connect, byte)) => {
                    connects.push(nanos(connect));
                    bytes.push(nanos(byte));
                }
                Err(error) => errors.push(error),
            }
        }
        (connects, bytes, errors)
    });
    let elapsed = begun.elapsed().as_secs_f64();
    let (mut connects, mut bytes, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (connect, byte, error) in results {
        connects.extend(connect);
        bytes.extend(byte);
        errors.extend(error);
    }
    let (count, failed) = (connects.len() as u64, errors.len() as u64);
    let first = errors.into_iter().next();
    let first_failure = match (count, first) {
        (0, Some(first)) => return Err(first),
        (_, first) => first.map(|error| error.to_string()),
    };
    Ok(Connect {
        count,
        failed,
        first_failure,
        per_second: count as f64 / elapsed,
        connect: Latency::of(&mut connects),
        first_byte: Latency::of(&mut bytes),
    })
}

fn open_and_close(target: Target, index: u64) -> Result<(Duration, Duration), ClientError> {
    let address = target.nth(index);
    let failed = |step| failing(step, address);
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, STEP_LIMIT).map_err(failed("connecting"))?;
    let connected = begun.elapsed();
    prepare(&stream).map_err(failed("setting socket options"))?;
    let first = [Op::Echo.encode().as_slice(), b"x"].concat();
    stream.write_all(&first).map_err(failed("sending a byte"))?;
    stream.read_exact(&mut [0]).map_err(failed("reading a byte"))?;
    let answered = begun.elapsed();
    stream
        .shutdown(Shutdown::Write)
        .map_err(failed("sending the FIN"))?;
    match stream.read(&mut [0]).map_err(failed("waiting for the FIN"))? {
        0 => Ok((connected, answered)),
        _ => Err(failed("waiting for the FIN")(io::Error::other(
            "got a byte that nobody sent",
        ))),
    }
}

/// Opens connections, tells through `opened`, leaves them idle until `release` returns, then uses each again.
///
/// # Errors
/// A connection could not be opened.
pub fn idle(target: Target, count: usize, release: impl FnOnce(u64)) -> Result<Idle, ClientError> {
    let mut streams = Vec::with_capacity(count);
    for index in 0..count as u64 {
        let mut stream = target.open(index, Op::Echo, &[7])?;
        let failed = |source| ClientError {
            step: "reading the first byte",
            target: target.nth(index),
            source,
        };
        stream.read_exact(&mut [0]).map_err(failed)?;
        streams.push(stream);
    }
    release(count as u64);
    let mut usable = 0;
    for (index, stream) in streams.iter_mut().enumerate() {
        let sent = (index % 251) as u8;
        let mut got = [0];
        let carried = stream
            .write_all(&[sent])
            .and_then(|()| stream.read_exact(&mut got));
        usable += u64::from(carried.is_ok() && got == [sent]);
    }
    Ok(Idle {
        opened: count as u64,
        usable,
    })
}

/// Connections that are all busy at once; each gets back what it sent and compares.
///
/// # Errors
/// A connection could not be opened.
pub fn active(target: Target, spec: ActiveSpec) -> Result<Active, ClientError> {
    let mut streams = Vec::with_capacity(spec.count);
    for index in 0..spec.count as u64 {
        streams.push(target.open(index, Op::Echo, &[])?);
    }
    let start = Barrier::new(spec.count);
    let correct = thread::scope(|scope| {
        let mut threads = Vec::with_capacity(spec.count);
        for (index, stream) in streams.into_iter().enumerate() {
            let start = &start;
            let work = move || {
                start.wait();
                echoed(stream, index as u64, spec.bytes)
            };
            let spawned = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
            // If not, the others wait at the barrier until the tool's own limit ends it.
            threads.push(spawned.expect("a thread can be started"));
        }
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok()?.ok())
            .filter(|same| *same)
            .count()
    });
    Ok(Active {
        opened: spec.count as u64,
        correct: correct as u64,
        bytes: (correct * spec.bytes) as u64,
    })
}

fn echoed(mut stream: TcpStream, seed: u64, bytes: usize) -> io::Result<bool> {
    let (mut sent, mut got) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let mut offset = 0;
    while offset < bytes {
        let chunk = sent.len().min(bytes - offset);
        Pattern::new(seed).fill(offset as u64, &mut sent[..chunk]);
        stream.write_all(&sent[..chunk])?;
        stream.read_exact(&mut got[..chunk])?;
        if sent[..chunk] != got[..chunk] {
            return Ok(false);
        }
        offset += chunk;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(stream.read(&mut got)? == 0)
}

/// Opens connections whose server sends and whose client doesn't read, until `release` returns.
///
/// # Errors
/// A connection could not be opened.
pub fn stall(target: Target, count: usize, release: impl FnOnce(u64)) -> Result<(), ClientError> {
    let op = Op::Source {
        bytes: u64::MAX,
        checked: false,
    };
    let streams: Result<Vec<_>, _> = (0..count as u64)
        .map(|index| target.open(index, op, &[]))
        .collect();
    let streams = streams?;
    release(count as u64);
    drop(streams);
    Ok(())
}

/// Opens one connection and finds out how it ends.
pub fn end(target: Target, spec: EndSpec) -> Ended {
    let mut received = 0;
    let (end, error) = match run_to_end(target, spec, &mut received) {
        Ok(()) => (End::Fin, None),
        Err(error) => (of_client(&error), Some(error.to_string())),
    };
    Ended { end, received, error }
}

fn of_client(error: &ClientError) -> End {
    match (error.step, error.source.kind()) {
        ("connecting", io::ErrorKind::ConnectionRefused) => End::ConnectRefused,
        ("connecting", io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            End::ConnectUnreachable
        }
        ("connecting", io::ErrorKind::TimedOut) => End::ConnectTimedOut,
        _ => End::of_io(&error.source),
    }
}

fn run_to_end(target: Target, spec: EndSpec, received: &mut u64) -> Result<(), ClientError> {
    let failed = |step| failing(step, target.address);
    let mut stream = target.open(0, spec.op, &[])?;
    source(&mut stream, SourceSpec::new(Some(spec.send), None, false)).map_err(failed("sending"))?;
    if spec.reset {
        // Not before everything has arrived: a reset may overtake what is under way.
        let mut rest = vec![0; CHUNK];
        while *received < spec.send {
            match stream.read(&mut rest).map_err(failed("receiving the echo"))? {
                0 => return Err(failed("receiving the echo")(io::ErrorKind::UnexpectedEof.into())),
                read => *received += read as u64,
            }
        }
        return reset(&stream).map_err(failed("resetting"));
    }
    if spec.send > 0 {
        stream
            .shutdown(Shutdown::Write)
            .map_err(failed("sending the FIN"))?;
    }
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer).map_err(failed("receiving"))? {
            0 => return Ok(()),
            read => *received += read as u64,
        }
        if spec.op == (Op::Reset { bytes: *received }) {
            stream
                .write_all(&[0])
                .map_err(failed("saying that all has arrived"))?;
        }
    }
}

/// The client's own address as the server sees it.
///
/// # Errors
/// The connection failed or the answer isn't an address.
pub fn who(target: Target) -> Result<SocketAddr, ClientError> {
    let failed = |step| failing(step, target.address);
    let mut stream = target.open(0, Op::Who, &[])?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .map_err(failed("reading the address"))?;
    text.parse()
        .map_err(|_| failed("parsing the address")(io::Error::other(format!("got {text:?}"))))
}

/// Waits for a line or the end of standard input, but no longer than `limit`.
pub fn wait_for_stdin(limit: Duration) {
    let (told, wait) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let _ = io::stdin().lock().read_line(&mut String::new());
        let _ = told.send(());
    });
    let _ = wait.recv_timeout(limit);
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.step, self.target, self.source)
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
