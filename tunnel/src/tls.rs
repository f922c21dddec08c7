//! TLS 1.3 with SVIDs on both sides, and what makes it ours: verification by `adit-identity`, one verdict for
//! each connection, no resumption; and records that are sealed and opened without a copy beside.
//!
//! rustls shakes hands ([`handshake`]) and keeps the traffic secrets; the records after are ours ([`stream`]), on the
//! AEADs of aws-lc-rs.

use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime};

use adit_identity::{
    Expected, PeerIdentity, PeerRole, SpiffeId, Svid, TrustBundle, VerifyError, VerifyLabel, verify,
};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerMisbehaved, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};

mod handshake;
mod input;
mod output;
mod record;
mod stream;

use handshake::Failure;
pub(crate) use stream::TlsStream;

/// What one workload proves itself with and whom it trusts: an SVID loaded for TLS, and a trust bundle.
///
/// Made once for each SVID and shared by all its tunnels. Later ones are newer: a tunnel that was opened with
/// older credentials takes no new stream from an opener who has newer ones.
pub struct Credentials {
    id: SpiffeId,
    not_after: SystemTime,
    key: Arc<CertifiedKey>,
    bundle: Arc<TrustBundle>,
    generation: u64,
}

/// An SVID that TLS can't use.
#[derive(Debug, thiserror::Error)]
#[error("credentials of {id}: the SVID's key or certificate can't be used")]
pub struct BadCredentials {
    /// Whose.
    pub id: SpiffeId,
    /// What the TLS library said.
    #[source]
    pub source: Error,
}

/// Why two ends didn't come to a tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer refused us: our certificate, mostly.
    #[error("the peer refused the handshake: {}", AlertName(*alert))]
    Alert {
        /// What it said.
        alert: AlertDescription,
    },
    /// The server name isn't a DNS name.
    #[error("expected a DNS name as server name, got {got:?}")]
    BadServerName {
        /// What it is.
        got: String,
    },
    /// The peer takes no stream any more: it sent GOAWAY with its first SETTINGS.
    #[error("the peer is draining")]
    Draining,
    /// HTTP/2 couldn't begin.
    #[error("HTTP/2 preface")]
    Http2(#[source] h2::Error),
    /// The connection broke.
    #[error("connection lost in the handshake")]
    Io(#[source] io::Error),
    /// No workload is served under the name that the client asked for.
    #[error("no credentials for server name {server_name:?}")]
    NoCredentials {
        /// What it asked for.
        server_name: Option<String>,
    },
    /// TLS, but not for HTTP/2.
    #[error("expected ALPN h2, the peer has none or another")]
    NoHttp2,
    /// Not TLS: plain bytes on the port, often a client that doesn't know that it speaks to a mesh.
    #[error("expected a TLS handshake, got other bytes")]
    NotTls,
    /// Too slow.
    #[error("handshake not finished within {within:?}")]
    TimedOut {
        /// How long was waited.
        within: Duration,
    },
    /// TLS failed otherwise: no common version or cipher, a bad signature, a broken record.
    #[error("TLS handshake")]
    Tls(#[source] Error),
    /// The peer's certificate doesn't prove what it has to.
    #[error("peer not verified")]
    Verify(#[source] VerifyError),
}

/// The label of a [`HandshakeError`] in metrics, logs and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the error of the same name, documented there")]
pub enum HandshakeLabel {
    Alert,
    BadServerName,
    Draining,
    Http2,
    Lost,
    NoCredentials,
    NoHttp2,
    NotTls,
    TimedOut,
    Tls,
    Verify(VerifyLabel),
}

/// A finished handshake.
pub(crate) struct Secured<Io> {
    pub(crate) io: TlsStream<Io>,
    pub(crate) peer: PeerIdentity,
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};
    // AES-128 first: a tenth faster than AES-256, and Istio's order too.
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384],
        ..aws_lc_rs::default_provider()
    })
});

const ALPN: &[u8] = b"h2";

