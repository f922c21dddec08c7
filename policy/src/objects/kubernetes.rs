//! Kubernetes' NetworkPolicy v1, and Calico's staged form of it.

use std::sync::Arc;

use adit_flow::Protocol;

use super::decode::{Decoder, Fields};
use super::header::Header;
use super::values::{self, Types};
use crate::codes;
use crate::document::Node;
use crate::model::{
    Action, Body, DEFAULT_TIER, End, KUBERNETES_ORDER, Network, Order, Peer, Policy, PolicyKind, PortMatch,
    PortSpec, Rule,
};
use crate::net::Nets;
use crate::selector::{Dialect, EndpointSelector, Expression, NamespaceScope};

/// Reads the `spec` of a NetworkPolicy, or of a StagedKubernetesNetworkPolicy.
pub(super) fn network_policy(
    decoder: &mut Decoder<'_>,
    header: &Header,
    spec: &Node,
    staged: bool,
) -> Policy {
    let namespace = header.namespace_or_default();
    let mut read = decoder.fields(spec);
    let before = decoder.errors();
    let labels = read.as_mut().and_then(|fields| {
        // Calico's staged form may leave the selector out; in Kubernetes it has a default since 1.34.
        decoder.optional(fields, "podSelector", values::label_selector)
    });
    let selector_is_sound = decoder.errors() == before && read.is_some();
    let subject = if selector_is_sound {
        EndpointSelector::pods_in(&namespace, labels.unwrap_or(Expression::All))
    } else {
        EndpointSelector::everything_in(Some(&namespace))
    };
    let removal = staged
        && read
            .as_mut()
            .is_some_and(|fields| super::calico::is_removal(decoder, fields));
    let directions = read
        .map(|fields| directions(decoder, fields, &namespace))
        .unwrap_or_default();
    let broken = decoder.first_error();
    let isolated = |applies: bool, rules: Vec<Rule<EndpointSelector>>| {
        // A broken policy still isolates, and lets nothing through: the other policies' rules stand.
        applies.then(|| {
            if broken.is_some() {
                Box::default()
            } else {
                rules.into_boxed_slice()
            }
        })
    };
    Policy {
        key: header.key(PolicyKind::NetworkPolicy, Some(&namespace), staged),
        subject,
        body: Body::Network(Network {
            tier: DEFAULT_TIER.into(),
            order: Order(KUBERNETES_ORDER),
            ingress: isolated(directions.types.ingress, directions.ingress),
            egress: isolated(directions.types.egress, directions.egress),
            removal,
        }),
        origin: header.origin.clone(),
        broken,
    }
}

struct Directions {
    types: Types,
    ingress: Vec<Rule<EndpointSelector>>,
    egress: Vec<Rule<EndpointSelector>>,
}

impl Default for Directions {
    fn default() -> Self {
        Self {
            types: Types {
                ingress: true,
                egress: true,
            },
            ingress: Vec::new(),
            egress: Vec::new(),
        }
    }
}

fn directions(decoder: &mut Decoder<'_>, mut fields: Fields<'_>, namespace: &Arc<str>) -> Directions {
    let before = decoder.errors();
    let types = values::types(decoder, &mut fields, "policyTypes");
    let types_are_sound = decoder.errors() == before;
    let mut rules = |decoder: &mut Decoder<'_>, name: &str, incoming: bool| {
        decoder
            .optional(&mut fields, name, |decoder, node| {
                decoder.list(node, |decoder, node| rule(decoder, node, namespace, incoming))
            })
            .unwrap_or_default()
    };
    let ingress = rules(decoder, "ingress", true);
    let egress = rules(decoder, "egress", false);
    let at = fields.at;
    decoder.finish(fields);
    let types = match types {
        Some(types) if types_are_sound => types,
        // Nobody can tell what was meant to be restricted.
        _ if decoder.errors() > 0 => Types {
            ingress: true,
            egress: true,
        },
        _ => Types {
            ingress: true,
            egress: !egress.is_empty(),
        },
    };
    for (listed, rules, name) in [
        (types.ingress, &ingress, "ingress"),
        (types.egress, &egress, "egress"),
    ] {
        if !listed && !rules.is_empty() {
            decoder.within(name, |decoder| {
                decoder.warn(
                    codes::IGNORED,
                    at,
                    "these rules have no effect: policyTypes doesn't list the direction",
                );
            });
        }
    }
    Directions {
        types,
        ingress,
        egress,
    }
}

