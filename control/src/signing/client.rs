//! The client of a signer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_identity::{InvalidAnswer, IssuedSvid, Obtaining, RequestError, SpiffeId, SvidRequest, SvidSource};
use http::Uri;
use http::uri::Authority;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::wire::{
    CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, IMPERSONATED_IDENTITY, MAX_MESSAGE, Struct,
};

/// How long a connection may take to come up, and how long an answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests under way at once; others wait. A node whose pods all start together must not drown the signer.
const MAX_REQUESTS: usize = 8;

/// How to reach a signer, and as whom.
#[derive(Clone, Debug)]
pub struct SignerOptions {
    /// Its host name, which its certificate must have, and port: `adit-ca.adit-system.svc:443`.
    pub address: String,
    /// The file with the token that says who is asking: read for each request, since the kubelet replaces it.
    pub token: PathBuf,
    /// The file with the roots that the signer's certificate leads up to, PEM: read for each connection.
    pub roots: PathBuf,
    /// The cluster's name, by which istiod knows it (`Kubernetes`).
    pub cluster: String,
    /// The life to ask for.
    pub ttl: Duration,
}

/// A text that isn't the address of a signer.
#[derive(Debug, thiserror::Error)]
#[error("expected a signer's address as HOST:PORT, got {got:?}")]
pub struct BadAddress {
    /// What was given.
    pub got: String,
}

/// No certificate could be had from a signer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// What it answered is no SVID of that identity.
    #[error(transparent)]
    Answer(#[from] InvalidAnswer),
    /// The request couldn't be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It refused, or there was no answer.
    #[error("asking the signer {address} for an SVID of {id}: {code}: {message}")]
    Signer {
        /// Whom.
        address: String,
        /// For whom.
        id: SpiffeId,
        /// The gRPC status, in its own words.
        code: &'static str,
        /// What it said, with what caused it.
        message: String,
    },
    /// The token isn't there.
    #[error("reading the token for the signer, {}: {source}", path.display())]
    Token {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A client of a signer. It connects when it's first asked.
pub struct SignerClient {
    shared: Arc<Shared>,
}

struct Shared {
    options: SignerOptions,
    channel: Channel,
    places: Semaphore,
}

impl SignerClient {
    /// A client for the tokio runtime that this is called on.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(options: SignerOptions) -> Result<Self, BadAddress> {
        let bad = || BadAddress {
            got: options.address.clone(),
        };
        let authority: Authority = options.address.parse().map_err(|_| bad())?;
        let uri: Uri = format!("https://{authority}").parse().map_err(|_| bad())?;
        let (host, port) = (uri.host().ok_or_else(bad)?, uri.port_u16().ok_or_else(bad)?);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| bad())?;
        let dial = (host.trim_matches(['[', ']']).to_owned(), port);
        let roots = options.roots.clone();
        let connector = tower::service_fn(move |_: Uri| connect(dial.clone(), name.clone(), roots.clone()));
        let channel = Endpoint::from(uri)
            .connect_timeout(CONNECT_PATIENCE)
            .timeout(PATIENCE)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .connect_with_connector_lazy(connector);
        let shared = Shared {
            options,
            channel,
            places: Semaphore::new(MAX_REQUESTS),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

impl SvidSource for SignerClient {
    fn obtain(&self, id: &SpiffeId, _now: SystemTime) -> Obtaining {
        let (shared, id) = (Arc::clone(&self.shared), id.clone());
        Box::pin(async move { Ok(shared.ask(id).await?) })
    }
}

impl Shared {
    async fn ask(&self, id: SpiffeId) -> Result<IssuedSvid, SignError> {
        let _place = self.places.acquire().await;
        let request = SvidRequest::new(id.clone())?;
        let texts = self.sign(&request, &id).await?;
        Ok(request.answered(&texts)?)
    }

    async fn sign(&self, request: &SvidRequest, id: &SpiffeId) -> Result<Vec<String>, SignError> {
        let failed = |status: tonic::Status| SignError::Signer {
            address: self.options.address.clone(),
            id: id.clone(),
            code: status.code().description(),
            message: with_causes(&status),
        };
        let path = &self.options.token;
        let token = tokio::fs::read_to_string(path)
            .await
            .map_err(|source| SignError::Token {
                path: path.clone(),
                source,
            })?;
        let message = CertificateRequest {
            csr: request.pem().to_owned(),
            validity_duration: i64::try_from(self.options.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct::of(IMPERSONATED_IDENTITY, id.to_string())),
        };
        let mut call = tonic::Request::new(message);
        let bearer = MetadataValue::try_from(format!("Bearer {}", token.trim()));
        let mut bearer = bearer.map_err(|_| SignError::Token {
            path: path.clone(),
            source: io::Error::new(io::ErrorKind::InvalidData, "it isn't a token"),
        })?;
        bearer.set_sensitive(true);
        call.metadata_mut().insert("authorization", bearer);
        if let Ok(cluster) = MetadataValue::try_from(self.options.cluster.as_str()) {
            // istiod looks up by this name in which cluster it is to ask about the token.
            call.metadata_mut().insert("clusterid", cluster);
        }
        let mut client =
            tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        client
            .ready()
            .await
            .map_err(|error| failed(tonic::Status::unavailable(with_causes(&error))))?;
        let codec: ProstCodec<CertificateRequest, CertificateResponse> = ProstCodec::new();
        let method = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
        let answer = client.unary(call, method, codec).await.map_err(failed)?;
        Ok(answer.into_inner().cert_chain)
    }
}

async fn connect(
    (host, port): (String, u16),
    name: ServerName<'static>,
    roots: PathBuf,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let config = client_config(&roots).await?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(TokioIo::new(stream))
}

async fn client_config(roots: &Path) -> io::Result<ClientConfig> {
    let shown = roots.display();
    let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
    let text = tokio::fs::read(roots).await.map_err(|error| {
        let hint =
            "the signer writes it when it first starts, and the kubelet brings it within about a minute";
        io::Error::new(
            error.kind(),
            format!("reading the signer's roots, {shown}: {error}; {hint}"),
        )
    })?;
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&text) {
        let root = root.map_err(|error| invalid(format!("{shown} is no PEM: {error}")))?;
        store
            .add(root)
            .map_err(|error| invalid(format!("{shown} has no root certificate: {error}")))?;
    }
    if store.is_empty() {
        return Err(invalid(format!("{shown} has no certificate")));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| invalid(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// An error with what caused it, on one line.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    crate::kubernetes::with_causes(error)
}
