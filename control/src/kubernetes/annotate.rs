//! What a pod says of itself to its peers' agents.

use bytes::Bytes;
use http::{Method, StatusCode};
use kube::Client;
use serde_json::{Value, json};

use super::api::{self, ApiError};
use super::object::{
    Capability, HBONE_PORT_ANNOTATION, HBONE_PORT_ORIGINAL, REDIRECTION_ANNOTATION, REDIRECTION_ENABLED,
};
use super::state::WantedPod;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Annotated {
    /// The pod says so now.
    Done,
    /// There is no such pod any more: it was deleted, or another has its name.
    Gone,
}

/// The pod could not be annotated.
#[derive(Debug, thiserror::Error)]
#[error("annotating pod {pod}: {reason}{}", if *forbidden { "; the agent's role needs the verb patch on pods/status" } else { "" })]
#[non_exhaustive]
pub struct AnnotateError {
    /// Namespace and name.
    pub pod: String,
    /// What the API server said.
    pub reason: String,
    /// Whether it is a matter of RBAC: trying again changes nothing.
    pub forbidden: bool,
}

/// Has `pod` say where it takes HBONE: after its capture, and with [`Capability::None`] before it leaves. Writing the
/// same again is harmless. A merge patch of two annotations, for the pod of this very uid, by way of its status: who may
/// patch a pod's status can't change what it runs.
///
/// # Errors
/// The API server didn't take it, or is out of reach.
pub async fn annotate(
    client: &Client,
    pod: &WantedPod,
    capability: Capability,
) -> Result<Annotated, AnnotateError> {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/status",
        pod.name.namespace, pod.name.name
    );
    let body = Bytes::from(patch(&pod.uid, capability).to_string());
    let request = api::request(Method::PATCH, &path, "application/merge-patch+json", body);
    match api::open(client, request).await {
        Ok(_) => Ok(Annotated::Done),
        // A conflict is of the uid: nothing else in the patch can conflict.
        Err(error) if error.is(StatusCode::NOT_FOUND) || error.is(StatusCode::CONFLICT) => {
            Ok(Annotated::Gone)
        }
        Err(error) => Err(AnnotateError {
            pod: pod.name.to_string(),
            forbidden: error.is(StatusCode::FORBIDDEN),
            reason: match error {
                ApiError::Answered { message, .. } => message,
                other => other.to_string(),
            },
        }),
    }
}

fn patch(uid: &str, capability: Capability) -> Value {
    let (redirection, port) = match capability {
        Capability::Hbone => (json!(REDIRECTION_ENABLED), Value::Null),
        Capability::HboneOnOriginalPort => (json!(REDIRECTION_ENABLED), json!(HBONE_PORT_ORIGINAL)),
        Capability::None => (Value::Null, Value::Null),
    };
    json!({"metadata": {
        "uid": uid,
        "annotations": {REDIRECTION_ANNOTATION: redirection, HBONE_PORT_ANNOTATION: port},
    }})
}
