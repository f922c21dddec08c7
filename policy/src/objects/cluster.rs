//! ClusterNetworkPolicy v1alpha2.

use adit_flow::Protocol;

use super::decode::{Decoder, Fields};
use super::header::Header;
use super::values;
use crate::codes;
use crate::document::Node;
use crate::model::{
    ADMIN_TIER, Action, BASELINE_TIER, Body, Network, Order, Peer, Policy, PolicyKind, PortMatch, PortSpec,
    Rule,
};
use crate::net::Nets;
use crate::selector::{Dialect, EndpointSelector, Expression, NamespaceScope};

/// Reads the `spec` of a ClusterNetworkPolicy.
pub(super) fn cluster_network_policy(decoder: &mut Decoder<'_>, header: &Header, spec: &Node) -> Policy {
    let mut parts = Parts::default();
    if let Some(mut fields) = decoder.fields(spec) {
        let tiers = [("Admin", ADMIN_TIER.0), ("Baseline", BASELINE_TIER.0)];
        parts.tier = decoder.required(&mut fields, "tier", |decoder, node| decoder.choice(node, &tiers));
        parts.priority = decoder.required(&mut fields, "priority", |decoder, node| {
            decoder.integer(node, 0..=1000, codes::BAD_VALUE)
        });
        parts.subject = decoder.required(&mut fields, "subject", subject);
        parts.ingress = rules(decoder, &mut fields, "ingress", true);
        parts.egress = rules(decoder, &mut fields, "egress", false);
        decoder.finish(fields);
    }
    let broken = decoder.first_error();
    let deny_all = || Box::from([super::rule_between(Action::Deny, 0, true, None, None)]);
    let rules = |read: Vec<Rule<EndpointSelector>>| match &broken {
        Some(_) => Some(deny_all()),
        None => (!read.is_empty()).then(|| read.into_boxed_slice()),
    };
    Policy {
        key: header.key(PolicyKind::ClusterNetworkPolicy, None, false),
        subject: parts
            .subject
            .unwrap_or_else(|| EndpointSelector::everything_in(None)),
        body: Body::Network(Network {
            tier: parts.tier.unwrap_or(ADMIN_TIER.0).into(),
            // Priorities are at most 1000, which a float holds exactly.
            order: Order(
                parts
                    .priority
                    .map_or(f64::NEG_INFINITY, |priority| priority as f64),
            ),
            ingress: rules(parts.ingress),
            egress: rules(parts.egress),
            removal: false,
        }),
        origin: header.origin.clone(),
        broken,
    }
}

#[derive(Default)]
struct Parts {
    tier: Option<&'static str>,
    priority: Option<i64>,
    subject: Option<EndpointSelector>,
    ingress: Vec<Rule<EndpointSelector>>,
    egress: Vec<Rule<EndpointSelector>>,
}

/// `namespaces`, or `pods` with both selectors.
fn subject(decoder: &mut Decoder<'_>, node: &Node) -> Option<EndpointSelector> {
    let mut fields = decoder.fields(node)?;
    let before = decoder.errors();
    let selected = selected(decoder, &mut fields);
    decoder.finish(fields);
    if decoder.errors() > before {
        return None;
    }
    match <[EndpointSelector; 1]>::try_from(selected) {
        Ok([one]) => Some(one),
        Err(other) => {
            let message = format!("expected one of namespaces and pods, got {} of them", other.len());
            decoder.fail(codes::CONTRADICTION, node.at, message);
            None
        }
    }
}

/// What `namespaces` and `pods` select, as far as they are there.
fn selected(decoder: &mut Decoder<'_>, fields: &mut Fields<'_>) -> Vec<EndpointSelector> {
    let select = |namespaces: Expression, pods: Option<Expression>| EndpointSelector {
        dialect: Dialect::Kubernetes,
        namespace: NamespaceScope::Matching(namespaces),
        labels: pods,
        not_labels: None,
        accounts: None,
    };
    let namespaces = decoder.optional(fields, "namespaces", values::label_selector);
    let pods = decoder.optional(fields, "pods", |decoder, node| {
        let mut fields = decoder.fields(node)?;
        let namespaces = decoder.required(&mut fields, "namespaceSelector", values::label_selector);
        let pods = decoder.required(&mut fields, "podSelector", values::label_selector);
        decoder.finish(fields);
        Some(select(namespaces?, Some(pods?)))
    });
    namespaces
        .map(|namespaces| select(namespaces, None))
        .into_iter()
        .chain(pods)
        .collect()
}

fn rules(
    decoder: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    name: &str,
    incoming: bool,
) -> Vec<Rule<EndpointSelector>> {
    decoder
        .optional(fields, name, |decoder, node| {
            decoder.list(node, |decoder, node| rule(decoder, node, incoming))
        })
        .unwrap_or_default()
}

