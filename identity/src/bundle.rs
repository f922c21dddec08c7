use std::fmt;

use ::pem::{EncodeConfig, LineEnding, Pem};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::TrustDomain;

/// The certificates that a trust domain's SVIDs must lead up to.
///
/// Several roots may stand beside each other, so that a root can be replaced: the new one is added everywhere
/// first, SVIDs are then issued by it, and the old one goes last. All of them speak for `trust_domain` alone.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// A set of certificates that is no trust bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBundle {
    /// A certificate can't be parsed as a trust anchor.
    #[error("trust bundle of {trust_domain}: root {index} is no X.509 certificate")]
    BadRoot {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Position of the certificate, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: webpki::Error,
    },
    /// The text isn't PEM.
    #[error("trust bundle of {trust_domain}: expected PEM certificates")]
    NotPem {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// No root, or more than [`TrustBundle::MAX_ROOTS`].
    #[error("trust bundle of {trust_domain}: expected 1 to {limit} roots, got {got}", limit = TrustBundle::MAX_ROOTS)]
    WrongCount {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// How many there are.
        got: usize,
    },
}

impl TrustBundle {
    /// The most roots in one bundle: path building tries each.
    pub const MAX_ROOTS: usize = 16;

    /// A bundle of DER certificates. A root that stands there twice counts once.
    ///
    /// # Errors
    /// See [`InvalidBundle`].
    pub fn new(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, InvalidBundle> {
        let mut distinct: Vec<CertificateDer<'static>> = Vec::new();
        for root in roots {
            if !distinct.contains(&root) {
                distinct.push(root);
            }
        }
        if distinct.is_empty() || distinct.len() > Self::MAX_ROOTS {
            let got = distinct.len();
            return Err(InvalidBundle::WrongCount { trust_domain, got });
        }
        let mut anchors = Vec::with_capacity(distinct.len());
        for (index, root) in distinct.iter().enumerate() {
            match webpki::anchor_from_trusted_cert(root) {
                Ok(anchor) => anchors.push(anchor.to_owned()),
                Err(source) => {
                    return Err(InvalidBundle::BadRoot {
                        trust_domain,
                        index,
                        source,
                    });
                }
            }
        }
        Ok(Self {
            trust_domain,
            roots: distinct,
            anchors,
        })
    }

    /// A bundle of PEM certificates; PEM sections of other kinds are skipped.
    ///
    /// # Errors
    /// See [`InvalidBundle`].
    pub fn from_pem(trust_domain: TrustDomain, text: &str) -> Result<Self, InvalidBundle> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match roots {
            Ok(roots) => Self::new(trust_domain, roots),
            Err(source) => Err(InvalidBundle::NotPem { trust_domain, source }),
        }
    }

    /// Its certificates as PEM, one after another.
    pub fn to_pem(&self) -> String {
        let lf = EncodeConfig::new().set_line_ending(LineEnding::LF);
        let roots: Vec<Pem> = (self.roots.iter())
            .map(|root| Pem::new("CERTIFICATE", root.to_vec()))
            .collect();
        ::pem::encode_many_config(&roots, lf)
    }

    /// The trust domain that the roots speak for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificates, in the order given.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain.as_str())
            .field("roots", &self.roots.len())
            .finish()
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.roots == other.roots
    }
}

impl Eq for TrustBundle {}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::CertificateAuthority;

    fn root() -> CertificateDer<'static> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let ca = CertificateAuthority::new("demo.local".parse().unwrap(), now).unwrap();
        ca.bundle().roots()[0].clone()
    }

    #[test]
    fn roots_are_counted_once_each() {
        let domain: TrustDomain = "demo.local".parse().unwrap();
        let (one, two) = (root(), root());
        let bundle = TrustBundle::new(domain.clone(), [one.clone(), two.clone(), one.clone()]).unwrap();
        assert_eq!(bundle.roots(), [one, two]);
        assert!(matches!(
            TrustBundle::new(domain, []),
            Err(InvalidBundle::WrongCount { got: 0, .. })
        ));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let domain: TrustDomain = "demo.local".parse().unwrap();
        let junk = CertificateDer::from(vec![0x30, 3, 1, 2, 3]);
        assert!(matches!(
            TrustBundle::new(domain.clone(), [root(), junk]),
            Err(InvalidBundle::BadRoot { index: 1, .. })
        ));
        assert!(matches!(
            TrustBundle::from_pem(domain.clone(), "hello"),
            Err(InvalidBundle::WrongCount { .. })
        ));
        let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            TrustBundle::from_pem(domain, broken),
            Err(InvalidBundle::NotPem { .. })
        ));
    }
}
