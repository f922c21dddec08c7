use std::fmt;

use adit_flow::{PolicyTrace, VerdictKind};

use crate::flow::Direction;
use crate::model::{Action, Body, ClauseField, PolicyKey};
use crate::set::{Compiled, Kept};

/// How much of the way to the verdict is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trace {
    /// What decided, and nothing else: the data path.
    #[default]
    Off,
    /// Every rule that was looked at: `explain`, `eval`.
    On,
}

/// The engine's answer for one side of a flow.
#[derive(Debug)]
#[must_use]
pub enum Decision {
    /// The flow may proceed; the permit is the proof.
    Allowed(Permit),
    /// It may not.
    Denied(Denial),
}

/// The proof that the engine allowed a flow. The path takes it by value; nothing but the engine can make one.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    verdict: Verdict,
}

/// The record of a refusal.
#[derive(Debug)]
#[must_use]
pub struct Denial {
    verdict: Verdict,
}

/// What was decided, by what, and what staged policies would have decided.
#[derive(Clone, Debug)]
pub struct Verdict {
    generation: u64,
    direction: Direction,
    kind: VerdictKind,
    network: Ruling,
    mesh: Option<Ruling>,
    extra: Option<Box<Extra>>,
}

/// What most verdicts don't have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) pending: Option<PendingVerdict>,
    pub(crate) audits: Vec<Kept>,
    pub(crate) unenforced: Vec<Unenforced>,
    pub(crate) steps: Option<Vec<Step>>,
}

/// What would be decided if staged and dry-run policies were enforced.
#[derive(Clone, Debug)]
pub(crate) struct PendingVerdict {
    pub(crate) kind: VerdictKind,
    pub(crate) decided_by: Ruling,
}

/// A rule, or a whole policy, that layer 4 doesn't enforce as it is written.
#[derive(Clone, Debug)]
pub struct Unenforced {
    pub(crate) policy: Kept,
    pub(crate) rule: Option<u32>,
}

/// What decided in one layer.
#[derive(Clone, Debug)]
pub(crate) enum Ruling {
    /// Nothing did: the namespace's default is to allow.
    DefaultAllow,
    /// There are ALLOW policies and none matches; the first of them.
    NoAllowMatch { policy: Kept },
    /// There is no ALLOW policy.
    NoAllowPolicy,
    /// It comes from the workload's own node.
    NodeLocal,
    /// A rule.
    Rule { policy: Kept, rule: u32, action: Action },
    /// It is plain, and this policy takes mutual TLS only.
    Strict { policy: Kept },
    /// No rule of the tier did; the tier's first policy for this workload.
    TierEnd { policy: Kept },
    /// The workload in question isn't known.
    UnknownWorkload,
}

/// One rule, or one tier's end, on the way to the verdict.
#[derive(Clone, Debug)]
pub struct Step {
    pub(crate) policy: Kept,
    pub(crate) rule: Option<u32>,
    pub(crate) outcome: Outcome,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule matches.
    Matched(Action),
    /// The rule doesn't match, for want of this.
    Missed(Field),
    /// The flow is plain where mutual TLS is required.
    PlaintextRefused,
    /// No rule of the tier matched, and the tier denies.
    TierDenied,
    /// No rule of the tier matched, and the next tier decides.
    TierPassed,
}

/// A field of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A clause of an AuthorizationPolicy's rule.
    Clause(ClauseField),
    /// A field of the destination.
    Destination(Side),
    /// HTTP attributes.
    Http,
    /// `icmp`.
    Icmp,
    /// `ipVersion`.
    IpVersion,
    /// `notICMP`.
    NotIcmp,
    /// `notProtocol`.
    NotProtocol,
    /// `protocol`.
    Protocol,
    /// A field of the source.
    Source(Side),
}

/// A field of one end of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Networks that it must be in.
    Nets,
    /// Networks that it must not be in.
    NotNets,
    /// Ports that it must not have.
    NotPorts,
    /// A selector that must not match it.
    NotSelector,
    /// Who it must be: selectors, address blocks.
    Peers,
    /// Ports that it must have.
    Ports,
}

impl Decision {
    pub(crate) fn new(verdict: Verdict) -> Self {
        match verdict.kind {
            VerdictKind::Allow => Self::Allowed(Permit { verdict }),
            VerdictKind::Deny => Self::Denied(Denial { verdict }),
        }
    }

    /// The verdict, whichever it is.
    pub fn verdict(&self) -> &Verdict {
        match self {
            Self::Allowed(permit) => permit.verdict(),
            Self::Denied(denial) => denial.verdict(),
        }
    }

    /// Whether the flow may proceed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

impl Permit {
    /// The verdict behind the permit.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

impl Denial {
    /// The verdict behind the denial.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

impl Verdict {
    pub(crate) fn new(
        generation: u64,
        direction: Direction,
        network: Ruling,
        mesh: Option<Ruling>,
        extra: Option<Box<Extra>>,
    ) -> Self {
        let denies = |ruling: &Ruling| ruling.kind() == VerdictKind::Deny;
        let kind = if denies(&network) || mesh.as_ref().is_some_and(denies) {
            VerdictKind::Deny
        } else {
            VerdictKind::Allow
        };
        Self {
            generation,
            direction,
            kind,
            network,
            mesh,
            extra,
        }
    }