fn rule(decoder: &mut Decoder<'_>, node: &Node, incoming: bool) -> Option<Rule<EndpointSelector>> {
    let mut fields = decoder.fields(node)?;
    decoder.optional(&mut fields, "name", |decoder, node| decoder.text(node).map(drop));
    let actions = [
        ("Accept", Action::Allow),
        ("Deny", Action::Deny),
        ("Pass", Action::Pass),
    ];
    let action = decoder.required(&mut fields, "action", |decoder, node| {
        decoder.choice(node, &actions)
    });
    let peers = decoder.required(
        &mut fields,
        if incoming { "from" } else { "to" },
        |decoder, node| {
            let mut unjudged = false;
            let peers = decoder.items(node, |decoder, node| peer(decoder, node, incoming, &mut unjudged))?;
            Some((peers.concat(), unjudged))
        },
    );
    let ports = decoder.optional(&mut fields, "protocols", |decoder, node| {
        decoder.items(node, protocol)
    });
    decoder.finish(fields);
    let ports = ports.filter(|ports| !ports.is_empty()).map(Vec::into_boxed_slice);
    let (action, (mut peers, unjudged)) = (action?, peers?);
    // What can't be judged allows nobody and denies anybody. Passing on may be more or less than what follows: it denies.
    let action = if unjudged && action == Action::Pass {
        Action::Deny
    } else {
        action
    };
    if unjudged && action == Action::Deny {
        peers.push(Peer::Anyone);
    }
    Some(super::rule_between(
        action,
        node.at.line,
        incoming,
        Some(peers.into()),
        ports,
    ))
}

/// One peer. One that the engine isn't told enough to judge is no peer, and noted.
fn peer(
    decoder: &mut Decoder<'_>,
    node: &Node,
    incoming: bool,
    unjudged: &mut bool,
) -> Option<Vec<Peer<EndpointSelector>>> {
    let mut fields = decoder.fields(node)?;
    let before = decoder.errors();
    let mut peers: Vec<_> = selected(decoder, &mut fields)
        .into_iter()
        .map(Peer::Selected)
        .collect();
    let mut unknown = 0;
    if !incoming {
        let nets = decoder.optional(&mut fields, "networks", |decoder, node| {
            decoder.items(node, |decoder, node| values::net(decoder, node, false))
        });
        peers.extend(nets.map(|nets| Peer::Block(Nets::new(&nets))));
        for name in ["domainNames", "nodes"] {
            if let Some(node) = fields.take(name) {
                unknown += 1;
                decoder.within(name, |decoder| {
                    decoder.warn(
                        codes::UNSUPPORTED,
                        node.at,
                        "expected pods, namespaces or networks",
                    );
                });
            }
        }
    }
    decoder.finish(fields);
    if decoder.errors() > before {
        return None;
    }
    if peers.len() + unknown != 1 {
        let message = format!(
            "expected one kind of peer in an entry, got {}",
            peers.len() + unknown
        );
        decoder.fail(codes::CONTRADICTION, node.at, message);
        return None;
    }
    *unjudged |= unknown > 0;
    Some(peers)
}

/// One entry of `protocols`.
fn protocol(decoder: &mut Decoder<'_>, node: &Node) -> Option<PortMatch> {
    let mut fields = decoder.fields(node)?;
    let before = decoder.errors();
    let mut found = Vec::new();
    for (name, protocol) in [
        ("tcp", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("sctp", Protocol::Sctp),
    ] {
        found.extend(decoder.optional(&mut fields, name, |decoder, node| {
            let mut fields = decoder.fields(node)?;
            let port = decoder.optional(&mut fields, "destinationPort", destination_port);
            decoder.finish(fields);
            Some(PortMatch {
                protocol: Some(protocol),
                port: port.unwrap_or(PortSpec::Any),
            })
        }));
    }
    found.extend(
        decoder.optional(&mut fields, "destinationNamedPort", |decoder, node| {
            let text = decoder.text(node)?;
            let name = values::port_name(text);
            if name.is_none() {
                decoder.fail(
                    codes::BAD_PORT,
                    node.at,
                    format!("expected a port name, got {text:?}"),
                );
            }
            // The protocol is that of the container port.
            Some(PortMatch {
                protocol: None,
                port: PortSpec::Named(name?),
            })
        }),
    );
    decoder.finish(fields);
    if decoder.errors() > before {
        return None;
    }
    if found.len() != 1 {
        let message = format!(
            "expected one of tcp, udp, sctp and destinationNamedPort, got {}",
            found.len()
        );
        decoder.fail(codes::CONTRADICTION, node.at, message);
    }
    found.pop()
}

fn destination_port(decoder: &mut Decoder<'_>, node: &Node) -> Option<PortSpec> {
    let mut fields = decoder.fields(node)?;
    let number = decoder.optional(&mut fields, "number", values::port_number);
    let range = decoder.optional(&mut fields, "range", |decoder, node| {
        let mut fields = decoder.fields(node)?;
        let start = decoder.required(&mut fields, "start", values::port_number);
        let end = decoder.required(&mut fields, "end", values::port_number);
        decoder.finish(fields);
        let (start, end) = (start?, end?);
        if start > end {
            decoder.fail(
                codes::BAD_PORT,
                node.at,
                format!("expected an end of at least {start}, got {end}"),
            );
        }
        Some((start, end))
    });
    decoder.finish(fields);
    match (number, range) {
        (Some(number), None) => Some(PortSpec::Range(number, number)),
        (None, Some((start, end))) => Some(PortSpec::Range(start, end)),
        _ => {
            decoder.fail(codes::CONTRADICTION, node.at, "expected one of number and range");
            None
        }
    }
}
