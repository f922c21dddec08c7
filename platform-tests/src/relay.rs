//! A TCP relay between two agents that looks at every byte: is it TLS, and does it hide what it should?

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::procfs::contains;

/// What passed through a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections.
    pub connections: u64,
    /// Bytes, both ways.
    pub bytes: u64,
    /// TLS records, both ways.
    pub records: u64,
    /// Bytes that aren't a TLS record's header where one must be.
    pub violations: Vec<String>,
    /// How often the marker was seen.
    pub markers: u64,
}

/// A running relay. Its threads end with their connections and with the process.
#[derive(Debug)]
pub struct RecordingRelay {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

/// Follows one direction of one connection (RFC 8446 section 5.1).
#[derive(Debug, Default)]
struct Records {
    header: Vec<u8>,
    left: usize,
    lost: bool,
}

impl RecordingRelay {
    /// Relays from a free port of the loopback address to `to`, and looks for `marker`.
    ///
    /// # Panics
    /// If it can't listen.
    #[track_caller]
    pub fn start(to: SocketAddr, marker: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback address has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let relay = Self {
            address,
            seen: Arc::default(),
            open: Arc::default(),
        };
        let (seen, open, marker) = (
            Arc::clone(&relay.seen),
            Arc::clone(&relay.open),
            Arc::<[u8]>::from(marker),
        );
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(to) else {
                    continue;
                };
                lock(&seen).connections += 1;
                let pairs = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
                for pair in pairs {
                    let (Ok(from), Ok(to)) = pair else { continue };
                    let _ = from.set_nodelay(true);
                    lock(&open).extend(from.try_clone());
                    let (seen, marker) = (Arc::clone(&seen), Arc::clone(&marker));
                    thread::spawn(move || copy(from, to, &seen, &marker));
                }
            }
        });
        relay
    }

    /// What passed so far.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Cuts every connection that is open, as a lost path would.
    pub fn cut(&self) {
        for stream in lock(&self.open).drain(..) {
            let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Seen>, marker: &[u8]) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut records = Records::default();
    let mut before = Vec::new();
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return to.shutdown(Shutdown::Write),
            Ok(read) => read,
            Err(error) => {
                let _ = to.shutdown(Shutdown::Both);
                return Err(error);
            }
        };
        let bytes = &buffer[..read];
        let found = records.follow(bytes);
        // The marker may lie across two reads.
        before.extend_from_slice(bytes);
        let marked = !marker.is_empty() && contains(&before, marker);
        let keep = before.len().saturating_sub(marker.len().saturating_sub(1));
        before.drain(..keep);
        {
            let mut seen = lock(seen);
            seen.bytes += read as u64;
            seen.markers += u64::from(marked);
            seen.records += found.as_ref().copied().unwrap_or_default();
            seen.violations.extend(found.err());
        }
        to.write_all(bytes)?;
    }
}

impl Records {
    /// Takes the next bytes; says how many records began in them.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<u64, String> {
        const HEADER: usize = 5;
        const LONGEST: usize = (1 << 14) + 256;
        let mut begun = 0;
        while !bytes.is_empty() && !self.lost {
            let skip = self.left.min(bytes.len());
            self.left -= skip;
            bytes = &bytes[skip..];
            let take = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            let [kind, major, _minor, high, low] = *self.header.as_slice() else {
                continue;
            };
            self.left = usize::from(high) << 8 | usize::from(low);
            // change_cipher_spec, alert, handshake, application_data
            if !(20..=23).contains(&kind) || major != 3 || self.left > LONGEST {
                self.lost = true;
                return Err(format!(
                    "expected a TLS record's header, got {:02x?}",
                    self.header
                ));
            }
            self.header.clear();
            begun += 1;
        }
        Ok(begun)
    }
}

/// Where [`free_port`] looks: below Linux's ephemeral ports, so no connection and no listener on port 0 has one of these by chance.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port of the loopback address that nobody has at the moment, TCP and UDP, and that this process hasn't been given before.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let size = u32::from(PORTS.end - PORTS.start);
    // Processes that run at the same time begin apart from each other.
    let first = std::process::id().wrapping_mul(97) % size;
    loop {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        assert!(
            taken < size,
            "none of the loopback address' ports {PORTS:?} is free"
        );
        let port = PORTS.start + u16::try_from((first + taken) % size).expect("below the range's size");
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn records_are_followed_however_they_are_cut() {
        let stream = [
            &[22, 3, 1, 0, 3, 9, 9, 9][..],
            &[23, 3, 3, 0, 1, 7],
            &[20, 3, 3, 0, 0],
        ]
        .concat();
        for size in 1..=stream.len() {
            let mut records = Records::default();
            let begun: u64 = stream
                .chunks(size)
                .map(|chunk| records.follow(chunk).unwrap())
                .sum();
            assert_eq!(begun, 3, "in chunks of {size}");
        }
    }

    #[test]
    fn no_port_is_given_twice() {
        let given: BTreeSet<u16> = (0..200).map(|_| free_port()).collect();
        assert_eq!(given.len(), 200);
        assert!(given.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn plain_bytes_are_a_violation_once() {
        let mut records = Records::default();
        assert!(records.follow(b"GET / HTTP/1.1").is_err());
        assert_eq!(records.follow(b"Host: x"), Ok(0));
    }
}
