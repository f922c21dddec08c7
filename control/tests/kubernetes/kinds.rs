use super::*;
use api::Fault;

const CALICO_V3: &str = "/apis/projectcalico.org/v3/globalnetworkpolicies";
const CALICO_V1: &str = "/apis/crd.projectcalico.org/v1/globalnetworkpolicies";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn global(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {}})
}

fn definition(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

#[tokio::test(start_paused = true)]
async fn kinds_that_are_served_are_watched_from_the_start() {
    let api = Api::default();
    api.serve("security.istio.io/v1", "authorizationpolicies", true);
    api.serve("security.istio.io/v1beta1", "authorizationpolicies", true);
    api.put(
        "/apis/security.istio.io/v1/authorizationpolicies",
        policy("allow"),
    );
    api.put(
        "/apis/security.istio.io/v1beta1/authorizationpolicies",
        policy("allow"),
    );
    let source = start(&api);
    let state = state_with(&source, |_| true).await;
    assert_eq!(
        policies(&state),
        ["authorizationpolicies.security.istio.io/shop/allow"]
    );
    assert!(
        state.policies[0].text.contains("security.istio.io/v1\""),
        "{}",
        state.policies[0].text
    );
    assert_eq!(
        api.requests("/v1beta1/authorizationpolicies").len(),
        0,
        "the same objects, and once is enough"
    );
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_appears_is_watched_at_once_and_forgotten_when_it_goes() {
    let api = Api::default();
    let source = start(&api);
    assert!(state_with(&source, |_| true).await.policies.is_empty());
    tokio::time::sleep(Duration::from_secs(7)).await;
    let asked = tokio::time::Instant::now();
    api.serve("projectcalico.org/v3", "globalnetworkpolicies", true);
    api.put(CALICO_V3, global("deny"));
    api.put(DEFINITIONS, definition("globalnetworkpolicies.projectcalico.org"));
    let state = state_with(&source, |state| !state.policies.is_empty()).await;
    assert_eq!(policies(&state), ["globalnetworkpolicies.projectcalico.org/deny"]);
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "it isn't waited for the next round"
    );

    api.serve("projectcalico.org/v3", "globalnetworkpolicies", false);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(
        source.states().borrow().as_ref().unwrap().policies.len(),
        1,
        "it may come back"
    );
    state_with(&source, |state| state.policies.is_empty()).await;
    assert!(
        !source
            .health()
            .kinds
            .contains_key("globalnetworkpolicies.projectcalico.org")
    );
    assert_eq!(api.open_watches(CALICO_V3), 0);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_does_not_answer_keeps_what_is_known_of_it() {
    let api = Api::default();
    api.serve("projectcalico.org/v3", "globalnetworkpolicies", true);
    api.put(CALICO_V3, global("deny"));
    let source = start(&api);
    state_with(&source, |state| state.policies.len() == 1).await;
    api.fault("/apis/projectcalico.org/v3", Fault::Unavailable);
    api.fault(CALICO_V3, Fault::Unavailable);
    api.end_watches(CALICO_V3, true);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(source.states().borrow().as_ref().unwrap().policies.len(), 1);
    assert!(source.health().age.unwrap() > Duration::from_secs(500));
}

#[tokio::test(start_paused = true)]
async fn the_other_name_of_a_group_serves_while_the_first_does_not_answer() {
    let api = Api::default();
    api.fault("/apis/projectcalico.org/v3", Fault::Unavailable);
    api.serve("crd.projectcalico.org/v1", "globalnetworkpolicies", true);
    api.put(CALICO_V1, global("default.deny"));
    let source = start(&api);
    let state = state_with(&source, |_| true).await;
    assert_eq!(
        policies(&state),
        ["globalnetworkpolicies.crd.projectcalico.org/default.deny"]
    );
    // The first comes back: what is watched goes on being watched.
    api.fault("/apis/projectcalico.org/v3", None);
    api.serve("projectcalico.org/v3", "globalnetworkpolicies", true);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(api.requests(CALICO_V3).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_while_it_is_not_known_which_kinds_there_are() {
    let api = Api::default();
    api.fault("/apis/projectcalico.org/v3", Fault::Unavailable);
    let source = start(&api);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(source.states().borrow().is_none());
    let error = source.health().discovery_error.unwrap();
    assert!(
        error.starts_with("which kinds projectcalico.org/v3 has"),
        "{error}"
    );
    api.fault("/apis/projectcalico.org/v3", None);
    state_with(&source, |_| true).await;
    assert_eq!(source.health().discovery_error, None);
}

#[tokio::test(start_paused = true)]
async fn definitions_that_may_not_be_seen_are_no_reason_to_wait() {
    let api = Api::default();
    api.fault(DEFINITIONS, Fault::Forbidden);
    let source = start(&api);
    state_with(&source, |_| true).await;
    api.serve(
        "policy.networking.k8s.io/v1alpha2",
        "clusternetworkpolicies",
        true,
    );
    api.put(
        "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        global("admin"),
    );
    state_with(&source, |state| state.policies.len() == 1).await;
}
