//! The kinds that are watched.

use std::fmt;

/// One kind of object, as the API serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Kind {
    /// The API group; empty for the core group.
    pub(super) group: &'static str,
    /// The version asked for.
    pub(super) version: &'static str,
    /// The plural in paths.
    pub(super) plural: &'static str,
    /// The name in objects.
    pub(super) name: &'static str,
    /// What it is to the model.
    pub(super) role: Role,
}

/// What a kind is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Role {
    Account,
    /// Watched for its names alone: what appears here may be a kind to watch.
    Definition,
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    /// Handed on as it is.
    Policy,
    Service,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    name: &'static str,
    role: Role,
) -> Kind {
    Kind {
        group,
        version,
        plural,
        name,
        role,
    }
}

/// Pods.
pub(super) const PODS: Kind = kind("", "v1", "pods", "Pod", Role::Pod);

/// What every cluster has.
pub(super) const BUILT_IN: [Kind; 8] = [
    kind("", "v1", "namespaces", "Namespace", Role::Namespace),
    kind("", "v1", "nodes", "Node", Role::Node),
    PODS,
    kind("", "v1", "serviceaccounts", "ServiceAccount", Role::Account),
    kind("", "v1", "services", "Service", Role::Service),
    kind(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        Role::Definition,
    ),
    kind(
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        "EndpointSlice",
        Role::EndpointSlice,
    ),
    kind(
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "NetworkPolicy",
        Role::Policy,
    ),
];

/// A family of kinds that some clusters have, under the groups and versions that it goes by, the preferred one first: of
/// each kind the first that is served is watched, since the others are the same objects.
pub(super) struct Family {
    /// Group and version.
    pub(super) served_as: &'static [(&'static str, &'static str)],
    /// Plural and name.
    pub(super) kinds: &'static [(&'static str, &'static str)],
}

/// Whose policies are understood, where their kinds are served.
pub(super) const FAMILIES: [Family; 3] = [
    Family {
        // The second holds what the first serves, where Calico's API server isn't installed.
        served_as: &[("projectcalico.org", "v3"), ("crd.projectcalico.org", "v1")],
        kinds: &[
            ("globalnetworkpolicies", "GlobalNetworkPolicy"),
            ("globalnetworksets", "GlobalNetworkSet"),
            ("networkpolicies", "NetworkPolicy"),
            ("networksets", "NetworkSet"),
            ("stagedglobalnetworkpolicies", "StagedGlobalNetworkPolicy"),
            ("stagedkubernetesnetworkpolicies", "StagedKubernetesNetworkPolicy"),
            ("stagednetworkpolicies", "StagedNetworkPolicy"),
            ("tiers", "Tier"),
        ],
    },
    Family {
        served_as: &[("policy.networking.k8s.io", "v1alpha2")],
        kinds: &[("clusternetworkpolicies", "ClusterNetworkPolicy")],
    },
    Family {
        served_as: &[("security.istio.io", "v1"), ("security.istio.io", "v1beta1")],
        kinds: &[
            ("authorizationpolicies", "AuthorizationPolicy"),
            ("peerauthentications", "PeerAuthentication"),
        ],
    },
];

impl Family {
    /// Its kinds as one group and version serves them.
    pub(super) fn kinds_of(
        &self,
        (group, version): (&'static str, &'static str),
    ) -> impl Iterator<Item = Kind> {
        self.kinds
            .iter()
            .map(move |(plural, name)| kind(group, version, plural, name, Role::Policy))
    }
}

impl Kind {
    /// The path of all objects of this kind.
    pub(super) fn path(self) -> String {
        let (version, plural) = (self.version, self.plural);
        match self.group {
            "" => format!("/api/{version}/{plural}"),
            group => format!("/apis/{group}/{version}/{plural}"),
        }
    }

    /// The `apiVersion` of its objects.
    pub(super) fn api_version(self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }
}

impl fmt::Display for Kind {
    /// `networkpolicies.networking.k8s.io`, as `kubectl get` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            "" => f.write_str(self.plural),
            group => write!(f, "{}.{group}", self.plural),
        }
    }
}
