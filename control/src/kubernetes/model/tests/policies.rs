use super::*;

fn policy(name: &str, order: u32) -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": name, "resourceVersion": "77", "generation": 3, "uid": "u",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "istio.io/dry-run": "true"},
        },
        "spec": {"order": order},
        "status": {"conditions": []},
    })
}

#[test]
fn a_policy_is_a_document_that_says_what_it_is() {
    let mut world = World::new();
    assert!(world.put("networkpolicies.networking.k8s.io", policy("deny", 1)));
    let state = world.model.state();
    let document = &state.policies[0];
    assert_eq!(
        document.path.to_str().unwrap(),
        "networkpolicies.networking.k8s.io/shop/deny"
    );
    let read: Value = serde_json::from_str(&document.text).unwrap();
    assert_eq!(
        read,
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "namespace": "shop", "name": "deny", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"istio.io/dry-run": "true"},
            },
            "spec": {"order": 1},
        })
    );
}

#[test]
fn kinds_of_one_plural_are_apart() {
    let mut world = World::new();
    world.put("networkpolicies.networking.k8s.io", policy("deny", 1));
    world.put("networkpolicies.projectcalico.org", policy("deny", 2));
    assert_eq!(world.model.state().policies.len(), 2);
    assert!(world.model.forget(kind("networkpolicies.projectcalico.org")));
    let left = world.model.state().policies;
    assert_eq!(left.len(), 1);
    assert!(left[0].text.contains("networking.k8s.io/v1"), "{}", left[0].text);
    assert!(!world.model.forget(kind("networkpolicies.projectcalico.org")));
}

#[test]
fn what_did_not_change_is_the_same_document() {
    let mut world = World::new();
    world.put("networkpolicies.networking.k8s.io", policy("a", 1));
    world.put("networkpolicies.networking.k8s.io", policy("b", 1));
    let before = world.model.state().policies;
    assert!(!world.put(
        "networkpolicies.networking.k8s.io",
        with(policy("a", 1), "/metadata/resourceVersion", json!("78"))
    ));
    assert!(world.put("networkpolicies.networking.k8s.io", policy("b", 2)));
    let after = world.model.state().policies;
    assert!(Arc::ptr_eq(&before[0], &after[0]));
    assert!(!Arc::ptr_eq(&before[1], &after[1]));
}

#[test]
fn accounts_are_kept_for_their_labels() {
    let account = |labels: Value| json!({"metadata": {"namespace": "shop", "name": "web", "labels": labels}});
    let mut world = World::new();
    assert!(
        !world.put("serviceaccounts", account(Value::Null)),
        "one without labels says nothing"
    );
    assert!(world.put("serviceaccounts", account(json!({"team": "a"}))));
    let state = world.model.state();
    assert_eq!(state.accounts[0].labels["team"], "a");
    assert!(world.put("serviceaccounts", account(json!({}))));
    assert!(world.model.state().accounts.is_empty());
}
