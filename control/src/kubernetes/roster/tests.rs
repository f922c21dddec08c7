use super::*;

/// A pod on node `a` with an address.
fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "labels": {}, "annotations": {}},
        "spec": {"nodeName": "a"},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut pod);
    pod
}

fn items(pods: impl IntoIterator<Item = Value>) -> Vec<Item> {
    pods.into_iter()
        .map(|pod| serde_json::from_value(pod).unwrap())
        .collect()
}

/// The pods of a namespace whose label has this value, with an agent on node `a`.
fn roster(mode: Option<&str>, pods: impl IntoIterator<Item = Value>) -> Roster {
    let labels = mode.map(|mode| (DATAPLANE_MODE.to_owned(), mode.to_owned()));
    let agents = items([pod("agent", |_| {})]);
    Roster::new("shop", &labels.into_iter().collect(), items(pods), &agents)
}

fn standing(mode: Option<&str>, change: impl FnOnce(&mut Value)) -> Standing {
    roster(mode, [pod("web", change)]).pods.remove(0)
}

fn label(mode: &str) -> impl FnOnce(&mut Value) {
    move |pod| pod["metadata"]["labels"][DATAPLANE_MODE] = json!(mode)
}

#[test]
fn the_strongest_reason_is_told() {
    let of = |change: fn(&mut Value)| standing(Some("ambient"), change).outside;
    assert_eq!(of(|_| {}), None);
    let not_running: [fn(&mut Value); 4] = [
        |pod| pod["status"]["phase"] = json!("Succeeded"),
        |pod| pod["status"]["phase"] = json!("Failed"),
        |pod| pod["status"]["podIP"] = Value::Null,
        |pod| pod["status"] = json!({"phase": "Pending"}),
    ];
    for change in not_running {
        assert_eq!(of(change), Some(Outside::NotRunning));
    }
    assert_eq!(
        of(|pod| pod["status"]["phase"] = json!("Pending")),
        None,
        "it has its network, and its containers start"
    );
    assert_eq!(
        of(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
        Some(Outside::Leaving)
    );
    assert_eq!(
        of(|pod| {
            pod["spec"]["hostNetwork"] = json!(true);
            pod["metadata"]["labels"][DATAPLANE_MODE] = json!("none");
        }),
        Some(Outside::HostNetwork),
        "another label would change nothing"
    );
    assert_eq!(
        of(|pod| pod["metadata"]["annotations"][SIDECAR_ANNOTATION] = json!("{}")),
        Some(Outside::Sidecar)
    );
}

#[test]
fn a_pods_own_label_counts_more() {
    let of = |namespace, own| standing(namespace, label(own)).outside;
    assert_eq!(of(Some("ambient"), "none"), Some(Outside::OptedOut));
    assert_eq!(of(None, "none"), Some(Outside::OptedOut));
    assert_eq!(of(None, "ambient"), None);
    assert_eq!(of(Some("none"), "ambient"), None);
    for namespace in [None, Some("none"), Some("sidecar")] {
        assert_eq!(
            standing(namespace, |_| {}).outside,
            Some(Outside::NotAsked),
            "{namespace:?}"
        );
    }
    assert!(roster(Some("ambient"), []).in_mesh && !roster(None, []).in_mesh);
}

/// Captured, as the agent writes it.
fn captured(port: Option<&'static str>) -> impl FnOnce(&mut Value) {
    move |pod| {
        pod["metadata"]["annotations"][REDIRECTION_ANNOTATION] = json!(REDIRECTION_ENABLED);
        if let Some(port) = port {
            pod["metadata"]["annotations"][HBONE_PORT_ANNOTATION] = json!(port);
        }
    }
}

#[test]
fn settled_is_who_is_captured_and_belongs_or_neither() {
    let both = |mode, change: fn(&mut Value)| {
        let plain = standing(mode, change).is_settled();
        let taken = standing(mode, |pod| {
            captured(None)(pod);
            change(pod);
        });
        (plain, taken.is_settled())
    };
    assert_eq!(both(Some("ambient"), |_| {}), (false, true));
    assert_eq!(both(None, |_| {}), (true, false));
    assert_eq!(
        both(Some("ambient"), |pod| pod["status"]["phase"] = json!("Succeeded")),
        (true, true)
    );
    assert_eq!(
        both(Some("ambient"), |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }),
        (true, true)
    );
}

#[test]
fn a_captured_pod_says_where_and_the_api_since_when() {
    let of = |port, fields: Value| {
        let pod = standing(None, |pod| {
            captured(port)(pod);
            pod["metadata"]["managedFields"] = fields;
        });
        pod.captured.unwrap()
    };
    let owned = json!({"f:annotations": {format!("f:{REDIRECTION_ANNOTATION}"): {}}});
    let fields = json!([
        {"time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:metadata": {"f:annotations": {"f:other": {}}}}},
        {"time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:metadata": owned}},
        {"manager": "kubelet"},
    ]);
    assert_eq!(
        of(Some(HBONE_PORT_ORIGINAL), fields),
        Captured {
            since: Some("2026-01-02T00:00:00Z".to_owned()),
            wire_port: WirePort::Original,
        }
    );
    assert_eq!(
        of(None, json!([])),
        Captured {
            since: None,
            wire_port: WirePort::Hbone,
        }
    );
    let disabled = standing(None, |pod| {
        pod["metadata"]["annotations"][REDIRECTION_ANNOTATION] = json!("disabled");
    });
    assert_eq!(disabled.captured, None);
}

#[test]
fn an_agent_counts_once_it_is_ready_and_on_the_same_node() {
    let has_agent = |change: fn(&mut Value)| {
        let agents = items([pod("agent", change)]);
        let pods = items([pod("web", |_| {})]);
        Roster::new("shop", &Labels::new(), pods, &agents).pods[0].has_agent
    };
    assert!(has_agent(|_| {}));
    assert!(!has_agent(|agent| agent["spec"]["nodeName"] = json!("b")));
    assert!(!has_agent(|agent| {
        agent["status"]["conditions"][0]["status"] = json!("False");
    }));
    assert!(!has_agent(|agent| {
        agent["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }));
    let nowhere = standing(None, |pod| pod["spec"]["nodeName"] = Value::Null);
    assert!(!nowhere.has_agent && nowhere.node.is_none());
}

#[test]
fn pods_are_in_order_of_name() {
    let roster = roster(Some("ambient"), ["b", "c", "a"].map(|name| pod(name, |_| {})));
    let names: Vec<_> = roster.unsettled().map(|pod| pod.pod.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn the_patch_changes_one_label_and_nothing_else() {
    let of = |mode: Value| json!({"metadata": {"labels": {"istio.io/dataplane-mode": mode}}});
    assert_eq!(label_patch(true), of(json!("ambient")));
    assert_eq!(label_patch(false), of(Value::Null));
}
