use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A SPIFFE trust domain: the authority of a mesh's identities, such as `cluster.local`.
///
/// Lower-case letters, digits, dots, dashes and underscores, 1 to 255 bytes (SPIFFE-ID §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A workload's SPIFFE id in the form that Istio uses: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Ids of any other form are refused: adit couldn't tell whose they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// A text that is no trust domain or no SPIFFE id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSpiffeId {
    /// A character outside the allowed set, an empty part, or one that's too long.
    #[error(
        "{part} of SPIFFE id {text:?}: expected 1 to {limit} bytes of [a-z0-9._-]{also}, got {got:?}",
        also = if *part == "trust domain" { "" } else { " or [A-Z]" }
    )]
    BadPart {
        /// The whole text.
        text: String,
        /// Which part: trust domain, namespace, service account.
        part: &'static str,
        /// The most bytes it may have.
        limit: usize,
        /// What stands there.
        got: String,
    },
    /// The path isn't `/ns/<namespace>/sa/<service account>`.
    #[error("SPIFFE id {text:?}: expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    BadShape {
        /// The whole text.
        text: String,
    },
}

const TRUST_DOMAIN_LIMIT: usize = 255;
const SEGMENT_LIMIT: usize = 253; // a DNS subdomain, which Kubernetes' names are

impl TrustDomain {
    /// The trust domain as it stands in an id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        check(text, "trust domain", text, TRUST_DOMAIN_LIMIT, allowed)?;
        Ok(Self(text.into()))
    }
}

impl SpiffeId {
    /// The id of a service account.
    ///
    /// # Errors
    /// A part that is empty, too long or has a character that a SPIFFE path segment can't have.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidSpiffeId> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The authority part.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad_shape = || InvalidSpiffeId::BadShape {
            text: text.to_owned(),
        };
        let rest = text.strip_prefix("spiffe://").ok_or_else(bad_shape)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = parts[..] else {
            return Err(bad_shape());
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        check(text, "namespace", namespace, SEGMENT_LIMIT, allowed)?;
        check(text, "service account", service_account, SEGMENT_LIMIT, allowed)?;
        Ok(Self {
            trust_domain: trust_domain.parse()?,
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

fn check(
    text: &str,
    part: &'static str,
    got: &str,
    limit: usize,
    allowed: impl Fn(u8) -> bool,
) -> Result<(), InvalidSpiffeId> {
    // "." and ".." are not path segments (SPIFFE-ID §2.2).
    if got.is_empty() || got.len() > limit || got == "." || got == ".." || !got.bytes().all(allowed) {
        return Err(InvalidSpiffeId::BadPart {
            text: text.to_owned(),
            part,
            limit,
            got: got.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_istio_id_round_trips() {
        let text = "spiffe://cluster.local/ns/shop/sa/web";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(
            (id.trust_domain().as_str(), id.namespace(), id.service_account()),
            ("cluster.local", "shop", "web")
        );
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn other_shapes_are_refused() {
        for bad in [
            "",
            "cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/shop",
            "spiffe://cluster.local/ns/shop/sa/web/",
            "spiffe://cluster.local/ns//sa/web",
            "spiffe://cluster.local/ns/../sa/web",
            "spiffe://Cluster.local/ns/shop/sa/web",
            "spiffe://user@cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local:80/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web?x=1",
            "SPIFFE://cluster.local/ns/shop/sa/web",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?} was taken");
        }
    }
}
