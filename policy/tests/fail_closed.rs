//! Objects that a typo, or somebody who hopes for one to pass unseen, makes odd: each says where it is wrong and denies
//! what it selects, in place of allowing it.

use adit_flow::{FourTuple, Protocol};
use adit_policy::commands::{Source, eval, lint};
use adit_policy::objects::{Object, Reader, Reading};
use adit_policy::{Compiler, Flow, Options, PolicySet, Trace};
use proptest::prelude::*;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: c}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: elsewhere}
spec: {containers: [{name: c}]}
status: {podIP: 10.0.0.3}
";

fn read(policies: &str) -> Reading {
    Reader::default().read("odd.yaml", &format!("{policies}\n---{PODS}"))
}

fn flow(from: &str, to: &str) -> Flow {
    let socket = |ip: &str, port: u16| format!("{ip}:{port}").parse().unwrap();
    Flow::plain(
        FourTuple::new(socket(from, 40_000), socket(to, 5432)),
        Protocol::Tcp,
    )
}

fn identified(id: &str) -> Flow {
    Flow {
        source_identity: Some(id.parse().unwrap()),
        ..flow("10.0.0.1", "10.0.0.2")
    }
}

fn passes(set: &PolicySet, flow: &Flow) -> bool {
    set.egress(flow, Trace::Off).is_allowed() && set.ingress(flow, Trace::Off).is_allowed()
}

/// A policy for `app: db` of one kind with this `spec`; what is wrong with it, and where.
struct Odd {
    kind: &'static str,
    spec: &'static str,
    code: &'static str,
    path: &'static str,
}

const fn odd(kind: &'static str, spec: &'static str, code: &'static str, path: &'static str) -> Odd {
    Odd {
        kind,
        spec,
        code,
        path,
    }
}

const AUTHORIZATION: &str = "security.istio.io/v1 AuthorizationPolicy";
const PEERS: &str = "security.istio.io/v1 PeerAuthentication";
const CALICO: &str = "projectcalico.org/v3 NetworkPolicy";
const GLOBAL: &str = "projectcalico.org/v3 GlobalNetworkPolicy";
const CLUSTER: &str = "policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy";

const MISSING: &str = "ADIT-P005";
const TYPE: &str = "ADIT-P004";
const VALUE: &str = "ADIT-P009";
const CLASH: &str = "ADIT-P010";

