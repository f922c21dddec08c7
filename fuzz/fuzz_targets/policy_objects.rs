//! Arbitrary texts as policy files: reading never panics, whatever is read compiles, and any flow gets a verdict that
//! doesn't depend on whether its trace is wanted. An error is never without effect: a policy denies for it, a tier isn't
//! there, or the whole reading is incomplete.
#![no_main]

use adit_flow::{FourTuple, Protocol};
use adit_policy::objects::{Object, Reader};
use adit_policy::{Change, Compiler, Flow, Options, Trace};
use libfuzzer_sys::fuzz_target;

/// Two pods for policies to be about.
const PODS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}},
 spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, status: {podIP: 10.0.0.2}}
"#;

fuzz_target!(|text: &str| {
    let reader = Reader::default();
    let mut reading = reader.read("fuzz.yaml", text);
    for diagnostic in &reading.diagnostics {
        assert!(!diagnostic.to_string().is_empty());
    }
    let policies = reading.objects.clone();
    let is_broken = |object: &Object| matches!(object, Object::Policy(policy) if policy.broken.is_some());
    for error in reading.diagnostics.iter().filter(|found| found.is_error()) {
        let closed = reading.incomplete || error.object.starts_with("Tier") || policies.iter().any(is_broken);
        assert!(closed, "{error}");
    }
    reader.read_into("pods.yaml", PODS, &mut reading);
    let mut compiler = Compiler::new(Options::default());
    compiler.sync(reading.objects);
    let set = compiler.publish();
    for (port, protocol) in [(80, Protocol::Tcp), (53, Protocol::Udp), (0, Protocol::Icmp)] {
        let ends = |port| ("10.0.0.1:40000".parse().unwrap(), std::net::SocketAddr::from(([10, 0, 0, 2], port)));
        let (from, to) = ends(port);
        let flow = Flow::plain(FourTuple::new(from, to), protocol);
        let (off, on) = (set.ingress(&flow, Trace::Off), set.ingress(&flow, Trace::On));
        assert_eq!(off.verdict().decided_by(), on.verdict().decided_by());
        let (off, on) = (set.egress(&flow, Trace::Off), set.egress(&flow, Trace::On));
        assert_eq!(off.verdict().decided_by(), on.verdict().decided_by());
    }
    // What came in by one door goes out by it.
    for object in policies {
        compiler.apply(Change::Remove(object.key()));
    }
    assert_eq!(compiler.publish().policy_count(), 0);
});
