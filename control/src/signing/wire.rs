//! `istio.v1.auth.IstioCertificateService`, as istio.io/api `security/v1alpha1/ca.proto` has it: two messages, written by hand.

use std::collections::HashMap;

/// The one method, as a path.
pub(crate) const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// The key in the metadata under which an agent says for whom it asks.
pub(crate) const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";
/// The longest message that either side takes, in bytes: a request has 1 KB, an answer some KB for each root.
pub(crate) const MAX_MESSAGE: usize = 256 * 1024;

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CertificateRequest {
    /// PKCS #10 as PEM.
    #[prost(string, tag = "1")]
    pub(crate) csr: String,
    /// Seconds; 0 leaves it to the signer.
    #[prost(int64, tag = "3")]
    pub(crate) validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    pub(crate) metadata: Option<Struct>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CertificateResponse {
    /// PEM texts: the leaf, what is between, and last the roots.
    #[prost(string, repeated, tag = "1")]
    pub(crate) cert_chain: Vec<String>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Struct {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) fields: HashMap<String, Value>,
}

/// `google.protobuf.Value`, as far as it's a text. Other kinds are skipped, as unknown fields are.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Value {
    #[prost(string, optional, tag = "3")]
    pub(crate) string_value: Option<String>,
}

impl CertificateRequest {
    /// For whom it asks, if it says so.
    pub(crate) fn impersonated(&self) -> Option<&str> {
        let fields = &self.metadata.as_ref()?.fields;
        fields.get(IMPERSONATED_IDENTITY)?.string_value.as_deref()
    }
}

impl Struct {
    /// One text under one key.
    pub(crate) fn of(key: &str, text: String) -> Self {
        let value = Value {
            string_value: Some(text),
        };
        Self {
            fields: [(key.to_owned(), value)].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_request_has_the_octets_that_protoc_gives_it() {
        let request = CertificateRequest {
            csr: "x".to_owned(),
            validity_duration: 300,
            metadata: Some(Struct::of(
                IMPERSONATED_IDENTITY,
                "spiffe://a/ns/b/sa/c".to_owned(),
            )),
        };
        let mut expected =
            b"\x0a\x01x\x18\xac\x02\x22\x30\x0a\x2e\x0a\x14ImpersonatedIdentity\x12\x16\x1a\x14".to_vec();
        expected.extend(b"spiffe://a/ns/b/sa/c");
        assert_eq!(request.encode_to_vec(), expected);
        let read = CertificateRequest::decode(&expected[..]).unwrap();
        assert_eq!(read.impersonated(), Some("spiffe://a/ns/b/sa/c"));
    }

    #[test]
    fn values_of_other_kinds_are_no_identity() {
        // A number under the key: field 2, a double.
        let number =
            b"\x22\x23\x0a\x21\x0a\x14ImpersonatedIdentity\x12\x09\x11\x00\x00\x00\x00\x00\x00\xf0\x3f";
        let read = CertificateRequest::decode(&number[..]).unwrap();
        assert_eq!(read.impersonated(), None);
        assert_eq!(CertificateRequest::default().impersonated(), None);
    }
}
