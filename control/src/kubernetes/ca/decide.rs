//! Who gets which certificate: pure.

use std::collections::{BTreeMap, BTreeSet};

use adit_flow::WorkloadName;
use adit_identity::{SpiffeId, TrustDomain};
use serde::Deserialize;

use super::placement::Placement;

/// What a TokenReview says, as far as it's read.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Review {
    #[serde(default)]
    pub(super) authenticated: bool,
    #[serde(default)]
    pub(super) audiences: Option<Vec<String>>,
    #[serde(default)]
    pub(super) user: User,
    #[serde(default)]
    pub(super) error: String,
}

/// See [`Review`].
#[derive(Debug, Default, Deserialize)]
pub(super) struct User {
    #[serde(default)]
    pub(super) username: String,
    #[serde(default)]
    pub(super) extra: Option<BTreeMap<String, Vec<String>>>,
}

/// An agent that proved on which node it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Its pod, for the log.
    pub(super) pod: String,
    pub(super) node: String,
}

/// Why there is no certificate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("expected a SPIFFE id of {trust_domain} as ImpersonatedIdentity, got {got:?}")]
    BadIdentity { got: String, trust_domain: TrustDomain },
    #[error("{account} is no agent: agents are {agents}")]
    NotAgent { account: String, agents: String },
    #[error("the token isn't bound to a pod that runs on a node: expected a projected token")]
    NotBound,
    #[error("node {node} runs no pod of {id}")]
    NotOnNode { id: SpiffeId, node: String },
    #[error("the token is not good: {reason}")]
    NotAuthenticated { reason: String },
    #[error("which pods run where isn't known yet")]
    NotReady,
}

/// Who is asking.
///
/// # Errors
/// Nobody whom the API server knows, no agent, or an agent whose token doesn't say where it runs.
pub(super) fn caller(
    review: &Review,
    audience: &str,
    agents: &BTreeSet<WorkloadName>,
    placement: &Placement,
) -> Result<Caller, Refusal> {
    if !review.authenticated {
        let reason = match review.error.as_str() {
            "" => "the API server doesn't know it".to_owned(),
            reason => reason.to_owned(),
        };
        return Err(Refusal::NotAuthenticated { reason });
    }
    // An API server that doesn't know of audiences says none, and has accepted a token for anything.
    if !review.audiences.iter().flatten().any(|of| of == audience) {
        let reason = format!("it isn't for {audience}");
        return Err(Refusal::NotAuthenticated { reason });
    }
    let account = review.user.username.strip_prefix("system:serviceaccount:");
    let account = account
        .and_then(|account| account.split_once(':'))
        .map(|(namespace, name)| WorkloadName::new(namespace, name));
    if account.as_ref().is_none_or(|account| !agents.contains(account)) {
        let agents: Vec<String> = agents.iter().map(ToString::to_string).collect();
        return Err(Refusal::NotAgent {
            account: review.user.username.clone(),
            agents: agents.join(", "),
        });
    }
    let extra = |key: &str| {
        let values = review
            .user
            .extra
            .as_ref()?
            .get(&format!("authentication.kubernetes.io/{key}"));
        values?.first().map(String::as_str)
    };
    let (Some(pod), Some(uid)) = (extra("pod-name"), extra("pod-uid")) else {
        return Err(Refusal::NotBound);
    };
    let known = placement.node_of(uid);
    let node = match (extra("node-name"), known) {
        // Since Kubernetes 1.30 the token says it. What the API says of the pod must not differ.
        (Some(said), Some(known)) if said != known => return Err(Refusal::NotBound),
        (Some(node), _) | (None, Some(node)) => node,
        (None, None) => return Err(Refusal::NotBound),
    };
    Ok(Caller {
        pod: pod.to_owned(),
        node: node.to_owned(),
    })
}

/// The identity that is asked for.
///
/// # Errors
/// None, or none of this trust domain.
pub(super) fn wanted(text: Option<&str>, trust_domain: &TrustDomain) -> Result<SpiffeId, Refusal> {
    let text = text.unwrap_or_default();
    let parsed: Option<SpiffeId> = text.parse().ok();
    parsed
        .filter(|id| id.trust_domain() == trust_domain)
        .ok_or_else(|| Refusal::BadIdentity {
            got: text.chars().take(200).collect(),
            trust_domain: trust_domain.clone(),
        })
}

