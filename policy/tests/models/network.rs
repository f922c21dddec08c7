//! Kubernetes' NetworkPolicy: a union of rules for whoever is isolated.

use std::net::IpAddr;

use adit_flow::Protocol;
use adit_policy::Trace;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::{Case, NAMESPACES, PODS, cases, compile, engine, text};

/// A label selector over the labels that occur, and one that doesn't.
fn selector(keys: [&'static str; 2], values: [&'static str; 3]) -> impl Strategy<Value = Value> {
    let key = proptest::sample::select(keys.to_vec());
    let value = proptest::sample::select(values.to_vec());
    prop_oneof![
        Just(json!({})),
        (key.clone(), value.clone()).prop_map(|(key, value)| json!({"matchLabels": {key: value}})),
        (
            key,
            proptest::sample::select(vec!["In", "NotIn", "Exists", "DoesNotExist"]),
            value
        )
            .prop_map(|(key, operator, value)| {
                let mut expression = json!({"key": key, "operator": operator});
                if operator.ends_with("In") {
                    expression["values"] = json!([value]);
                }
                json!({"matchExpressions": [expression]})
            }),
    ]
}

pub(crate) fn pods() -> impl Strategy<Value = Value> {
    selector(["app", "tier"], ["x", "front", "back"])
}

pub(crate) fn namespaces() -> impl Strategy<Value = Value> {
    selector(["env", "team"], ["prod", "test", "dev"])
}

fn peer() -> impl Strategy<Value = Value> {
    let cidr = proptest::sample::select(vec!["10.0.0.0/24", "10.0.0.0/16", "192.0.2.0/24", "0.0.0.0/0"]);
    prop_oneof![
        pods().prop_map(|pods| json!({"podSelector": pods})),
        namespaces().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (pods(), namespaces())
            .prop_map(|(pods, namespaces)| json!({"podSelector": pods, "namespaceSelector": namespaces})),
        cidr.clone().prop_map(|cidr| json!({"ipBlock": {"cidr": cidr}})),
        Just(json!({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"protocol": "TCP"})),
        Just(json!({"port": "web"})),
        Just(json!({"port": "web", "protocol": "UDP"})),
        Just(json!({"port": 80, "endPort": 81})),
        Just(json!({"port": 443, "protocol": "UDP"})),
        Just(json!({"port": 443})),
    ]
}

fn rules(peers: &'static str) -> impl Strategy<Value = Vec<Value>> {
    let rule = (
        proptest::option::of(proptest::collection::vec(peer(), 0..3)),
        proptest::option::of(proptest::collection::vec(port(), 0..3)),
    );
    let rule = rule.prop_map(move |(from, ports)| {
        let mut rule = json!({});
        if let Some(from) = from {
            rule[peers] = json!(from);
        }
        if let Some(ports) = ports {
            rule["ports"] = json!(ports);
        }
        rule
    });
    proptest::collection::vec(rule, 0..3)
}

fn policy() -> impl Strategy<Value = Value> {
    let types = proptest::option::of(proptest::sample::select(vec![
        json!([]),
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ]));
    (
        proptest::sample::select(vec!["a", "b", "c"]),
        pods(),
        types,
        rules("from"),
        rules("to"),
    )
        .prop_map(|(namespace, pods, types, ingress, egress)| {
            let mut spec = json!({"podSelector": pods, "ingress": ingress, "egress": egress});
            if let Some(types) = types {
                spec["policyTypes"] = types;
            }
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace}, "spec": spec})
        })
}

pub(crate) fn policies() -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec(policy(), 0..6).prop_map(|mut policies| {
        for (index, policy) in policies.iter_mut().enumerate() {
            policy["metadata"]["name"] = json!(format!("policy-{index}"));
        }
        policies
    })
}

pub(crate) mod model {
    use super::*;

    pub(super) fn allows(policies: &[Value], case: Case) -> bool {
        let side = |pod, ingress| side(policies, pod, ingress, case).unwrap_or(true);
        case.from.is_none_or(|pod| side(pod, false)) && case.to.is_none_or(|pod| side(pod, true))
    }

    /// What one side says; `None` where the pod isn't isolated in that direction.
    pub(crate) fn side(policies: &[Value], pod: usize, ingress: bool, case: Case) -> Option<bool> {
        let (word, peers) = if ingress {
            ("ingress", "from")
        } else {
            ("egress", "to")
        };
        let selecting: Vec<&Value> = policies
            .iter()
            .filter(|policy| policy["metadata"]["namespace"] == PODS[pod].0)
            .filter(|policy| selects(&policy["spec"]["podSelector"], &pod_labels(pod)))
            .filter(|policy| is_of_type(&policy["spec"], ingress))
            .collect();
        let far = if ingress { case.from } else { case.to };
        let matched = selecting.iter().any(|policy| {
            let rules = policy["spec"][word].as_array().unwrap();
            rules.iter().any(|rule| {
                let namespace = policy["metadata"]["namespace"].as_str().unwrap();
                any(&rule[peers], |peer| is_peer(peer, namespace, far))
                    && any(&rule["ports"], |port| is_port(port, case))
            })
        });
        (!selecting.is_empty()).then_some(matched)
    }

