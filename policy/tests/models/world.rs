//! The cluster that all models are about, the flows that are asked, and the engine's answer.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_flow::{FourTuple, Protocol};
use adit_policy::objects::{Reader, Reading};
use adit_policy::{Compiler, Flow, Options, PolicySet, Trace};
use serde_json::{Value, json};

pub(crate) const NAMESPACES: [(&str, &str); 3] = [("a", "prod"), ("b", "test"), ("c", "prod")];
pub(crate) const PODS: [(&str, &str, &str); 7] = [
    ("a", "x", "front"),
    ("a", "y", "back"),
    ("a", "z", ""),
    ("b", "x", "front"),
    ("b", "y", ""),
    ("c", "x", "back"),
    ("c", "z", "front"),
];
pub(crate) const PORTS: [u16; 3] = [80, 81, 443];
pub(crate) const OUTSIDE: &str = "192.0.2.7";

pub(crate) fn address(pod: usize) -> String {
    format!("10.0.{}.{}", pod / 3, pod + 1)
}

pub(crate) fn inventory() -> Vec<Value> {
    let namespaces = NAMESPACES.iter().map(|(name, env)| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"env": env}}})
    });
    let pods = PODS.iter().enumerate().map(|(index, (namespace, app, tier))| {
        let mut labels = json!({ "app": app });
        if !tier.is_empty() {
            labels["tier"] = json!(tier);
        }
        // The same name is another number on odd pods.
        let web = if index % 2 == 0 { 80 } else { 81 };
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{index}"), "namespace": namespace, "labels": labels},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": web}]}]},
            "status": {"podIP": address(index)}})
    });
    namespaces.chain(pods).collect()
}

pub(crate) fn compile(policies: &[Value]) -> Arc<PolicySet> {
    let mut reading = Reading::default();
    for object in inventory().into_iter().chain(policies.iter().cloned()) {
        Reader::default().read_value("", object, &mut reading);
    }
    assert!(
        reading
            .diagnostics
            .iter()
            .all(|diagnostic| !diagnostic.is_error()),
        "{:?}",
        reading.diagnostics
    );
    Compiler::compile(Options::default(), reading.objects)
}

/// A flow as the model sees it: pods by index, `None` outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) from: Option<usize>,
    pub(crate) to: Option<usize>,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

pub(crate) fn cases() -> Vec<Case> {
    let ends = || (0..PODS.len()).map(Some).chain([None]);
    let mut out = Vec::new();
    for from in ends() {
        for to in ends().filter(|to| from.is_some() || to.is_some()) {
            for port in PORTS {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    out.push(Case {
                        from,
                        to,
                        port,
                        protocol,
                    });
                }
            }
            out.push(Case {
                from,
                to,
                port: 0,
                protocol: Protocol::Icmp,
            });
        }
    }
    out
}

pub(crate) fn text(end: Option<usize>) -> String {
    end.map_or_else(|| OUTSIDE.to_owned(), address)
}

pub(crate) fn engine(set: &PolicySet, case: Case, trace: Trace) -> bool {
    let socket = |end, port| SocketAddr::new(text(end).parse().unwrap(), port);
    let flow = Flow::plain(
        FourTuple::new(socket(case.from, 40_000), socket(case.to, case.port)),
        case.protocol,
    );
    case.from.is_none_or(|_| set.egress(&flow, trace).is_allowed())
        && case.to.is_none_or(|_| set.ingress(&flow, trace).is_allowed())
}
