//! Calico's NetworkPolicy, GlobalNetworkPolicy and their staged forms, and Tier.

use std::sync::Arc;

use adit_flow::Protocol;

use super::calico_checks::{self, host_only, selector};
use super::decode::{Decoder, Fields};
use super::header::Header;
use super::values::{self, Types};
use crate::codes;
use crate::document::{Node, Value};
use crate::model::{
    Action, Body, DEFAULT_TIER, DEFAULT_TIER_ORDER, End, IcmpMatch, IpVersion, Network, Order, Peer, Policy,
    PolicyKind, PortMatch, PortSpec, Rule, Tier,
};
use crate::net::Nets;
use crate::selector::{AccountSelector, Dialect, EndpointSelector, Expression, NamespaceScope};

/// Reads the `spec` of a NetworkPolicy (with a namespace) or GlobalNetworkPolicy (without), staged or not.
pub(super) fn policy(
    decoder: &mut Decoder<'_>,
    header: &Header,
    spec: &Node,
    namespace: Option<&Arc<str>>,
    staged: bool,
) -> Policy {
    let mut parts = Parts {
        tier: DEFAULT_TIER.into(),
        order: Order(f64::INFINITY),
        subject: None,
        types: BOTH,
        ingress: Vec::new(),
        egress: Vec::new(),
        removal: false,
    };
    if let Some(fields) = decoder.fields(spec) {
        parts.read(decoder, fields, namespace, staged);
    }
    let broken = decoder.first_error();
    let rules = |listed: bool, read: Vec<Rule<EndpointSelector>>| {
        let deny_all = || Box::from([super::rule_between(Action::Deny, 0, true, None, None)]);
        listed.then(|| {
            if broken.is_some() {
                deny_all()
            } else {
                read.into_boxed_slice()
            }
        })
    };
    let kind = match namespace {
        Some(_) => PolicyKind::CalicoNetworkPolicy,
        None => PolicyKind::GlobalNetworkPolicy,
    };
    Policy {
        key: header.key(kind, namespace, staged),
        subject: parts
            .subject
            .unwrap_or_else(|| EndpointSelector::everything_in(namespace)),
        body: Body::Network(Network {
            tier: parts.tier,
            order: parts.order,
            ingress: rules(parts.types.ingress, parts.ingress),
            egress: rules(parts.types.egress, parts.egress),
            removal: parts.removal,
        }),
        origin: header.origin.clone(),
        broken,
    }
}

const BOTH: Types = Types {
    ingress: true,
    egress: true,
};

struct Parts {
    tier: Arc<str>,
    order: Order,
    subject: Option<EndpointSelector>,
    types: Types,
    ingress: Vec<Rule<EndpointSelector>>,
    egress: Vec<Rule<EndpointSelector>>,
    removal: bool,
}

impl Parts {
    fn read(
        &mut self,
        decoder: &mut Decoder<'_>,
        mut fields: Fields<'_>,
        namespace: Option<&Arc<str>>,
        staged: bool,
    ) {
        let before = decoder.errors();
        if let Some(tier) = decoder
            .optional(&mut fields, "tier", Decoder::shared)
            .filter(|tier| !tier.is_empty())
        {
            self.tier = tier;
        }
        if decoder.errors() > before {
            // No tier has this name, so the policy denies ahead of all.
            self.tier = "".into();
        }
        let before = decoder.errors();
        if let Some(order) = decoder.optional(&mut fields, "order", Decoder::number) {
            self.order = Order(order);
        }
        if decoder.errors() > before {
            // Unknown where it belongs: ahead of those that might allow.
            self.order = Order(f64::NEG_INFINITY);
        }
        self.removal = staged && is_removal(decoder, &mut fields);
        self.subject = subject(decoder, &mut fields, namespace);
        let before = decoder.errors();
        let types = values::types(decoder, &mut fields, "types");
        let types_are_sound = decoder.errors() == before;
        self.ingress = rules(decoder, &mut fields, "ingress", namespace);
        self.egress = rules(decoder, &mut fields, "egress", namespace);
        // Only the global kind has the fields that are about hosts.
        let host_only = namespace.is_none() && host_only(decoder, &mut fields);
        decoder.optional(&mut fields, "performanceHints", |decoder, node| {
            decoder.list(node, |decoder, node| decoder.text(node).map(drop))
        });
        let at = fields.at;
        decoder.finish(fields);
        self.types = match types {
            Some(types) if types_are_sound => types,
            _ if decoder.errors() > 0 => BOTH,
            _ => Types {
                ingress: !self.ingress.is_empty() || self.egress.is_empty(),
                egress: !self.egress.is_empty(),
            },
        };
        for (listed, rules, name) in [
            (self.types.ingress, &self.ingress, "ingress"),
            (self.types.egress, &self.egress, "egress"),
        ] {
            if !listed && !rules.is_empty() {
                decoder.within(name, |decoder| {
                    decoder.warn(
                        codes::IGNORED,
                        at,
                        "these rules have no effect: types doesn't list the direction",
                    );
                });
            }
        }
        if host_only && decoder.errors() == 0 {
            self.types = Types::default();
            decoder.warn(
                codes::IGNORED,
                at,
                "untracked and pre-DNAT policies are about hosts: workloads aren't affected",
            );
        }
    }
}

