use adit_control::kubernetes::{Annotated, Capability, WantedPod, annotate};
use http::StatusCode;

use super::*;

fn web() -> WantedPod {
    WantedPod {
        uid: "uid-web".into(),
        name: WorkloadName::new("shop", "web"),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        capability: Capability::None,
    }
}

#[tokio::test]
async fn a_pod_says_what_it_was_made_to_say() {
    let cases = [
        (Capability::Hbone, json!("enabled"), Value::Null),
        (
            Capability::HboneOnOriginalPort,
            json!("enabled"),
            json!("original"),
        ),
        (Capability::None, Value::Null, Value::Null),
    ];
    for (capability, redirection, port) in cases {
        let api = Api::default();
        assert_eq!(
            annotate(&api.client(), &web(), capability).await.unwrap(),
            Annotated::Done
        );
        assert_eq!(
            api.requests(""),
            ["PATCH /api/v1/namespaces/shop/pods/web/status?"]
        );
        let expected = json!({"metadata": {
            "uid": "uid-web",
            "annotations": {"ambient.istio.io/redirection": redirection, "adit.dev/hbone-port": port},
        }});
        assert_eq!(
            api.bodies(),
            [("application/merge-patch+json".to_owned(), expected)]
        );
    }
}

#[tokio::test]
async fn a_pod_that_is_gone_is_no_error() {
    for status in [StatusCode::NOT_FOUND, StatusCode::CONFLICT] {
        let api = Api::default();
        api.answer_next(status, json!({"code": status.as_u16(), "message": "no"}));
        let outcome = annotate(&api.client(), &web(), Capability::Hbone).await.unwrap();
        assert_eq!(outcome, Annotated::Gone, "{status}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_missing() {
    let api = Api::default();
    api.answer_next(
        StatusCode::FORBIDDEN,
        json!({"code": 403, "message": "pods \"web\" is forbidden"}),
    );
    let error = annotate(&api.client(), &web(), Capability::Hbone)
        .await
        .unwrap_err();
    assert!(error.forbidden);
    assert_eq!(
        error.to_string(),
        "annotating pod shop/web: pods \"web\" is forbidden; the agent's role needs the verb patch on pods/status"
    );
}
