//! What Calico's own validation refuses, as far as it changes what a policy means: fields that can't all hold, which
//! turn a rule that denies into one without effect, and fields where they have none.

use adit_flow::Protocol;

use super::decode::{Decoder, Fields};
use super::values;
use crate::codes;
use crate::diagnostic::Position;
use crate::document::Node;
use crate::model::{
    ADMIN_TIER, Action, BASELINE_TIER, DEFAULT_TIER, DEFAULT_TIER_ORDER, End, IpVersion, PortSpec, Rule, Tier,
};
use crate::selector::{EndpointSelector, Expression};

/// A selector of pods, sets or accounts: `global()` is about namespaces.
pub(super) fn selector(decoder: &mut Decoder<'_>, node: &Node) -> Option<Expression> {
    let expression = values::calico_selector(decoder, node)?;
    if expression.mentions_global() {
        let message = "expected labels, got global(), which only a rule's namespaceSelector may be";
        decoder.fail(codes::BAD_SELECTOR, node.at, message);
    }
    Some(expression)
}

/// A rule's `namespaceSelector`: labels, or `global()` alone.
pub(super) fn namespace_selector(decoder: &mut Decoder<'_>, node: &Node) -> Option<Expression> {
    let expression = values::calico_selector(decoder, node)?;
    if expression != Expression::Global && expression.mentions_global() {
        let message = "expected global() alone, got it within an expression";
        decoder.fail(codes::BAD_SELECTOR, node.at, message);
    }
    Some(expression)
}

/// Whether the policy is for host endpoints alone. A stray `doNotTrack` would switch a policy off for workloads, so it
/// counts only where Calico takes it.
pub(super) fn host_only(decoder: &mut Decoder<'_>, fields: &mut Fields<'_>) -> bool {
    let at = fields.at;
    let [untracked, before_dnat, forwarded] = ["doNotTrack", "preDNAT", "applyOnForward"]
        .map(|name| decoder.optional(fields, name, Decoder::boolean).unwrap_or(false));
    if untracked && before_dnat {
        let message = "expected one of doNotTrack and preDNAT, got both";
        decoder.fail(codes::CONTRADICTION, at, message);
    }
    if (untracked || before_dnat) && !forwarded {
        let message = "expected applyOnForward: true beside doNotTrack or preDNAT, got none";
        decoder.fail(codes::CONTRADICTION, at, message);
    }
    untracked || before_dnat
}

/// Fields of a rule that can't go together.
pub(super) fn rule(decoder: &mut Decoder<'_>, rule: &Rule<EndpointSelector>, at: Position, http: bool) {
    let mut problems = Vec::new();
    if let Some(protocol) = rule.protocol
        && rule.not_protocol == Some(protocol)
    {
        problems.push("protocol and notProtocol are the same".to_owned());
    }
    let is_icmp = |protocol| [Some(Protocol::Icmp), Some(Protocol::Icmpv6)].contains(&protocol);
    if rule.icmp.is_some() && !is_icmp(rule.protocol) {
        problems.push(format!(
            "icmp goes with protocol ICMP or ICMPv6, and the protocol is {}",
            named(rule.protocol)
        ));
    }
    for (protocol, version, number) in [
        (Protocol::Icmp, IpVersion::V4, 4),
        (Protocol::Icmpv6, IpVersion::V6, 6),
    ] {
        if [rule.protocol, rule.not_protocol].contains(&Some(protocol))
            && rule.version.is_some_and(|other| other != version)
        {
            problems.push(format!("{protocol} goes with ipVersion {number}"));
        }
    }
    let ends = [&rule.source, &rule.destination].map(Option::as_deref);
    if ends
        .into_iter()
        .flatten()
        .any(|end| has_lost_ports(end, rule.protocol))
    {
        problems.push(format!(
            "ports go with protocol TCP, UDP or SCTP, and the protocol is {}",
            named(rule.protocol)
        ));
    }
    let nets = || {
        ends.into_iter()
            .flatten()
            .flat_map(|end| [end.nets.as_deref(), end.not_nets.as_deref()])
            .flatten()
    };
    let (v4, v6) = (nets().any(|nets| nets.has_v4()), nets().any(|nets| nets.has_v6()));
    if v4 && v6 {
        problems.push("nets of both IP versions can't hold together".to_owned());
    }
    if v6 && rule.version == Some(IpVersion::V4) || v4 && rule.version == Some(IpVersion::V6) {
        problems.push("the nets are of another IP version than ipVersion".to_owned());
    }
    if http && rule.action != Action::Allow {
        problems.push(format!(
            "http goes with Allow, and the action is {}",
            rule.action.label()
        ));
    }
    for problem in problems {
        decoder.fail(codes::CONTRADICTION, at, problem);
    }
}

/// Whether an end has ports that the protocol doesn't. A named port brings its protocol along, a number needs one.
fn has_lost_ports(end: &End<EndpointSelector>, protocol: Option<Protocol>) -> bool {
    let ports = || end.ports.iter().chain(&end.not_ports).flatten();
    match protocol {
        Some(protocol) => !protocol.has_ports() && ports().next().is_some(),
        None => ports().any(|port| !matches!(port.port, PortSpec::Named(_))),
    }
}

fn named(protocol: Option<Protocol>) -> String {
    protocol.map_or_else(|| "not given".to_owned(), |protocol| protocol.to_string())
}

/// The tiers that are always there can't be moved, and end as they end.
pub(super) fn tier(decoder: &mut Decoder<'_>, tier: &Tier, at: Position) {
    for (name, order, passes) in [
        (ADMIN_TIER.0, ADMIN_TIER.1, true),
        (BASELINE_TIER.0, BASELINE_TIER.1, true),
        (DEFAULT_TIER, DEFAULT_TIER_ORDER, false),
    ] {
        if *tier.name == *name && (tier.order.0 != order || tier.passes != passes) {
            let end = if passes { "Pass" } else { "Deny" };
            let message = format!("expected order {order} and defaultAction {end} of tier {name}");
            decoder.fail(codes::CONTRADICTION, at, message);
        }
    }
}
