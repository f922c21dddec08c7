//! Whether a pod belongs in the mesh.

use adit_flow::WorkloadName;
use kube::Client;
use serde::Deserialize;

use super::api::{self, ApiError};
use super::object::Labels;
use crate::names::DATAPLANE_MODE;
use crate::snapshot::{Snapshot, Workload};

/// Whether a pod with these labels, in a namespace with those, belongs in the mesh. The pod's own word counts more.
pub(super) fn by_labels(pod: &Labels, namespace: Option<&Labels>) -> bool {
    let mode = |labels: &Labels| match labels.get(DATAPLANE_MODE).map(String::as_str) {
        Some("ambient") => Some(true),
        Some("none") => Some(false),
        _ => None,
    };
    mode(pod).or_else(|| mode(namespace?)).unwrap_or(false)
}

/// Whether labels put `workload` into the mesh, its own or its namespace's, and nothing says yet that it's in it.
pub fn is_joining(snapshot: &Snapshot, workload: &Workload) -> bool {
    let namespace = snapshot.namespaces.get(&workload.name.namespace);
    !workload.in_mesh && by_labels(&workload.labels, namespace)
}

/// It could not be found out whether a pod belongs in the mesh.
#[derive(Debug, thiserror::Error)]
#[error("asking the API server about pod {pod}: {problem}")]
#[non_exhaustive]
pub struct MembershipError {
    /// Namespace and name.
    pub pod: WorkloadName,
    /// What came of it.
    pub problem: String,
}

/// Whether a pod that is about to start belongs in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belonging {
    /// It does.
    Mesh {
        /// It names a runtime class: what runs it may be a sandbox with a network stack of its own.
        has_runtime_class: bool,
    },
    /// It doesn't.
    Outside,
}

/// Asks the API whether the pod of this name and uid belongs in the mesh: for one that is about to start, of which the
/// watches may not know yet.
///
/// # Errors
/// The API server is out of reach, or has no such pod.
pub async fn belongs(client: &Client, pod: &WorkloadName, uid: &str) -> Result<Belonging, MembershipError> {
    let failed = |problem| MembershipError {
        pod: pod.clone(),
        problem,
    };
    let asked = async {
        let path = format!("/api/v1/namespaces/{}", pod.namespace);
        let found: Answer = get(client, &format!("{path}/pods/{}", pod.name)).await?;
        let namespace: Answer = get(client, &path).await?;
        Ok((found, namespace))
    };
    let (found, namespace) = asked.await.map_err(|error: ApiError| failed(error.to_string()))?;
    if found.metadata.uid != uid {
        return Err(failed(format!(
            "expected the one with uid {uid}, got {}",
            found.metadata.uid
        )));
    }
    let is_in_mesh = by_labels(&found.metadata.labels, Some(&namespace.metadata.labels));
    Ok(match is_in_mesh && !found.spec.host_network {
        true => Belonging::Mesh {
            has_runtime_class: found.spec.runtime_class_name.is_some(),
        },
        false => Belonging::Outside,
    })
}

async fn get(client: &Client, path: &str) -> Result<Answer, ApiError> {
    Ok(serde_json::from_slice(&api::get(client, path).await?)?)
}

/// A pod or a namespace.
#[derive(Deserialize)]
struct Answer {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    labels: Labels,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    host_network: bool,
    runtime_class_name: Option<String>,
}
