//! What is promised beyond the vectors: errors fail closed and say where, staged policies only report, the trace names
//! the field that failed, the commands do what they say.

use adit_flow::{FourTuple, Protocol, VerdictKind};
use adit_policy::commands::{Source, ask, cases, diff, lint};
use adit_policy::objects::{Reader, Reading};
use adit_policy::{Compiler, Flow, L7WithoutWaypoint, Options, PolicySet, Trace};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
status: {podIP: 10.0.0.1, hostIP: 192.168.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
status: {podIP: 10.0.0.2, hostIP: 192.168.0.1}
";

fn read(policies: &str) -> Reading {
    Reader::default().read("policies.yaml", &format!("{policies}\n---{PODS}"))
}

fn set(policies: &str) -> std::sync::Arc<PolicySet> {
    Compiler::compile(Options::default(), read(policies).objects)
}

fn flow(from: &str, to: &str, port: u16) -> Flow {
    let tuple = FourTuple::new(
        format!("{from}:40000").parse().unwrap(),
        format!("{to}:{port}").parse().unwrap(),
    );
    Flow::plain(tuple, Protocol::Tcp)
}

fn web_to_db() -> Flow {
    flow("10.0.0.1", "10.0.0.2", 5432)
}

#[test]
fn a_typo_fails_closed_for_whom_the_policy_selects_and_says_where() {
    let reading = read(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - form: [{podSelector: {}}]
",
    );
    let diagnostic = reading
        .diagnostics
        .iter()
        .find(|diagnostic| diagnostic.is_error())
        .expect("an error");
    assert_eq!(
        (diagnostic.code.code, diagnostic.at.line, diagnostic.at.column),
        ("ADIT-P003", 9, 5)
    );
    assert_eq!(diagnostic.path, "spec.ingress[0].form");
    let set = Compiler::compile(Options::default(), reading.objects);
    let denied = set.ingress(&web_to_db(), Trace::Off);
    assert!(!denied.is_allowed());
    assert!(
        denied.verdict().reason().contains("form"),
        "{}",
        denied.verdict().reason()
    );
    assert!(
        set.ingress(&flow("10.0.0.2", "10.0.0.1", 80), Trace::Off)
            .is_allowed(),
        "web isn't selected"
    );
    assert!(
        set.egress(&web_to_db(), Trace::Off).is_allowed(),
        "the policy is about what enters"
    );
}

#[test]
fn a_broken_selector_fails_closed_for_the_whole_scope() {
    let set = set("
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: bad, namespace: shop}
spec:
  selector: app = 'db'
  ingress: [{action: Allow}]
  types: [Ingress]
");
    for (from, to) in [("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")] {
        let decision = set.ingress(&flow(from, to, 80), Trace::Off);
        assert_eq!(
            decision.verdict().decided_by(),
            "default/NetworkPolicy/shop/bad/broken"
        );
    }
}

#[test]
fn a_policy_in_an_unknown_tier_denies_ahead_of_all() {
    let set = set("
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: lost}
spec: {tier: nowhere, selector: app == 'db', ingress: [{action: Allow}]}
");
    let decision = set.ingress(&web_to_db(), Trace::Off);
    assert_eq!(
        decision.verdict().decided_by(),
        "nowhere/GlobalNetworkPolicy/lost/broken"
    );
    assert!(decision.verdict().reason().contains("doesn't exist"));
}

#[test]
fn staged_policies_report_and_never_decide() {
    let set = set("
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: soon}
spec: {selector: app == 'db', types: [Ingress]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: now, namespace: shop}
spec: {selector: app == 'web', types: [Ingress]}
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: now, namespace: shop}
spec: {selector: app == 'web', stagedAction: Delete}
");
    let db = set.ingress(&web_to_db(), Trace::Off);
    assert!(db.is_allowed());
    assert_eq!(db.verdict().pending(), Some(VerdictKind::Deny));
    assert_eq!(
        db.verdict().pending_decided_by().as_deref(),
        Some("default/StagedGlobalNetworkPolicy/soon/end")
    );
    let web = set.ingress(&flow("10.0.0.2", "10.0.0.1", 80), Trace::Off);
    assert!(!web.is_allowed());
    assert_eq!(web.verdict().pending(), Some(VerdictKind::Allow));
}

