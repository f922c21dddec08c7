//! Entries for `fuzz/`: what stands in the two messages of the signer's one method.

use prost::Message;

use super::wire::{CertificateRequest, CertificateResponse};

/// A request: for whom it asks, and its PKCS #10.
///
/// # Panics
/// When what is read of it is written back as something else.
pub fn request(bytes: &[u8]) -> Option<(Option<String>, String)> {
    let request = CertificateRequest::decode(bytes).ok()?;
    let again = CertificateRequest::decode(&request.encode_to_vec()[..]);
    assert_eq!(again.as_ref(), Ok(&request), "what is read is written back");
    Some((request.impersonated().map(str::to_owned), request.csr))
}

/// An answer: its texts.
pub fn answer(bytes: &[u8]) -> Option<Vec<String>> {
    Some(CertificateResponse::decode(bytes).ok()?.cert_chain)
}