impl Credentials {
    /// Loads an SVID's key.
    ///
    /// # Errors
    /// The key can't be loaded or isn't the certificate's.
    pub fn new(svid: &Svid, bundle: Arc<TrustBundle>) -> Result<Self, BadCredentials> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);

        let chain = svid.chain().to_vec();
        let key = CertifiedKey::from_der(chain, svid.key().clone_key(), &PROVIDER).map_err(|source| {
            BadCredentials {
                id: svid.id().clone(),
                source,
            }
        })?;
        Ok(Self {
            id: svid.id().clone(),
            not_after: svid.not_after(),
            key: Arc::new(key),
            bundle,
            generation: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Whom they prove.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The last second in which they do.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Rises with every credentials made in this process.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &format_args!("{}", self.id))
            .field("not_after", &self.not_after)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// The client's side of the handshake: proves itself, and that `expected` is there.
pub(crate) async fn connect<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    credentials: &Credentials,
    expected: &SpiffeId,
    server_name: ServerName<'static>,
) -> Result<Secured<Io>, HandshakeError> {
    let verifier = Verifier::new(credentials, Some(expected));
    let config = client_config(credentials, &verifier).map_err(HandshakeError::Tls)?;
    let outcome = handshake::client(io, Arc::new(config), server_name).await;
    finish(outcome, &verifier)
}

/// The server's side: proves what the client asked for by name, takes any workload of its own trust domain.
pub(crate) async fn accept<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    choose: impl FnOnce(Option<&str>) -> Option<Arc<Credentials>>,
) -> Result<Secured<Io>, HandshakeError> {
    let hello = handshake::read_hello(io)
        .await
        .map_err(|failure| match classify(failure) {
            HandshakeError::Tls(Error::InvalidMessage(_)) => HandshakeError::NotTls,
            other => other,
        })?;
    let server_name = hello.server_name();
    let Some(credentials) = choose(server_name.as_deref()) else {
        return Err(HandshakeError::NoCredentials { server_name });
    };
    let verifier = Verifier::new(&credentials, None);
    let config = server_config(&credentials, &verifier).map_err(HandshakeError::Tls)?;
    let outcome = hello.answer(Arc::new(config)).await;
    finish(outcome, &verifier)
}

fn client_config(credentials: &Credentials, verifier: &Arc<Verifier>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier) as _)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&credentials.key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(config)
}

fn server_config(credentials: &Credentials, verifier: &Arc<Verifier>) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::clone(verifier) as _)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&credentials.key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.ignore_client_order = true;
    config.enable_secret_extraction = true;
    Ok(config)
}

fn finish<Io>(
    outcome: Result<TlsStream<Io>, Failure>,
    verifier: &Verifier,
) -> Result<Secured<Io>, HandshakeError> {
    let io = outcome.map_err(|failure| verifier.blame(failure))?;
    match verifier.verdict.get() {
        Some(Ok(peer)) => Ok(Secured {
            io,
            peer: peer.clone(),
        }),
        Some(Err(error)) => Err(HandshakeError::Verify(error.clone())),
        // A handshake that ends well has called the verifier; were it not so, nobody was proven.
        None => Err(HandshakeError::Verify(VerifyError::NoCertificate)),
    }
}

fn classify(failure: Failure) -> HandshakeError {
    match failure {
        Failure::Tls(Error::AlertReceived(alert)) => HandshakeError::Alert { alert },
        Failure::Tls(Error::NoCertificatesPresented) => HandshakeError::Verify(VerifyError::NoCertificate),
        Failure::Tls(Error::NoApplicationProtocol) | Failure::Protocol => HandshakeError::NoHttp2,
        Failure::Tls(error) => HandshakeError::Tls(error),
        Failure::Io(error) => HandshakeError::Io(error),
    }
}

/// Verifies one peer and keeps the verdict: the identity for the tunnel, or the error in its own words.
#[derive(Debug)]
struct Verifier {
    bundle: Arc<TrustBundle>,
    expected: Option<SpiffeId>,
    verdict: OnceLock<Result<PeerIdentity, VerifyError>>,
}