const HTTP_DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-delete, namespace: shop}
spec:
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
";

#[test]
fn http_attributes_without_a_waypoint_are_never_silent() {
    let reading = read(HTTP_DENY);
    assert!(
        reading
            .diagnostics
            .iter()
            .any(|diagnostic| diagnostic.code.code == "ADIT-P013")
    );
    let lenient = Compiler::compile(Options::default(), reading.objects.clone());
    let decision = lenient.ingress(&web_to_db(), Trace::Off);
    assert!(decision.is_allowed(), "as in Istio");
    assert_eq!(decision.verdict().unenforced().len(), 1);
    assert!(
        decision.verdict().reason().contains("no-delete/0"),
        "{}",
        decision.verdict().reason()
    );
    let options = Options {
        l7_without_waypoint: L7WithoutWaypoint::Deny,
    };
    let strict = Compiler::compile(options, reading.objects);
    assert!(!strict.ingress(&web_to_db(), Trace::Off).is_allowed());
}

#[test]
fn a_dry_run_is_pending_and_an_audit_is_noted() {
    let set = set("
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: soon, namespace: shop, annotations: {istio.io/dry-run: 'true'}}
spec: {action: DENY, rules: [{}]}
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: watch, namespace: shop}
spec: {action: AUDIT, rules: [{to: [{operation: {ports: ['5432']}}]}]}
");
    let decision = set.ingress(&web_to_db(), Trace::Off);
    assert!(decision.is_allowed());
    assert_eq!(decision.verdict().pending(), Some(VerdictKind::Deny));
    assert_eq!(decision.verdict().audits(), ["AuthorizationPolicy/shop/watch"]);
}

#[test]
fn the_own_node_is_let_in_and_an_unknown_workload_is_not() {
    let policies = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: none, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
";
    let set = set(policies);
    assert_eq!(
        set.ingress(&flow("192.168.0.1", "10.0.0.2", 80), Trace::Off)
            .verdict()
            .decided_by(),
        "node-local"
    );
    assert_eq!(
        set.ingress(&flow("10.0.0.1", "10.0.0.9", 80), Trace::Off)
            .verdict()
            .decided_by(),
        "unknown-workload"
    );
    assert!(
        PolicySet::allow_all()
            .ingress(&flow("10.0.0.1", "10.0.0.9", 80), Trace::Off)
            .is_allowed()
    );
}

const DB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}]
";

#[test]
fn explain_names_the_field_that_failed() {
    let set = set(DB);
    let asker = ask::Asker::new(&set, "cluster.local".parse().unwrap());
    let ask = |to: &str| {
        asker
            .ask(&ask::Query::parse("shop/web", to).unwrap(), Trace::On)
            .unwrap()
    };
    assert!(ask("shop/db:5432").is_allowed());
    let denied = ask("shop/db:22");
    assert_eq!(
        denied.decided_by(),
        "ingress default/KubernetesNetworkPolicy/shop/db/end"
    );
    assert!(
        denied.render().contains("doesn't match: destination ports"),
        "{}",
        denied.render()
    );
}

#[test]
fn a_name_stands_for_its_first_replica() {
    let pods = "
{apiVersion: v1, kind: Pod, metadata: {name: api-0, namespace: shop}, status: {podIP: 10.0.1.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: api-1, namespace: shop}, status: {podIP: 10.0.1.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: api-x, namespace: shop}, status: {podIP: 10.0.1.3}}";
    let set = Compiler::compile(Options::default(), read(pods).objects);
    let asker = ask::Asker::new(&set, "cluster.local".parse().unwrap());
    let asked = |to: &str| asker.ask(&ask::Query::parse("shop/web", to).unwrap(), Trace::Off);
    let answer = asked("shop/api:80").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answer.flow.tuple.dst.to_string(), "10.0.1.1:80");
    assert!(asked("shop/ap:80").is_err() && asked("elsewhere/api:80").is_err());
}