    /// Allow or deny.
    pub fn kind(&self) -> VerdictKind {
        self.kind
    }

    /// The side that was judged.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The generation of the set that decided.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What decided: `tier/kind/[namespace/]name/rule`, Istio's `kind/namespace/name/rule`, or a default such as
    /// `default-allow`. Where both layers allowed by a rule, both, joined by `; `. Rendered on each call.
    pub fn decided_by(&self) -> String {
        let (ruling, other) = self.deciding();
        match other {
            Some(other) => format!("{ruling}; {other}"),
            None => ruling.to_string(),
        }
    }

    /// The reason in words, with what isn't enforced here. Rendered on each call.
    pub fn reason(&self) -> String {
        let (ruling, other) = self.deciding();
        let mut reason = ruling.explain();
        if let Some(other) = other {
            reason = format!("{reason}; {}", other.explain());
        }
        for unenforced in self.unenforced() {
            reason = format!("{reason}; not enforced here: {unenforced}");
        }
        reason
    }

    /// What staged and dry-run policies would have decided, where any concerns this workload.
    pub fn pending(&self) -> Option<VerdictKind> {
        self.pending_verdict().map(|pending| pending.kind)
    }

    /// What would have decided if staged and dry-run policies were enforced. Rendered on each call.
    pub fn pending_decided_by(&self) -> Option<String> {
        self.pending_verdict()
            .map(|pending| pending.decided_by.to_string())
    }

    /// The AUDIT policies that match, `AuthorizationPolicy/namespace/name` each. Rendered on each call.
    pub fn audits(&self) -> Vec<String> {
        let audits = self.extra.iter().flat_map(|extra| &extra.audits);
        audits.map(|policy| policy.source.key.to_string()).collect()
    }

    /// Rules that select the workload but can't be enforced at layer 4 as they are written.
    pub fn unenforced(&self) -> &[Unenforced] {
        self.extra.as_deref().map_or(&[], |extra| &extra.unenforced)
    }

    /// The way to the verdict, where it was asked for.
    pub fn steps(&self) -> &[Step] {
        self.extra
            .as_deref()
            .and_then(|extra| extra.steps.as_deref())
            .unwrap_or_default()
    }

    /// The verdict as a flow record carries it. Rendered on each call.
    pub fn policy_trace(&self) -> PolicyTrace {
        PolicyTrace {
            decided_by: self.decided_by(),
            reason: self.reason(),
        }
    }

    pub(crate) fn network(&self) -> &Ruling {
        &self.network
    }

    pub(crate) fn mesh(&self) -> Option<&Ruling> {
        self.mesh.as_ref()
    }

    fn pending_verdict(&self) -> Option<&PendingVerdict> {
        self.extra.as_deref()?.pending.as_ref()
    }

    /// The ruling that decided, and the other layer's where it has as much to say.
    fn deciding(&self) -> (&Ruling, Option<&Ruling>) {
        match &self.mesh {
            Some(mesh) if mesh.kind() == VerdictKind::Deny => (mesh, None),
            Some(mesh @ Ruling::Rule { .. }) => match &self.network {
                Ruling::DefaultAllow => (mesh, None),
                network => (network, Some(mesh)),
            },
            _ => (&self.network, None),
        }
    }
}

impl Ruling {
    pub(crate) fn kind(&self) -> VerdictKind {
        match self {
            Self::DefaultAllow | Self::NoAllowPolicy | Self::NodeLocal => VerdictKind::Allow,
            Self::Rule { action, .. } if *action != Action::Deny => VerdictKind::Allow,
            Self::NoAllowMatch { .. }
            | Self::Rule { .. }
            | Self::Strict { .. }
            | Self::TierEnd { .. }
            | Self::UnknownWorkload => VerdictKind::Deny,
        }
    }

