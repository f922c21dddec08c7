//! Istio at layer 4: PeerAuthentication by level and age, then DENY before ALLOW.

use std::net::{IpAddr, SocketAddr};

use adit_flow::{FourTuple, Protocol};
use adit_policy::{Flow, PolicySet, Trace};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::network::model::{pod_labels, selects};
use crate::world::{PODS, PORTS, address, compile};

const ROOT: &str = "istio-system";
const IDENTITIES: [&str; 4] = [
    "cluster.local/ns/a/sa/x",
    "cluster.local/ns/a/sa/y",
    "cluster.local/ns/b/sa/x",
    "other.example/ns/a/sa/x",
];

/// A flow to a pod: from which pod's address, with which identity.
#[derive(Clone, Copy, Debug)]
struct Case {
    from: usize,
    to: usize,
    port: u16,
    identity: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for to in 0..PODS.len() {
        for (from, port) in [(0, PORTS[0]), (3, PORTS[0]), (0, PORTS[2]), (5, PORTS[1])] {
            for identity in IDENTITIES.into_iter().map(Some).chain([None]) {
                out.push(Case {
                    from,
                    to,
                    port,
                    identity,
                });
            }
        }
    }
    out
}

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(proptest::sample::select(words), 1..3)
}

const PRINCIPALS: &[&str] = &[
    "*",
    "cluster.local/*",
    "*/sa/x",
    "cluster.local/ns/a/sa/x",
    "nobody",
];
const SPACES: &[&str] = &["a", "b", "*", "c*"];
const ACCOUNTS: &[&str] = &["x", "a/x", "b/x", "a/y"];
const DOMAINS: &[&str] = &["cluster.local", "*.example", "*"];
const BLOCKS: &[&str] = &["10.0.0.0/24", "10.0.1.0/24", "10.0.0.1", "192.0.2.0/24"];
const NUMBERS: &[&str] = &["80", "81", "443"];

/// One source or operation, with one or two fields.
fn fields(choices: &'static [(&'static str, &'static [&'static str])]) -> impl Strategy<Value = Value> {
    let field = proptest::sample::select(choices)
        .prop_flat_map(|(name, words)| one_of(words).prop_map(move |values| (name, values)));
    proptest::collection::vec(field, 1..3).prop_map(|fields| {
        let mut out = json!({});
        for (name, values) in fields {
            out[name] = json!(values);
        }
        out
    })
}

fn source() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => fields(&[
            ("principals", PRINCIPALS), ("notPrincipals", PRINCIPALS),
            ("namespaces", SPACES), ("notNamespaces", SPACES),
            ("trustDomains", DOMAINS), ("notTrustDomains", DOMAINS),
            ("ipBlocks", BLOCKS), ("notIpBlocks", BLOCKS),
        ]),
        1 => fields(&[("serviceAccounts", ACCOUNTS), ("notServiceAccounts", ACCOUNTS), ("ipBlocks", BLOCKS)]),
    ]
}

fn condition() -> impl Strategy<Value = Value> {
    let key = proptest::sample::select(vec![
        ("source.ip", BLOCKS),
        ("source.namespace", SPACES),
        ("source.principal", PRINCIPALS),
        ("source.serviceAccount", ACCOUNTS),
        ("source.trustDomain", DOMAINS),
        ("destination.port", NUMBERS),
    ]);
    key.prop_flat_map(|(key, words)| {
        (one_of(words), any::<bool>()).prop_map(move |(values, not)| {
            let name = if not { "notValues" } else { "values" };
            json!({"key": key, name: values})
        })
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let operation = fields(&[("ports", NUMBERS), ("notPorts", NUMBERS)]);
    (
        proptest::collection::vec(source(), 0..3),
        proptest::collection::vec(operation, 0..2),
        proptest::collection::vec(condition(), 0..2),
    )
        .prop_map(|(from, to, when)| {
            let mut rule = json!({});
            if !from.is_empty() {
                rule["from"] = from.into_iter().map(|source| json!({"source": source})).collect();
            }
            if !to.is_empty() {
                rule["to"] = to
                    .into_iter()
                    .map(|operation| json!({"operation": operation}))
                    .collect();
            }
            if !when.is_empty() {
                rule["when"] = json!(when);
            }
            rule
        })
}

fn selector() -> impl Strategy<Value = Option<Value>> {
    let labels = proptest::sample::select(vec![
        json!({"app": "x"}),
        json!({"tier": "front"}),
        json!({"app": "z"}),
    ]);
    proptest::option::of(labels.prop_map(|labels| json!({"matchLabels": labels})))
}

fn policies() -> impl Strategy<Value = Vec<Value>> {
    let authorization = (
        proptest::sample::select(vec!["a", "b", ROOT]),
        selector(),
        proptest::sample::select(vec!["ALLOW", "ALLOW", "DENY", "AUDIT"]),
        proptest::collection::vec(rule(), 1..3),
    )
        .prop_map(|(namespace, selector, action, rules)| {
            let mut spec = json!({"action": action, "rules": rules});
            if let Some(selector) = selector {
                spec["selector"] = selector;
            }
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": {"namespace": namespace}, "spec": spec})
        });
    let mode = || proptest::sample::select(vec!["UNSET", "STRICT", "PERMISSIVE", "DISABLE"]);
    let peers = (
        proptest::sample::select(vec!["a", "b", ROOT]),
        selector(),
        proptest::option::of(mode()),
        proptest::option::of(mode()),
    )
        .prop_map(|(namespace, selector, all, port)| {
            let mut spec = json!({});
            if let Some(all) = all {
                spec["mtls"] = json!({"mode": all});
            }
            if let Some(selector) = selector.filter(|_| namespace != ROOT) {
                spec["selector"] = selector;
                if let Some(port) = port {
                    spec["portLevelMtls"] = json!({"80": {"mode": port}});
                }
            }
            json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
                "metadata": {"namespace": namespace}, "spec": spec})
        });
    proptest::collection::vec(prop_oneof![3 => authorization, 2 => peers], 0..7).prop_map(|mut policies| {
        for (index, policy) in policies.iter_mut().enumerate() {
            policy["metadata"]["name"] = json!(format!("policy-{index}"));
            // Ages are distinct, and not in the order written.
            let second = index * 5 % 7;
            policy["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:0{second}Z"));
        }
        policies
    })
}

