use std::fmt;
use std::time::{Duration, SystemTime};

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::{InvalidBundle, InvalidSvid, SpiffeId, Svid, TrustBundle, TrustDomain};

/// The embedded certificate authority: one self-signed root that issues SVIDs of one trust domain.
///
/// For laptops, CI and first use. Keys are ECDSA P-256. The root's key lives in this value alone, unless
/// [`to_pem`](Self::to_pem) is asked for it.
pub struct CertificateAuthority {
    bundle: TrustBundle,
    issuer: Issuer<'static, KeyPair>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// What a TLS server proves its name with.
pub struct ServerCertificate {
    /// The certificate; its issuer is the root.
    pub certificate: CertificateDer<'static>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
    /// Its last second.
    pub not_after: SystemTime,
}

/// The authority couldn't be made, or couldn't issue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// What is to be signed isn't a request, isn't signed with its own key, or has a key of a kind that isn't known.
    #[error("the request for an SVID of {id} is no certificate signing request that can be signed")]
    BadRequest {
        /// For whom.
        id: SpiffeId,
        /// What is wrong with it.
        #[source]
        source: rcgen::Error,
    },
    /// The root isn't a usable trust anchor.
    #[error("root certificate of {trust_domain} is unusable")]
    BadRoot {
        /// Whose root.
        trust_domain: TrustDomain,
        /// Why.
        #[source]
        source: InvalidBundle,
    },
    /// What was issued didn't pass as an SVID.
    #[error("SVID for {id} came out unusable")]
    BadSvid {
        /// For whom.
        id: SpiffeId,
        /// Why.
        #[source]
        source: InvalidSvid,
    },
    /// The key isn't the root certificate's.
    #[error("the private key doesn't belong to the root certificate of {trust_domain}")]
    KeyMismatch {
        /// Whose root.
        trust_domain: TrustDomain,
    },
    /// The certificate may not sign others.
    #[error("expected a CA certificate as root of {trust_domain}, got one that may not sign certificates")]
    NotAuthority {
        /// Whose root.
        trust_domain: TrustDomain,
    },
    /// The text isn't PEM of a certificate and a key.
    #[error("expected PEM of a root certificate and its private key for {trust_domain}")]
    NotPem {
        /// Whose root.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The root's own validity is over.
    #[error("the root of {trust_domain} expired; make a new one")]
    RootExpired {
        /// Whose root.
        trust_domain: TrustDomain,
    },
    /// The crypto library refused.
    #[error("{what} of {whom}")]
    Signing {
        /// What was being made.
        what: &'static str,
        /// For whom.
        whom: String,
        /// What it said.
        #[source]
        source: rcgen::Error,
    },
    /// The lifetime asked for is outside the bounds.
    #[error(
        "SVID for {id}: expected a lifetime of {min:?} to {max:?}, got {got:?}",
        min = CertificateAuthority::MIN_TTL,
        max = CertificateAuthority::MAX_TTL
    )]
    TtlOutOfBounds {
        /// For whom.
        id: SpiffeId,
        /// What was asked for.
        got: Duration,
    },
    /// The id belongs to another trust domain.
    #[error("SVID for {id}: this authority speaks for {trust_domain} only")]
    WrongTrustDomain {
        /// For whom.
        id: SpiffeId,
        /// Whom the authority speaks for.
        trust_domain: TrustDomain,
    },
}

impl CertificateAuthority {
    /// The shortest lifetime of an SVID: below it, second-granular validity leaves no time to renew.
    pub const MIN_TTL: Duration = Duration::from_secs(5);
    /// The longest lifetime of an SVID: there is no revocation, expiry is the only end.
    pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
    /// How far `not_before` is set back, for peers whose clock is behind.
    pub const BACKDATE: Duration = Duration::from_secs(60);
    /// How long a new root is valid.
    pub const ROOT_TTL: Duration = Duration::from_secs(3650 * 24 * 3600);

    /// A new root with a new key, valid from `now`, set back by [`BACKDATE`](Self::BACKDATE).
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn new(trust_domain: TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        Self::with_ttl(trust_domain, now, Self::ROOT_TTL)
    }