/// Whether `caller` may have a certificate of `id`.
///
/// # Errors
/// No pod on its node has that identity.
pub(super) fn check(caller: &Caller, id: &SpiffeId, placement: &Placement) -> Result<(), Refusal> {
    if !placement.is_listed() {
        return Err(Refusal::NotReady);
    }
    match placement.has(&caller.node, id) {
        true => Ok(()),
        false => Err(Refusal::NotOnNode {
            id: id.clone(),
            node: caller.node.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::placement::tests::placement;
    use super::*;

    fn domain() -> TrustDomain {
        "demo.local".parse().unwrap()
    }

    fn agents() -> BTreeSet<WorkloadName> {
        [WorkloadName::new("adit-system", "adit-agent")].into()
    }

    /// The review of an agent's token on node `one`.
    fn good() -> Value {
        json!({
            "authenticated": true,
            "audiences": ["adit-ca"],
            "user": {
                "username": "system:serviceaccount:adit-system:adit-agent",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["adit-agent-x"],
                    "authentication.kubernetes.io/pod-uid": ["uid-agent"],
                    "authentication.kubernetes.io/node-name": ["one"],
                },
            },
        })
    }

    fn ask(review: Value) -> Result<Caller, Refusal> {
        let review: Review = serde_json::from_value(review).unwrap();
        let placement = placement(&[("adit-system/adit-agent-x", "uid-agent", "one", "adit-agent")]);
        caller(&review, "adit-ca", &agents(), &placement)
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut review = good();
        *review.pointer_mut(pointer).unwrap() = value;
        review
    }

    const NODE: &str = "/user/extra/authentication.kubernetes.io~1node-name";
    const UID: &str = "/user/extra/authentication.kubernetes.io~1pod-uid";

    #[test]
    fn an_agent_is_known_by_its_token() {
        let expected = Caller {
            pod: "adit-agent-x".to_owned(),
            node: "one".to_owned(),
        };
        assert_eq!(ask(good()).unwrap(), expected);
        // Before Kubernetes 1.30 the token says the pod alone.
        assert_eq!(ask(with(NODE, json!([]))).unwrap(), expected);
    }

    #[test]
    fn others_are_not() {
        for (review, expected) in [
            (json!({}), "the token is not good: the API server doesn't know it"),
            (json!({"error": "expired"}), "the token is not good: expired"),
            (
                with("/authenticated", json!(false)),
                "the token is not good: the API server doesn't know it",
            ),
            (
                with("/audiences", json!(["https://kubernetes.default.svc"])),
                "the token is not good: it isn't for adit-ca",
            ),
            (
                with("/audiences", Value::Null),
                "the token is not good: it isn't for adit-ca",
            ),
            (
                with("/user/username", json!("system:serviceaccount:shop:web")),
                "system:serviceaccount:shop:web is no agent: agents are adit-system/adit-agent",
            ),
            (
                with("/user/username", json!("adit-system:adit-agent")),
                "adit-system:adit-agent is no agent: agents are adit-system/adit-agent",
            ),
            (
                with("/user/extra", Value::Null),
                "the token isn't bound to a pod that runs on a node: expected a projected token",
            ),
            (
                with(UID, json!([])),
                "the token isn't bound to a pod that runs on a node: expected a projected token",
            ),
            // The API knows that pod on another node, or not at all while the token doesn't say where it is.
            (
                with(NODE, json!(["two"])),
                "the token isn't bound to a pod that runs on a node: expected a projected token",
            ),
        ] {
            assert_eq!(ask(review.clone()).unwrap_err().to_string(), expected, "{review}");
        }
        let mut unknown = with(NODE, json!([]));
        *unknown.pointer_mut(UID).unwrap() = json!(["other"]);
        assert_eq!(ask(unknown).unwrap_err(), Refusal::NotBound);
    }

    #[test]
    fn an_identity_is_one_of_the_trust_domain() {
        let id = wanted(Some("spiffe://demo.local/ns/shop/sa/web"), &domain()).unwrap();
        assert_eq!(id.service_account(), "web");
        for bad in [
            None,
            Some(""),
            Some("web"),
            Some("spiffe://other.local/ns/shop/sa/web"),
        ] {
            let refusal = wanted(bad, &domain()).unwrap_err();
            assert!(matches!(refusal, Refusal::BadIdentity { .. }), "{bad:?}");
        }
    }

    #[test]
    fn an_agent_gets_what_its_node_runs() {
        let placement = placement(&[
            ("shop/web-1", "uid-1", "one", "web"),
            ("shop/api-1", "uid-2", "two", "api"),
        ]);
        let caller = ask(good()).unwrap();
        let id = |account: &str| {
            format!("spiffe://demo.local/ns/shop/sa/{account}")
                .parse()
                .unwrap()
        };
        assert_eq!(check(&caller, &id("web"), &placement), Ok(()));
        let refusal = check(&caller, &id("api"), &placement).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "node one runs no pod of spiffe://demo.local/ns/shop/sa/api"
        );
        assert_eq!(
            check(&caller, &id("web"), &Placement::default()),
            Err(Refusal::NotReady)
        );
    }
}