/// `stagedAction`: whether the staged policy stands for the removal of the enforced one.
pub(super) fn is_removal(decoder: &mut Decoder<'_>, fields: &mut Fields<'_>) -> bool {
    let actions = [
        ("Set", false),
        ("Delete", true),
        ("Learn", false),
        ("Ignore", false),
    ];
    decoder
        .optional(fields, "stagedAction", |decoder, node| {
            decoder.choice(node, &actions)
        })
        .unwrap_or(false)
}

/// The pods that a policy is about; `None` if its selectors can't be used.
fn subject(
    decoder: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    namespace: Option<&Arc<str>>,
) -> Option<EndpointSelector> {
    let before = decoder.errors();
    let labels = decoder.optional(fields, "selector", selector);
    let accounts = decoder.optional(fields, "serviceAccountSelector", selector);
    let namespaces = match namespace {
        Some(_) => None,
        None => decoder.optional(fields, "namespaceSelector", selector),
    };
    (decoder.errors() == before).then(|| EndpointSelector {
        dialect: Dialect::Calico,
        namespace: scope(namespace, namespaces).unwrap_or(NamespaceScope::Anywhere),
        labels,
        not_labels: None,
        accounts: accounts.map(|labels| AccountSelector {
            names: Box::default(),
            labels: Some(labels),
        }),
    })
}

/// A namespace selector, or else the policy's own namespace.
fn scope(namespace: Option<&Arc<str>>, namespaces: Option<Expression>) -> Option<NamespaceScope> {
    namespaces
        .map(NamespaceScope::Matching)
        .or_else(|| namespace.map(|name| NamespaceScope::Named(Arc::clone(name))))
}

fn rules(
    decoder: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    name: &str,
    namespace: Option<&Arc<str>>,
) -> Vec<Rule<EndpointSelector>> {
    decoder
        .optional(fields, name, |decoder, node| {
            decoder.list(node, |decoder, node| rule(decoder, node, namespace))
        })
        .unwrap_or_default()
}

fn rule(
    decoder: &mut Decoder<'_>,
    node: &Node,
    namespace: Option<&Arc<str>>,
) -> Option<Rule<EndpointSelector>> {
    let actions = [
        ("Allow", Action::Allow),
        ("Deny", Action::Deny),
        ("Log", Action::Log),
        ("Pass", Action::Pass),
    ];
    let mut fields = decoder.fields(node)?;
    let action = decoder.required(&mut fields, "action", |decoder, node| {
        decoder.choice(node, &actions)
    })?;
    let mut rule = super::rule_between(action, node.at.line, true, None, None);
    rule.version = decoder.optional(&mut fields, "ipVersion", |decoder, node| {
        let version = decoder.integer(node, 4..=6, codes::BAD_VALUE)?;
        match version {
            4 => Some(IpVersion::V4),
            6 => Some(IpVersion::V6),
            _ => {
                decoder.fail(codes::BAD_VALUE, node.at, "expected 4 or 6, got 5");
                None
            }
        }
    });
    rule.protocol = decoder.optional(&mut fields, "protocol", protocol);
    rule.not_protocol = decoder.optional(&mut fields, "notProtocol", protocol);
    rule.icmp = decoder.optional(&mut fields, "icmp", icmp).flatten();
    rule.not_icmp = decoder.optional(&mut fields, "notICMP", icmp).flatten();
    decoder.optional(&mut fields, "metadata", |_, _| Some(()));
    let http = fields.take("http");
    let mut unjudged = false;
    let mut end = |decoder: &mut Decoder<'_>, name: &str| {
        decoder
            .optional(&mut fields, name, |decoder, node| {
                entity(decoder, node, namespace, &mut unjudged)
            })
            .flatten()
    };
    rule.source = end(decoder, "source");
    rule.destination = end(decoder, "destination");
    decoder.finish(fields);
    calico_checks::rule(decoder, &rule, node.at, http.is_some());
    if let Some(http) = http {
        unjudged = true;
        decoder.within("http", |decoder| {
            decoder.warn(
                codes::NOT_ENFORCED,
                http.at,
                "HTTP attributes can't be seen at layer 4",
            );
        });
    }
    super::restrict_unjudged(&mut rule, unjudged);
    Some(rule)
}

