//! Policies of every API in one shape: what the objects are read into and the compiler works on.

use std::sync::Arc;

use adit_flow::Protocol;

use crate::diagnostic::Position;
use crate::flow::Direction;
use crate::net::Nets;
use crate::selector::{EndpointSelector, Expression};

/// The name of the tier that Kubernetes' NetworkPolicy is in, and Calico's policies that name none.
pub(crate) const DEFAULT_TIER: &str = "default";
/// The tier of ClusterNetworkPolicy's `Admin`, and its order among Calico's.
pub(crate) const ADMIN_TIER: (&str, f64) = ("kube-admin", 1_000.0);
/// The tier of ClusterNetworkPolicy's `Baseline`, and its order among Calico's.
pub(crate) const BASELINE_TIER: (&str, f64) = ("kube-baseline", 10_000_000.0);
/// The order of the default tier, and of Calico tiers that give none.
pub(crate) const DEFAULT_TIER_ORDER: f64 = 1_000_000.0;
/// The order of Kubernetes' NetworkPolicy among Calico's policies of the default tier.
pub(crate) const KUBERNETES_ORDER: f64 = 1_000.0;

/// The kind of a policy object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// Istio's AuthorizationPolicy.
    AuthorizationPolicy,
    /// Calico's NetworkPolicy.
    CalicoNetworkPolicy,
    /// Kubernetes' ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// Calico's GlobalNetworkPolicy.
    GlobalNetworkPolicy,
    /// Kubernetes' NetworkPolicy.
    NetworkPolicy,
    /// Istio's PeerAuthentication.
    PeerAuthentication,
    /// Something that looks like a policy and is of no kind known.
    Unknown,
}

impl PolicyKind {
    /// The kind as it stands in `decidedBy`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::CalicoNetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "KubernetesClusterNetworkPolicy",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::NetworkPolicy => "KubernetesNetworkPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::Unknown => "UnknownPolicy",
        }
    }
}

/// What names a policy object. A staged policy has the key of the policy that it would become.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The kind; for staged ones the kind that it is staged for.
    pub kind: PolicyKind,
    /// The namespace, for namespaced kinds.
    pub namespace: Option<Arc<str>>,
    /// The name.
    pub name: Arc<str>,
    /// Whether it is staged: reported on, never enforced.
    pub staged: bool,
}

impl std::fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.staged {
            f.write_str("Staged")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind.label(), self.name),
            None => write!(f, "{}/{}", self.kind.label(), self.name),
        }
    }
}

/// A policy object, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its name.
    pub key: PolicyKey,
    /// The pods that it is about.
    pub subject: EndpointSelector,
    /// What it says of them.
    pub body: Body,
    /// Where it was read.
    pub origin: Origin,
    /// Why it could not be compiled, if so: the first error found in it. Such a policy denies.
    pub broken: Option<Arc<str>>,
}

/// Where an object was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file's name as the reader was given it; empty for objects that come from no file.
    pub file: Arc<str>,
    /// Where the object starts in it.
    pub at: Position,
}

/// The part of a policy that differs by layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Who may reach a workload, by identity.
    Authorization(Authorization),
    /// Which packets may leave and enter.
    Network(Network),
    /// Whether plaintext may enter.
    PeerAuthentication(PeerAuthentication),
}

/// A policy of the network layer, in its tier.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The tier it is in.
    pub tier: Arc<str>,
    /// Its place in the tier.
    pub order: Order,
    /// The rules for what enters; `None` where the policy is not about that direction.
    pub ingress: Option<Box<[Rule<EndpointSelector>]>>,
    /// The rules for what leaves; `None` where the policy is not about that direction.
    pub egress: Option<Box<[Rule<EndpointSelector>]>>,
    /// For a staged policy that stands for the removal of the enforced one of the same name.
    pub removal: bool,
}

impl Network {
    /// The rules of one direction.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule<EndpointSelector>]> {
        match direction {
            Direction::Egress => self.egress.as_deref(),
            Direction::Ingress => self.ingress.as_deref(),
        }
    }
}