    /// The ruling in words.
    fn explain(&self) -> String {
        match self {
            Self::DefaultAllow => {
                "no policy of this direction selects the workload, or all passed the flow on".to_owned()
            }
            Self::NoAllowMatch { policy } => {
                format!(
                    "{} and the other ALLOW policies have no rule that matches",
                    Named(policy)
                )
            }
            Self::NoAllowPolicy => "no ALLOW policy selects the workload".to_owned(),
            Self::NodeLocal => "it comes from the workload's own node".to_owned(),
            Self::Rule { policy, .. } if policy.broken.is_some() => {
                let why = policy.broken.as_deref().unwrap_or_default();
                format!("{} couldn't be compiled and so denies: {why}", Named(policy))
            }
            Self::Rule { policy, rule, action } => {
                let verb = if *action == Action::Deny {
                    "denied"
                } else {
                    "allowed"
                };
                format!("{verb} by rule {rule} of {}", Named(policy))
            }
            Self::Strict { policy } => format!("plaintext, but {} requires mutual TLS", Named(policy)),
            Self::TierEnd { policy } => match &policy.broken {
                Some(why) => format!(
                    "{} couldn't be compiled and so allows nothing: {why}",
                    Named(policy)
                ),
                None => format!(
                    "{} selects the workload and no rule of tier {} matches",
                    Named(policy),
                    tier_of(policy).unwrap_or_default()
                ),
            },
            Self::UnknownWorkload => {
                "no workload with this address is known to the policy engine yet".to_owned()
            }
        }
    }
}

fn tier_of(policy: &Compiled) -> Option<&str> {
    match &policy.source.body {
        Body::Network(network) => Some(&network.tier),
        Body::Authorization(_) | Body::PeerAuthentication(_) => None,
    }
}

/// A policy for people: kind, name and where it was read.
struct Named<'a>(&'a Compiled);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.0.source;
        write!(f, "{}", source.key)?;
        if !source.origin.file.is_empty() {
            write!(f, " ({}:{})", source.origin.file, source.origin.at.line)?;
        }
        Ok(())
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultAllow => f.write_str("default-allow"),
            Self::NoAllowMatch { .. } => f.write_str("no-allow-match"),
            Self::NoAllowPolicy => f.write_str("no-allow-policy"),
            Self::NodeLocal => f.write_str("node-local"),
            Self::Rule { policy, .. } if policy.broken.is_some() => write!(f, "{}/broken", Placed(policy)),
            Self::Rule { policy, rule, .. } => write!(f, "{}/{rule}", Placed(policy)),
            Self::Strict { policy } => write!(f, "{}", Placed(policy)),
            Self::TierEnd { policy } => write!(f, "{}/end", Placed(policy)),
            Self::UnknownWorkload => f.write_str("unknown-workload"),
        }
    }
}

/// A policy with its tier, where it has one.
struct Placed<'a>(&'a Compiled);

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tier) = tier_of(self.0) {
            write!(f, "{tier}/")?;
        }
        write!(f, "{}", self.0.source.key)
    }
}

impl Unenforced {
    /// The policy.
    pub fn policy(&self) -> &PolicyKey {
        &self.policy.source.key
    }

    /// The rule's index; `None` is the whole policy.
    pub fn rule(&self) -> Option<u32> {
        self.rule
    }
}

impl fmt::Display for Unenforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.policy.source.key)?;
        match (self.rule, &self.policy.source.body) {
            (Some(rule), Body::Authorization(body)) => {
                let http = body
                    .rules
                    .get(rule as usize)
                    .map(|rule| rule.http.join(", "))
                    .unwrap_or_default();
                write!(f, "/{rule} (HTTP attributes without a waypoint: {http})")
            }
            _ => f.write_str(" (it asks an external authorizer, or is about a waypoint)"),
        }
    }
}

impl Step {
    /// The policy that was looked at.
    pub fn policy(&self) -> &PolicyKey {
        &self.policy.source.key
    }

    /// The policy's tier, in the network layer.
    pub fn tier(&self) -> Option<&str> {
        tier_of(&self.policy)
    }

    /// The rule's index in the object's own list; `None` at a tier's end.
    pub fn rule(&self) -> Option<u32> {
        self.rule
    }

    /// What came of it.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.tier().is_some() { "/end" } else { "" };
        match self.rule {
            Some(rule) => write!(f, "{}/{rule}: {}", Placed(&self.policy), self.outcome),
            None => write!(f, "{}{end}: {}", Placed(&self.policy), self.outcome),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched(action) => write!(f, "matches: {}", action.label()),
            Self::Missed(field) => write!(f, "doesn't match: {field}"),
            Self::PlaintextRefused => f.write_str("requires mutual TLS: deny"),
            Self::TierDenied => f.write_str("no rule of the tier matches: deny"),
            Self::TierPassed => f.write_str("no rule of the tier matches: pass"),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clause(ClauseField::From) => f.write_str("from"),
            Self::Clause(ClauseField::To) => f.write_str("to"),
            Self::Clause(ClauseField::When) => f.write_str("when"),
            Self::Destination(side) => write!(f, "destination {side}"),
            Self::Http => f.write_str("HTTP attributes can't be seen at layer 4"),
            Self::Icmp => f.write_str("icmp"),
            Self::IpVersion => f.write_str("ipVersion"),
            Self::NotIcmp => f.write_str("notICMP"),
            Self::NotProtocol => f.write_str("notProtocol"),
            Self::Protocol => f.write_str("protocol"),
            Self::Source(side) => write!(f, "source {side}"),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nets => "nets",
            Self::NotNets => "notNets",
            Self::NotPorts => "notPorts",
            Self::NotSelector => "notSelector",
            Self::Peers => "peer",
            Self::Ports => "ports",
        })
    }
}
