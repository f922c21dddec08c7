//! Calico: tiers in order, policies in order, rules in order; network sets beside pods.

use std::fmt;
use std::net::IpAddr;

use adit_flow::Protocol;
use adit_policy::Trace;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::{Case, NAMESPACES, PODS, cases, compile, engine, text};

/// A selector that the model evaluates for itself and the engine parses.
#[derive(Clone, Debug)]
enum Sel {
    All,
    And(Box<(Self, Self)>),
    Eq(&'static str, &'static str),
    Has(&'static str),
    In(&'static str, Vec<&'static str>),
    Ne(&'static str, &'static str),
    Not(Box<Self>),
    Or(Box<(Self, Self)>),
    Starts(&'static str, &'static str),
}

impl fmt::Display for Sel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(f, "all()"),
            Self::And(two) => write!(f, "({} && {})", two.0, two.1),
            Self::Eq(key, value) => write!(f, "{key} == '{value}'"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::In(key, values) => write!(f, "{key} in {{'{}'}}", values.join("', '")),
            Self::Ne(key, value) => write!(f, "{key} != \"{value}\""),
            Self::Not(one) => write!(f, "!({one})"),
            Self::Or(two) => write!(f, "({} || {})", two.0, two.1),
            Self::Starts(key, start) => write!(f, "{key} starts with '{start}'"),
        }
    }
}

type Labels = Vec<(&'static str, String)>;

impl Sel {
    fn holds(&self, labels: &Labels) -> bool {
        let value = |key: &str| {
            labels
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| &**value)
        };
        match self {
            Self::All => true,
            Self::And(two) => two.0.holds(labels) && two.1.holds(labels),
            Self::Eq(key, wanted) => value(key) == Some(wanted),
            Self::Has(key) => value(key).is_some(),
            Self::In(key, values) => value(key).is_some_and(|value| values.contains(&value)),
            Self::Ne(key, other) => value(key) != Some(other),
            Self::Not(one) => !one.holds(labels),
            Self::Or(two) => two.0.holds(labels) || two.1.holds(labels),
            Self::Starts(key, start) => value(key).is_some_and(|value| value.starts_with(start)),
        }
    }
}

fn sel(keys: &'static [&'static str], values: &'static [&'static str]) -> impl Strategy<Value = Sel> {
    let key = proptest::sample::select(keys);
    let value = proptest::sample::select(values);
    let leaf = prop_oneof![
        1 => Just(Sel::All),
        3 => (key.clone(), value.clone()).prop_map(|(key, value)| Sel::Eq(key, value)),
        1 => key.clone().prop_map(Sel::Has),
        1 => (key.clone(), proptest::collection::vec(value.clone(), 1..3)).prop_map(|(key, values)| Sel::In(key, values)),
        2 => (key.clone(), value.clone()).prop_map(|(key, value)| Sel::Ne(key, value)),
        1 => (key, value).prop_map(|(key, value)| Sel::Starts(key, &value[..1])),
    ];
    leaf.prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|two| Sel::And(Box::new(two))),
            inner.clone().prop_map(|one| Sel::Not(Box::new(one))),
            (inner.clone(), inner).prop_map(|two| Sel::Or(Box::new(two))),
        ]
    })
}

fn endpoints() -> impl Strategy<Value = Sel> {
    sel(
        &["app", "tier", "projectcalico.org/namespace"],
        &["x", "y", "front", "back", "a", "net"],
    )
}

#[derive(Clone, Debug)]
enum Namespaces {
    Global,
    Labels(Sel),
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global()"),
            Self::Labels(sel) => write!(f, "{sel}"),
        }
    }
}

fn namespaces() -> impl Strategy<Value = Namespaces> {
    prop_oneof![
        1 => Just(Namespaces::Global),
        3 => sel(&["env", "projectcalico.org/name"], &["prod", "test", "a"]).prop_map(Namespaces::Labels),
    ]
}

#[derive(Clone, Debug)]
enum Port {
    Named,
    Range(u16, u16),
}

#[derive(Clone, Debug, Default)]
struct Entity {
    selector: Option<Sel>,
    not_selector: Option<Sel>,
    namespaces: Option<Namespaces>,
    nets: Option<&'static str>,
    not_nets: Option<&'static str>,
    ports: Option<Port>,
    not_ports: Option<Port>,
}

#[derive(Clone, Debug)]
struct Rule {
    action: &'static str,
    protocol: Option<&'static str>,
    not_protocol: Option<&'static str>,
    source: Entity,
    destination: Entity,
}

