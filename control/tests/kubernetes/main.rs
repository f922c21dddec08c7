//! The Kubernetes source before an API server that fails in every way.

mod annotate;
mod api;
mod ca;
mod kinds;
mod outages;
mod roster;

use std::sync::Arc;
use std::time::Duration;

use adit_control::kubernetes::{Source, SourceOptions, State};
use adit_flow::WorkloadName;
use serde_json::{Value, json};
use tokio::time::timeout;

use api::Api;

const PODS: &str = "/api/v1/pods";
const NAMESPACES: &str = "/api/v1/namespaces";
const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";

fn start(api: &Api) -> Source {
    let options = SourceOptions {
        node: "here".to_owned(),
        trust_domain: "demo.local".parse().unwrap(),
    };
    Source::start(api.client(), options)
}

fn pod(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "here", "serviceAccountName": "web", "containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

fn policy(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"podSelector": {}}})
}

/// The first state of which `wanted` is true, within a minute of virtual time.
async fn state_with(source: &Source, wanted: impl Fn(&State) -> bool) -> Arc<State> {
    let mut states = source.states();
    let found = states.wait_for(|state| state.as_ref().is_some_and(|state| wanted(state)));
    let found = timeout(Duration::from_secs(60), found).await;
    match found {
        Ok(state) => Arc::clone(state.expect("the source runs").as_ref().expect("it is wanted")),
        Err(_) => panic!(
            "no such state: {:#?}\n{:#?}",
            source.states().borrow(),
            source.health()
        ),
    }
}

fn has_pod(state: &State, name: &str) -> bool {
    state
        .snapshot
        .workloads
        .contains_key(&WorkloadName::new("shop", name))
}

fn policies(state: &State) -> Vec<String> {
    state
        .policies
        .iter()
        .map(|policy| policy.path.display().to_string())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_there_and_what_comes_is_published() {
    let api = Api::default();
    api.put(
        NAMESPACES,
        json!({"metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}}}),
    );
    api.put(PODS, pod("web", "10.0.0.1"));
    api.put(POLICIES, policy("deny"));
    let source = start(&api);
    let state = state_with(&source, |_| true).await;
    assert!(has_pod(&state, "web"));
    assert_eq!(state.wanted[0].name.to_string(), "shop/web");
    assert_eq!(policies(&state), ["networkpolicies.networking.k8s.io/shop/deny"]);
    api.put(PODS, pod("api", "10.0.0.2"));
    api.delete(PODS, "shop/web");
    api.delete(POLICIES, "shop/deny");
    let state = state_with(&source, |state| has_pod(state, "api") && !has_pod(state, "web")).await;
    assert!(state.policies.is_empty());
    let health = source.health();
    assert_eq!(health.age, Some(Duration::ZERO));
    assert!(
        health
            .kinds
            .values()
            .all(|kind| kind.listed && kind.error.is_none()),
        "{health:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_has_a_state_too() {
    let api = Api::default();
    let source = start(&api);
    let state = state_with(&source, |_| true).await;
    assert!(state.snapshot.workloads.is_empty() && state.wanted.is_empty());
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_one_state() {
    let api = Api::default();
    let source = start(&api);
    let first = state_with(&source, |_| true).await.snapshot.generation;
    for number in 0..200 {
        api.put(PODS, pod(&format!("p{number}"), &format!("10.0.1.{number}")));
    }
    let state = state_with(&source, |state| state.snapshot.workloads.len() == 200).await;
    assert!(
        state.snapshot.generation <= first + 2,
        "{} after {first}",
        state.snapshot.generation
    );
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages() {
    let api = Api::default();
    for number in 0..25 {
        api.put(PODS, pod(&format!("p{number}"), &format!("10.0.1.{number}")));
    }
    api.page(10);
    let source = start(&api);
    let state = state_with(&source, |_| true).await;
    assert_eq!(state.snapshot.workloads.len(), 25);
    let pages = api.requests("GET /api/v1/pods?limit");
    assert_eq!(pages.len(), 3);
    assert!(
        pages[1].ends_with("&continue=%2B10"),
        "tokens are escaped: {}",
        pages[1]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_everything_was_listed() {
    let api = Api::default();
    api.put(PODS, pod("web", "10.0.0.1"));
    api.put(POLICIES, policy("deny"));
    api.fault(POLICIES, api::Fault::Forbidden);
    let source = start(&api);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(
        source.states().borrow().is_none(),
        "a state without the policies would allow what they deny"
    );
    let health = source.health();
    assert_eq!(health.age, None);
    let kind = &health.kinds["networkpolicies.networking.k8s.io"];
    assert!(!kind.listed && kind.failures_total > 10);
    assert_eq!(
        kind.error.as_deref(),
        Some("the API server answers 403 Forbidden: the agent cannot list what it asks for")
    );
    api.fault(POLICIES, None);
    let state = state_with(&source, |_| true).await;
    assert_eq!(state.policies.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_agent_captured_is_in_the_mesh() {
    let api = Api::default();
    api.put(PODS, pod("web", "10.0.0.1"));
    let source = start(&api);
    let web = WorkloadName::new("shop", "web");
    assert!(!state_with(&source, |_| true).await.snapshot.workloads[&web].in_mesh);
    source.set_captured(["uid-web".into()].into());
    state_with(&source, |state| state.snapshot.workloads[&web].in_mesh).await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_understood_is_named_and_harms_no_other() {
    let api = Api::default();
    api.put(PODS, pod("good", "10.0.0.1"));
    api.put(PODS, pod("bad", "10.0.0.x"));
    let source = start(&api);
    let state = state_with(&source, |_| true).await;
    assert!(has_pod(&state, "good") && !has_pod(&state, "bad"));
    let health = source.health();
    assert_eq!(health.rejected_total, 1);
    assert_eq!(health.rejected[0].object, "pods/shop/bad");
    assert_eq!(
        health.rejected[0].reason,
        "status.podIPs: expected an IP address, got \"10.0.0.x\""
    );
    // One that turns bad is no longer what it was, and one that turns good is there.
    api.put(PODS, with_shape(pod("good", "10.0.0.1")));
    api.put(PODS, pod("bad", "10.0.0.2"));
    state_with(&source, |state| has_pod(state, "bad") && !has_pod(state, "good")).await;
    let health = source.health();
    assert_eq!(health.rejected.len(), 1);
    assert_eq!(health.rejected[0].object, "pods/shop/good");
    assert!(
        health.rejected[0].reason.contains("invalid type"),
        "{}",
        health.rejected[0].reason
    );
}

/// A pod whose containers are no list.
fn with_shape(mut pod: Value) -> Value {
    pod["spec"]["containers"] = json!({"web": {}});
    pod
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_dropped_asks_no_more() {
    let api = Api::default();
    let source = start(&api);
    state_with(&source, |_| true).await;
    drop(source);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.open_watches(PODS), 0);
    let before = api.requests("").len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(api.requests("").len(), before);
}
