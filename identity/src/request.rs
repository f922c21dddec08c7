use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::ca::uri;
use crate::{InvalidBundle, InvalidSvid, SpiffeId, Svid, TrustBundle};

/// A new key and the request to certify it for an identity. The key doesn't leave this value before it's an SVID's.
pub struct SvidRequest {
    id: SpiffeId,
    key: KeyPair,
    pem: String,
}

/// An SVID and what peers' are to be verified with from now on.
#[derive(Debug)]
pub struct IssuedSvid {
    /// The SVID.
    pub svid: Svid,
    /// The authority's roots.
    pub bundle: TrustBundle,
}

/// The request couldn't be made.
#[derive(Debug, thiserror::Error)]
#[error("request for an SVID of {id}")]
pub struct RequestError {
    /// For whom.
    pub id: SpiffeId,
    /// What the crypto library said.
    #[source]
    pub source: rcgen::Error,
}

/// What an authority answered is no SVID of the identity that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAnswer {
    /// No certificate besides the roots, or no root.
    #[error(
        "the authority's answer for {id}: expected a certificate chain and then the roots, got {got} texts"
    )]
    Incomplete {
        /// For whom.
        id: SpiffeId,
        /// How many texts there are.
        got: usize,
    },
    /// A text isn't PEM.
    #[error("the authority's answer for {id}: expected PEM certificates")]
    NotPem {
        /// For whom.
        id: SpiffeId,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// It's for a key that isn't the request's.
    #[error("the authority's answer for {id} certifies a key that isn't the request's")]
    OtherKey {
        /// For whom.
        id: SpiffeId,
    },
    /// The roots aren't usable.
    #[error(transparent)]
    Roots(#[from] InvalidBundle),
    /// The chain isn't an SVID.
    #[error(transparent)]
    Svid(#[from] InvalidSvid),
    /// It's somebody else's.
    #[error("the authority's answer for {id} is an SVID of {got}")]
    WrongIdentity {
        /// For whom it was asked.
        id: SpiffeId,
        /// For whom it is.
        got: SpiffeId,
    },
}

impl SvidRequest {
    /// A request with a new ECDSA P-256 key. It names the identity, though authorities go by the caller's word beside it.
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn new(id: SpiffeId) -> Result<Self, RequestError> {
        let make = || {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.subject_alt_names = vec![uri(&id.to_string())?];
            let pem = params.serialize_request(&key)?.pem()?;
            Ok((key, pem))
        };
        match make() {
            Ok((key, pem)) => Ok(Self { id, key, pem }),
            Err(source) => Err(RequestError { id, source }),
        }
    }

    /// The request (PKCS #10) as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Takes the answer of an authority that speaks as Istio's: texts of PEM certificates, leaf first, the last text all
    /// roots of the trust domain.
    ///
    /// # Errors
    /// See [`InvalidAnswer`].
    pub fn answered(self, texts: &[String]) -> Result<IssuedSvid, InvalidAnswer> {
        let (id, got) = (self.id, texts.len());
        let Some((roots, chain)) = texts.split_last().filter(|(_, chain)| !chain.is_empty()) else {
            return Err(InvalidAnswer::Incomplete { id, got });
        };
        let chain: Result<Vec<CertificateDer<'static>>, _> = chain
            .iter()
            .flat_map(|text| CertificateDer::pem_slice_iter(text.as_bytes()))
            .collect();
        let chain = match chain {
            Ok(chain) => chain,
            Err(source) => return Err(InvalidAnswer::NotPem { id, source }),
        };
        let is_ours = chain.first().is_some_and(|leaf| certifies(leaf, &self.key));
        let svid = Svid::new(chain, PrivateKeyDer::from(self.key))?;
        if *svid.id() != id {
            let got = svid.id().clone();
            return Err(InvalidAnswer::WrongIdentity { id, got });
        }
        if !is_ours {
            return Err(InvalidAnswer::OtherKey { id });
        }
        let bundle = TrustBundle::from_pem(id.trust_domain().clone(), roots)?;
        Ok(IssuedSvid { svid, bundle })
    }
}

/// Whether the certificate is of this key, its algorithm included.
fn certifies(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

impl fmt::Debug for SvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvidRequest")
            .field("id", &self.id.to_string())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{CaError, CertificateAuthority, Expected, PeerRole, verify};

    const TTL: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn id(account: &str) -> SpiffeId {
        format!("spiffe://demo.local/ns/shop/sa/{account}")
            .parse()
            .unwrap()
    }

    fn authority() -> CertificateAuthority {
        CertificateAuthority::new("demo.local".parse().unwrap(), now()).unwrap()
    }

    fn answer(authority: &CertificateAuthority, request: &SvidRequest, id: &SpiffeId) -> Vec<String> {
        let leaf = authority.sign(request.pem(), id, now(), TTL).unwrap();
        vec![leaf, authority.bundle().to_pem()]
    }

    #[test]
    fn a_request_becomes_an_svid_that_peers_accept() {
        let authority = authority();
        let request = SvidRequest::new(id("web")).unwrap();
        let texts = answer(&authority, &request, &id("web"));
        let issued = request.answered(&texts).unwrap();
        assert_eq!(*issued.svid.id(), id("web"));
        assert_eq!(issued.bundle, *authority.bundle());
        assert_eq!(issued.svid.not_after(), now() + TTL);
        let wanted = id("web");
        verify(
            issued.svid.chain(),
            PeerRole::Server,
            &issued.bundle,
            Expected::Id(&wanted),
            now(),
        )
        .unwrap();
    }

    #[test]
    fn an_answer_for_somebody_else_is_refused() {
        let authority = authority();
        let request = SvidRequest::new(id("web")).unwrap();
        let texts = answer(&authority, &request, &id("api"));
        let error = request.answered(&texts).unwrap_err();
        assert!(matches!(error, InvalidAnswer::WrongIdentity { .. }), "{error}");
    }

    #[test]
    fn an_answer_to_another_request_is_refused() {
        let authority = authority();
        let texts = answer(&authority, &SvidRequest::new(id("web")).unwrap(), &id("web"));
        let error = SvidRequest::new(id("web")).unwrap().answered(&texts).unwrap_err();
        assert!(matches!(error, InvalidAnswer::OtherKey { .. }), "{error}");
    }

    #[test]
    fn half_an_answer_is_refused() {
        let authority = authority();
        let texts = answer(&authority, &SvidRequest::new(id("web")).unwrap(), &id("web"));
        for part in [&texts[..0], &texts[..1]] {
            let error = SvidRequest::new(id("web")).unwrap().answered(part).unwrap_err();
            assert!(matches!(error, InvalidAnswer::Incomplete { .. }), "{error}");
        }
        let junk = ["junk".to_owned(), texts[1].clone()];
        assert!(SvidRequest::new(id("web")).unwrap().answered(&junk).is_err());
        let junk = [texts[0].clone(), "junk".to_owned()];
        assert!(SvidRequest::new(id("web")).unwrap().answered(&junk).is_err());
    }

    #[test]
    fn what_a_request_asks_for_besides_its_key_is_of_no_account() {
        // A request for another name, and for a certificate that may sign others.
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri("spiffe://demo.local/ns/kube-system/sa/admin").unwrap()];
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let leaf = authority().sign(&pem, &id("web"), now(), TTL).unwrap();
        let svid = Svid::from_pem(&leaf, &key.serialize_pem()).unwrap();
        assert_eq!(*svid.id(), id("web"));
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let request = SvidRequest::new(id("web")).unwrap();
        let mut der = ::pem::parse(request.pem()).unwrap().contents().to_vec();
        *der.last_mut().unwrap() ^= 1;
        let broken = ::pem::encode(&::pem::Pem::new("CERTIFICATE REQUEST", der));
        for bad in [broken.as_str(), "junk", ""] {
            let error = authority().sign(bad, &id("web"), now(), TTL).unwrap_err();
            assert!(matches!(error, CaError::BadRequest { .. }), "{error}");
        }
    }
}
