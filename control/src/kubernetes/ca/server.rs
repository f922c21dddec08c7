//! The signer's server: connections, its own certificate, the change of roots.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use adit_flow::WorkloadName;
use adit_identity::{CaError, RootPolicy, Roots, TrustDomain};
use http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::Client;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic_prost::ProstCodec;

use super::placement;
use super::service::{LONGEST_TTL, Service};
use super::status::CaStatus;
use super::store::{Store, StoreError};
use crate::kubernetes::health::Record;
use crate::signing::wire::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, MAX_MESSAGE};

/// Connections at once. More wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// Requests of one connection at once.
const MAX_STREAMS: u32 = 32;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may go without a certificate given on it. Agents are asked for nothing before the handshake, so
/// this is what keeps strangers from holding all places; an agent connects anew when it needs the next.
const IDLE: Duration = Duration::from_secs(30);
/// How long requests that are under way may take when a connection is closed.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// The life of the server's own certificate; it's replaced at half of it.
const OWN_TTL: Duration = Duration::from_secs(24 * 3600);
/// How often it's looked whether a root or the server's certificate is due.
const TICK: Duration = Duration::from_secs(60);
/// The pause between attempts to reach the API server.
const PAUSE: Duration = Duration::from_secs(2);

/// What the signer needs to know.
#[derive(Clone, Debug)]
pub struct CaOptions {
    /// The trust domain that it signs for.
    pub trust_domain: TrustDomain,
    /// Its own namespace, where the Secret `adit-ca` and the ConfigMap `adit-ca-root` are.
    pub namespace: String,
    /// The Service by which agents reach it.
    pub service: String,
    /// The audience that tokens must be for.
    pub audience: String,
    /// The service accounts of agents, as `namespace/name`: only these get certificates.
    pub agents: Vec<WorkloadName>,
    /// The longest life of an SVID; agents that ask for more get this. Seven days at most.
    pub max_ttl: Duration,
}

/// The signer can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Its own certificate can't be made or loaded.
    #[error("the signer's own certificate: {reason}")]
    OwnCertificate {
        /// Why.
        reason: String,
    },
    /// The roots can't be used, and a human must decide what becomes of them.
    #[error("{reason}")]
    Roots {
        /// Why.
        reason: String,
    },
}

/// Serves agents on `listener` until `stop` is done; `status` says how it is meanwhile.
///
/// # Errors
/// The Secret holds something that is no root, or the crypto library refused. An API server that is away is waited for.
pub async fn serve(
    client: Client,
    options: CaOptions,
    listener: TcpListener,
    status: Arc<CaStatus>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let store = Store::new(client.clone(), &options.namespace);
    let max_ttl = options.max_ttl.min(LONGEST_TTL);
    let policy = RootPolicy {
        spread: RootPolicy::default().spread.max(max_ttl),
        ..RootPolicy::default()
    };
    let keeper = Keeper {
        store,
        policy,
        trust_domain: options.trust_domain.clone(),
    };
    let work = async {
        let roots = Arc::new(RwLock::new(keeper.patiently().await?));
        status.took_keys();
        let (publish, placement) = (status.placement.clone(), status.placement.subscribe());
        let follow = placement::follow(
            client.clone(),
            options.trust_domain.clone(),
            Arc::new(Record::default()),
            publish,
        );
        let names = names(&options);
        let first = Own::make(&roots, &names)?;
        let (own, acceptor) = watch::channel(first.acceptor.clone());
        let service = Arc::new(Service {
            client,
            trust_domain: options.trust_domain,
            audience: options.audience,
            agents: options.agents.into_iter().collect(),
            max_ttl,
            placement,
            roots: Arc::clone(&roots),
            places: Service::places(),
            status,
        });
        tokio::select! {
            () = follow => Ok(()),
            () = accept(listener, acceptor, service) => Ok(()),
            error = keep(&keeper, &roots, first, &names, &own) => Err(error),
        }
    };
    tokio::select! {
        ended = work => ended,
        () = stop => Ok(()),
    }
}

