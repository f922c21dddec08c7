//! Putting a namespace into the mesh and taking it out, and how far its pods are.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use kube::Client;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::api::{self, ApiError};
use super::roster::{Item, List, Roster, label_patch};
use crate::names::check_label;

/// How often it's looked whether pods have joined or left.
const PAUSE: Duration = Duration::from_secs(1);

/// The API was no help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolmentError {
    /// RBAC, or the API server doesn't know who asks.
    #[error("{doing}: {reason}")]
    Forbidden {
        /// What was tried.
        doing: String,
        /// The API server's word.
        reason: String,
    },
    /// No namespace can be called so.
    #[error("{name:?} can't be the name of a namespace: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// There is no such namespace.
    #[error("there is no namespace {namespace}")]
    NoNamespace {
        /// Its name.
        namespace: String,
    },
    /// Anything else: the API server is out of reach, or its answer isn't the expected one.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was tried.
        doing: String,
        /// What came of it.
        reason: String,
    },
}

/// Puts a namespace into the mesh by its label, or takes that label away; the pods' own labels count more. Doing it again is
/// harmless.
///
/// # Errors
/// [`EnrolmentError`]. Patching the namespace must be allowed.
pub async fn enrol(client: &Client, namespace: &str, in_mesh: bool) -> Result<(), EnrolmentError> {
    let path = format!("{}?fieldManager=adit", namespace_path(namespace)?);
    let body = Bytes::from(label_patch(in_mesh).to_string());
    let request = api::request(Method::PATCH, &path, "application/merge-patch+json", body);
    match api::open(client, request).await {
        Ok(_) => Ok(()),
        Err(error) => Err(EnrolmentError::new(
            error,
            namespace,
            format!("labelling namespace {namespace}"),
        )),
    }
}

/// Asks for the pods of `namespace`. Agents are looked for in the namespace `agents`, by their label `app=adit-agent`.
///
/// # Errors
/// [`EnrolmentError`]. Reading the namespace and listing pods in both must be allowed.
pub async fn roster(client: &Client, namespace: &str, agents: &str) -> Result<Roster, EnrolmentError> {
    let path = namespace_path(namespace)?;
    let agents_path = format!("{}/pods?labelSelector=app%3Dadit-agent", namespace_path(agents)?);
    let found: Item = ask(client, namespace, &path).await?;
    let pods: List = ask(client, namespace, &format!("{path}/pods")).await?;
    let serving: List = ask(client, agents, &agents_path).await?;
    Ok(Roster::new(
        namespace,
        &found.metadata.labels,
        pods.items.unwrap_or_default(),
        &serving.items.unwrap_or_default(),
    ))
}

/// Asks as [`roster`] does, once a second, until no pod is unsettled, and at most for `patience`; the last roster, whichever it
/// is. `told` hears of each. An API server that is away for a while is asked again.
///
/// # Errors
/// As for [`roster`]; [`EnrolmentError::Failed`] only if it's so at the end.
pub async fn await_settled(
    client: &Client,
    namespace: &str,
    agents: &str,
    patience: Duration,
    mut told: impl FnMut(&Roster),
) -> Result<Roster, EnrolmentError> {
    let deadline = Instant::now() + patience;
    loop {
        let now = roster(client, namespace, agents).await;
        let is_over = match &now {
            Ok(roster) => {
                told(roster);
                roster.unsettled().next().is_none()
            }
            Err(EnrolmentError::Failed { .. }) => false,
            Err(_) => true,
        };
        if is_over || Instant::now() >= deadline {
            return now;
        }
        sleep(PAUSE.min(deadline - Instant::now())).await;
    }
}

/// A name that isn't one would be another path.
fn namespace_path(name: &str) -> Result<String, EnrolmentError> {
    match check_label(name) {
        Ok(()) => Ok(format!("/api/v1/namespaces/{name}")),
        Err(reason) => Err(EnrolmentError::BadName {
            name: name.to_owned(),
            reason: reason.to_string(),
        }),
    }
}

async fn ask<T: DeserializeOwned>(client: &Client, namespace: &str, path: &str) -> Result<T, EnrolmentError> {
    let asked = async { Ok(serde_json::from_slice(&api::get(client, path).await?)?) };
    asked
        .await
        .map_err(|error| EnrolmentError::new(error, namespace, format!("reading {path}")))
}

impl EnrolmentError {
    fn new(error: ApiError, namespace: &str, doing: String) -> Self {
        match error {
            ApiError::Answered {
                code: StatusCode::NOT_FOUND,
                ..
            } => Self::NoNamespace {
                namespace: namespace.to_owned(),
            },
            ApiError::Answered {
                code: StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED,
                message: reason,
            } => Self::Forbidden { doing, reason },
            other => Self::Failed {
                doing,
                reason: other.to_string(),
            },
        }
    }
}
