//! The endpoint: few connections, for a short time each.
//!
//! Whoever reaches the pod may ask, so nothing here is worth much: a connection over the limit costs the oldest its place,
//! not the newest, since otherwise who holds them all keeps the kubelet's probes out, and the agent would be killed for it.
//! Samples are taken once a second at most, however often they are asked for.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Subject, exposition};

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a request may take to come, and how long a connection may last.
const HEAD: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(60);
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// How long samples are good for.
const FRESH: Duration = Duration::from_secs(1);
/// Before another connection is taken when one could not be.
const PAUSE: Duration = Duration::from_millis(100);

struct Endpoint<S> {
    subject: S,
    sampled: Mutex<Option<(Instant, Bytes)>>,
    evicted: AtomicU64,
}

/// Answers on `listener` for as long as the process runs.
pub(crate) async fn serve(listener: TcpListener, subject: impl Subject) {
    let endpoint = Arc::new(Endpoint {
        subject,
        sampled: Mutex::default(),
        evicted: AtomicU64::new(0),
    });
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, most likely.
            sleep(PAUSE).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            endpoint.evicted.fetch_add(1, Ordering::Relaxed);
        }
        open.push_back(tokio::spawn(connection(socket, Arc::clone(&endpoint))));
    }
}

async fn connection<S: Subject>(socket: TcpStream, endpoint: Arc<Endpoint<S>>) {
    let answer = service_fn(move |request| {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok::<_, Infallible>(endpoint.answer(&request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(socket), answer);
    // Whoever speaks no HTTP, or goes away, is nobody to tell of.
    let _ = timeout(CONNECTION, serving).await;
}

impl<S: Subject> Endpoint<S> {
    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".into());
            refused
                .headers_mut()
                .insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.samples().await);
                response.headers_mut().insert(
                    CONTENT_TYPE,
                    http::HeaderValue::from_static(exposition::CONTENT_TYPE),
                );
                response
            }
            "/healthz/live" => verdict(self.subject.live()),
            "/healthz/ready" => verdict(self.subject.ready()),
            _ => text(
                StatusCode::NOT_FOUND,
                "/metrics, /healthz/live or /healthz/ready\n".into(),
            ),
        }
    }

    async fn samples(&self) -> Bytes {
        let mut sampled = self.sampled.lock().await;
        if let Some((at, samples)) = &*sampled
            && at.elapsed() < FRESH
        {
            return samples.clone();
        }
        let mut all = self.subject.metrics().await;
        all.add("ready", &[], f64::from(u8::from(self.subject.ready().is_ok())));
        let evicted = self.evicted.load(Ordering::Relaxed);
        all.add("http_connections_evicted_total", &[], evicted as f64);
        let samples = Bytes::from(all.render());
        *sampled = Some((Instant::now(), samples.clone()));
        samples
    }
}

fn verdict(outcome: Result<(), String>) -> Response<Full<Bytes>> {
    match outcome {
        Ok(()) => text(StatusCode::OK, "ok\n".into()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n").into()),
    }
}

fn text(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::metrics::Exposition;

    #[derive(Clone, Default)]
    struct Answers {
        unready: Arc<AtomicBool>,
        sampled: Arc<AtomicU64>,
    }

    impl Subject for Answers {
        async fn metrics(&self) -> Exposition {
            self.sampled.fetch_add(1, Ordering::Relaxed);
            Exposition::new()
        }

        fn live(&self) -> Result<(), String> {
            Ok(())
        }

        fn ready(&self) -> Result<(), String> {
            match self.unready.load(Ordering::Relaxed) {
                false => Ok(()),
                true => Err("no mesh yet".to_owned()),
            }
        }
    }

    async fn started(subject: Answers) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, subject));
        address
    }

    async fn ask(address: std::net::SocketAddr, line: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn each_path_has_its_answer() {
        let subject = Answers::default();
        let address = started(subject.clone()).await;
        let metrics = ask(address, "GET /metrics").await;
        assert!(
            metrics.contains("content-type: text/plain; version=0.0.4"),
            "{metrics}"
        );
        assert!(metrics.contains("adit_build_info{version=") && metrics.contains("\nadit_ready 1\n"));
        ask(address, "GET /metrics").await;
        assert_eq!(
            subject.sampled.load(Ordering::Relaxed),
            1,
            "once a second at most"
        );
        let live = ask(address, "GET /healthz/live").await;
        assert!(
            live.starts_with("HTTP/1.1 200") && live.ends_with("\r\n\r\nok\n"),
            "{live}"
        );
        assert!(
            ask(address, "GET /healthz/ready")
                .await
                .starts_with("HTTP/1.1 200")
        );
        subject.unready.store(true, Ordering::Relaxed);
        let unready = ask(address, "GET /healthz/ready").await;
        assert!(
            unready.starts_with("HTTP/1.1 503") && unready.ends_with("no mesh yet\n"),
            "{unready}"
        );
        assert!(ask(address, "GET /elsewhere").await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
    }

    #[tokio::test]
    async fn who_holds_every_connection_keeps_nobody_out() {
        let address = started(Answers::default()).await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 3 {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(
            ask(address, "GET /healthz/live")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let metrics = ask(address, "GET /metrics").await;
        assert!(
            metrics.contains("adit_http_connections_evicted_total"),
            "{metrics}"
        );
        assert!(
            !metrics.contains("adit_http_connections_evicted_total 0\n"),
            "{metrics}"
        );
        let mut byte = [0];
        assert_eq!(
            held[0].read(&mut byte).await.unwrap_or(0),
            0,
            "the oldest is closed"
        );
    }
}