/// A protocol by name or number.
fn protocol(decoder: &mut Decoder<'_>, node: &Node) -> Option<Protocol> {
    const NAMES: [(&str, Protocol); 6] = [
        ("TCP", Protocol::Tcp),
        ("UDP", Protocol::Udp),
        ("ICMP", Protocol::Icmp),
        ("ICMPv6", Protocol::Icmpv6),
        ("SCTP", Protocol::Sctp),
        ("UDPLite", Protocol::Other(136)),
    ];
    let found = match &node.value {
        Value::Integer(number) => u8::try_from(*number)
            .ok()
            .filter(|number| *number > 0)
            .map(Protocol::from),
        Value::Text(text) => NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|(_, protocol)| *protocol)
            .or_else(|| {
                text.parse()
                    .ok()
                    .filter(|number: &u8| *number > 0)
                    .map(Protocol::from)
            }),
        _ => None,
    };
    if found.is_none() {
        let message = format!(
            "expected TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255, got {}",
            node.value.describe()
        );
        decoder.fail(codes::BAD_VALUE, node.at, message);
    }
    found
}

/// `type` and `code`; without a type it asks nothing.
fn icmp(decoder: &mut Decoder<'_>, node: &Node) -> Option<Option<IcmpMatch>> {
    let mut fields = decoder.fields(node)?;
    let mut byte = |decoder: &mut Decoder<'_>, name: &str, last: i64| {
        decoder
            .optional(&mut fields, name, |decoder, node| {
                decoder.integer(node, 0..=last, codes::BAD_VALUE)
            })
            .and_then(|number| u8::try_from(number).ok())
    };
    let kind = byte(decoder, "type", 254);
    let code = byte(decoder, "code", 255);
    decoder.finish(fields);
    if kind.is_none() && code.is_some() {
        decoder.fail(
            codes::CONTRADICTION,
            node.at,
            "expected a type beside the code, got none",
        );
    }
    Some(kind.map(|kind| IcmpMatch { kind, code }))
}

/// `source` or `destination`; `None` where it asks nothing.
fn entity(
    decoder: &mut Decoder<'_>,
    node: &Node,
    namespace: Option<&Arc<str>>,
    unjudged: &mut bool,
) -> Option<Option<Box<End<EndpointSelector>>>> {
    let mut fields = decoder.fields(node)?;
    let selected = selected(decoder, &mut fields, namespace);
    let mut nets = |decoder: &mut Decoder<'_>, name: &str| {
        decoder
            .optional(&mut fields, name, |decoder, node| {
                values::nets(decoder, node, true)
            })
            .filter(|nets| !nets.is_empty())
            .map(|nets| Box::new(Nets::new(&nets)))
    };
    let (nets, not_nets) = (nets(decoder, "nets"), nets(decoder, "notNets"));
    let mut ports = |decoder: &mut Decoder<'_>, name: &str| {
        decoder
            .optional(&mut fields, name, |decoder, node| decoder.list(node, port))
            .filter(|ports| !ports.is_empty())
            .map(Vec::into_boxed_slice)
    };
    let (ports, not_ports) = (ports(decoder, "ports"), ports(decoder, "notPorts"));
    if let Some(services) = fields.take("services") {
        *unjudged = true;
        decoder.within("services", |decoder| {
            decoder.warn(
                codes::UNSUPPORTED,
                services.at,
                "expected selectors, nets or ports",
            );
        });
    }
    decoder.finish(fields);
    let end = End {
        peers: selected
            .peer
            .map(|selector| Box::from([Peer::Selected(selector)])),
        unless: selected.unless,
        nets,
        not_nets,
        ports,
        not_ports,
        named_ports_need_peer: true,
    };
    let asks = end.peers.is_some()
        || end.unless.is_some()
        || end.nets.is_some()
        || end.not_nets.is_some()
        || end.ports.is_some()
        || end.not_ports.is_some();
    Some(asks.then(|| Box::new(end)))
}

