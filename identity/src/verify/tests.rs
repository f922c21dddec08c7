use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::*;
use crate::CertificateAuthority;

const MINUTE: Duration = Duration::from_secs(60);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn web() -> SpiffeId {
    "spiffe://demo.local/ns/shop/sa/web".parse().unwrap()
}

/// A root whose key the test has, so that it can sign what no honest authority would.
struct Forge {
    issuer: Issuer<'static, KeyPair>,
    bundle: TrustBundle,
}

impl Forge {
    fn new() -> Self {
        let ca = CertificateAuthority::new("demo.local".parse().unwrap(), now()).unwrap();
        let key = KeyPair::from_pem(
            ca.to_pem()
                .split_inclusive("END CERTIFICATE-----\n")
                .nth(1)
                .unwrap(),
        )
        .unwrap();
        let issuer = Issuer::from_ca_cert_der(&ca.bundle().roots()[0], key).unwrap();
        Self {
            issuer,
            bundle: ca.bundle().clone(),
        }
    }

    fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = params();
        change(&mut params);
        params
            .signed_by(&KeyPair::generate().unwrap(), &self.issuer)
            .unwrap()
            .into()
    }

    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, VerifyError> {
        verify(
            chain,
            PeerRole::Client,
            &self.bundle,
            Expected::AnyInTrustDomain,
            now(),
        )
    }

    fn label(&self, change: impl FnOnce(&mut CertificateParams)) -> VerifyLabel {
        self.verify(&[self.sign(change)]).unwrap_err().label()
    }
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(now() - MINUTE);
    params.not_after = OffsetDateTime::from(now() + MINUTE);
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri("spiffe://demo.local/ns/shop/sa/web")];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_good_certificate_proves_its_id() {
    let forge = Forge::new();
    let peer = forge.verify(&[forge.sign(|_| {})]).unwrap();
    assert_eq!(peer.id(), &web());
    assert_eq!(peer.not_after(), now() + MINUTE);
}

#[test]
fn an_svid_needs_no_extended_key_usage_but_must_keep_to_one_it_has() {
    let forge = Forge::new();
    let none = forge.sign(|params| params.extended_key_usages.clear());
    forge.verify(&[none]).unwrap();
    let server_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    assert_eq!(forge.label(server_only), VerifyLabel::BadUsage);
    let chain = [forge.sign(server_only)];
    verify(
        &chain,
        PeerRole::Server,
        &forge.bundle,
        Expected::Id(&web()),
        now(),
    )
    .unwrap();
}