/// A place within a tier: lower comes first; `f64::INFINITY` is last. Never NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Order(pub f64);

/// A tier of the network layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// Its name.
    pub name: Arc<str>,
    /// Its place among the tiers; ties are broken by name.
    pub order: Order,
    /// Whether a flow that none of its policies decides leaves the tier; if not, it is denied.
    pub passes: bool,
}

/// What a rule does with the flows that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The flow may proceed.
    Allow,
    /// It may not.
    Deny,
    /// Nothing: the next rule decides.
    Log,
    /// The next tier decides.
    Pass,
}

impl Action {
    /// The word for it in traces.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Log => "log",
            Self::Pass => "pass",
        }
    }
}

/// One rule: it matches a flow when every part of it does. `S` is how it refers to selectors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule<S> {
    /// What happens to a flow that matches.
    pub action: Action,
    /// The IP protocol it must have.
    pub protocol: Option<Protocol>,
    /// The IP protocol it must not have.
    pub not_protocol: Option<Protocol>,
    /// The IP version it must have.
    pub version: Option<IpVersion>,
    /// The ICMP type, and code if given, that it must have.
    pub icmp: Option<IcmpMatch>,
    /// The ICMP type, and code if given, that it must not have.
    pub not_icmp: Option<IcmpMatch>,
    /// What its source must be.
    pub source: Option<Box<End<S>>>,
    /// What its destination must be.
    pub destination: Option<Box<End<S>>>,
    /// The line of the rule in its file; 0 if unknown.
    pub line: u32,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// 4.
    V4,
    /// 6.
    V6,
}

/// An ICMP type, and a code where it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// The code; `None` is any.
    pub code: Option<u8>,
}

/// What one end of a flow must be. What few rules have is boxed, so that the rest is close together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct End<S> {
    /// It must be one of these; `None` asks nothing, an empty list matches nobody.
    pub peers: Option<Box<[Peer<S>]>>,
    /// No pod and no network set that holds its address may be selected by this.
    pub unless: Option<S>,
    /// Its address must be in here.
    pub nets: Option<Box<Nets>>,
    /// Its address must not be in here, and here must be some address of its IP version.
    pub not_nets: Option<Box<Nets>>,
    /// Its port must be one of these.
    pub ports: Option<Box<[PortMatch]>>,
    /// Its port must be none of these.
    pub not_ports: Option<Box<[PortMatch]>>,
    /// Whether a named port counts only if the pod itself satisfies `peers` (Calico), and not just its address.
    pub named_ports_need_peer: bool,
}

impl<S> Default for End<S> {
    fn default() -> Self {
        Self {
            peers: None,
            unless: None,
            nets: None,
            not_nets: None,
            ports: None,
            not_ports: None,
            named_ports_need_peer: false,
        }
    }
}

/// One alternative of what an end may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer<S> {
    /// Any address: what a peer that this engine can't judge means to a rule that denies.
    Anyone,
    /// An address in here.
    Block(Nets),
    /// An endpoint that this selects.
    Selected(S),
}

/// A port, by number or by the name that the pod gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortMatch {
    /// The protocol it goes with; `None` is any that has ports, and for a name that of the container port.
    pub protocol: Option<Protocol>,
    /// Which ports.
    pub port: PortSpec,
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortSpec {
    /// All.
    Any,
    /// The container port of this name.
    Named(Arc<str>),
    /// From the first to the last, both included.
    Range(u16, u16),
}

/// Istio's AuthorizationPolicy as far as layer 4 sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorization {
    /// What matching does.
    pub action: AuthorizationAction,
    /// Whether it only reports (`istio.io/dry-run`).
    pub dry_run: bool,
    /// Any of these.
    pub rules: Box<[AuthorizationRule]>,
}

/// What an AuthorizationPolicy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthorizationAction {
    /// Allows it, and by being there denies what no ALLOW policy matches.
    Allow,
    /// Notes it.
    Audit,
    /// Asks an external authorizer, which layer 4 doesn't have.
    Custom,
    /// Refuses it.
    Deny,
    /// Nothing to workloads: it is about a waypoint or gateway.
    Elsewhere,
}