#[derive(Clone, Debug)]
struct Policy {
    name: String,
    /// `None`: global.
    namespace: Option<&'static str>,
    tier: Option<&'static str>,
    order: Option<u32>,
    selector: Sel,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

const NETS: &[&str] = &["10.0.0.0/24", "10.0.1.0/24", "192.0.2.0/24", "0.0.0.0/0"];

/// Global sets first, then one of namespace `a`; each with the label `app` and a network.
const SETS: [(Option<&str>, &str, &str); 3] = [
    (None, "net", "192.0.2.0/24"),
    (None, "x", "10.0.0.0/30"),
    (Some("a"), "net", "10.0.2.0/24"),
];

/// A tier between the others, and one that passes.
const TIERS: [(&str, u32, &str); 2] = [("first", 10, "Deny"), ("second", 20, "Pass")];

fn entity(with_ports: bool) -> impl Strategy<Value = Entity> {
    let port = prop_oneof![
        Just(Port::Named),
        Just(Port::Range(80, 80)),
        Just(Port::Range(80, 81))
    ];
    let some = |weight: f64| match with_ports {
        true => proptest::option::weighted(weight, port.clone()).boxed(),
        false => Just(None).boxed(),
    };
    let (ports, not_ports) = (some(0.4), some(0.15));
    let net = || proptest::option::weighted(0.15, proptest::sample::select(NETS));
    (
        proptest::option::weighted(0.4, endpoints()),
        proptest::option::weighted(0.2, endpoints()),
        proptest::option::weighted(0.3, namespaces()),
        net(),
        net(),
        ports,
        not_ports,
    )
        .prop_map(
            |(selector, not_selector, namespaces, nets, not_nets, ports, not_ports)| Entity {
                selector,
                not_selector,
                namespaces,
                nets,
                not_nets,
                ports,
                not_ports,
            },
        )
}

fn rule() -> impl Strategy<Value = Rule> {
    let protocol = proptest::sample::select(vec![None, Some("TCP"), Some("UDP"), Some("ICMP")]);
    protocol.prop_flat_map(|protocol| {
        let with_ports = matches!(protocol, Some("TCP" | "UDP"));
        let action = proptest::sample::select(vec!["Allow", "Allow", "Deny", "Pass", "Log"]);
        let not_protocol = match protocol {
            None => proptest::option::weighted(0.3, Just("UDP")).boxed(),
            Some(_) => Just(None).boxed(),
        };
        (action, not_protocol, entity(false), entity(with_ports)).prop_map(
            move |(action, not_protocol, source, destination)| Rule {
                action,
                protocol,
                not_protocol,
                source,
                destination,
            },
        )
    })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let rules = || proptest::collection::vec(rule(), 0..4);
    let policy = (
        proptest::sample::select(vec![None, Some("a"), Some("b")]),
        proptest::sample::select(vec![None, Some("first"), Some("second")]),
        any::<bool>(),
        endpoints(),
        rules(),
        rules(),
    );
    proptest::collection::vec(policy, 0..6).prop_map(|policies| {
        let policy = |(index, (namespace, tier, ordered, selector, ingress, egress)): (
            usize,
            (_, _, bool, _, _, _),
        )| Policy {
            name: format!("p{}", index * 5 % 7),
            namespace,
            tier,
            // Orders are distinct; those without one come last, in order of name.
            order: ordered.then_some((index * 7 % 11) as u32),
            selector,
            ingress,
            egress,
        };
        policies.into_iter().enumerate().map(policy).collect()
    })
}

/// The objects as a user writes them.
fn written(policies: &[Policy]) -> Vec<Value> {
    let tiers = TIERS.iter().map(|(name, order, action)| {
        json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": name},
            "spec": {"order": order, "defaultAction": action}})
    });
    let sets = SETS.iter().enumerate().map(|(index, (namespace, app, net))| {
        let mut set = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
            "metadata": {"name": format!("s{index}"), "labels": {"app": app}}, "spec": {"nets": [net]}});
        if let Some(namespace) = namespace {
            set["kind"] = json!("NetworkSet");
            set["metadata"]["namespace"] = json!(namespace);
        }
        set
    });
    let policies = policies.iter().map(|policy| {
        let mut object = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": policy.name},
            "spec": {"selector": policy.selector.to_string(), "types": ["Ingress", "Egress"],
                "ingress": policy.ingress.iter().map(written_rule).collect::<Vec<_>>(),
                "egress": policy.egress.iter().map(written_rule).collect::<Vec<_>>()}});
        if let Some(namespace) = policy.namespace {
            object["kind"] = json!("NetworkPolicy");
            object["metadata"]["namespace"] = json!(namespace);
        }
        let spec = &mut object["spec"];
        set(spec, "tier", policy.tier);
        set(spec, "order", policy.order);
        object
    });
    tiers.chain(sets).chain(policies).collect()
}

fn set(object: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object[name] = value.into();
    }
}