#[test]
fn each_bad_leaf_has_its_own_label() {
    let forge = Forge::new();
    let names = |names: &'static [&'static str]| {
        move |params: &mut CertificateParams| {
            params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
        }
    };
    let cases = [
        (forge.label(names(&[])), VerifyLabel::NoUri),
        (
            forge.label(names(&[
                "spiffe://demo.local/ns/shop/sa/web",
                "spiffe://demo.local/ns/shop/sa/db",
            ])),
            VerifyLabel::SeveralUris,
        ),
        (
            // The same name twice is still two: a verifier that counts distinct ones can be led astray.
            forge.label(names(&[
                "spiffe://demo.local/ns/shop/sa/web",
                "spiffe://demo.local/ns/shop/sa/web",
            ])),
            VerifyLabel::SeveralUris,
        ),
        (
            forge.label(names(&[
                "spiffe://demo.local/ns/shop/sa/web",
                "https://demo.local/",
            ])),
            VerifyLabel::SeveralUris,
        ),
        (
            forge.label(names(&["https://demo.local/ns/shop/sa/web"])),
            VerifyLabel::NotSpiffe,
        ),
        (
            forge.label(names(&["spiffe://demo.local/workload/web"])),
            VerifyLabel::NotSpiffe,
        ),
        (
            forge.label(names(&["spiffe://other.local/ns/shop/sa/web"])),
            VerifyLabel::WrongTrustDomain,
        ),
        (
            forge
                .label(|params| params.subject_alt_names = vec![SanType::DnsName("web".try_into().unwrap())]),
            VerifyLabel::NoUri,
        ),
        (
            forge.label(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            VerifyLabel::CaAsLeaf,
        ),
        (
            forge.label(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            VerifyLabel::BadKeyUsage,
        ),
        (
            forge.label(|params| params.not_after = OffsetDateTime::from(now() - Duration::from_secs(1))),
            VerifyLabel::Expired,
        ),
        (
            forge.label(|params| params.not_before = OffsetDateTime::from(now() + Duration::from_secs(1))),
            VerifyLabel::NotYetValid,
        ),
    ];
    for (index, (got, expected)) in cases.into_iter().enumerate() {
        assert_eq!(got, expected, "case {index}");
    }
}

#[test]
fn the_validity_includes_both_its_ends() {
    let forge = Forge::new();
    for edge in [now() - MINUTE, now() + MINUTE] {
        let chain = [forge.sign(|_| {})];
        verify(
            &chain,
            PeerRole::Client,
            &forge.bundle,
            Expected::AnyInTrustDomain,
            edge,
        )
        .unwrap();
    }
}

#[test]
fn another_root_of_the_same_name_and_domain_is_unknown() {
    let (ours, theirs) = (Forge::new(), Forge::new());
    let label = ours.verify(&[theirs.sign(|_| {})]).unwrap_err().label();
    // The roots share their subject, so the path is tried and the signature fails.
    assert!(
        [VerifyLabel::UnknownIssuer, VerifyLabel::Untrusted].contains(&label),
        "{label}"
    );
}

#[test]
fn a_self_signed_certificate_is_unknown() {
    let forge = Forge::new();
    let key = KeyPair::generate().unwrap();
    let mut params = params();
    params.distinguished_name.push(DnType::CommonName, "me");
    let certificate = params.self_signed(&key).unwrap();
    assert_eq!(
        forge.verify(&[certificate.into()]).unwrap_err().label(),
        VerifyLabel::UnknownIssuer
    );
}

#[test]
fn either_root_of_an_overlap_will_do() {
    let (old, new) = (Forge::new(), Forge::new());
    let roots = old.bundle.roots().iter().chain(new.bundle.roots()).cloned();
    let both = TrustBundle::new("demo.local".parse().unwrap(), roots).unwrap();
    for forge in [&old, &new] {
        let chain = [forge.sign(|_| {})];
        verify(&chain, PeerRole::Client, &both, Expected::AnyInTrustDomain, now()).unwrap();
    }
}

#[test]
fn the_wrong_workload_is_named_with_the_expected_one() {
    let forge = Forge::new();
    let db: SpiffeId = "spiffe://demo.local/ns/shop/sa/db".parse().unwrap();
    let chain = [forge.sign(|_| {})];
    let error = verify(&chain, PeerRole::Server, &forge.bundle, Expected::Id(&db), now()).unwrap_err();
    assert_eq!(
        error,
        VerifyError::WrongIdentity {
            expected: db,
            got: web()
        }
    );
}

#[test]
fn no_certificate_junk_and_too_many_are_told_apart() {
    let forge = Forge::new();
    assert_eq!(forge.verify(&[]).unwrap_err().label(), VerifyLabel::NoCertificate);
    let good = forge.sign(|_| {});
    let mut trailing = good.to_vec();
    trailing.push(0);
    for junk in [vec![], vec![0x30], trailing, good[..good.len() - 1].to_vec()] {
        let label = forge.verify(&[junk.into()]).unwrap_err().label();
        assert_eq!(label, VerifyLabel::Malformed);
    }
    let chain = vec![good; MAX_CHAIN + 1];
    assert_eq!(
        forge.verify(&chain).unwrap_err().label(),
        VerifyLabel::ChainTooLong
    );
}

#[test]
fn a_leaf_cannot_issue() {
    let forge = Forge::new();
    let key = KeyPair::generate().unwrap();
    let mut middle = params();
    middle.distinguished_name.push(DnType::CommonName, "middle");
    let middle_der = middle.signed_by(&key, &forge.issuer).unwrap();
    let issuer = Issuer::new(middle, key);
    let leaf = params()
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    let error = forge.verify(&[leaf.into(), middle_der.into()]).unwrap_err();
    assert_eq!(error.label(), VerifyLabel::Untrusted);
}

#[test]
fn labels_are_distinct() {
    let mut labels: Vec<_> = VerifyLabel::ALL.iter().map(|label| label.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), VerifyLabel::ALL.len());
}

proptest::proptest! {
    #[test]
    fn no_byte_changed_in_a_certificate_panics_or_changes_its_id(at in 0_usize..400, to in 0_u8..=255) {
        let forge = Forge::new();
        let good = forge.sign(|_| {});
        let mut bytes = good.to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(peer) = forge.verify(&[bytes.into()]) {
            proptest::prop_assert_eq!(peer.id(), &web());
        }
    }
}

#[test]
fn an_intermediate_between_root_and_leaf_is_followed() {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now() - MINUTE);
        params.not_after = OffsetDateTime::from(now() + MINUTE);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params, KeyPair::generate().unwrap())
    };
    let ((root, root_key), (middle, middle_key)) = (authority("root"), authority("middle"));
    let root_der = root.self_signed(&root_key).unwrap();
    let root = Issuer::new(root, root_key);
    let middle_der = middle.signed_by(&middle_key, &root).unwrap();
    let middle = Issuer::new(middle, middle_key);
    let leaf = params()
        .signed_by(&KeyPair::generate().unwrap(), &middle)
        .unwrap();
    let bundle = TrustBundle::new("demo.local".parse().unwrap(), [root_der.into()]).unwrap();
    let verify =
        |chain: &[CertificateDer<'_>]| verify(chain, PeerRole::Server, &bundle, Expected::Id(&web()), now());
    let leaf: CertificateDer<'_> = leaf.into();
    verify(&[leaf.clone(), middle_der.into()]).unwrap();
    assert_eq!(verify(&[leaf]).unwrap_err().label(), VerifyLabel::UnknownIssuer);
}
