//! Bulk throughput of one tunnel: TLS, HTTP/2 and flow control on both sides, over an in-memory pipe.
//!
//! The two ends run on a thread each, as two workers of an agent do. The bytes go one way; a round ends when the
//! last of them was read at the far end. `cargo bench -p adit-tunnel --bench bulk`.
//!
//! Where a byte goes: encrypted into a record (copied before only where it doesn't fill one), copied into the pipe (or a
//! socket), out of it into the read buffer, decrypted into h2's frame buffer; the application gets a slice of that.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use adit_identity::{CertificateAuthority, PeerIdentity, SpiffeId};
use adit_tunnel::{
    Connect, Credentials, Destination, Dial, Drainer, Endpoint, Handler, HeadError, Incoming, Pool,
    PoolConfig, SendHalf, TunnelConfig, serve,
};
use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, bench};
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

fn main() {
    divan::main();
}

const KIB: usize = 1 << 10;
/// Sent in one round, by all streams together.
const ROUND: usize = 256 << 20;
/// What the relay hands over at once: a super-packet of the pod's side.
const CHUNK: usize = 64 * KIB;

/// (streams, max_frame)
const CASES: [(usize, usize); 6] = [
    (1, 16 * KIB),
    (1, 64 * KIB),
    (1, 256 * KIB),
    (8, 16 * KIB),
    (8, 64 * KIB),
    (8, 256 * KIB),
];

#[bench(args = CASES, sample_count = 5, sample_size = 1)]
fn one_way(bencher: Bencher<'_, '_>, (streams, max_frame): (usize, usize)) {
    let mut ends = Ends::new(streams, max_frame);
    bencher
        .counter(BytesCount::new(ROUND))
        .bench_local(|| ends.round());
}

struct Ends {
    runtime: Runtime,
    pool: Pool<Pipe>,
    senders: Vec<SendHalf>,
    received: watch::Receiver<u64>,
    goal: u64,
}

impl Ends {
    fn new(streams: usize, max_frame: usize) -> Self {
        let ca = CertificateAuthority::new("demo.local".parse().unwrap(), SystemTime::now()).unwrap();
        let bundle = Arc::new(ca.bundle().clone());
        let credentials = |name: &str| {
            let id: SpiffeId = format!("spiffe://demo.local/ns/shop/sa/{name}").parse().unwrap();
            let svid = ca
                .issue(&id, SystemTime::now(), Duration::from_secs(3600))
                .unwrap();
            Arc::new(Credentials::new(&svid, Arc::clone(&bundle)).unwrap())
        };
        let tunnel = TunnelConfig {
            max_frame: max_frame as u32,
            ..TunnelConfig::default()
        };
        let (ours, theirs) = tokio::io::duplex(256 * KIB);
        let (report, received) = watch::channel(0);
        let sink = Sink {
            credentials: credentials("web"),
            total: Arc::default(),
            report: Arc::new(report),
        };
        spawn_server(theirs, tunnel.clone(), sink);

        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let client = credentials("curl");
        let address = "10.0.0.2:80".parse().unwrap();
        let destination = Destination {
            source: client.id().clone(),
            expected: "spiffe://demo.local/ns/shop/sa/web".parse().unwrap(),
            target: Endpoint::InProcess(address),
            server_name: None,
        };
        let pool = Pool::new(
            PoolConfig {
                tunnel,
                ..PoolConfig::default()
            },
            Pipe(Mutex::new(Some(ours))),
        );
        let senders = runtime.block_on(async {
            let mut senders = Vec::new();
            for _ in 0..streams {
                let connect = Connect::new(address, "10.0.0.1:1".parse().unwrap());
                let (send, recv) = pool.open(&destination, &client, &connect).await.unwrap().split();
                // Never read: the sink sends nothing. Kept from resetting the stream by being leaked.
                std::mem::forget(recv);
                senders.push(send);
            }
            senders
        });
        Self {
            runtime,
            pool,
            senders,
            received,
            goal: 0,
        }
    }

    fn round(&mut self) {
        self.goal += ROUND as u64;
        let (goal, share) = (self.goal, ROUND / self.senders.len());
        let chunk = Bytes::from(vec![0xa5; CHUNK]);
        self.runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for mut send in self.senders.drain(..) {
                let chunk = chunk.clone();
                tasks.spawn(async move {
                    let mut left = share;
                    while left > 0 {
                        let part = send.ready().await.unwrap().min(left).min(CHUNK);
                        send.send(chunk.slice(..part)).unwrap();
                        left -= part;
                    }
                    send
                });
            }
            self.senders = tasks.join_all().await;
            self.received
                .wait_for(|received| *received >= goal)
                .await
                .unwrap();
        });
        assert_eq!(self.pool.stats().tunnels, 1);
    }
}

fn spawn_server(io: DuplexStream, config: TunnelConfig, mut sink: Sink) {
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (_drainer, drain) = Drainer::new();
        // Ends when the client's side is dropped.
        let _ = runtime.block_on(serve(io, &config, drain, &mut sink));
    });
}

struct Sink {
    credentials: Arc<Credentials>,
    total: Arc<AtomicU64>,
    report: Arc<watch::Sender<u64>>,
}

impl Handler for Sink {
    fn credentials(&mut self, _: Option<&str>) -> Option<Arc<Credentials>> {
        Some(Arc::clone(&self.credentials))
    }

    fn on_incoming(&mut self, incoming: Incoming) {
        let (total, report) = (Arc::clone(&self.total), Arc::clone(&self.report));
        tokio::spawn(async move {
            let (_send, mut recv) = incoming.accept().unwrap().split();
            while let Ok(Some(bytes)) = recv.data().await {
                recv.release(bytes.len());
                let total = total.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
                if total.is_multiple_of(ROUND as u64) {
                    report.send_replace(total);
                }
            }
        });
    }

    fn on_bad_head(&mut self, _: &PeerIdentity, error: HeadError) {
        panic!("{error}");
    }
}

/// A pipe that is there already.
struct Pipe(Mutex<Option<DuplexStream>>);

impl Dial for Pipe {
    type Io = DuplexStream;

    async fn dial(&self, _: &Destination) -> io::Result<DuplexStream> {
        self.0
            .lock()
            .unwrap()
            .take()
            .ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }
}