fn rule(
    decoder: &mut Decoder<'_>,
    node: &Node,
    namespace: &Arc<str>,
    incoming: bool,
) -> Option<Rule<EndpointSelector>> {
    let mut fields = decoder.fields(node)?;
    let peers = decoder.optional(
        &mut fields,
        if incoming { "from" } else { "to" },
        |decoder, node| decoder.list(node, |decoder, node| peer(decoder, node, namespace)),
    );
    let ports = decoder.optional(&mut fields, "ports", |decoder, node| decoder.list(node, port));
    decoder.finish(fields);
    // Missing and empty lists mean everybody and everything.
    let peers = peers.filter(|peers| !peers.is_empty()).map(Vec::into_boxed_slice);
    let ports = ports.filter(|ports| !ports.is_empty()).map(Vec::into_boxed_slice);
    Some(super::rule_between(
        Action::Allow,
        node.at.line,
        incoming,
        peers,
        ports,
    ))
}

/// One entry of `from` or `to`.
fn peer(decoder: &mut Decoder<'_>, node: &Node, namespace: &Arc<str>) -> Option<Peer<EndpointSelector>> {
    let mut fields = decoder.fields(node)?;
    let before = decoder.errors();
    let pods = decoder.optional(&mut fields, "podSelector", values::label_selector);
    let namespaces = decoder.optional(&mut fields, "namespaceSelector", values::label_selector);
    let block = decoder.optional(&mut fields, "ipBlock", ip_block);
    decoder.finish(fields);
    if decoder.errors() > before {
        return None;
    }
    match (pods, namespaces, block) {
        (None, None, Some(nets)) => Some(Peer::Block(nets)),
        (None, None, None) => {
            let message = "expected podSelector, namespaceSelector or ipBlock, got none of them";
            decoder.fail(codes::MISSING_FIELD, node.at, message);
            None
        }
        (pods, namespaces, None) => Some(Peer::Selected(EndpointSelector {
            dialect: Dialect::Kubernetes,
            namespace: namespaces.map_or_else(
                || NamespaceScope::Named(Arc::clone(namespace)),
                NamespaceScope::Matching,
            ),
            labels: pods,
            not_labels: None,
            accounts: None,
        })),
        (_, _, Some(_)) => {
            let message = "expected ipBlock alone, got it together with a selector";
            decoder.fail(codes::CONTRADICTION, node.at, message);
            None
        }
    }
}

fn ip_block(decoder: &mut Decoder<'_>, node: &Node) -> Option<Nets> {
    let mut fields = decoder.fields(node)?;
    let cidr = decoder.required(&mut fields, "cidr", |decoder, node| {
        values::net(decoder, node, false)
    });
    let except = decoder.optional(&mut fields, "except", |decoder, node| {
        decoder.list(node, |decoder, node| {
            let net = values::net(decoder, node, false)?;
            if cidr.is_some_and(|cidr| !cidr.contains(&net)) {
                let message = format!("expected a range within the block, got {net}");
                decoder.fail(codes::BAD_ADDRESS, node.at, message);
            }
            Some(net)
        })
    });
    decoder.finish(fields);
    Some(Nets::new(&[cidr?]).without(&Nets::new(&except.unwrap_or_default())))
}

/// One entry of `ports`.
fn port(decoder: &mut Decoder<'_>, node: &Node) -> Option<PortMatch> {
    let mut fields = decoder.fields(node)?;
    let before = decoder.errors();
    let protocol = decoder.optional(&mut fields, "protocol", values::transport);
    let port = decoder.optional(&mut fields, "port", values::port);
    let end = decoder.optional(&mut fields, "endPort", values::port_number);
    decoder.finish(fields);
    if decoder.errors() > before {
        return None;
    }
    let port = match (port.unwrap_or(PortSpec::Any), end) {
        (port, None) => port,
        (PortSpec::Range(first, _), Some(last)) if first <= last => PortSpec::Range(first, last),
        (PortSpec::Range(first, _), Some(last)) => {
            let message = format!("expected endPort of at least {first}, got {last}");
            decoder.fail(codes::BAD_PORT, node.at, message);
            return None;
        }
        (PortSpec::Any | PortSpec::Named(_), Some(_)) => {
            decoder.fail(
                codes::CONTRADICTION,
                node.at,
                "expected endPort beside a port number, got it without one",
            );
            return None;
        }
    };
    Some(PortMatch {
        protocol: Some(protocol.unwrap_or(Protocol::Tcp)),
        port,
    })
}

/// An end that asks for peers, or for ports, or for nothing.
pub(super) fn end(
    peers: Option<Box<[Peer<EndpointSelector>]>>,
    ports: Option<Box<[PortMatch]>>,
) -> Option<Box<End<EndpointSelector>>> {
    (peers.is_some() || ports.is_some()).then(|| {
        Box::new(End {
            peers,
            ports,
            ..End::default()
        })
    })
}
