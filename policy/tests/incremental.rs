//! A set that came about change by change decides as one compiled from nothing, and with the trace off as with it on.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use adit_flow::{FourTuple, Protocol};
use adit_policy::objects::{Object, Reader, Reading};
use adit_policy::{Change, Compiler, Decision, Flow, Icmp, Options, PolicySet, Trace};

/// The objects of the first `count` documents of a family.
fn documents(family: &[u8], count: usize) -> Vec<Vec<Object>> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(family)
        .read_to_string(&mut text)
        .expect("a gzip of UTF-8 text");
    text.lines()
        .take(count)
        .map(|line| {
            let mut document: serde_json::Value = serde_json::from_str(line).expect("a JSON document a line");
            let mut reading = Reading::default();
            for object in document["objects"].as_array_mut().expect("objects") {
                Reader::default().read_value("", object.take(), &mut reading);
            }
            assert!(
                reading
                    .diagnostics
                    .iter()
                    .all(|diagnostic| !diagnostic.is_error())
            );
            reading.objects
        })
        .collect()
}

/// Flows between all workloads, from and to the outside, on ports that the vectors use.
fn flows(set: &PolicySet) -> Vec<Flow> {
    let mut addresses: Vec<IpAddr> = set.workloads().map(|(address, _)| address).collect();
    addresses.sort_unstable();
    addresses.push("198.51.100.20".parse().expect("an address"));
    let mut flows = Vec::new();
    for from in &addresses {
        for to in addresses.iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            for (port, protocol) in [(80, Protocol::Tcp), (5353, Protocol::Udp), (0, Protocol::Icmp)] {
                let tuple = FourTuple::new(SocketAddr::new(*from, 40_000), SocketAddr::new(*to, port));
                let mut flow = Flow::plain(tuple, protocol);
                flow.icmp = (protocol == Protocol::Icmp).then_some(Icmp { kind: 8, code: 0 });
                flow.source_identity = "spiffe://cluster.local/ns/shop/sa/front".parse().ok();
                flows.push(flow);
            }
        }
    }
    flows
}

fn words(decision: Decision) -> String {
    format!(
        "{} {:?}",
        decision.verdict().decided_by(),
        decision.verdict().pending()
    )
}

fn assert_same(left: &PolicySet, right: &PolicySet) {
    let flows = flows(right);
    assert!(!flows.is_empty());
    for flow in flows {
        for trace in [Trace::Off, Trace::On] {
            assert_eq!(
                words(left.egress(&flow, trace)),
                words(right.egress(&flow, Trace::On)),
                "{flow:?}"
            );
            assert_eq!(
                words(left.ingress(&flow, trace)),
                words(right.ingress(&flow, Trace::On)),
                "{flow:?}"
            );
        }
    }
}

fn check(family: &[u8]) {
    let mut compiler = Compiler::new(Options::default());
    for objects in documents(family, 60) {
        let fresh = Compiler::compile(Options::default(), objects.clone());
        // From the cluster before, whatever it was, all at once.
        compiler.sync(objects.clone());
        assert_same(&compiler.publish(), &fresh);
        // Half of it away, a set of that published and kept, and back in the opposite order.
        for object in objects.iter().step_by(2) {
            compiler.apply(Change::Remove(object.key()));
        }
        let kept = compiler.publish();
        for object in objects.iter().rev() {
            compiler.apply(Change::Upsert(object.clone()));
        }
        assert_same(&compiler.publish(), &fresh);
        assert!(kept.policy_count() <= fresh.policy_count());
    }
}

#[test]
fn networkpolicy() {
    check(include_bytes!("vectors/networkpolicy.jsonl.gz"));
}

#[test]
fn calico() {
    check(include_bytes!("vectors/calico.jsonl.gz"));
}

#[test]
fn clusternetworkpolicy() {
    check(include_bytes!("vectors/clusternetworkpolicy.jsonl.gz"));
}

#[test]
fn authorization() {
    check(include_bytes!("vectors/authorization.jsonl.gz"));
}

#[test]
fn a_published_set_never_changes() {
    let objects = documents(include_bytes!("vectors/calico.jsonl.gz"), 2).remove(1);
    let mut compiler = Compiler::new(Options::default());
    compiler.sync(objects.clone());
    let before = compiler.publish();
    assert!(
        Arc::ptr_eq(&before, &compiler.publish()),
        "nothing changed, so it is the same set"
    );
    let flows = flows(&before);
    let judge = |set: &PolicySet| {
        flows
            .iter()
            .map(|flow| words(set.ingress(flow, Trace::Off)))
            .collect::<Vec<_>>()
    };
    let judged = judge(&before);
    for object in &objects {
        compiler.apply(Change::Remove(object.key()));
        let _ = compiler.publish();
    }
    assert_eq!(judge(&before), judged);
    assert_eq!(compiler.publish().workloads().count(), 0);
}