/// `S` is a selector of `app: db` in the API's own words.
const ODD: &[Odd] = &[
    odd(
        AUTHORIZATION,
        "{S, rules: [{from: []}]}",
        MISSING,
        "spec.rules[0].from",
    ),
    odd(
        AUTHORIZATION,
        "{S, rules: [{to: []}]}",
        MISSING,
        "spec.rules[0].to",
    ),
    odd(
        AUTHORIZATION,
        "{S, rules: [{when: []}]}",
        MISSING,
        "spec.rules[0].when",
    ),
    odd(AUTHORIZATION, "{S, action: DENY}", MISSING, "spec"),
    odd(AUTHORIZATION, "{S, action: DENY, rules: []}", MISSING, "spec"),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, rules: [{from: [{source: {principals: ['']}}]}]}",
        VALUE,
        "spec.rules[0].from[0].source.principals[0]",
    ),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, rules: [{from: [{source: {namespaces: ['']}}]}]}",
        VALUE,
        "spec.rules[0].from[0].source.namespaces[0]",
    ),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, rules: [{from: [{source: {trustDomains: ['']}}]}]}",
        VALUE,
        "spec.rules[0].from[0].source.trustDomains[0]",
    ),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, rules: [{from: [{source: {serviceAccounts: ['*']}}]}]}",
        VALUE,
        "spec.rules[0].from[0].source.serviceAccounts[0]",
    ),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, rules: [{from: [{source: {serviceAccounts: [shop/web/x]}}]}]}",
        VALUE,
        "spec.rules[0].from[0].source.serviceAccounts[0]",
    ),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, rules: [{from: [{source: {serviceAccounts: [web], namespaces: [other]}}]}]}",
        CLASH,
        "spec.rules[0].from[0].source",
    ),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, rules: [{from: [{source: {principals: ['*']}}], to: [{operation: {methods: GET}}]}]}",
        TYPE,
        "spec.rules[0].to[0].operation.methods",
    ),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, rules: [{when: [{key: 'request.headers[x]'}]}]}",
        MISSING,
        "spec.rules[0].when[0]",
    ),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, targetRefs: [{kind: Gateway, name: g}], rules: [{}]}",
        CLASH,
        "spec",
    ),
    odd(
        AUTHORIZATION,
        "{S, action: DENY, provider: {name: x}, rules: [{}]}",
        CLASH,
        "spec",
    ),
    odd(AUTHORIZATION, "{S, action: CUSTOM, rules: [{}]}", CLASH, "spec"),
    odd(PEERS, "{S, mtls: {mode: strict}}", VALUE, "spec.mtls.mode"),
    odd(PEERS, "{portLevelMtls: {5432: {mode: STRICT}}}", CLASH, "spec"),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, protocol: TCP, icmp: {type: 8}}, {action: Allow}]}",
        CLASH,
        "spec.ingress[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, icmp: {type: 8}}, {action: Allow}]}",
        CLASH,
        "spec.ingress[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, protocol: TCP, notProtocol: 6}, {action: Allow}]}",
        CLASH,
        "spec.ingress[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, protocol: ICMP, ipVersion: 6}, {action: Allow}]}",
        CLASH,
        "spec.ingress[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, protocol: ICMP, destination: {ports: [5432]}}, {action: Allow}]}",
        CLASH,
        "spec.ingress[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Allow, destination: {ports: [5432]}}]}",
        CLASH,
        "spec.ingress[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, source: {nets: [10.0.0.0/8]}, destination: {nets: ['fd00::/8']}}, {action: Allow}]}",
        CLASH,
        "spec.ingress[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, ipVersion: 6, source: {nets: [10.0.0.0/8]}}, {action: Allow}]}",
        CLASH,
        "spec.ingress[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, http: {methods: [GET]}}, {action: Allow}]}",
        CLASH,
        "spec.ingress[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, source: {selector: 'global()'}}, {action: Allow}]}",
        "ADIT-P007",
        "spec.ingress[0].source.selector",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny, source: {serviceAccounts: {names: ['']}}}, {action: Allow}]}",
        VALUE,
        "spec.ingress[0].source.serviceAccounts.names[0]",
    ),
    odd(
        CALICO,
        "{S, ingress: [{action: Deny}], doNotTrack: true}",
        "ADIT-P003",
        "spec.doNotTrack",
    ),
    odd(
        CALICO,
        "{S, tier: [security], ingress: [{action: Allow}]}",
        TYPE,
        "spec.tier",
    ),
    odd(
        GLOBAL,
        "{S, ingress: [{action: Deny}], doNotTrack: true}",
        CLASH,
        "spec",
    ),
    odd(
        GLOBAL,
        "{S, ingress: [{action: Deny}], applyOnForward: true, preDNAT: true, doNotTrack: true}",
        CLASH,
        "spec",
    ),
    odd(
        CLUSTER,
        "{tier: Admin, priority: 1, S, egress: [{action: Deny, to: [{networks: []}]}]}",
        MISSING,
        "spec.egress[0].to[0].networks",
    ),
    odd(
        CLUSTER,
        "{tier: Admin, priority: 1, S, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: []}]}",
        MISSING,
        "spec.ingress[0].protocols",
    ),
    odd(
        CLUSTER,
        "{tier: Admin, priority: 1, S, ingress: [{action: Deny, from: []}]}",
        MISSING,
        "spec.ingress[0].from",
    ),
];

