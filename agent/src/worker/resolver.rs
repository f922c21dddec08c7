//! DNS for pods: names of the mesh are answered here, all others by the user's own resolvers.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use adit_control::Snapshot;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::dns::{Answer, Transport, answer};

/// How long one resolver may take before the next is asked: glibc's own default is 5 s in all.
const RESOLVER_TIMEOUT: Duration = Duration::from_millis(2_000);

/// Queries under way at the user's resolvers, for all pods of a worker. Past it, clients are told SERVFAIL.
const FORWARDS_LIMIT: usize = 512;

/// How long what `/etc/resolv.conf` said is believed.
const RESOLV_CONF_AGE: Duration = Duration::from_secs(5);

/// The longest answer over UDP that is read (RFC 6891 leaves 64 KiB; a DNS message has no more).
const MESSAGE_LIMIT: usize = 65_535;

/// The resolver of a worker.
#[derive(Default)]
pub(crate) struct Resolver {
    upstream: RefCell<Upstream>,
    forwards: Cell<usize>,
}

#[derive(Default)]
struct Upstream {
    servers: Vec<SocketAddr>,
    read_at: Option<Instant>,
}

/// Counts a query under way, even when its task is dropped.
struct Forwarding<'a>(&'a Cell<usize>);

impl Resolver {
    /// The answer to one query of a pod in `namespace`; `None` where the query deserves none.
    pub(crate) async fn resolve(
        &self,
        query: &[u8],
        snapshot: &Snapshot,
        namespace: &str,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        match answer(query, snapshot, namespace, transport) {
            Answer::Reply(reply) => Some(reply),
            Answer::Drop(reason) => {
                tracing::debug!(%reason, "a DNS query was dropped");
                None
            }
            Answer::Forward => Some(match self.forward(query, transport).await {
                Ok(reply) => reply,
                Err(error) => {
                    tracing::debug!(%error, "no resolver of the user's answered");
                    server_failure(query)?
                }
            }),
        }
    }

    async fn forward(&self, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
        let _forwarding = Forwarding::new(&self.forwards)
            .ok_or_else(|| io::Error::new(io::ErrorKind::QuotaExceeded, "too many queries under way"))?;
        let servers = self.upstream.borrow_mut().servers();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no nameserver in /etc/resolv.conf");
        for server in servers {
            let asked = match transport {
                Transport::Udp => timeout(RESOLVER_TIMEOUT, ask_udp(server, query)).await,
                Transport::Tcp => timeout(RESOLVER_TIMEOUT, ask_tcp(server, query)).await,
            };
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(reply) => return Ok(reply),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut reply = vec![0; MESSAGE_LIMIT];
    loop {
        let length = socket.recv(&mut reply).await?;
        // Another id is another query's late answer, or a guess (RFC 5452 §9.1).
        if length >= 2 && reply[..2] == query[..2] {
            reply.truncate(length);
            return Ok(reply);
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(server).await?;
    socket.write_all(&framed(query)).await?;
    let length = socket.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    socket.read_exact(&mut reply).await?;
    Ok(reply)
}

/// A message with its length before it, as DNS over TCP carries it. A message is at most 65,535 bytes.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a DNS message fits its own length field");
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// The query turned into the answer SERVFAIL (RFC 1035 §4.1.1); `None` if it's shorter than a header.
fn server_failure(query: &[u8]) -> Option<Vec<u8>> {
    const QR: u8 = 0x80;
    const RA_SERVFAIL: u8 = 0x82;
    let mut reply = query.to_vec();
    *reply.get_mut(2)? |= QR;
    *reply.get_mut(3)? = RA_SERVFAIL;
    Some(reply)
}

impl Upstream {
    fn servers(&mut self) -> Vec<SocketAddr> {
        if self.read_at.is_none_or(|at| at.elapsed() > RESOLV_CONF_AGE) {
            // A missing file means no resolver, which the caller reports per query.
            self.servers = nameservers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
            self.read_at = Some(Instant::now());
        }
        self.servers.clone()
    }
}

/// The `nameserver` lines of a resolv.conf(5), the first three as the C library takes them.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next()?.parse::<IpAddr>().ok())
            .flatten()
    });
    addresses
        .take(3)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

impl<'a> Forwarding<'a> {
    fn new(count: &'a Cell<usize>) -> Option<Self> {
        if count.get() >= FORWARDS_LIMIT {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self(count))
    }
}

impl Drop for Forwarding<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_as_the_c_library_reads_them() {
        let text = "# a comment\nsearch example\nnameserver 192.0.2.1\nnameserver  2001:db8::1 \nnameserver bad\n\
                    nameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let expected: Vec<SocketAddr> = ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(nameservers(text), expected);
    }

    #[test]
    fn a_server_failure_keeps_id_and_question() {
        let query = [
            0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1,
        ];
        let reply = server_failure(&query).unwrap();
        assert_eq!((&reply[..2], reply[2], reply[3]), (&query[..2], 0x81, 0x82));
        assert_eq!(reply[4..], query[4..]);
        assert_eq!(server_failure(&[0, 1, 2]), None);
    }
}
