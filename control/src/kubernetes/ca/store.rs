//! Where the signer's keys and roots are kept: a Secret and a ConfigMap of its namespace.

use std::collections::BTreeMap;

use adit_identity::{CaError, RootPolicy, Roots, TrustDomain};
use bytes::Bytes;
use http::{Method, StatusCode};
use k8s_openapi::ByteString;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::kubernetes::api::{self, ApiError};

/// The names of both, as the chart has them.
const SECRET: &str = "adit-ca";
const CONFIG_MAP: &str = "adit-ca-root";
/// The key of the Secret: the roots with their keys, PEM.
const ROOTS: &str = "ca.pem";
/// The key of the ConfigMap: the roots alone, PEM.
const BUNDLE: &str = "root.pem";

/// The keys could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{what} {namespace}/{name}: {source}")]
    Api {
        what: &'static str,
        namespace: String,
        name: &'static str,
        source: ApiError,
    },
    #[error(
        "key ca.pem of Secret {namespace}/adit-ca: {source}; restore it, or delete the key to begin with a new root"
    )]
    Unusable { namespace: String, source: CaError },
    #[error("making a root: {0}")]
    Make(#[source] CaError),
}

/// The Secret and the ConfigMap of one namespace.
pub(super) struct Store {
    client: Client,
    namespace: String,
}

/// What the Secret holds.
pub(super) struct Kept {
    pub(super) roots: Option<Roots>,
    /// The version that a change must be of; `None` where there is no Secret.
    version: Option<String>,
}

#[derive(Deserialize)]
struct Secret {
    metadata: Metadata,
    #[serde(default)]
    data: Option<BTreeMap<String, ByteString>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

impl StoreError {
    /// Whether somebody else wrote in between.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if source.is(StatusCode::CONFLICT))
    }

    /// Whether a human must do something: trying again changes nothing.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Api { .. })
    }
}

impl Store {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    /// The roots, if there are any yet.
    ///
    /// # Errors
    /// The API server doesn't give them, or they make no sense: a new root in their place would break every connection.
    pub(super) async fn load(
        &self,
        trust_domain: &TrustDomain,
        policy: &RootPolicy,
    ) -> Result<Kept, StoreError> {
        let path = self.path("secrets", Some(SECRET));
        let body = match api::get(&self.client, &path).await {
            Ok(body) => body,
            Err(error) if error.is(StatusCode::NOT_FOUND) => {
                return Ok(Kept {
                    roots: None,
                    version: None,
                });
            }
            Err(source) => return Err(self.failed("reading Secret", SECRET, source)),
        };
        let secret: Secret = serde_json::from_slice(&body)
            .map_err(|error| self.failed("reading Secret", SECRET, error.into()))?;
        let text = secret.data.and_then(|mut data| data.remove(ROOTS));
        let roots = text.filter(|text| !text.0.is_empty()).map(|text| {
            let text = String::from_utf8_lossy(&text.0);
            Roots::from_pem(trust_domain, policy.clone(), &text)
        });
        let roots = roots.transpose().map_err(|source| StoreError::Unusable {
            namespace: self.namespace.clone(),
            source,
        })?;
        Ok(Kept {
            roots,
            version: Some(secret.metadata.resource_version),
        })
    }

    /// Writes the roots, if nobody else has since they were read as `kept`.
    ///
    /// # Errors
    /// The API server doesn't take them; a conflict if somebody else was quicker.
    pub(super) async fn save(&self, kept: &Kept, roots: &Roots) -> Result<(), StoreError> {
        let data = json!({ROOTS: ByteString(roots.to_pem().into_bytes())});
        let written = match &kept.version {
            Some(version) => {
                let patch = json!({"metadata": {"resourceVersion": version}, "data": data});
                self.patch("secrets", SECRET, &patch).await
            }
            None => self.create("secrets", "Secret", SECRET, data).await,
        };
        written.map_err(|source| self.failed("writing Secret", SECRET, source))
    }

    /// Tells agents the roots.
    ///
    /// # Errors
    /// The API server doesn't take them.
    pub(super) async fn publish(&self, roots: &Roots) -> Result<(), StoreError> {
        let data = json!({BUNDLE: roots.bundle().to_pem()});
        let written = match self.patch("configmaps", CONFIG_MAP, &json!({"data": data})).await {
            Err(error) if error.is(StatusCode::NOT_FOUND) => {
                self.create("configmaps", "ConfigMap", CONFIG_MAP, data).await
            }
            written => written,
        };
        written.map_err(|source| self.failed("writing ConfigMap", CONFIG_MAP, source))
    }

    async fn patch(&self, plural: &str, name: &str, patch: &Value) -> Result<(), ApiError> {
        let path = self.path(plural, Some(name));
        let body = Bytes::from(patch.to_string());
        let request = api::request(Method::PATCH, &path, "application/merge-patch+json", body);
        api::open(&self.client, request).await.map(drop)
    }

    async fn create(&self, plural: &str, kind: &str, name: &str, data: Value) -> Result<(), ApiError> {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": data});
        let body = Bytes::from(object.to_string());
        let request = api::request(Method::POST, &self.path(plural, None), "application/json", body);
        api::open(&self.client, request).await.map(drop)
    }

    fn path(&self, plural: &str, name: Option<&str>) -> String {
        let all = format!("/api/v1/namespaces/{}/{plural}", self.namespace);
        name.map_or_else(|| all.clone(), |name| format!("{all}/{name}"))
    }

    fn failed(&self, what: &'static str, name: &'static str, source: ApiError) -> StoreError {
        StoreError::Api {
            what,
            namespace: self.namespace.clone(),
            name,
            source,
        }
    }
}