/// Reads, makes and writes roots.
struct Keeper {
    store: Store,
    policy: RootPolicy,
    trust_domain: TrustDomain,
}

impl Keeper {
    /// The roots as they are to be now: stored first, then published.
    async fn roots(&self) -> Result<Roots, StoreError> {
        let now = SystemTime::now();
        let mut kept = self.store.load(&self.trust_domain, &self.policy).await?;
        let (roots, changed) = match kept.roots.take() {
            Some(mut roots) => {
                let changed = roots.advance(now).map_err(StoreError::Make)?;
                (roots, changed)
            }
            None => {
                let roots = Roots::new(self.trust_domain.clone(), self.policy.clone(), now);
                (roots.map_err(StoreError::Make)?, true)
            }
        };
        if changed {
            self.store.save(&kept, &roots).await?;
            let count = roots.bundle().roots().len();
            tracing::info!(
                count,
                "the roots changed; agents learn of it with their next certificates"
            );
        }
        self.store.publish(&roots).await?;
        Ok(roots)
    }

    /// The same, however long the API server is away.
    async fn patiently(&self) -> Result<Roots, ServeError> {
        loop {
            match self.roots().await {
                Ok(roots) => return Ok(roots),
                Err(error) if error.is_final() => {
                    return Err(ServeError::Roots {
                        reason: error.to_string(),
                    });
                }
                Err(error) => {
                    if !error.is_conflict() {
                        tracing::warn!(%error, pause = ?PAUSE, "the signer's keys");
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// The server's own certificate.
struct Own {
    acceptor: TlsAcceptor,
    renew_at: SystemTime,
    signed_by: Vec<u8>,
}

impl Own {
    fn make(roots: &RwLock<Roots>, names: &[String]) -> Result<Self, ServeError> {
        let bad = |reason: String| ServeError::OwnCertificate { reason };
        let now = SystemTime::now();
        let roots = roots.read().unwrap_or_else(PoisonError::into_inner);
        let signer = roots.signer(now);
        let made = signer.issue_server(names, now, OWN_TTL);
        let made = made.map_err(|error: CaError| bad(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| bad(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(vec![made.certificate], made.key);
        let mut config = config.map_err(|error| bad(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            renew_at: now + made.not_after.duration_since(now).unwrap_or_default() / 2,
            signed_by: signer.bundle().roots()[0].to_vec(),
        })
    }

    fn is_due(&self, roots: &RwLock<Roots>) -> bool {
        let now = SystemTime::now();
        let roots = roots.read().unwrap_or_else(PoisonError::into_inner);
        now >= self.renew_at || *roots.signer(now).bundle().roots()[0] != *self.signed_by
    }
}

/// Replaces roots and the server's certificate as they fall due. Returns only with an error.
async fn keep(
    keeper: &Keeper,
    roots: &RwLock<Roots>,
    mut own: Own,
    names: &[String],
    acceptor: &watch::Sender<TlsAcceptor>,
) -> ServeError {
    loop {
        sleep(TICK).await;
        match keeper.roots().await {
            Ok(now) => *roots.write().unwrap_or_else(PoisonError::into_inner) = now,
            Err(error) => tracing::warn!(%error, "looking after the roots; those in force go on"),
        }
        if !own.is_due(roots) {
            continue;
        }
        match Own::make(roots, names) {
            Ok(made) => own = made,
            Err(error) => return error,
        }
        acceptor.send_replace(own.acceptor.clone());
    }
}

/// The names by which agents may call the server.
fn names(options: &CaOptions) -> Vec<String> {
    let (service, namespace) = (&options.service, &options.namespace);
    let domain = format!("{service}.{namespace}.svc.cluster.local");
    vec![
        format!("{service}.{namespace}.svc"),
        domain,
        format!("{service}.{namespace}"),
        service.clone(),
    ]
}

async fn accept(listener: TcpListener, acceptor: watch::Receiver<TlsAcceptor>, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: those in use come back.
                tracing::warn!(%error, "accepting a connection");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, service) = (acceptor.borrow().clone(), Arc::clone(&service));
        tokio::spawn(async move {
            // A readiness probe connects and says nothing: no reason for a line.
            if let Err(error) = connection(stream, acceptor, service).await {
                tracing::debug!(%peer, %error, "a connection ended");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, service: Arc<Service>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    attend(stream, service, Arc::default()).await
}

/// Answers requests until the peer ends the connection, or nothing was `given` on it for [`IDLE`].
async fn attend(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Arc<Service>,
    given: Arc<AtomicBool>,
) -> io::Result<()> {
    let on_request = Arc::clone(&given);
    let answer = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let (service, given) = (Arc::clone(&service), Arc::clone(&on_request));
        async move { Ok::<_, Infallible>(route(request, service, given).await) }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(MAX_STREAMS)
        .serve_connection(TokioIo::new(stream), answer);
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            ended = &mut serving => return ended.map_err(io::Error::other),
            () = sleep(IDLE) => {}
        }
        if !given.swap(false, Ordering::Relaxed) {
            break;
        }
    }
    serving.as_mut().graceful_shutdown();
    timeout(LAST_ANSWERS, serving).await?.map_err(io::Error::other)
}

async fn route(
    request: http::Request<Incoming>,
    service: Arc<Service>,
    given: Arc<AtomicBool>,
) -> Response<tonic::body::Body> {
    if request.uri().path() != CREATE_CERTIFICATE {
        return Status::unimplemented("there is CreateCertificate of istio.v1.auth.IstioCertificateService")
            .into_http();
    }
    let codec: ProstCodec<CertificateResponse, CertificateRequest> = ProstCodec::new();
    let call = tower::service_fn(move |request: tonic::Request<CertificateRequest>| {
        let (service, given) = (Arc::clone(&service), Arc::clone(&given));
        async move {
            let created = service.create(request).await;
            given.fetch_or(created.is_ok(), Ordering::Relaxed);
            created
        }
    });
    tonic::server::Grpc::new(codec)
        .max_decoding_message_size(MAX_MESSAGE)
        .unary(call, request)
        .await
}

#[cfg(test)]
mod tests {
    use http::Request;
    use kube::client::Body;
    use tokio::time::Instant;

    use super::*;

    /// A signer whose API server is away.
    fn service() -> Arc<Service> {
        let away = tower::service_fn(|_: Request<Body>| async {
            Err::<Response<Body>, _>(io::Error::other("away"))
        });
        let trust_domain: TrustDomain = "demo.local".parse().unwrap();
        let roots = Roots::new(trust_domain.clone(), RootPolicy::default(), SystemTime::now());
        Arc::new(Service {
            client: Client::new(away, "default"),
            trust_domain,
            audience: "adit-ca".to_owned(),
            agents: std::collections::BTreeSet::new(),
            max_ttl: LONGEST_TTL,
            placement: watch::channel(placement::Placement::default()).1,
            roots: Arc::new(RwLock::new(roots.unwrap())),
            places: Service::places(),
            status: Arc::default(),
        })
    }

    /// How long somebody may stay who says nothing (but answers pings).
    async fn stay(given: bool) -> Duration {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let begun = Instant::now();
        let served = tokio::spawn(attend(ours, service(), Arc::new(AtomicBool::new(given))));
        let client =
            hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(theirs));
        let (_requests, connection) = client.await.unwrap();
        let ended = tokio::spawn(connection);
        // A client that is told to go away may be gone before the server's last frame: no fault, and none of the time.
        let _ = served.await.unwrap();
        let _ = ended.await.unwrap();
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_certificates_does_not_keep_its_place() {
        let (stranger, agent) = (stay(false).await, stay(true).await);
        assert!(stranger >= IDLE && stranger < IDLE + LAST_ANSWERS, "{stranger:?}");
        assert!(agent >= IDLE * 2 && agent < IDLE * 2 + LAST_ANSWERS, "{agent:?}");
    }
}