fn written_rule(rule: &Rule) -> Value {
    let mut out = json!({"action": rule.action});
    set(&mut out, "protocol", rule.protocol);
    set(&mut out, "notProtocol", rule.not_protocol);
    for (name, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
        let mut side = json!({});
        set(
            &mut side,
            "selector",
            entity.selector.as_ref().map(Sel::to_string),
        );
        set(
            &mut side,
            "notSelector",
            entity.not_selector.as_ref().map(Sel::to_string),
        );
        set(
            &mut side,
            "namespaceSelector",
            entity.namespaces.as_ref().map(Namespaces::to_string),
        );
        set(&mut side, "nets", entity.nets.map(|net| json!([net])));
        set(&mut side, "notNets", entity.not_nets.map(|net| json!([net])));
        let ports = |ports: &Port| match ports {
            Port::Named => json!(["web"]),
            Port::Range(first, last) => json!([format!("{first}:{last}")]),
        };
        set(&mut side, "ports", entity.ports.as_ref().map(ports));
        set(&mut side, "notPorts", entity.not_ports.as_ref().map(ports));
        out[name] = side;
    }
    out
}

/// A pod or a network set, as selectors see it.
struct Object {
    labels: Labels,
    namespace: Option<&'static str>,
}

fn pod(index: usize) -> Object {
    let (namespace, app, tier) = PODS[index];
    let mut labels = vec![
        ("app", app.to_owned()),
        ("projectcalico.org/namespace", namespace.to_owned()),
    ];
    if !tier.is_empty() {
        labels.push(("tier", tier.to_owned()));
    }
    Object {
        labels,
        namespace: Some(namespace),
    }
}

/// Everything that an end is: its pod, and the sets that hold its address.
fn objects(end: Option<usize>) -> Vec<Object> {
    let sets = SETS
        .iter()
        .filter(|(_, _, net)| holds(net, end))
        .map(|(namespace, app, _)| {
            let mut labels = vec![("app", (*app).to_owned())];
            labels.extend(namespace.map(|namespace| ("projectcalico.org/namespace", namespace.to_owned())));
            Object {
                labels,
                namespace: *namespace,
            }
        });
    end.map(pod).into_iter().chain(sets).collect()
}

fn holds(net: &str, end: Option<usize>) -> bool {
    let net: ipnet::IpNet = net.parse().unwrap();
    net.contains(&text(end).parse::<IpAddr>().unwrap())
}

fn is_in(namespaces: &Namespaces, object: &Object) -> bool {
    match (namespaces, object.namespace) {
        (Namespaces::Global, namespace) => namespace.is_none(),
        (Namespaces::Labels(Sel::All), namespace) => namespace.is_some(),
        (Namespaces::Labels(sel), namespace) => {
            let labels = namespace.map_or_else(Vec::new, |name| {
                let env = NAMESPACES.iter().find(|(other, _)| *other == name).unwrap().1;
                vec![
                    ("env", env.to_owned()),
                    ("projectcalico.org/name", name.to_owned()),
                ]
            });
            holds_for_namespace(sel, &labels, namespace.is_some())
        }
    }
}

/// As [`Sel::holds`], but that `all()` anywhere asks for a namespace.
fn holds_for_namespace(sel: &Sel, labels: &Labels, namespaced: bool) -> bool {
    let part = |sel: &Sel| holds_for_namespace(sel, labels, namespaced);
    match sel {
        Sel::All => namespaced,
        Sel::And(two) => part(&two.0) && part(&two.1),
        Sel::Not(one) => !part(one),
        Sel::Or(two) => part(&two.0) || part(&two.1),
        leaf => leaf.holds(labels),
    }
}

/// Whether the selectors of a side are satisfied by one object; a side without any asks nothing.
fn selected(entity: &Entity, own: Option<&str>, objects: &[Object]) -> bool {
    let confined = own.is_some()
        && entity.namespaces.is_none()
        && (entity.selector.is_some() || entity.not_selector.is_some());
    let positive = entity.selector.is_some() || entity.namespaces.is_some();
    let excluded = |object: &Object| {
        entity
            .not_selector
            .as_ref()
            .is_some_and(|sel| sel.holds(&object.labels))
    };
    if !positive && !confined {
        return !objects.iter().any(excluded);
    }
    objects.iter().any(|object| {
        (!confined || object.namespace == own)
            && entity
                .namespaces
                .as_ref()
                .is_none_or(|namespaces| is_in(namespaces, object))
            && entity
                .selector
                .as_ref()
                .is_none_or(|sel| sel.holds(&object.labels))
            && !excluded(object)
    })
}