fn engine(set: &PolicySet, case: Case) -> bool {
    let socket = |pod, port| SocketAddr::new(address(pod).parse().unwrap(), port);
    let flow = Flow {
        source_identity: case
            .identity
            .map(|identity| format!("spiffe://{identity}").parse().unwrap()),
        ..Flow::plain(
            FourTuple::new(socket(case.from, 40_000), socket(case.to, case.port)),
            Protocol::Tcp,
        )
    };
    set.ingress(&flow, Trace::Off).is_allowed()
}

fn strings(value: &Value) -> Option<Vec<&str>> {
    let list = value
        .as_array()?
        .iter()
        .map(|item| item.as_str().unwrap())
        .collect();
    Some(list)
}

/// What the peer's identity says under a name; `None` without an identity.
fn shown<'a>(case: Case, part: &str) -> Option<&'a str> {
    let identity: &'static str = case.identity?;
    let words: Vec<&'static str> = identity.split('/').collect();
    Some(match part {
        "domain" => words[0],
        "namespace" => words[2],
        "account" => words[4],
        _ => identity,
    })
}

fn fits(pattern: &str, text: Option<&str>) -> bool {
    let Some(text) = text else { return false };
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => !text.is_empty(),
        (Some(end), _) => text.ends_with(end),
        (_, Some(start)) => text.starts_with(start),
        _ => pattern == text,
    }
}

fn is_value(kind: &str, value: &str, own: &str, case: Case) -> bool {
    match kind {
        "principals" => fits(value, shown(case, "whole")),
        "namespaces" => fits(value, shown(case, "namespace")),
        "trustDomains" => fits(value, shown(case, "domain")),
        "serviceAccounts" => {
            let (namespace, name) = value.split_once('/').unwrap_or((own, value));
            shown(case, "namespace") == Some(namespace) && shown(case, "account") == Some(name)
        }
        "ipBlocks" => {
            let from: IpAddr = address(case.from).parse().unwrap();
            match value.parse::<ipnet::IpNet>() {
                Ok(net) => net.contains(&from),
                Err(_) => value.parse::<IpAddr>().unwrap() == from,
            }
        }
        "ports" => value.parse::<u16>().unwrap() == case.port,
        other => panic!("{other}"),
    }
}

/// All fields hold: any of the one list, none of the other.
fn is_entry(entry: &Value, own: &str, case: Case) -> bool {
    entry.as_object().unwrap().iter().all(|(name, values)| {
        let values = strings(values).unwrap();
        let any = |kind: &str| values.iter().any(|value| is_value(kind, value, own, case));
        match name.strip_prefix("not") {
            Some(kind) => !any(&format!("{}{}", kind[..1].to_lowercase(), &kind[1..])),
            None => any(name),
        }
    })
}

