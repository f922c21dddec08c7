//! Readiness: what one check found, and what a row of them means.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use adit_control::Probe;

/// Turns check after check into ready or not. Pure.
#[derive(Debug)]
pub(super) struct Readiness {
    success_threshold: u32,
    failure_threshold: u32,
    passed: u32,
    failed: u32,
    ready: bool,
}

impl Readiness {
    /// Not ready, with the thresholds of `probe`.
    pub(super) fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold,
            failure_threshold: probe.failure_threshold,
            passed: 0,
            failed: 0,
            ready: false,
        }
    }

    /// Takes what a check found; `Some` when that changed anything.
    pub(super) fn on_check(&mut self, passed: bool) -> Option<bool> {
        let (row, other) = if passed {
            (&mut self.passed, &mut self.failed)
        } else {
            (&mut self.failed, &mut self.passed)
        };
        *row = row.saturating_add(1);
        *other = 0;
        let ready = match passed {
            true => self.ready || self.passed >= self.success_threshold,
            false => self.ready && self.failed < self.failure_threshold,
        };
        let changed = ready != self.ready;
        self.ready = ready;
        changed.then_some(ready)
    }
}

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// No connection.
    #[error("connecting to {address}: {source}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The connection broke, or nothing came in time.
    #[error("asking {address}: {source}")]
    Ask {
        /// Whom.
        address: SocketAddr,
        /// What happened.
        source: std::io::Error,
    },
    /// Not HTTP.
    #[error("{address} answered with something that is no HTTP status line: {got:?}")]
    NotHttp {
        /// Who.
        address: SocketAddr,
        /// The beginning of it.
        got: String,
    },
    /// A status outside 200 to 399.
    #[error("{address} answered with status {status}, expected 200 to 399")]
    Status {
        /// Who.
        address: SocketAddr,
        /// The status.
        status: u16,
    },
}

/// Opens a TCP connection. Blocks for `timeout` at most. To be run in the pod's network namespace.
///
/// # Errors
/// [`CheckError::Connect`].
pub fn check_tcp(address: SocketAddr, timeout: Duration) -> Result<(), CheckError> {
    connect(address, timeout).map(drop)
}

/// Sends an HTTP/1.1 GET for `path` and reads the status line. Blocks for about `timeout` at most. To be run in the
/// pod's network namespace.
///
/// # Errors
/// No connection, no status line in time, or a status outside 200 to 399.
pub fn check_http(address: SocketAddr, path: &str, timeout: Duration) -> Result<(), CheckError> {
    let end = Instant::now() + timeout;
    let mut stream = connect(address, timeout)?;
    let ask = |source| CheckError::Ask { address, source };
    let host = match address.ip() {
        IpAddr::V4(ip) => format!("{ip}:{}", address.port()),
        IpAddr::V6(ip) => format!("[{ip}]:{}", address.port()),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: adit-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(ask)?;
    let mut head = Vec::new();
    while !head.contains(&b'\n') && head.len() < STATUS_LINE_LIMIT {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ask(std::io::ErrorKind::TimedOut.into()));
        }
        stream.set_read_timeout(Some(left)).map_err(ask)?;
        let mut chunk = [0; 512];
        match stream.read(&mut chunk).map_err(ask)? {
            0 => break,
            count => head.extend_from_slice(&chunk[..count]),
        }
    }
    match status(&head) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(CheckError::Status { address, status }),
        None => {
            head.truncate(80);
            Err(CheckError::NotHttp {
                address,
                got: String::from_utf8_lossy(&head).into_owned(),
            })
        }
    }
}

fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream, CheckError> {
    let failed = |source| CheckError::Connect { address, source };
    let stream = TcpStream::connect_timeout(&address, timeout).map_err(failed)?;
    stream.set_write_timeout(Some(timeout)).map_err(failed)?;
    Ok(stream)
}

/// The status of a response that begins with `head` (RFC 9112, section 4).
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|&byte| byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let rest = line.strip_prefix("HTTP/1.")?.get(1..)?.strip_prefix(' ')?;
    let code = rest.split(' ').next()?;
    (code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit())).then(|| code.parse().ok())?
}

/// The most bytes that a status line may have.
const STATUS_LINE_LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use adit_control::ProbeAction;
    use proptest::prelude::*;

    use super::*;

    fn probe(success_threshold: u32, failure_threshold: u32) -> Probe {
        Probe {
            action: ProbeAction::TcpSocket { port: 1 },
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            success_threshold,
            failure_threshold,
        }
    }

    #[test]
    fn thresholds_count_checks_in_a_row() {
        let mut readiness = Readiness::new(&probe(2, 3));
        let checks = [
            false, true, false, true, true, false, false, true, false, false, false, true, true,
        ];
        let changes: Vec<_> = checks.iter().map(|&passed| readiness.on_check(passed)).collect();
        let none = None::<bool>;
        assert_eq!(
            changes,
            [
                none,
                none,
                none,
                none,
                Some(true),
                none,
                none,
                none,
                none,
                none,
                Some(false),
                none,
                Some(true)
            ]
        );
    }

    #[test]
    fn status_lines_are_read_as_the_rfc_has_them() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nServer: x\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 404\r\n"), Some(404));
        for bad in [
            "",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/2 200",
            "HTTP/1.1",
            "HTTP/1.1 +12 x",
        ] {
            assert_eq!(status(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn http_checks_judge_the_status() {
        for (answer, passes) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 302 Found\r\n\r\n", true),
            ("HTTP/1.1 500 Oops\r\n\r\n", false),
            ("220 mail ready\r\n", false),
            ("", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let count = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&request[..count]).into_owned()
            });
            let result = check_http(address, "/healthz?x=1", Duration::from_secs(30));
            assert_eq!(result.is_ok(), passes, "{answer:?}: {result:?}");
            let request = server.join().unwrap();
            assert!(
                request.starts_with("GET /healthz?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"),
                "{request}"
            );
        }
    }

    #[test]
    fn nobody_listening_fails_the_check() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(
            check_tcp(address, Duration::from_secs(30)),
            Err(CheckError::Connect { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_head_is_a_status_or_none(head in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = status(&head);
        }
    }
}