    /// The same, valid for `ttl` from `now`.
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn with_ttl(trust_domain: TrustDomain, now: SystemTime, ttl: Duration) -> Result<Self, CaError> {
        let signing = |what| {
            let whom = trust_domain.to_string();
            move |source| CaError::Signing { what, whom, source }
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(signing("root key"))?;
        // As the certificate has it: whole seconds.
        let whole = |time: SystemTime| {
            let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.as_secs())
        };
        let (not_before, not_after) = (whole(now - Self::BACKDATE), whole(now + ttl));
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(not_before);
        params.not_after = OffsetDateTime::from(not_after);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "adit");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("root of {trust_domain}"));
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}")).map_err(signing("name"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).map_err(signing("root certificate"))?;
        let bundle = bundle_of(&trust_domain, root.der().clone())?;
        Ok(Self {
            bundle,
            issuer: Issuer::new(params, key),
            not_before,
            not_after,
        })
    }

    /// A root kept as PEM: the certificate and its PKCS #8 key, in any order.
    ///
    /// # Errors
    /// See [`CaError`]; an expired root is taken here and refused by [`issue`](Self::issue).
    pub fn from_pem(trust_domain: TrustDomain, text: &str) -> Result<Self, CaError> {
        let not_pem = |source| CaError::NotPem {
            trust_domain: trust_domain.clone(),
            source,
        };
        let root = CertificateDer::from_pem_slice(text.as_bytes()).map_err(not_pem)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(not_pem)?;
        let bundle = bundle_of(&trust_domain, root.clone())?;
        let signing = |what| {
            let whom = trust_domain.to_string();
            move |source| CaError::Signing { what, whom, source }
        };
        let key = KeyPair::try_from(&key).map_err(signing("root key"))?;
        let Ok((_, parsed)) = X509Certificate::from_der(&root) else {
            return Err(CaError::NotAuthority { trust_domain });
        };
        if !parsed.is_ca() {
            return Err(CaError::NotAuthority { trust_domain });
        }
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CaError::KeyMismatch { trust_domain });
        }
        let at = |time: ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        };
        let (not_before, not_after) = (at(parsed.validity().not_before), at(parsed.validity().not_after));
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(signing("root certificate"))?;
        Ok(Self {
            bundle,
            issuer,
            not_before,
            not_after,
        })
    }

    /// The root certificate and its private key. **A secret**: whoever has it is every workload.
    pub fn to_pem(&self) -> String {
        let lf = EncodeConfig::new().set_line_ending(LineEnding::LF);
        let root = Pem::new("CERTIFICATE", self.bundle.roots()[0].to_vec());
        let key = Pem::new("PRIVATE KEY", self.issuer.key().serialized_der());
        pem::encode_many_config(&[root, key], lf)
    }

    /// Issues an SVID with a new key, valid for `ttl` from `now`, or until the root's own end if that is sooner.
    ///
    /// # Errors
    /// An id of another trust domain, a `ttl` outside [`MIN_TTL`](Self::MIN_TTL) to
    /// [`MAX_TTL`](Self::MAX_TTL), an expired root, or the crypto library refused.
    pub fn issue(&self, id: &SpiffeId, now: SystemTime, ttl: Duration) -> Result<Svid, CaError> {
        self.check(id, now, ttl)?;
        let signing = |what| {
            let whom = id.to_string();
            move |source| CaError::Signing { what, whom, source }
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(signing("SVID key"))?;
        let certificate = self.certify(&key, id, now, ttl)?;
        Svid::new(vec![certificate.into()], key.into()).map_err(|source| CaError::BadSvid {
            id: id.clone(),
            source,
        })
    }

    /// Signs the key of a request (PKCS #10, PEM) as `id`'s, as [`issue`](Self::issue) does. Returns the certificate as PEM.
    /// Of the request nothing but the key counts.
    ///
    /// # Errors
    /// A request that can't be signed, or what [`issue`](Self::issue) fails for.
    pub fn sign(
        &self,
        request: &str,
        id: &SpiffeId,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<String, CaError> {
        self.check(id, now, ttl)?;
        let request =
            CertificateSigningRequestParams::from_pem(request).map_err(|source| CaError::BadRequest {
                id: id.clone(),
                source,
            })?;
        Ok(self.certify(&request.public_key, id, now, ttl)?.pem())
    }

    /// A new key and certificate for a server called `names`, signed by this root: for the authority's own service. The
    /// certificate names no SPIFFE id, so it's nobody's SVID. Both as PEM in one text.
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn issue_server(
        &self,
        names: &[String],
        now: SystemTime,
        ttl: Duration,
    ) -> Result<ServerCertificate, CaError> {
        let signing = |what| {
            let whom = names.join(", ");
            move |source| CaError::Signing { what, whom, source }
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(signing("server key"))?;
        let not_after = self.not_after.min(now + ttl);
        let mut params = CertificateParams::new(names).map_err(signing("names"))?;
        params.not_before = OffsetDateTime::from(now - Self::BACKDATE);
        params.not_after = OffsetDateTime::from(not_after);
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(signing("server certificate"))?;
        Ok(ServerCertificate {
            certificate: certificate.into(),
            key: key.into(),
            not_after,
        })
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<Certificate, CaError> {
        let signing = |what| {
            let whom = id.to_string();
            move |source| CaError::Signing { what, whom, source }
        };
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - Self::BACKDATE);
        params.not_after = OffsetDateTime::from(self.not_after.min(now + ttl));
        // An empty subject, as Istio's: the SAN extension becomes critical, and is the only name.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(&id.to_string()).map_err(signing("name"))?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params
            .signed_by(key, &self.issuer)
            .map_err(signing("SVID certificate"))
    }

    /// The trust bundle that verifies what this authority issues.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The trust domain it speaks for.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.bundle.trust_domain()
    }

    /// When the root was made.
    pub fn made_at(&self) -> SystemTime {
        self.not_before + Self::BACKDATE
    }

    /// When the root expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    fn check(&self, id: &SpiffeId, now: SystemTime, ttl: Duration) -> Result<(), CaError> {
        let trust_domain = self.trust_domain();
        if id.trust_domain() != trust_domain {
            return Err(CaError::WrongTrustDomain {
                id: id.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        if !(Self::MIN_TTL..=Self::MAX_TTL).contains(&ttl) {
            return Err(CaError::TtlOutOfBounds {
                id: id.clone(),
                got: ttl,
            });
        }
        if now >= self.not_after {
            return Err(CaError::RootExpired {
                trust_domain: trust_domain.clone(),
            });
        }
        Ok(())
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("trust_domain", &self.trust_domain().as_str())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn bundle_of(trust_domain: &TrustDomain, root: CertificateDer<'static>) -> Result<TrustBundle, CaError> {
    TrustBundle::new(trust_domain.clone(), [root]).map_err(|source| CaError::BadRoot {
        trust_domain: trust_domain.clone(),
        source,
    })
}

pub(crate) fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn id() -> SpiffeId {
        "spiffe://demo.local/ns/shop/sa/web".parse().unwrap()
    }

    fn authority() -> CertificateAuthority {
        CertificateAuthority::new("demo.local".parse().unwrap(), now()).unwrap()
    }

    #[test]
    fn an_svid_names_its_workload_and_lasts_as_long_as_asked() {
        let svid = authority().issue(&id(), now(), Duration::from_secs(10)).unwrap();
        assert_eq!(svid.id(), &id());
        assert_eq!(svid.not_before(), now() - CertificateAuthority::BACKDATE);
        assert_eq!(svid.not_after(), now() + Duration::from_secs(10));
        assert!(svid.is_valid_at(svid.not_after()));
        assert!(!svid.is_valid_at(svid.not_after() + Duration::from_secs(1)));
    }

    #[test]
    fn the_bounds_are_kept() {
        let ca = authority();
        let other = "spiffe://other.local/ns/shop/sa/web".parse().unwrap();
        let minute = Duration::from_secs(60);
        assert!(matches!(
            ca.issue(&other, now(), minute),
            Err(CaError::WrongTrustDomain { .. })
        ));
        let too_long = CertificateAuthority::MAX_TTL + Duration::from_secs(1);
        for ttl in [Duration::ZERO, Duration::from_millis(4999), too_long] {
            assert!(matches!(
                ca.issue(&id(), now(), ttl),
                Err(CaError::TtlOutOfBounds { .. })
            ));
        }
        assert!(matches!(
            ca.issue(&id(), ca.not_after(), minute),
            Err(CaError::RootExpired { .. })
        ));
        let late = ca
            .issue(&id(), ca.not_after() - Duration::from_secs(10), minute)
            .unwrap();
        assert_eq!(late.not_after(), ca.not_after());
    }

    #[test]
    fn a_kept_root_issues_what_the_old_bundle_verifies() {
        let ca = authority();
        let text = ca.to_pem();
        let kept = CertificateAuthority::from_pem(ca.trust_domain().clone(), &text).unwrap();
        assert_eq!(kept.bundle(), ca.bundle());
        assert_eq!(kept.not_after(), ca.not_after());
        assert_eq!(kept.to_pem(), text);
        let svid = kept.issue(&id(), now(), Duration::from_secs(60)).unwrap();
        crate::verify(
            svid.chain(),
            crate::PeerRole::Server,
            ca.bundle(),
            crate::Expected::Id(&id()),
            now(),
        )
        .unwrap();
    }

    #[test]
    fn a_wrong_pair_or_a_leaf_is_no_root() {
        let (one, two) = (authority(), authority());
        let domain = || one.trust_domain().clone();
        let key_of_two = two
            .to_pem()
            .split_once("-----BEGIN PRIVATE")
            .unwrap()
            .1
            .to_owned();
        let cert_of_one = one
            .to_pem()
            .split_once("-----BEGIN PRIVATE")
            .unwrap()
            .0
            .to_owned();
        let mixed = format!("{cert_of_one}-----BEGIN PRIVATE{key_of_two}");
        assert!(matches!(
            CertificateAuthority::from_pem(domain(), &mixed),
            Err(CaError::KeyMismatch { .. })
        ));
        assert!(matches!(
            CertificateAuthority::from_pem(domain(), &cert_of_one),
            Err(CaError::NotPem { .. })
        ));
        let svid = one.issue(&id(), now(), Duration::from_secs(60)).unwrap();
        let leaf = pem::encode(&Pem::new("CERTIFICATE", svid.chain()[0].to_vec()));
        let leaf = format!("{leaf}-----BEGIN PRIVATE{key_of_two}");
        assert!(matches!(
            CertificateAuthority::from_pem(domain(), &leaf),
            Err(CaError::NotAuthority { .. })
        ));
    }

    #[test]
    fn debug_shows_no_key() {
        let ca = authority();
        let svid = ca.issue(&id(), now(), Duration::from_secs(60)).unwrap();
        for text in [format!("{ca:?}"), format!("{svid:?}")] {
            assert!(!text.to_lowercase().contains("key"), "{text}");
        }
    }
}
