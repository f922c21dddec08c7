//! ClusterNetworkPolicy: Admin in order of priority, then NetworkPolicy, then Baseline.

use std::net::IpAddr;

use adit_flow::Protocol;
use adit_policy::Trace;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::network::model::{pod_labels, selects, side};
use crate::network::{namespaces, pods, policies};
use crate::world::{Case, NAMESPACES, PODS, cases, compile, engine, text};

fn pair() -> impl Strategy<Value = Value> {
    prop_oneof![
        namespaces().prop_map(|namespaces| json!({"namespaces": namespaces})),
        (namespaces(), pods()).prop_map(
            |(namespaces, pods)| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})
        ),
    ]
}

fn peer(word: &'static str) -> BoxedStrategy<Value> {
    let nets = proptest::sample::select(vec!["10.0.0.0/24", "192.0.2.0/24", "0.0.0.0/0"]);
    match word {
        "from" => pair().boxed(),
        _ => prop_oneof![3 => pair(), 1 => nets.prop_map(|net| json!({"networks": [net]}))].boxed(),
    }
}

fn protocol() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"tcp": {"destinationPort": {"number": 80}}})),
        Just(json!({"udp": {"destinationPort": {"range": {"start": 80, "end": 81}}}})),
        Just(json!({"destinationNamedPort": "web"})),
    ]
}

fn rules(word: &'static str) -> impl Strategy<Value = Vec<Value>> {
    let rule = (
        proptest::sample::select(vec!["Accept", "Deny", "Pass"]),
        proptest::collection::vec(peer(word), 1..3),
        proptest::collection::vec(protocol(), 0..3),
    );
    let rule = rule.prop_map(move |(action, peers, protocols)| {
        let mut rule = json!({"action": action, word: peers});
        if !protocols.is_empty() {
            rule["protocols"] = json!(protocols);
        }
        rule
    });
    proptest::collection::vec(rule, 0..4)
}

fn cluster_policies() -> impl Strategy<Value = Vec<Value>> {
    let tier = proptest::sample::select(vec!["Admin", "Baseline"]);
    let policy = (tier, pair(), rules("from"), rules("to"));
    proptest::collection::vec(policy, 0..6).prop_map(|policies| {
        let policy = |(index, (tier, subject, ingress, egress)): (usize, (&str, Value, _, _))| {
            // Priorities are distinct, and not in the order written.
            let (ingress, egress): (Vec<Value>, Vec<Value>) = (ingress, egress);
            json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": {"name": format!("c{index}")},
                "spec": {"tier": tier, "priority": index * 7 % 11, "subject": subject,
                    "ingress": ingress, "egress": egress}})
        };
        policies.into_iter().enumerate().map(policy).collect()
    })
}

fn allows(policies: &[Value], between: &[Value], case: Case) -> bool {
    let side = |pod, ingress| {
        tier(policies, "Admin", pod, ingress, case)
            .or_else(|| side(between, pod, ingress, case))
            .or_else(|| tier(policies, "Baseline", pod, ingress, case))
            .unwrap_or(true)
    };
    case.from.is_none_or(|pod| side(pod, false)) && case.to.is_none_or(|pod| side(pod, true))
}

fn tier(policies: &[Value], tier: &str, pod: usize, ingress: bool, case: Case) -> Option<bool> {
    let (word, peers) = if ingress {
        ("ingress", "from")
    } else {
        ("egress", "to")
    };
    let far = if ingress { case.from } else { case.to };
    let mut ordered: Vec<&Value> = policies
        .iter()
        .filter(|policy| policy["spec"]["tier"] == tier && is_pair(&policy["spec"]["subject"], pod))
        .collect();
    ordered.sort_by_key(|policy| policy["spec"]["priority"].as_u64());
    let rules = ordered
        .iter()
        .flat_map(|policy| policy["spec"][word].as_array().unwrap());
    let matching = rules.into_iter().find(|rule| {
        let protocols = rule["protocols"].as_array();
        rule[peers]
            .as_array()
            .unwrap()
            .iter()
            .any(|peer| is_peer(peer, far))
            && protocols.is_none_or(|list| list.iter().any(|one| is_protocol(one, case)))
    });
    match matching?["action"].as_str().unwrap() {
        "Accept" => Some(true),
        "Deny" => Some(false),
        _ => None,
    }
}

fn is_pair(pair: &Value, pod: usize) -> bool {
    let env = NAMESPACES
        .iter()
        .find(|(name, _)| *name == PODS[pod].0)
        .unwrap()
        .1;
    let namespace = [("env", env)];
    match (pair.get("namespaces"), pair.get("pods")) {
        (Some(namespaces), _) => selects(namespaces, &namespace),
        (None, Some(pods)) => {
            selects(&pods["namespaceSelector"], &namespace) && selects(&pods["podSelector"], &pod_labels(pod))
        }
        (None, None) => false,
    }
}

fn is_peer(peer: &Value, far: Option<usize>) -> bool {
    match peer["networks"].as_array() {
        Some(nets) => nets.iter().any(|net| {
            let net: ipnet::IpNet = net.as_str().unwrap().parse().unwrap();
            net.contains(&text(far).parse::<IpAddr>().unwrap())
        }),
        None => far.is_some_and(|pod| is_pair(peer, pod)),
    }
}

fn is_protocol(one: &Value, case: Case) -> bool {
    if one["destinationNamedPort"] == "web" {
        // Every pod has one port, "web", and it is TCP.
        let web = |pod: usize| if pod.is_multiple_of(2) { 80 } else { 81 };
        return case.protocol == Protocol::Tcp && case.to.is_some_and(|pod| web(pod) == case.port);
    }
    match case.protocol {
        Protocol::Tcp => one.get("tcp").is_some() && case.port == 80,
        Protocol::Udp => one.get("udp").is_some() && (80..=81).contains(&case.port),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_engine_decides_as_the_model(cluster in cluster_policies(), between in policies()) {
        let set = compile(&[&*cluster, &*between].concat());
        for case in cases() {
            let expected = allows(&cluster, &between, case);
            prop_assert_eq!(engine(&set, case, Trace::Off), expected, "{:?}", case);
            prop_assert_eq!(engine(&set, case, Trace::On), expected, "{:?} with the trace", case);
        }
    }

    #[test]
    fn one_more_accept_ahead_of_all_never_denies(cluster in cluster_policies(), subject in pair(), from in peer("from")) {
        let mut more = cluster.clone();
        more.push(json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "accept"},
            "spec": {"tier": "Admin", "priority": 0, "subject": subject,
                "ingress": [{"action": "Accept", "from": [from]}]}}));
        for policy in &mut more[..cluster.len()] {
            policy["spec"]["priority"] = json!(policy["spec"]["priority"].as_u64().unwrap() + 1);
        }
        let (before, after) = (compile(&cluster), compile(&more));
        for case in cases() {
            prop_assert!(!engine(&before, case, Trace::Off) || engine(&after, case, Trace::Off), "{:?}", case);
        }
    }

    #[test]
    fn order_of_writing_and_names_change_nothing(cluster in cluster_policies()) {
        let mut renamed: Vec<Value> = cluster.iter().rev().cloned().collect();
        for (index, policy) in renamed.iter_mut().enumerate() {
            policy["metadata"]["name"] = json!(format!("other-{}", index * 5 % 7));
        }
        let (left, right) = (compile(&cluster), compile(&renamed));
        for case in cases() {
            prop_assert_eq!(engine(&left, case, Trace::Off), engine(&right, case, Trace::Off), "{:?}", case);
        }
    }
}
