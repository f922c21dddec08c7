//! A look at every port of an address, as a port scanner has it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::client::on_threads;

/// After this a port counts as silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which ports to look at.
#[derive(Clone, Copy, Debug)]
pub struct ScanSpec {
    /// Whose.
    pub host: IpAddr,
    /// The first.
    pub first: u16,
    /// The last; it's looked at too.
    pub last: u16,
    /// How many threads do it; at least 1.
    pub parallel: u64,
    /// Attempts a second, all threads together; as many as come about if unset.
    pub rate: Option<u64>,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Ports that took a connection, in order.
    pub open: Vec<u16>,
    /// How many refused it.
    pub refused: u64,
    /// How many said nothing within two seconds.
    pub silent: u64,
    /// How many failed otherwise.
    pub failed: u64,
}

/// Connects to every port of the range, and closes again.
pub fn scan(spec: ScanSpec) -> Scan {
    let begun = Instant::now();
    let parts = on_threads(spec.parallel.max(1), |thread| {
        let mut found = Scan::default();
        let ports = (spec.first..=spec.last).zip(0_u64..);
        for (port, index) in ports.filter(|(_, index)| index % spec.parallel.max(1) == thread) {
            if let Some(rate) = spec.rate {
                let due = Duration::from_secs_f64(index as f64 / rate.max(1) as f64);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            found.look_at(SocketAddr::new(spec.host, port));
        }
        found
    });
    let mut all = parts.into_iter().fold(Scan::default(), Scan::with);
    all.open.sort_unstable();
    all
}

impl Scan {
    fn look_at(&mut self, address: SocketAddr) {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => self.open.push(address.port()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.refused += 1,
            Err(error) if error.kind() == ErrorKind::TimedOut => self.silent += 1,
            Err(_) => self.failed += 1,
        }
    }

    fn with(mut self, other: Self) -> Self {
        self.open.extend(other.open);
        self.refused += other.refused;
        self.silent += other.silent;
        self.failed += other.failed;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn finds_the_one_that_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        // The ports around it may be taken by others: only this one is known.
        let found = scan(ScanSpec {
            host: IpAddr::from([127, 0, 0, 1]),
            first: port,
            last: port,
            parallel: 4,
            rate: Some(1000),
        });
        let expected = Scan {
            open: vec![port],
            ..Scan::default()
        };
        assert_eq!(found, expected);
        drop(listener);
        let closed = scan(ScanSpec {
            host: IpAddr::from([127, 0, 0, 1]),
            first: port,
            last: port,
            parallel: 1,
            rate: None,
        });
        assert_eq!((closed.open.len(), closed.refused), (0, 1));
    }
}
