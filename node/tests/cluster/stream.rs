//! A TCP connection that carries numbered bytes both ways until it is told to end, and checks every one.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::pod::Pod;
use crate::world::eventually;

/// The port of every server here.
pub(crate) const PORT: u16 = 8080;

/// How long a read or a write may stand still.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes a piece. A prime, so that no piece looks like the next.
const PIECE: usize = 4093;

/// Bytes an end sends at most: bounded, should a test forget it.
const MOST: u64 = 4 << 30;

/// One connection, both of whose ends are here.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    /// Bytes received by the pod, and by the node.
    received: [Arc<AtomicU64>; 2],
    threads: Vec<JoinHandle<u64>>,
}

impl Stream {
    /// Connects from the node to a server in the pod.
    pub(crate) fn to_pod(pod: &Pod, address: IpAddr) -> Self {
        let listener = pod.inside(|| TcpListener::bind((address, PORT)).unwrap());
        let node = TcpStream::connect((address, PORT)).unwrap();
        let (inside, _) = listener.accept().unwrap();
        Self::run(inside, node)
    }

    /// Connects from the pod to a server on the node.
    pub(crate) fn from_pod(pod: &Pod, gateway: &str) -> Self {
        let address = SocketAddr::new(gateway.parse().unwrap(), 0);
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let inside = pod.inside(|| TcpStream::connect(address).unwrap());
        let (node, _) = listener.accept().unwrap();
        Self::run(inside, node)
    }

    fn run(inside: TcpStream, node: TcpStream) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let received = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let mut threads = Vec::new();
        for (end, count) in [inside, node].into_iter().zip(&received) {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            end.set_write_timeout(Some(PATIENCE)).unwrap();
            let (writer, stop, count) = (end.try_clone().unwrap(), Arc::clone(&stop), Arc::clone(count));
            threads.push(std::thread::spawn(move || write(writer, &stop)));
            threads.push(std::thread::spawn(move || read(end, &count)));
        }
        Self {
            stop,
            received,
            threads,
        }
    }

    /// Waits until both ends have received some more.
    pub(crate) fn flows(&self) -> bool {
        let before = self.bytes();
        eventually(|| {
            let now = self.bytes();
            now.iter()
                .zip(before)
                .all(|(now, before)| *now >= before + 200_000)
        })
    }

    fn bytes(&self) -> [u64; 2] {
        [0, 1].map(|end| self.received[end].load(Ordering::Relaxed))
    }

    /// Ends both directions and checks that all that was sent has come.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let totals = self.threads.into_iter().map(|thread| thread.join().unwrap());
        let totals = totals.collect::<Vec<_>>();
        let [sent_inside, got_inside, sent_node, got_node] = totals[..] else {
            panic!("{totals:?}");
        };
        assert_eq!((sent_inside, sent_node), (got_node, got_inside));
    }
}

/// The byte at a place of every stream.
fn byte_at(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn write(mut end: TcpStream, stop: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) && sent < MOST {
        let piece = (sent..sent + PIECE as u64).map(byte_at).collect::<Vec<_>>();
        end.write_all(&piece).unwrap();
        sent += PIECE as u64;
        // Some megabytes a second: the streams are to last, not to keep the machine busy.
        std::thread::sleep(Duration::from_micros(500));
    }
    end.shutdown(std::net::Shutdown::Write).unwrap();
    sent
}

fn read(mut end: TcpStream, count: &AtomicU64) -> u64 {
    let (mut got, mut buffer) = (0, vec![0; 64 * 1024]);
    loop {
        let len = match end.read(&mut buffer) {
            // With a timeout set, being stopped and continued is an interruption.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.unwrap(),
        };
        if len == 0 {
            return got;
        }
        for byte in &buffer[..len] {
            assert_eq!(*byte, byte_at(got), "byte {got}");
            got += 1;
        }
        count.store(got, Ordering::Relaxed);
    }
}