fn is_rule(rule: &Value, own: &str, case: Case) -> bool {
    let any = |list: &Value, inner: &str| {
        list.as_array()
            .is_none_or(|list| list.iter().any(|entry| is_entry(&entry[inner], own, case)))
    };
    let when = rule["when"].as_array().into_iter().flatten().all(|condition| {
        let kind = match condition["key"].as_str().unwrap() {
            "source.ip" => "ipBlocks",
            "source.namespace" => "namespaces",
            "source.principal" => "principals",
            "source.serviceAccount" => "serviceAccounts",
            "source.trustDomain" => "trustDomains",
            _ => "ports",
        };
        let any = |values: &Value| {
            strings(values).map(|values| values.iter().any(|value| is_value(kind, value, own, case)))
        };
        any(&condition["values"]) != Some(false) && any(&condition["notValues"]) != Some(true)
    });
    any(&rule["from"], "source") && any(&rule["to"], "operation") && when
}

fn allows(policies: &[Value], case: Case) -> bool {
    let applies = |policy: &&Value| {
        let namespace = &policy["metadata"]["namespace"];
        (namespace == ROOT || namespace == PODS[case.to].0)
            && policy["spec"]
                .get("selector")
                .is_none_or(|selector| selects(selector, &pod_labels(case.to)))
    };
    let of_kind = |kind: &'static str| {
        policies
            .iter()
            .filter(applies)
            .filter(move |policy| policy["kind"] == kind)
    };
    if case.identity.is_none() && mode(of_kind("PeerAuthentication").collect(), case.port) == Some("STRICT") {
        return false;
    }
    let matching = |action: &'static str| {
        of_kind("AuthorizationPolicy")
            .filter(move |policy| policy["spec"]["action"] == action)
            .map(move |policy| {
                let own = policy["metadata"]["namespace"].as_str().unwrap();
                let rules = policy["spec"]["rules"].as_array().unwrap();
                rules.iter().any(|rule| is_rule(rule, own, case))
            })
            .collect::<Vec<bool>>()
    };
    let allow = matching("ALLOW");
    !matching("DENY").contains(&true) && (allow.is_empty() || allow.contains(&true))
}

/// The first mode that is set: of the port, the workload, the namespace, the mesh; the oldest of each.
fn mode(policies: Vec<&Value>, port: u16) -> Option<&str> {
    let level = |wanted: u8| {
        let of_level = policies.iter().filter(|policy| {
            let level = match (
                policy["spec"].get("selector"),
                policy["metadata"]["namespace"] == ROOT,
            ) {
                (_, true) => 2,
                (Some(_), false) => 0,
                (None, false) => 1,
            };
            level == wanted
        });
        of_level.min_by_key(|policy| policy["metadata"]["creationTimestamp"].as_str())
    };
    let set = |mode: &'_ Value| {
        mode["mode"]
            .as_str()
            .filter(|mode| *mode != "UNSET")
            .map(str::to_owned)
    };
    let of_port = level(0).and_then(|policy| set(&policy["spec"]["portLevelMtls"][port.to_string()]));
    let found = of_port.or_else(|| (0..3).find_map(|wanted| set(&level(wanted)?["spec"]["mtls"])));
    match found.as_deref() {
        Some("STRICT") => Some("STRICT"),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_engine_decides_as_the_model(policies in policies()) {
        let set = compile(&policies);
        for case in cases() {
            prop_assert_eq!(engine(&set, case), allows(&policies, case), "{:?}", case);
        }
    }

    #[test]
    fn one_more_rule_moves_verdicts_one_way(policies in policies(), rule in rule(), at in any::<prop::sample::Index>()) {
        let rules: Vec<usize> = (0..policies.len()).filter(|index| policies[*index]["kind"] == "AuthorizationPolicy").collect();
        prop_assume!(!rules.is_empty());
        let at = rules[at.index(rules.len())];
        let mut more = policies.clone();
        more[at]["spec"]["rules"].as_array_mut().unwrap().push(rule);
        let (before, after) = (compile(&policies), compile(&more));
        for case in cases() {
            let (was, is) = (engine(&before, case), engine(&after, case));
            match policies[at]["spec"]["action"].as_str().unwrap() {
                "ALLOW" => prop_assert!(is || !was, "{:?}", case),
                "DENY" => prop_assert!(was || !is, "{:?}", case),
                _ => prop_assert_eq!(was, is, "{:?}", case),
            }
        }
    }

    #[test]
    fn order_of_writing_and_names_change_nothing(policies in policies()) {
        let mut renamed: Vec<Value> = policies.iter().rev().cloned().collect();
        for (index, policy) in renamed.iter_mut().enumerate() {
            policy["metadata"]["name"] = json!(format!("other-{}", index * 3 % 11));
        }
        let (left, right) = (compile(&policies), compile(&renamed));
        for case in cases() {
            prop_assert_eq!(engine(&left, case), engine(&right, case), "{:?}", case);
        }
    }
}
