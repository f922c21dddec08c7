//! Objects of kinds that adit doesn't know. One that looks like a policy may have been meant to deny something, so it
//! denies in its whole scope; a document of no kind could be anything; the rest has nothing to do with policy.

use std::sync::Arc;

use super::decode::Decoder;
use super::header::Header;
use super::{Object, rule_between};
use crate::codes;
use crate::document::Node;
use crate::model::{Action, Body, Network, Order, Policy, PolicyKind};
use crate::selector::EndpointSelector;

/// Reports the object, and returns the policy that it comes to, if it looks like one.
pub(super) fn read(
    decoder: &mut Decoder<'_>,
    file: &Arc<str>,
    node: &Node,
    (version, kind): (&str, &str),
    ordinal: usize,
) -> Option<Object> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if kind.is_empty() || version.is_empty() && !is_policy_kind(kind) {
        let message = "expected apiVersion and kind, got an object without";
        decoder.fail(codes::UNKNOWN_KIND, node.at, message);
        return None;
    }
    if !(is_policy_kind(kind) || POLICY_GROUPS.contains(&group) && kind.contains("Policy")) {
        decoder.warn(
            codes::UNKNOWN_KIND,
            node.at,
            format!("{kind} of {version} has no bearing on policy here"),
        );
        return None;
    }
    let version = if version.is_empty() {
        "no apiVersion"
    } else {
        version
    };
    decoder.fail(
        codes::UNKNOWN_KIND,
        node.at,
        format!("adit doesn't know {kind} of {version}, so everything in its scope is denied"),
    );
    let header = Header::read(decoder, node, file, ordinal);
    let deny = || Some(Box::from([rule_between(Action::Deny, 0, true, None, None)]));
    Some(Object::Policy(Arc::new(Policy {
        key: header.key(PolicyKind::Unknown, header.namespace.as_ref(), false),
        subject: EndpointSelector::everything_in(header.namespace.as_ref()),
        body: Body::Network(Network {
            // No tier has this name, so it comes ahead of all.
            tier: "".into(),
            order: Order(f64::NEG_INFINITY),
            ingress: deny(),
            egress: deny(),
            removal: false,
        }),
        origin: header.origin,
        broken: decoder.first_error(),
    })))
}

/// Groups whose kinds with `Policy` in their name decide about flows.
const POLICY_GROUPS: [&str; 6] = [
    "crd.projectcalico.org",
    "extensions",
    "networking.k8s.io",
    "policy.networking.k8s.io",
    "projectcalico.org",
    "security.istio.io",
];

/// Whether a kind is one that we enforce in another version, or an elder or misspelt form of one.
fn is_policy_kind(kind: &str) -> bool {
    const ENDS: [&str; 5] = [
        "authorizationpolicies",
        "authorizationpolicy",
        "networkpolicies",
        "networkpolicy",
        "peerauthentication",
    ];
    let kind = kind.to_ascii_lowercase();
    ENDS.iter().any(|known| kind.ends_with(known))
}