#[test]
fn cases_pass_and_fail() {
    let suite = "
cases:
- {name: sql, from: shop/web, to: 'shop/db:5432', expect: allow, by: default/KubernetesNetworkPolicy/shop/db/0}
- {name: '<ssh>', from: shop/web, to: 'shop/db:22', expect: allow}
";
    let text = format!("{DB}\n---{PODS}");
    let sources = [
        Source {
            file: "suite.yaml",
            text: suite,
        },
        Source {
            file: "objects.yaml",
            text: &text,
        },
    ];
    let domain = "cluster.local".parse().unwrap();
    let report = cases::test(&Reader::default(), Options::default(), &domain, &sources);
    assert!(report.diagnostics.is_empty(), "{}", report.render());
    let failed: Vec<bool> = report
        .outcomes
        .iter()
        .map(|outcome| outcome.failure.is_some())
        .collect();
    assert_eq!(failed, [false, true], "{}", report.render());
    assert_eq!(
        cases::wanted_files("objects: [a.yaml, b/]\ncases: []"),
        ["a.yaml", "b/"]
    );
}

#[test]
fn diff_lists_the_flows_that_change() {
    let domain = "cluster.local".parse().unwrap();
    let report = diff::diff(
        Options::default(),
        &domain,
        read("").objects,
        read(DB).objects,
        10_000,
    );
    assert!(
        !report.truncated
            && report
                .changes
                .iter()
                .all(|change| !change.allowed && change.to == "shop/db")
    );
    let closed: Vec<_> = report
        .changes
        .iter()
        .map(|change| (change.from.as_str(), change.port))
        .collect();
    assert!(
        closed.contains(&("outside", 5432)) && !closed.contains(&("shop/web", 5432)),
        "{}",
        report.render()
    );
}

#[test]
fn lint_looks_at_objects_together() {
    let text = format!(
        "{PODS}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{name: odd, namespace: shop}}
spec:
  selector: app == 'cache'
  tier: nowhere
  ingress: [{{action: Allow}}, {{action: Deny, protocol: TCP, destination: {{ports: [nothere]}}}}]
"
    );
    let report = lint::lint(
        &Reader::default(),
        &[Source {
            file: "a.yaml",
            text: &text,
        }],
    );
    let mut codes: Vec<&str> = report
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.code.code)
        .collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        ["ADIT-P011", "ADIT-P016", "ADIT-P017", "ADIT-P018"],
        "{}",
        report.render()
    );
}

#[test]
fn lists_and_both_calico_groups_are_read() {
    let reading = Reader::default().read(
        "list.yaml",
        "
apiVersion: v1
kind: List
items:
- apiVersion: crd.projectcalico.org/v1
  kind: GlobalNetworkPolicyList
  items:
  - metadata: {name: default.a}
    spec: {selector: all()}
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
",
    );
    assert!(reading.diagnostics.is_empty(), "{}", reading.diagnostics[0]);
    assert_eq!(reading.objects.len(), 2);
}

#[test]
fn a_condition_on_an_attribute_that_istio_does_not_have_fails_closed() {
    let policy = |key: &str| {
        format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: db, namespace: shop}}
spec:
  action: DENY
  rules: [{{when: [{{key: '{key}', values: ['10.0.0.9']}}]}}]
"
        )
    };
    let allowed = |key: &str| set(&policy(key)).ingress(&web_to_db(), Trace::Off).is_allowed();
    assert!(allowed("source.ip"), "it is another address");
    assert!(allowed("request.headers[x-user]"), "layer 7 has no effect here");
    assert!(!allowed("source.ipp"));
}

#[test]
fn a_port_name_of_calicos_shape_matches_none_rather_than_breaking_its_policy() {
    let policy = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: TCP, destination: {ports: [Admin.Port]}}
  - {action: Allow}
";
    assert!(set(policy).ingress(&web_to_db(), Trace::Off).is_allowed());
}