/// One rule: all clauses must hold, and a clause holds when any of its matches does.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationRule {
    /// From, to and each when.
    pub clauses: Box<[Clause]>,
    /// HTTP attributes in it, which layer 4 can't see.
    pub http: Box<[Arc<str>]>,
    /// The line of the rule in its file; 0 if unknown.
    pub line: u32,
}

/// One part of a rule: it holds when any of its matches does.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    /// The field it was written as.
    pub field: ClauseField,
    /// The alternatives.
    pub any: Box<[AuthorizationMatch]>,
}

/// The field that a [`Clause`] was written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClauseField {
    /// `from`.
    From,
    /// `to`.
    To,
    /// One entry of `when`.
    When,
}

/// All fields that are given must hold; within one, any value. Empty is "not given".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthorizationMatch {
    /// SPIFFE ids without the scheme.
    pub principals: Values<Pattern>,
    /// Namespaces of the source's identity.
    pub namespaces: Values<Pattern>,
    /// Namespace and name of the source's identity.
    pub accounts: Values<(Arc<str>, Arc<str>)>,
    /// Trust domains of the source's identity.
    pub trust_domains: Values<Pattern>,
    /// The source address.
    pub source_nets: NetValues,
    /// The destination address.
    pub destination_nets: NetValues,
    /// The destination port.
    pub ports: Values<u16>,
}

impl AuthorizationMatch {
    /// Whether it asks nothing. Such a match never holds: it is what is left of one that asked for HTTP attributes.
    pub fn is_empty(&self) -> bool {
        self.principals.is_empty()
            && self.namespaces.is_empty()
            && self.accounts.is_empty()
            && self.trust_domains.is_empty()
            && self.source_nets.is_empty()
            && self.destination_nets.is_empty()
            && self.ports.is_empty()
    }
}

/// Values of which one must match, and values of which none may.
#[derive(Clone, Debug, PartialEq)]
pub struct Values<T> {
    /// One of these, if any are given.
    pub any: Box<[T]>,
    /// None of these.
    pub none: Box<[T]>,
}

impl<T> Values<T> {
    fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self {
            any: Box::default(),
            none: Box::default(),
        }
    }
}

/// [`Values`] for addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetValues {
    /// In here, if given.
    pub any: Option<Nets>,
    /// Not in here.
    pub none: Option<Nets>,
}

impl NetValues {
    fn is_empty(&self) -> bool {
        self.any.is_none() && self.none.is_none()
    }
}

/// Istio's string match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// The whole text.
    Exact(Arc<str>),
    /// It starts so: `x*`.
    Prefix(Arc<str>),
    /// Anything but nothing: `*`.
    Present,
    /// It ends so: `*x`.
    Suffix(Arc<str>),
}

/// Istio's PeerAuthentication.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    /// How far it reaches: workload policies come before those of the namespace, those before the mesh's.
    pub level: PeerLevel,
    /// The mode for all ports; `None` inherits.
    pub mode: Option<MtlsMode>,
    /// Modes of single ports, sorted; `None` inherits.
    pub ports: Box<[(u16, Option<MtlsMode>)]>,
    /// Seconds since the epoch at which it was created, the oldest of a level being the one that counts.
    pub created: i64,
}

/// The level of a PeerAuthentication, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerLevel {
    /// Pods that its selector matches.
    Workload,
    /// Its namespace.
    Namespace,
    /// All.
    Mesh,
    /// A selector in the root namespace: Istio ignores it.
    Ignored,
}

/// What a workload's port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Mutual TLS, and plaintext too.
    Disable,
    /// Mutual TLS and plaintext.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// The subject of an Istio policy: `matchLabels` in its namespace, or everywhere from the root namespace.
pub(crate) fn mesh_subject(namespace: Option<&Arc<str>>, labels: Option<Expression>) -> EndpointSelector {
    EndpointSelector {
        labels,
        ..EndpointSelector::everything_in(namespace)
    }
}