fn is_side(entity: &Entity, own: Option<&str>, end: Option<usize>, case: Case) -> bool {
    let has_ports = matches!(case.protocol, Protocol::Tcp | Protocol::Udp);
    let is_port = |port: &Port| match port {
        Port::Range(first, last) => (*first..=*last).contains(&case.port),
        // Every pod has one port, "web", and it is TCP; the pod itself must satisfy the selectors.
        Port::Named => {
            let positive = Entity {
                not_selector: (entity.selector.is_some() || entity.namespaces.is_some() || own.is_some())
                    .then(|| entity.not_selector.clone())
                    .flatten(),
                ..entity.clone()
            };
            case.protocol == Protocol::Tcp
                && end.is_some_and(|index| {
                    let web = if index % 2 == 0 { 80 } else { 81 };
                    case.port == web && selected(&positive, own, &[pod(index)])
                })
        }
    };
    selected(entity, own, &objects(end))
        && entity.nets.is_none_or(|net| holds(net, end))
        && entity.not_nets.is_none_or(|net| !holds(net, end))
        && entity
            .ports
            .as_ref()
            .is_none_or(|port| has_ports && is_port(port))
        && entity
            .not_ports
            .as_ref()
            .is_none_or(|port| !(has_ports && is_port(port)))
}

fn matches(rule: &Rule, own: Option<&str>, case: Case) -> bool {
    let name = match case.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        _ => "ICMP",
    };
    rule.protocol.is_none_or(|protocol| protocol == name)
        && rule.not_protocol.is_none_or(|protocol| protocol != name)
        && is_source(rule, own, case)
        && is_side(&rule.destination, own, case.to, case)
}

/// Rules here have no source ports.
fn is_source(rule: &Rule, own: Option<&str>, case: Case) -> bool {
    is_side(&rule.source, own, case.from, case)
}

fn side(policies: &[Policy], index: usize, ingress: bool, case: Case) -> bool {
    for tier in [Some("first"), Some("second"), None] {
        let mut ordered: Vec<&Policy> = policies
            .iter()
            .filter(|policy| policy.tier == tier)
            .filter(|policy| {
                policy
                    .namespace
                    .is_none_or(|namespace| namespace == PODS[index].0)
            })
            .filter(|policy| policy.selector.holds(&pod(index).labels))
            .collect();
        let place = |policy: &&Policy| {
            let kind = if policy.namespace.is_some() {
                "NetworkPolicy"
            } else {
                "GlobalNetworkPolicy"
            };
            let tie = format!("{}/{}/{kind}", policy.name, policy.namespace.unwrap_or_default());
            (policy.order.unwrap_or(u32::MAX), tie)
        };
        ordered.sort_by_key(place);
        let rules = ordered.iter().flat_map(|policy| {
            let rules = if ingress { &policy.ingress } else { &policy.egress };
            rules.iter().map(|rule| (policy.namespace, rule))
        });
        let decided = rules
            .filter(|(_, rule)| rule.action != "Log")
            .find(|(own, rule)| matches(rule, *own, case));
        match (decided, tier) {
            (Some((_, rule)), _) if rule.action != "Pass" => return rule.action == "Allow",
            (None, Some("first") | None) if !ordered.is_empty() => return false,
            _ => {}
        }
    }
    true
}

fn allows(policies: &[Policy], case: Case) -> bool {
    case.from.is_none_or(|pod| side(policies, pod, false, case))
        && case.to.is_none_or(|pod| side(policies, pod, true, case))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_engine_decides_as_the_model(policies in policies()) {
        let set = compile(&written(&policies));
        for case in cases() {
            let expected = allows(&policies, case);
            prop_assert_eq!(engine(&set, case, Trace::Off), expected, "{:?}", case);
            prop_assert_eq!(engine(&set, case, Trace::On), expected, "{:?} with the trace", case);
        }
    }

    #[test]
    fn one_more_allow_never_denies(policies in policies(), rule in rule(), at in any::<prop::sample::Index>()) {
        prop_assume!(!policies.is_empty());
        let mut more = policies.clone();
        let at = at.index(policies.len());
        more[at].ingress.insert(0, Rule { action: "Allow", ..rule });
        let (before, after) = (compile(&written(&policies)), compile(&written(&more)));
        for case in cases() {
            prop_assert!(!engine(&before, case, Trace::Off) || engine(&after, case, Trace::Off), "{:?}", case);
        }
    }

    #[test]
    fn order_of_writing_and_names_change_nothing(policies in policies()) {
        let ordered: Vec<Policy> = (0..).zip(policies).map(|(order, policy)| Policy { order: Some(order), ..policy }).collect();
        let renamed = ordered.iter().enumerate().map(|(index, policy)| Policy {
            name: format!("other-{}", index * 3 % 7),
            ..policy.clone()
        });
        let renamed: Vec<Policy> = renamed.rev().collect();
        let (left, right) = (compile(&written(&ordered)), compile(&written(&renamed)));
        for case in cases() {
            prop_assert_eq!(engine(&left, case, Trace::Off), engine(&right, case, Trace::Off), "{:?}", case);
        }
    }
}