struct Selected {
    peer: Option<EndpointSelector>,
    unless: Option<EndpointSelector>,
}

/// The selectors of one side of a rule, with Calico's confinement: in a namespaced policy, any of them without a
/// namespaceSelector looks in the policy's namespace alone, notSelector included.
fn selected(decoder: &mut Decoder<'_>, fields: &mut Fields<'_>, namespace: Option<&Arc<str>>) -> Selected {
    let labels = decoder.optional(fields, "selector", selector);
    let not_labels = decoder.optional(fields, "notSelector", selector);
    let namespaces = decoder.optional(fields, "namespaceSelector", calico_checks::namespace_selector);
    let accounts = decoder
        .optional(fields, "serviceAccounts", service_accounts)
        .flatten();
    let positive = labels.is_some() || namespaces.is_some() || accounts.is_some();
    let confined = namespace.is_some() && (positive || not_labels.is_some());
    let select = |labels, not_labels, accounts, namespace| EndpointSelector {
        dialect: Dialect::Calico,
        namespace,
        labels,
        not_labels,
        accounts,
    };
    if positive || confined {
        let scope = scope(namespace, namespaces).unwrap_or(NamespaceScope::Anywhere);
        return Selected {
            peer: Some(select(labels, not_labels, accounts, scope)),
            unless: None,
        };
    }
    Selected {
        peer: None,
        unless: not_labels.map(|labels| select(Some(labels), None, None, NamespaceScope::Anywhere)),
    }
}

/// Names and selector; `None` where it gives neither.
fn service_accounts(decoder: &mut Decoder<'_>, node: &Node) -> Option<Option<AccountSelector>> {
    let mut fields = decoder.fields(node)?;
    let mut names = decoder
        .optional(&mut fields, "names", |decoder, node| {
            decoder.list(node, |decoder, node| decoder.word(node).map(Arc::from))
        })
        .unwrap_or_default();
    let labels = decoder.optional(&mut fields, "selector", selector);
    decoder.finish(fields);
    names.sort_unstable();
    names.dedup();
    let asks = !names.is_empty() || labels.is_some();
    Some(asks.then(|| AccountSelector {
        names: names.into(),
        labels,
    }))
}

/// Calico's own shape, wider than Kubernetes': a name that no container port can have matches none.
fn port_name(text: &str) -> Option<Arc<str>> {
    let shape = (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    // Digits alone are a number out of range.
    let named = shape && !text.bytes().all(|byte| byte.is_ascii_digit());
    named.then(|| text.into())
}

/// A port: a number, `low:high` (both included), or a name.
fn port(decoder: &mut Decoder<'_>, node: &Node) -> Option<PortMatch> {
    let spec = match &node.value {
        Value::Text(text) => range(text).or_else(|| port_name(text).map(PortSpec::Named)),
        Value::Integer(number) => u16::try_from(*number)
            .ok()
            .map(|number| PortSpec::Range(number, number)),
        _ => None,
    };
    if spec.is_none() {
        let message = format!(
            "expected a number, a range low:high or a port name, got {}",
            node.value.describe()
        );
        decoder.fail(codes::BAD_PORT, node.at, message);
    }
    Some(PortMatch {
        protocol: None,
        port: spec?,
    })
}

fn range(text: &str) -> Option<PortSpec> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(PortSpec::Range(first, last))
}

/// Reads the `spec` of a Tier. One with an error isn't there, so its policies deny: nobody can tell where its rules belong,
/// and one of them may allow what a tier before it would have denied.
pub(super) fn tier(decoder: &mut Decoder<'_>, header: &Header, spec: Option<&Node>) -> Option<Tier> {
    let mut tier = Tier {
        name: Arc::clone(&header.name),
        order: Order(DEFAULT_TIER_ORDER),
        passes: false,
    };
    let mut at = header.origin.at;
    if let Some(mut fields) = spec.and_then(|spec| decoder.fields(spec)) {
        if let Some(order) = decoder.optional(&mut fields, "order", Decoder::number) {
            tier.order = Order(order);
        }
        let actions = [("Deny", false), ("Pass", true)];
        let passes = decoder.optional(&mut fields, "defaultAction", |decoder, node| {
            decoder.choice(node, &actions)
        });
        tier.passes = passes.unwrap_or(false);
        at = fields.at;
        decoder.finish(fields);
    }
    calico_checks::tier(decoder, &tier, at);
    (decoder.errors() == 0).then_some(tier)
}