#[test]
fn each_odd_policy_is_said_and_denies() {
    for Odd {
        kind,
        spec,
        code,
        path,
    } in ODD
    {
        let (version, kind) = kind.split_once(' ').unwrap();
        let selector = match kind {
            "AuthorizationPolicy" | "PeerAuthentication" => "selector: {matchLabels: {app: db}}",
            "ClusterNetworkPolicy" => {
                "subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}"
            }
            _ => "selector: app == 'db'",
        };
        let namespace = if kind.starts_with("Global") || kind.starts_with("Cluster") {
            ""
        } else {
            ", namespace: shop"
        };
        let spec = spec.replace("S,", &format!("{selector},"));
        let reading = read(&format!(
            "
apiVersion: {version}
kind: {kind}
metadata: {{name: odd{namespace}}}
spec: {spec}"
        ));
        let found = reading
            .diagnostics
            .iter()
            .find(|found| found.is_error() && found.code.code == *code && found.path == *path);
        let found = found.unwrap_or_else(|| panic!("{kind} {spec}: {:#?}", reading.diagnostics));
        assert!(
            found.file == "odd.yaml"
                && found.at.line == 5
                && found.at.column > 0
                && !found.code.fix.is_empty(),
            "{found}"
        );
        let set = Compiler::compile(Options::default(), reading.objects);
        let to_db = flow("10.0.0.1", "10.0.0.2");
        assert!(
            !set.ingress(&to_db, Trace::Off).is_allowed(),
            "{kind} {spec} lets the flow in"
        );
        let unselected = flow("10.0.0.1", "10.0.0.3");
        assert!(
            passes(&set, &unselected),
            "{kind} {spec} denies those whom it doesn't select"
        );
    }
}

#[test]
fn what_looks_like_a_policy_of_no_kind_known_denies_in_its_scope() {
    for (version, kind) in [
        ("networking.k8s.io/v1beta1", "NetworkPolicy"),
        ("networking.k8s.io/v1", "networkpolicy"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("security.istio.io/v2", "AuthorizationPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("", "NetworkPolicy"),
    ] {
        let reading = read(&format!(
            "apiVersion: {version:?}\nkind: {kind}\nmetadata: {{name: odd, namespace: shop}}"
        ));
        assert!(
            reading
                .diagnostics
                .iter()
                .any(|found| found.is_error() && found.code.code == "ADIT-P002"),
            "{kind}"
        );
        let set = Compiler::compile(Options::default(), reading.objects);
        let decision = set.ingress(&flow("10.0.0.3", "10.0.0.2"), Trace::Off);
        assert_eq!(
            decision.verdict().decided_by(),
            "/UnknownPolicy/shop/odd/broken",
            "{version} {kind}"
        );
        assert!(
            set.ingress(&flow("10.0.0.3", "10.0.0.3"), Trace::Off)
                .is_allowed(),
            "{version} {kind}: another namespace"
        );
    }
    let unrelated = read("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}");
    assert!(unrelated.diagnostics.iter().all(|found| !found.is_error()) && !unrelated.incomplete);
}

#[test]
fn a_policy_without_a_name_replaces_no_other_and_one_of_no_namespace_concerns_all() {
    let set = |policies: &str| Compiler::compile(Options::default(), read(policies).objects);
    let unnamed = set("
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}}");
    assert!(!passes(&unnamed, &flow("10.0.0.3", "10.0.0.1")));
    assert!(!passes(&unnamed, &flow("10.0.0.3", "10.0.0.2")));
    let lost = set("
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lost, namespace: [shop]}
spec: {podSelector: {}}");
    assert!(!passes(&lost, &flow("10.0.0.1", "10.0.0.3")));
}

#[test]
fn the_policies_of_a_tier_that_cannot_be_read_deny() {
    // Were the tier taken to be the first, its Allow would come before the Deny of a tier that it was written after.
    let policies = "
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: late}
spec: {order: '900'}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: late.open}
spec: {tier: late, ingress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {ingress: [{action: Deny}]}";
    let reading = read(policies);
    assert!(!reading.incomplete);
    let set = Compiler::compile(Options::default(), reading.objects);
    let decision = set.ingress(&flow("10.0.0.1", "10.0.0.2"), Trace::Off);
    assert_eq!(
        decision.verdict().decided_by(),
        "late/GlobalNetworkPolicy/late.open/broken"
    );
    let moved =
        read("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: kube-admin}\nspec: {order: 9}");
    assert_eq!(moved.diagnostics[0].code.code, CLASH);
}

