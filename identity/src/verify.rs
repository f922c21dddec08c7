use std::fmt;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::leaf::{BadLeaf, Leaf};
use crate::{SpiffeId, TrustBundle, TrustDomain};

/// Whom a peer must prove to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// Any workload of the bundle's trust domain: what a server asks of a client.
    AnyInTrustDomain,
    /// Exactly this one: what a client asks of the server it dialled.
    Id(&'a SpiffeId),
}

/// What the peer is in the handshake: decides the extended key usage its certificate must allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerRole {
    /// It opened the connection.
    Client,
    /// It was dialled.
    Server,
}

/// A proven identity. Only [`verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    id: SpiffeId,
    not_after: SystemTime,
}

/// Why a peer's certificates prove nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The leaf can't be an SVID, whoever signed it.
    #[error("peer certificate is no X.509 SVID")]
    BadLeaf(#[from] BadLeaf),
    /// The extended key usage doesn't cover the peer's role.
    #[error("certificate of {id} may not be used by a TLS {role}")]
    BadUsage {
        /// Whom the certificate names.
        id: SpiffeId,
        /// What the peer is.
        role: PeerRole,
    },
    /// The chain has more than [`MAX_CHAIN`] certificates.
    #[error("expected at most {MAX_CHAIN} certificates, got {got}")]
    ChainTooLong {
        /// How many came.
        got: usize,
    },
    /// The leaf or a certificate above it is no longer valid.
    #[error("certificate of {id} expired {ago:?} ago")]
    Expired {
        /// Whom the certificate names.
        id: SpiffeId,
        /// How long ago by the verifier's clock.
        ago: Duration,
    },
    /// The peer sent no certificate.
    #[error("expected a certificate, the peer sent none")]
    NoCertificate,
    /// The leaf or a certificate above it isn't valid yet: usually a clock that is behind.
    #[error("certificate of {id} isn't valid for another {ahead:?}; compare the clocks")]
    NotYetValid {
        /// Whom the certificate names.
        id: SpiffeId,
        /// How far ahead of the verifier's clock its validity starts.
        ahead: Duration,
    },
    /// No root of the bundle signed the chain.
    #[error("certificate of {id} wasn't issued by a root of {trust_domain}")]
    UnknownIssuer {
        /// Whom the certificate claims to name.
        id: SpiffeId,
        /// Whose roots were tried.
        trust_domain: TrustDomain,
    },
    /// The chain is wrong in another way: a broken signature, a path-length or name constraint, an unknown
    /// critical extension.
    #[error("certificate chain of {id} doesn't verify")]
    Untrusted {
        /// Whom the certificate claims to name.
        id: SpiffeId,
        /// What the verifier said.
        #[source]
        source: webpki::Error,
    },
    /// A valid certificate, of somebody else.
    #[error("expected {expected}, got {got}")]
    WrongIdentity {
        /// Who should have answered.
        expected: SpiffeId,
        /// Who did.
        got: SpiffeId,
    },
    /// The certificate names a workload of another trust domain.
    #[error("expected a workload of {expected}, got {got}")]
    WrongTrustDomain {
        /// The bundle's trust domain.
        expected: TrustDomain,
        /// Whom the certificate claims to name.
        got: SpiffeId,
    },
}

/// The label of a [`VerifyError`] in metrics, logs and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the error of the same name, documented there")]
pub enum VerifyLabel {
    BadKeyUsage,
    BadUsage,
    CaAsLeaf,
    ChainTooLong,
    Expired,
    Malformed,
    NoCertificate,
    NoUri,
    NotSpiffe,
    NotYetValid,
    SeveralUris,
    UnknownIssuer,
    Untrusted,
    WrongIdentity,
    WrongTrustDomain,
}

/// The most certificates of a chain that are looked at.
pub const MAX_CHAIN: usize = 8;

/// Proves from `chain` (leaf first, as the peer sent it) who the peer is.
///
/// The leaf must be an X.509 SVID: no CA, one URI SAN, a SPIFFE id of `bundle`'s trust domain. A path must
/// lead from it to one of the bundle's roots, valid at `now`, for the peer's `role`. Then the id must be the
/// `expected` one. The order is that of what tells an operator most; any failure refuses.
///
/// # Errors
/// The first thing that is wrong, see [`VerifyError`].
pub fn verify(
    chain: &[CertificateDer<'_>],
    role: PeerRole,
    bundle: &TrustBundle,
    expected: Expected<'_>,
    now: SystemTime,
) -> Result<PeerIdentity, VerifyError> {
    let (end_entity, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(VerifyError::ChainTooLong { got: chain.len() });
    }
    let leaf = Leaf::parse(end_entity)?;
    if leaf.id.trust_domain() != bundle.trust_domain() {
        return Err(VerifyError::WrongTrustDomain {
            expected: bundle.trust_domain().clone(),
            got: leaf.id,
        });
    }
    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    let path_error = |error| path_error(error, leaf.id.clone(), bundle, role);
    EndEntityCert::try_from(end_entity)
        .map_err(path_error)?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            bundle.anchors(),
            intermediates,
            unix_time(now),
            usage,
            None,
            None,
        )
        .map_err(path_error)?;
    match expected {
        Expected::Id(expected) if *expected != leaf.id => Err(VerifyError::WrongIdentity {
            expected: expected.clone(),
            got: leaf.id,
        }),
        _ => Ok(PeerIdentity {
            id: leaf.id,
            not_after: leaf.not_after,
        }),
    }
}

