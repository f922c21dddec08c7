//! Kinds of policy that a cluster has where Istio, Calico or the network policy API is installed, without their schemas.

use serde_json::{Value, json};

/// The kinds that the tests use, as objects to apply.
pub(super) fn policy_kinds() -> Vec<Value> {
    [
        (
            "security.istio.io",
            "v1",
            "authorizationpolicies",
            "AuthorizationPolicy",
            "Namespaced",
        ),
        (
            "security.istio.io",
            "v1",
            "peerauthentications",
            "PeerAuthentication",
            "Namespaced",
        ),
        (
            "crd.projectcalico.org",
            "v1",
            "networkpolicies",
            "NetworkPolicy",
            "Namespaced",
        ),
        (
            "crd.projectcalico.org",
            "v1",
            "globalnetworkpolicies",
            "GlobalNetworkPolicy",
            "Cluster",
        ),
        ("crd.projectcalico.org", "v1", "tiers", "Tier", "Cluster"),
        (
            "policy.networking.k8s.io",
            "v1alpha2",
            "clusternetworkpolicies",
            "ClusterNetworkPolicy",
            "Cluster",
        ),
    ]
    .map(definition)
    .into()
}

fn definition((group, version, plural, kind, scope): (&str, &str, &str, &str, &str)) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            // Names below k8s.io are reserved for what was approved; this is the word for test clusters.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [
                {"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    })
}
