//! Any bytes as a request to the signer, and as its answer to an agent. Nothing but a well-formed request is signed, and the
//! certificate is of the identity that was decided upon, whatever the request says of itself.

#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use adit_control::signing::fuzzing;
use adit_identity::{CertificateAuthority, SpiffeId, SvidRequest};
use libfuzzer_sys::fuzz_target;

const TTL: Duration = Duration::from_secs(3600);

static AUTHORITY: LazyLock<CertificateAuthority> = LazyLock::new(|| {
    let domain = "demo.local".parse().expect("it's a trust domain");
    CertificateAuthority::new(domain, SystemTime::now()).expect("keys can be made")
});

static ID: LazyLock<SpiffeId> =
    LazyLock::new(|| "spiffe://demo.local/ns/shop/sa/web".parse().expect("it's an id"));

fuzz_target!(|bytes: &[u8]| {
    if let Some((wanted, csr)) = fuzzing::request(bytes) {
        let _ = wanted.map(|text| text.parse::<SpiffeId>());
        if let Ok(leaf) = AUTHORITY.sign(&csr, &ID, SystemTime::now(), TTL) {
            assert!(leaf.starts_with("-----BEGIN CERTIFICATE-----"));
        }
    }
    if let Some(texts) = fuzzing::answer(bytes) {
        let request = SvidRequest::new(ID.clone()).expect("keys can be made");
        assert!(request.answered(&texts).is_err(), "nobody signed this key");
    }
});