#[test]
fn objects_that_policies_lean_on_make_a_reading_incomplete() {
    for object in [
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: s}\nspec: {nets: [10.0.0.0/33]}",
        "apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {name: s, labels: {a: [b]}}\nspec: {nets: []}",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: [prod]}",
        "apiVersion: v1\nkind: List\nitems: {a: b}",
        "- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy",
    ] {
        let reading = read(object);
        assert!(reading.incomplete, "{object}: {:?}", reading.diagnostics);
        assert!(
            reading.diagnostics.iter().any(|found| found.is_error()),
            "{object}"
        );
    }
    let line = r#"{"objects": [{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet", "metadata": {"name": "s"},
        "spec": {"nets": ["10.0.0.0/33"]}}], "flows": [{"src": "10.0.0.1", "dst": "10.0.0.2", "proto": "tcp"}]}"#;
    let verdicts = eval::eval(&line.replace('\n', " ")).unwrap();
    assert_eq!(
        (verdicts[0].allowed, &*verdicts[0].decided_by),
        (false, "unreadable-objects")
    );
    assert!(
        verdicts[0].trace[0].contains("10.0.0.0/33"),
        "{:?}",
        verdicts[0].trace
    );
}

#[test]
fn a_rule_that_cannot_be_judged_denies_in_place_of_passing_on() {
    let set = Compiler::compile(
        Options::default(),
        read(
            "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: odd}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - {action: Pass, to: [{nodes: {}}]}
  - {action: Accept, to: [{networks: [0.0.0.0/0]}]}",
        )
        .objects,
    );
    assert!(!passes(&set, &flow("10.0.0.1", "192.0.2.1")));
}

#[test]
fn which_of_two_policies_is_the_older_is_read_with_its_offset() {
    let policies = |second: &str| {
        format!(
            "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: a, namespace: shop, creationTimestamp: '2026-01-01T12:00:00Z'}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: b, namespace: shop, creationTimestamp: {second:?}}}
spec: {{mtls: {{mode: PERMISSIVE}}}}"
        )
    };
    for (second, plain) in [
        ("2026-01-01T13:30:00+02:00", true),
        ("2026-01-01T13:30:00+01:00", false),
        ("yesterday", false),
    ] {
        let set = Compiler::compile(Options::default(), read(&policies(second)).objects);
        assert_eq!(passes(&set, &flow("10.0.0.1", "10.0.0.2")), plain, "{second}");
    }
}

#[test]
fn trust_domains_are_judged_as_the_api_says() {
    let policy = |rule: &str| {
        let text = format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: domains, namespace: shop}}
spec: {{action: DENY, rules: [{rule}]}}"
        );
        let reading = read(&text);
        assert!(reading.diagnostics.is_empty(), "{:?}", reading.diagnostics);
        Compiler::compile(Options::default(), reading.objects)
    };
    let ours = identified("spiffe://cluster.local/ns/shop/sa/web");
    let foreign = identified("spiffe://other.example/ns/shop/sa/web");
    let plain = flow("10.0.0.1", "10.0.0.2");
    for (rule, denied) in [
        (
            "{from: [{source: {trustDomains: [other.example]}}]}",
            [false, true, false],
        ),
        (
            "{from: [{source: {trustDomains: ['*.example']}}]}",
            [false, true, false],
        ),
        (
            "{from: [{source: {notTrustDomains: [cluster.local]}}]}",
            [false, true, true],
        ),
        (
            "{when: [{key: source.trustDomain, values: [other.example]}]}",
            [false, true, false],
        ),
        (
            "{when: [{key: source.serviceAccount, values: [web]}]}",
            [true, true, false],
        ),
        (
            "{when: [{key: source.serviceAccount, notValues: [shop/web]}]}",
            [false, false, true],
        ),
    ] {
        let set = policy(rule);
        let got = [&ours, &foreign, &plain].map(|flow| !set.ingress(flow, Trace::Off).is_allowed());
        assert_eq!(got, denied, "{rule}");
    }
}

