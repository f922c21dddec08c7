use adit_control::kubernetes::{EnrolmentError, Outside, await_settled, enrol, roster};
use http::StatusCode;

use super::*;

const SHOP: &str = "/api/v1/namespaces/shop";
const SHOP_PODS: &str = "/api/v1/namespaces/shop/pods";
const AGENTS: &str = "/api/v1/namespaces/adit-system/pods";
const MODE: &str = "istio.io/dataplane-mode";
const PATIENCE: Duration = Duration::from_secs(30);

fn running(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn captured(mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
    pod
}

/// A namespace outside the mesh with a pod on node `a`, where an agent is ready, and one on `b`, where it isn't.
fn shop() -> Api {
    let api = Api::default();
    let labels = json!({"team": "blue", "kubernetes.io/metadata.name": "shop"});
    api.put_single(SHOP, json!({"metadata": {"name": "shop", "labels": labels}}));
    api.put(AGENTS, running("agent-a", "a"));
    let mut starting = running("agent-b", "b");
    starting["status"]["conditions"][0]["status"] = json!("False");
    api.put(AGENTS, starting);
    api.put(SHOP_PODS, running("db", "b"));
    api.put(SHOP_PODS, running("web", "a"));
    api
}

#[tokio::test]
async fn a_namespace_is_labelled_and_nothing_else_of_it_is_touched() {
    let api = shop();
    let client = api.client();
    let labels = || api.single(SHOP).unwrap()["metadata"]["labels"].clone();
    let before = labels();
    for _ in 0..2 {
        enrol(&client, "shop", true).await.unwrap();
        assert_eq!(labels()[MODE], "ambient");
        assert_eq!(labels()["team"], "blue");
    }
    enrol(&client, "shop", false).await.unwrap();
    assert_eq!(labels(), before);
    let patch = "PATCH /api/v1/namespaces/shop?fieldManager=adit";
    assert_eq!(api.requests(""), [patch; 3]);
    let sent = |mode: Value| {
        let patch = json!({"metadata": {"labels": {MODE: mode}}});
        ("application/merge-patch+json".to_owned(), patch)
    };
    assert_eq!(
        api.bodies(),
        [sent(json!("ambient")), sent(json!("ambient")), sent(Value::Null)]
    );
}

#[tokio::test]
async fn a_roster_is_of_the_namespaces_pods_and_the_agents_there_are() {
    let api = shop();
    let client = api.client();
    let found = roster(&client, "shop", "adit-system").await.unwrap();
    assert!(!found.in_mesh);
    let asked = |found: &adit_control::kubernetes::Roster| {
        let pods = found.pods.iter();
        pods.map(|pod| (pod.pod.clone(), pod.outside, pod.has_agent))
            .collect::<Vec<_>>()
    };
    let expected = |outside| {
        [
            ("db".to_owned(), outside, false),
            ("web".to_owned(), outside, true),
        ]
    };
    assert_eq!(asked(&found), expected(Some(Outside::NotAsked)));
    enrol(&client, "shop", true).await.unwrap();
    let found = roster(&client, "shop", "adit-system").await.unwrap();
    assert!(found.in_mesh);
    assert_eq!(asked(&found), expected(None));
    let agents = "GET /api/v1/namespaces/adit-system/pods?labelSelector=app%3Dadit-agent";
    assert_eq!(api.requests("adit-system"), [agents; 2]);
}

#[tokio::test]
async fn an_empty_namespace_and_no_agents_are_a_roster_too() {
    let api = Api::default();
    api.put_single(SHOP, json!({"metadata": {"name": "shop"}}));
    let found = roster(&api.client(), "shop", "elsewhere").await.unwrap();
    assert!(found.pods.is_empty() && !found.in_mesh);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_last_pod_has_joined() {
    let api = shop();
    let client = api.client();
    enrol(&client, "shop", true).await.unwrap();
    let mut seen = Vec::new();
    let done = await_settled(&client, "shop", "adit-system", PATIENCE, |roster| {
        let waiting: Vec<_> = roster.unsettled().map(|pod| pod.pod.clone()).collect();
        // The agents do as they are asked, one pod after each look.
        match waiting.as_slice() {
            [_, _] => api.put(SHOP_PODS, captured(running("web", "a"))),
            [_] => api.put(SHOP_PODS, captured(running("db", "b"))),
            _ => {}
        }
        seen.push(waiting);
    });
    assert_eq!(done.await.unwrap().unsettled().count(), 0);
    assert_eq!(seen, [vec!["db", "web"], vec!["db"], vec![]]);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_patience_too() {
    let api = shop();
    enrol(&api.client(), "shop", true).await.unwrap();
    api.put(SHOP_PODS, captured(running("web", "a")));
    let begun = tokio::time::Instant::now();
    let last = await_settled(&api.client(), "shop", "adit-system", PATIENCE, |_| {}).await;
    let waiting: Vec<_> = last.as_ref().unwrap().unsettled().collect();
    assert!(matches!(waiting[..], [pod] if pod.pod == "db" && !pod.has_agent));
    assert_eq!(begun.elapsed(), PATIENCE);
    let once = await_settled(&api.client(), "shop", "adit-system", Duration::ZERO, |_| {}).await;
    assert_eq!(once.unwrap(), last.unwrap(), "it's looked once at least");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for_and_one_that_forbids_it_is_not() {
    let api = shop();
    let client = api.client();
    let mut looks = 0;
    api.fault("/", api::Fault::Down);
    let back = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        api.fault("/", None);
    };
    let waiting = await_settled(&client, "shop", "adit-system", PATIENCE, |_| looks += 1);
    let (done, ()) = tokio::join!(waiting, back);
    assert_eq!(done.unwrap().unsettled().count(), 0);
    assert_eq!(looks, 1);
    api.fault("/", api::Fault::Down);
    let away = await_settled(&client, "shop", "adit-system", PATIENCE, |_| {}).await;
    assert!(
        matches!(away, Err(EnrolmentError::Failed { .. })),
        "it's so at the end: {away:?}"
    );
    api.fault("/", None);
    api.fault(SHOP_PODS, api::Fault::Forbidden);
    let begun = tokio::time::Instant::now();
    let refused = await_settled(&client, "shop", "adit-system", PATIENCE, |_| {}).await;
    assert!(
        matches!(refused, Err(EnrolmentError::Forbidden { .. })),
        "{refused:?}"
    );
    assert_eq!(begun.elapsed(), Duration::ZERO, "waiting brings no permission");
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let refused = async |status: StatusCode| {
        let api = shop();
        api.answer_next(status, json!({"code": status.as_u16(), "message": "no"}));
        enrol(&api.client(), "shop", true).await.unwrap_err()
    };
    for status in [StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED] {
        let error = refused(status).await;
        assert!(matches!(error, EnrolmentError::Forbidden { .. }), "{error:?}");
        assert_eq!(error.to_string(), "labelling namespace shop: no");
    }
    let error = refused(StatusCode::CONFLICT).await;
    assert!(matches!(error, EnrolmentError::Failed { .. }), "{error:?}");
    let api = shop();
    for error in [
        enrol(&api.client(), "shoop", true).await.unwrap_err(),
        roster(&api.client(), "shoop", "adit-system").await.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "there is no namespace shoop");
    }
}

#[tokio::test]
async fn what_is_no_name_is_not_asked_for() {
    let api = shop();
    for name in ["", "a b", "Shop", "shop/pods", "..", "shop?x=y"] {
        let errors = [
            enrol(&api.client(), name, true).await.unwrap_err(),
            roster(&api.client(), name, "adit-system").await.unwrap_err(),
            roster(&api.client(), "shop", name).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, EnrolmentError::BadName { .. }), "{error:?}");
        }
    }
    assert_eq!(api.requests(""), [""; 0]);
}
