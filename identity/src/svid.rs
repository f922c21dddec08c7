use std::fmt;
use std::time::SystemTime;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::SpiffeId;
use crate::leaf::{BadLeaf, Leaf};

/// An X.509 SVID with its private key: what a workload proves its identity with.
///
/// Immutable; a renewed SVID is another value. `Debug` shows no key.
pub struct Svid {
    leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// A certificate chain and key that are no X.509 SVID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSvid {
    /// The first certificate can't be an SVID's leaf.
    #[error("SVID: unusable leaf certificate")]
    BadLeaf(#[from] BadLeaf),
    /// The chain is empty.
    #[error("SVID: expected a certificate chain, got no certificate")]
    NoCertificate,
    /// The text isn't PEM, or has no private key.
    #[error("SVID: expected PEM of {what}")]
    NotPem {
        /// What was looked for.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
}

impl Svid {
    /// An SVID from a chain (leaf first, root not needed) and the leaf's private key.
    ///
    /// Whether the key is the leaf's is found out where it is loaded, by the TLS library.
    ///
    /// # Errors
    /// See [`InvalidSvid`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, InvalidSvid> {
        let leaf = Leaf::parse(chain.first().ok_or(InvalidSvid::NoCertificate)?)?;
        Ok(Self { leaf, chain, key })
    }

    /// The same from PEM texts.
    ///
    /// # Errors
    /// See [`InvalidSvid`].
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, InvalidSvid> {
        let not_pem = |what| move |source| InvalidSvid::NotPem { what, source };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let chain = chain.map_err(not_pem("certificates"))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(not_pem("a private key"))?;
        Self::new(chain, key)
    }

    /// Whom it names.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// The certificates as they go to a peer, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf's private key.
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// The leaf's serial number in lower-case hexadecimal, two digits an octet, as openssl(1) shows it but for the case.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// Valid from this second on; an issuer sets it back a little, so it isn't the time of issue.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// The last second of validity (RFC 5280 §4.1.2.5: inclusive).
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Whether a peer whose clock says `now` takes it.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.leaf.not_before <= now && now <= self.leaf.not_after
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &format_args!("{}", self.leaf.id))
            .field("not_before", &self.leaf.not_before)
            .field("not_after", &self.leaf.not_after)
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}