    fn is_of_type(spec: &Value, ingress: bool) -> bool {
        match spec["policyTypes"].as_array().filter(|types| !types.is_empty()) {
            Some(types) => types.contains(&json!(if ingress { "Ingress" } else { "Egress" })),
            None => ingress || !spec["egress"].as_array().unwrap().is_empty(),
        }
    }

    /// Missing and empty lists hold for all.
    fn any(list: &Value, test: impl Fn(&Value) -> bool) -> bool {
        list.as_array()
            .is_none_or(|list| list.is_empty() || list.iter().any(test))
    }

    pub(crate) fn pod_labels(pod: usize) -> Vec<(&'static str, &'static str)> {
        let (_, app, tier) = PODS[pod];
        [("app", app), ("tier", tier)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    pub(crate) fn selects(selector: &Value, labels: &[(&str, &str)]) -> bool {
        let value = |key: &str| {
            labels
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| *value)
        };
        let equal = selector["matchLabels"].as_object().into_iter().flatten();
        let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
        equal
            .into_iter()
            .all(|(key, wanted)| value(key) == wanted.as_str())
            && expressions.into_iter().all(|expression| {
                let found = value(expression["key"].as_str().unwrap());
                let listed = || {
                    found
                        .is_some_and(|found| expression["values"].as_array().unwrap().contains(&json!(found)))
                };
                match expression["operator"].as_str().unwrap() {
                    "In" => listed(),
                    "NotIn" => !listed(),
                    "Exists" => found.is_some(),
                    _ => found.is_none(),
                }
            })
    }

    fn is_peer(peer: &Value, own: &str, far: Option<usize>) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            let address: IpAddr = text(far).parse().unwrap();
            let within = |cidr: &Value| {
                cidr.as_str()
                    .unwrap()
                    .parse::<ipnet::IpNet>()
                    .unwrap()
                    .contains(&address)
            };
            let except = block["except"].as_array().into_iter().flatten();
            return within(&block["cidr"]) && !except.into_iter().any(within);
        }
        let Some(pod) = far else {
            return false;
        };
        let namespace = PODS[pod].0;
        let env = NAMESPACES.iter().find(|(name, _)| *name == namespace).unwrap().1;
        let in_namespace = match peer.get("namespaceSelector") {
            Some(selector) => selects(selector, &[("env", env)]),
            None => namespace == own,
        };
        in_namespace
            && peer
                .get("podSelector")
                .is_none_or(|selector| selects(selector, &pod_labels(pod)))
    }

    fn is_port(port: &Value, case: Case) -> bool {
        let protocol = if port["protocol"] == "UDP" {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        if protocol != case.protocol {
            return false;
        }
        match &port["port"] {
            Value::Null => true,
            Value::String(_) => {
                // Every pod has one port, "web", and it is TCP.
                protocol == Protocol::Tcp
                    && case
                        .to
                        .is_some_and(|pod| case.port == if pod % 2 == 0 { 80 } else { 81 })
            }
            first => {
                let last = port["endPort"].as_u64().or_else(|| first.as_u64()).unwrap();
                (first.as_u64().unwrap()..=last).contains(&u64::from(case.port))
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_engine_decides_as_the_model(policies in policies()) {
        let set = compile(&policies);
        for case in cases() {
            let expected = model::allows(&policies, case);
            prop_assert_eq!(engine(&set, case, Trace::Off), expected, "{:?}", case);
            prop_assert_eq!(engine(&set, case, Trace::On), expected, "{:?} with the trace", case);
        }
    }

    #[test]
    fn one_more_rule_never_denies(policies in policies(), rule in rules("from"), at in any::<prop::sample::Index>()) {
        prop_assume!(!policies.is_empty() && !rule.is_empty());
        let mut more = policies.clone();
        let spec = &mut more[at.index(policies.len())]["spec"];
        spec["ingress"].as_array_mut().unwrap().push(rule[0].clone());
        let (before, after) = (compile(&policies), compile(&more));
        for case in cases() {
            prop_assert!(!engine(&before, case, Trace::Off) || engine(&after, case, Trace::Off), "{:?}", case);
        }
    }

    #[test]
    fn order_and_names_of_a_union_change_nothing(policies in policies()) {
        let mut renamed: Vec<Value> = policies.iter().rev().cloned().collect();
        for (index, policy) in renamed.iter_mut().enumerate() {
            policy["metadata"]["name"] = json!(format!("other-{}", index * 7 % 11));
        }
        let (left, right) = (compile(&policies), compile(&renamed));
        for case in cases() {
            prop_assert_eq!(engine(&left, case, Trace::Off), engine(&right, case, Trace::Off), "{:?}", case);
        }
    }
}