#[test]
fn a_block_of_mapped_addresses_is_one_of_ipv4() {
    let set = Compiler::compile(
        Options::default(),
        read(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: mapped, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: ['::ffff:10.0.0.0/120']}}]}]}",
        )
        .objects,
    );
    assert!(!passes(&set, &flow("10.0.0.1", "10.0.0.2")));
}

#[test]
fn doubtful_texts_are_warned_of() {
    for (version, kind, spec, says) in [
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "{podSelector: {}, ingress: [{from: }]}",
            "no value",
        ),
        (
            "security.istio.io/v1",
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {principals: ['spiffe://a/ns/b/sa/c']}}]}]}",
            "without spiffe://",
        ),
        (
            "security.istio.io/v1",
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {principals: ['a/ns/*/sa/c']}}]}]}",
            "a last *",
        ),
    ] {
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: odd, namespace: shop}}\nspec: {spec}"
        );
        let report = lint::lint(
            &Reader::default(),
            &[Source {
                file: "x.yaml",
                text: &text,
            }],
        );
        let rendered = report.render();
        assert!(report.errors() == 0 && rendered.contains(says), "{rendered}");
    }
}

/// Sound texts of every API, which the fuzzer starts from too.
const SOUND: [&str; 4] = [
    include_str!("../../fuzz/corpus/policy_objects/calico.yaml"),
    include_str!("../../fuzz/corpus/policy_objects/cluster.yaml"),
    include_str!("../../fuzz/corpus/policy_objects/istio.yaml"),
    include_str!("../../fuzz/corpus/policy_objects/networkpolicy.yaml"),
];

#[test]
fn the_texts_that_typos_are_made_in_are_sound() {
    for text in SOUND {
        let reading = Reader::default().read("sound.yaml", text);
        assert!(
            reading.diagnostics.iter().all(|found| !found.is_error()),
            "{:?}",
            reading.diagnostics
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// A character is dropped, doubled or replaced: either the text still says something sound, or what is wrong has an
    /// effect. A policy denies for it, a tier isn't there, or the whole reading is incomplete.
    #[test]
    fn no_typo_is_without_effect(
        text in proptest::sample::select(&SOUND[..]),
        at in any::<prop::sample::Index>(),
        put in prop_oneof![Just(String::new()), "[a-zA-Z0-9:\\[\\]{}'\\-, ]{1,2}"],
    ) {
        let characters: Vec<char> = text.chars().collect();
        let at = at.index(characters.len());
        let mut typed: String = characters[..at].iter().collect();
        typed.push_str(&put);
        typed.extend(&characters[at + 1..]);
        let reading = Reader::default().read("typo.yaml", &typed);
        let is_broken = |object: &Object| matches!(object, Object::Policy(policy) if policy.broken.is_some());
        for found in reading.diagnostics.iter().filter(|found| found.is_error()) {
            let closed = reading.incomplete
                || found.object.starts_with("Tier")
                || reading.objects.iter().any(is_broken);
            prop_assert!(closed, "{}\n{}", found, typed);
        }
        // Nothing of it panics, whatever it has become.
        let set = Compiler::compile(Options::default(), reading.objects);
        let _ = set.ingress(&flow("10.0.0.1", "10.0.0.2"), Trace::On);
    }
}
