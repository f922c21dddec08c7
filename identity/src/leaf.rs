//! What a leaf certificate says about itself, before anybody vouched for it.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::{InvalidSpiffeId, SpiffeId};

/// The parts of an X.509 SVID's leaf that adit looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
}

/// Why a certificate can't be the leaf of an X.509 SVID, whoever signed it (SPIFFE X509-SVID §2 to §4).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadLeaf {
    /// It's a CA certificate (§4.1: the leaf's `cA` must be false).
    #[error("expected a leaf, got a CA certificate")]
    Authority,
    /// It may sign certificates or CRLs, or may not sign handshakes (§4.3).
    #[error("expected key usage digitalSignature without keyCertSign and cRLSign")]
    KeyUsage,
    /// It isn't DER, or an extension that matters here isn't.
    #[error("expected an X.509 certificate, got bytes that don't parse: {reason}")]
    Malformed {
        /// What the parser said.
        reason: String,
    },
    /// It names nobody: no URI among its subject alternative names.
    #[error("expected one URI among the subject alternative names, got none")]
    NoUri,
    /// Its URI is no SPIFFE id that adit knows the shape of.
    #[error("expected a SPIFFE id as URI")]
    NotSpiffe(#[source] InvalidSpiffeId),
    /// It names several (§2: exactly one URI SAN).
    #[error("expected one URI among the subject alternative names, got {count}")]
    SeveralUris {
        /// How many.
        count: usize,
    },
}

impl Leaf {
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, BadLeaf> {
        let malformed = |reason: String| BadLeaf::Malformed { reason };
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes after its end", rest.len())));
        }
        check_constraints(&certificate)?;
        Ok(Self {
            id: spiffe_id(&certificate)?,
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            serial: in_octets(&certificate.tbs_certificate.serial.to_str_radix(16)),
        })
    }
}

fn check_constraints(certificate: &X509Certificate<'_>) -> Result<(), BadLeaf> {
    let malformed = |error: x509_parser::error::X509Error| BadLeaf::Malformed {
        reason: error.to_string(),
    };
    let constraints = certificate.basic_constraints().map_err(malformed)?;
    if constraints.is_some_and(|extension| extension.value.ca) {
        return Err(BadLeaf::Authority);
    }
    let usage = certificate.key_usage().map_err(malformed)?;
    match usage.map(|extension| extension.value) {
        Some(usage) if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() => {
            Err(BadLeaf::KeyUsage)
        }
        _ => Ok(()),
    }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, BadLeaf> {
    let malformed = |reason: String| BadLeaf::Malformed { reason };
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| malformed(error.to_string()))?;
    let names = names
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // A name that one parser can't read may be one that another reads as an identity.
            GeneralName::Invalid(tag, _) => {
                return Err(malformed(format!("subject alternative name with {tag}")));
            }
            _ => {}
        }
    }
    match uris[..] {
        [] => Err(BadLeaf::NoUri),
        [uri] => uri.parse().map_err(BadLeaf::NotSpiffe),
        _ => Err(BadLeaf::SeveralUris { count: uris.len() }),
    }
}

/// Times before 1970 count as 1970: no certificate in use is that old.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Hexadecimal digits in pairs, as tools show a serial number: one that begins with a zero keeps it.
fn in_octets(digits: &str) -> String {
    let padding = if digits.len().is_multiple_of(2) { "" } else { "0" };
    format!("{padding}{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_have_two_digits_an_octet() {
        assert_eq!(in_octets("f7fa"), "f7fa");
        assert_eq!(in_octets("7fa"), "07fa");
    }
}
