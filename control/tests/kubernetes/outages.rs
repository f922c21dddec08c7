use super::*;
use api::Fault;

#[tokio::test(start_paused = true)]
async fn the_last_state_stays_while_the_api_server_is_away() {
    let api = Api::default();
    api.put(PODS, pod("web", "10.0.0.1"));
    let source = start(&api);
    let before = state_with(&source, |_| true).await;
    api.fault("/", Fault::Down);
    api.end_watches("/", true);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let during = source.states().borrow().clone().unwrap();
    assert!(Arc::ptr_eq(&before, &during));
    let health = source.health();
    let age = health.age.unwrap();
    assert!(
        age >= Duration::from_secs(599) && age <= Duration::from_secs(700),
        "{age:?}"
    );
    let error = health.kinds["pods"].error.clone().unwrap();
    assert!(error.contains("connection reset by peer"), "{error}");
    api.change_unheard(PODS, |pods| {
        pods.clear();
    });
    api.fault("/", None);
    api.put(PODS, pod("api", "10.0.0.2"));
    // What was missed isn't in the history: the version is too old.
    api.fault(PODS, Fault::CompactedByStatus);
    let after = state_with(&source, |state| has_pod(state, "api")).await;
    assert!(!has_pod(&after, "web"), "deleted meanwhile");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(source.health().age, Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_not_asked_without_a_break() {
    let api = Api::default();
    api.fault("/", Fault::Down);
    let source = start(&api);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let asked = api.requests("GET /api/v1/pods").len();
    // Pauses double to 10 s and are cut to half at the most.
    assert!((60..=135).contains(&asked), "{asked}");
    assert!(source.states().borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ended_goes_on_where_it_was() {
    let api = Api::default();
    let source = start(&api);
    state_with(&source, |_| true).await;
    for broken in [false, true] {
        let lists = api.requests("GET /api/v1/pods?limit").len();
        let name = format!("after-{broken}");
        api.end_watches(PODS, broken);
        api.put(PODS, pod(&name, "10.0.0.1"));
        state_with(&source, |state| has_pod(state, &name)).await;
        assert_eq!(
            api.requests("GET /api/v1/pods?limit").len(),
            lists,
            "nothing is listed again"
        );
        api.delete(PODS, &format!("shop/{name}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_compacted_watch_is_listed_again() {
    for fault in [Fault::CompactedByEvent, Fault::CompactedByStatus] {
        let api = Api::default();
        api.put(PODS, pod("web", "10.0.0.1"));
        let source = start(&api);
        state_with(&source, |state| has_pod(state, "web")).await;
        api.fault(PODS, fault);
        api.change_unheard(PODS, |pods| {
            let mut other = pods.remove("shop/web").unwrap();
            other["metadata"]["name"] = json!("other");
            pods.insert("shop/other".to_owned(), other);
        });
        api.end_watches(PODS, false);
        let state = state_with(&source, |state| has_pod(state, "other")).await;
        assert!(!has_pod(&state, "web"), "{fault:?}");
        assert_eq!(source.health().kinds["pods"].lists_total, 2, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_moves_the_version_on() {
    let api = Api::default();
    let source = start(&api);
    state_with(&source, |_| true).await;
    // Other kinds change, and the server says that pods didn't.
    api.change_unheard(NAMESPACES, |_| {});
    let version = api.version();
    let bookmark =
        json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version.to_string()}}});
    api.say(PODS, &format!("{bookmark}\n"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    api.end_watches(PODS, false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let last = api.requests("GET /api/v1/pods?watch").pop().unwrap();
    assert!(last.ends_with(&format!("resourceVersion={version}")), "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_is_opened_again() {
    let api = Api::default();
    let source = start(&api);
    state_with(&source, |_| true).await;
    let before = api.requests("GET /api/v1/pods?watch").len();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(api.requests("GET /api/v1/pods?watch").len(), before + 1);
    assert_eq!(
        source.health().age,
        Some(Duration::ZERO),
        "silence alone is no outage"
    );
    // A server that vanished without a word is found out by it.
    api.fault("/", Fault::Down);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(
        source.health().age.unwrap() >= Duration::from_secs(100),
        "{:?}",
        source.health().age
    );
}

#[tokio::test(start_paused = true)]
async fn events_come_in_any_pieces_and_a_cut_one_comes_again() {
    let api = Api::default();
    let source = start(&api);
    state_with(&source, |_| true).await;
    let line = |name: &str| {
        let mut object = pod(name, "10.0.0.7");
        object["metadata"]["resourceVersion"] = json!("1000");
        format!("{}\n", json!({"type": "ADDED", "object": object}))
    };
    let text = line("whole");
    let (one, rest) = text.split_at(17);
    api.say(PODS, one);
    tokio::time::sleep(Duration::from_secs(1)).await;
    api.say(PODS, rest);
    state_with(&source, |state| has_pod(state, "whole")).await;
    api.say(PODS, &line("cut")[..40]);
    api.end_watches(PODS, false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let health = source.health();
    assert_eq!(
        (health.rejected_total, health.kinds["pods"].failures_total),
        (0, 0),
        "{health:#?}"
    );
    assert_eq!(api.open_watches(PODS), 1);
}

#[tokio::test(start_paused = true)]
async fn nonsense_in_a_watch_is_a_failure_and_not_the_end() {
    let api = Api::default();
    let source = start(&api);
    state_with(&source, |_| true).await;
    api.say(PODS, "what?\n");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(source.health().kinds["pods"].failures_total, 1);
    api.put(PODS, pod("web", "10.0.0.1"));
    state_with(&source, |state| has_pod(state, "web")).await;
}