impl PeerIdentity {
    /// Who the peer is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The last second in which its certificate proves it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl VerifyError {
    /// The label under which it is counted.
    pub fn label(&self) -> VerifyLabel {
        match self {
            Self::BadLeaf(BadLeaf::Authority) => VerifyLabel::CaAsLeaf,
            Self::BadLeaf(BadLeaf::KeyUsage) => VerifyLabel::BadKeyUsage,
            Self::BadLeaf(BadLeaf::Malformed { .. }) => VerifyLabel::Malformed,
            Self::BadLeaf(BadLeaf::NoUri) => VerifyLabel::NoUri,
            Self::BadLeaf(BadLeaf::NotSpiffe(_)) => VerifyLabel::NotSpiffe,
            Self::BadLeaf(BadLeaf::SeveralUris { .. }) => VerifyLabel::SeveralUris,
            Self::BadUsage { .. } => VerifyLabel::BadUsage,
            Self::ChainTooLong { .. } => VerifyLabel::ChainTooLong,
            Self::Expired { .. } => VerifyLabel::Expired,
            Self::NoCertificate => VerifyLabel::NoCertificate,
            Self::NotYetValid { .. } => VerifyLabel::NotYetValid,
            Self::UnknownIssuer { .. } => VerifyLabel::UnknownIssuer,
            Self::Untrusted { .. } => VerifyLabel::Untrusted,
            Self::WrongIdentity { .. } => VerifyLabel::WrongIdentity,
            Self::WrongTrustDomain { .. } => VerifyLabel::WrongTrustDomain,
        }
    }
}

impl VerifyLabel {
    /// Every label.
    pub const ALL: &'static [Self] = &[
        Self::BadKeyUsage,
        Self::BadUsage,
        Self::CaAsLeaf,
        Self::ChainTooLong,
        Self::Expired,
        Self::Malformed,
        Self::NoCertificate,
        Self::NoUri,
        Self::NotSpiffe,
        Self::NotYetValid,
        Self::SeveralUris,
        Self::UnknownIssuer,
        Self::Untrusted,
        Self::WrongIdentity,
        Self::WrongTrustDomain,
    ];

    /// As metrics, logs and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadKeyUsage => "bad-key-usage",
            Self::BadUsage => "bad-usage",
            Self::CaAsLeaf => "ca-as-leaf",
            Self::ChainTooLong => "chain-too-long",
            Self::Expired => "expired",
            Self::Malformed => "malformed-certificate",
            Self::NoCertificate => "no-certificate",
            Self::NoUri => "no-uri-san",
            Self::NotSpiffe => "not-spiffe",
            Self::NotYetValid => "not-yet-valid",
            Self::SeveralUris => "several-uri-sans",
            Self::UnknownIssuer => "unknown-issuer",
            Self::Untrusted => "untrusted-chain",
            Self::WrongIdentity => "wrong-identity",
            Self::WrongTrustDomain => "wrong-trust-domain",
        }
    }
}

impl fmt::Display for VerifyLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for PeerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

fn path_error(error: webpki::Error, id: SpiffeId, bundle: &TrustBundle, role: PeerRole) -> VerifyError {
    match error {
        webpki::Error::CaUsedAsEndEntity => BadLeaf::Authority.into(),
        webpki::Error::CertExpired { time, not_after } => {
            let ago = Duration::from_secs(time.as_secs().saturating_sub(not_after.as_secs()));
            VerifyError::Expired { id, ago }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            let ahead = Duration::from_secs(not_before.as_secs().saturating_sub(time.as_secs()));
            VerifyError::NotYetValid { id, ahead }
        }
        webpki::Error::EmptyEkuExtension | webpki::Error::RequiredEkuNotFoundContext(_) => {
            VerifyError::BadUsage { id, role }
        }
        webpki::Error::UnknownIssuer => VerifyError::UnknownIssuer {
            id,
            trust_domain: bundle.trust_domain().clone(),
        },
        source => VerifyError::Untrusted { id, source },
    }
}

/// A clock before 1970 counts as 1970: then everything is "not yet valid", which is what it should say.
fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