impl Verifier {
    /// For one handshake of the holder of `credentials`; without `expected` any workload of its trust domain will do.
    fn new(credentials: &Credentials, expected: Option<&SpiffeId>) -> Arc<Self> {
        Arc::new(Self {
            bundle: Arc::clone(&credentials.bundle),
            expected: expected.cloned(),
            verdict: OnceLock::new(),
        })
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: PeerRole,
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut chain = Vec::with_capacity(1 + intermediates.len());
        chain.push(end_entity.clone());
        chain.extend_from_slice(intermediates);
        let expected = self
            .expected
            .as_ref()
            .map_or(Expected::AnyInTrustDomain, Expected::Id);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let verdict = self
            .verdict
            .get_or_init(|| verify(&chain, role, &self.bundle, expected, now));
        verdict
            .as_ref()
            .map(|_| ())
            .map_err(|error| alert_for(error.label()).into())
    }

    /// Our own verdict comes before what TLS made of it.
    fn blame(&self, failure: Failure) -> HandshakeError {
        match self.verdict.get() {
            Some(Err(error)) => HandshakeError::Verify(error.clone()),
            _ => classify(failure),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &PROVIDER.signature_verification_algorithms,
        )
    }
}

/// What the peer is told (RFC 8446 §6.2), by way of rustls' mapping.
fn alert_for(label: VerifyLabel) -> CertificateError {
    match label {
        VerifyLabel::BadUsage | VerifyLabel::BadKeyUsage => CertificateError::InvalidPurpose,
        VerifyLabel::Expired => CertificateError::Expired,
        VerifyLabel::Malformed | VerifyLabel::ChainTooLong => CertificateError::BadEncoding,
        VerifyLabel::NotYetValid => CertificateError::NotValidYet,
        VerifyLabel::UnknownIssuer | VerifyLabel::WrongTrustDomain => CertificateError::UnknownIssuer,
        _ => CertificateError::ApplicationVerificationFailure,
    }
}

/// TLS 1.2 is not offered, so nothing signs by its rules.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerMisbehaved(
        PeerMisbehaved::SelectedUnofferedCipherSuite,
    ))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, PeerRole::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, PeerRole::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

impl HandshakeError {
    /// The label under which it is counted.
    pub fn label(&self) -> HandshakeLabel {
        match self {
            Self::Alert { .. } => HandshakeLabel::Alert,
            Self::BadServerName { .. } => HandshakeLabel::BadServerName,
            Self::Draining => HandshakeLabel::Draining,
            Self::Http2(_) => HandshakeLabel::Http2,
            Self::Io(_) => HandshakeLabel::Lost,
            Self::NoCredentials { .. } => HandshakeLabel::NoCredentials,
            Self::NoHttp2 => HandshakeLabel::NoHttp2,
            Self::NotTls => HandshakeLabel::NotTls,
            Self::TimedOut { .. } => HandshakeLabel::TimedOut,
            Self::Tls(_) => HandshakeLabel::Tls,
            Self::Verify(error) => HandshakeLabel::Verify(error.label()),
        }
    }
}

impl HandshakeLabel {
    /// Every label.
    pub fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::Alert,
            Self::BadServerName,
            Self::Draining,
            Self::Http2,
            Self::Lost,
            Self::NoCredentials,
            Self::NoHttp2,
            Self::NotTls,
            Self::TimedOut,
            Self::Tls,
        ];
        own.into_iter()
            .chain(VerifyLabel::ALL.iter().map(|label| Self::Verify(*label)))
    }

    /// As metrics, logs and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::BadServerName => "bad-server-name",
            Self::Draining => "draining-in-handshake",
            Self::Http2 => "http2",
            Self::Lost => "lost-in-handshake",
            Self::NoCredentials => "no-credentials",
            Self::NoHttp2 => "no-http2",
            Self::NotTls => "not-tls",
            Self::TimedOut => "handshake-timeout",
            Self::Tls => "tls",
            Self::Verify(label) => label.as_str(),
        }
    }
}

impl fmt::Display for HandshakeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The alert by its name in RFC 8446 §6, near enough: `UnknownCA`, `CertificateRequired`.
struct AlertName(AlertDescription);

impl fmt::Display for AlertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
