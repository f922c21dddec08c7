//! The one method of the signer.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use adit_flow::WorkloadName;
use adit_identity::{CaError, CertificateAuthority, Roots, SpiffeId, TrustDomain};
use bytes::Bytes;
use http::Method;
use kube::Client;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status};

use super::decide::{self, Caller, Refusal, Review};
use super::placement::Placement;
use super::status::CaStatus;
use crate::kubernetes::api::{self, ApiError};
use crate::signing::wire::{CertificateRequest, CertificateResponse};

/// Requests that are looked at at once. More are told to come again, as agents do.
const MAX_REQUESTS: usize = 64;
/// How long a pod that an agent asks for may take to show up in the watch: kubelets hear of pods first.
const LAG: Duration = Duration::from_secs(3);

/// What answers requests.
pub(super) struct Service {
    pub(super) client: Client,
    pub(super) trust_domain: TrustDomain,
    pub(super) audience: String,
    pub(super) agents: BTreeSet<WorkloadName>,
    pub(super) max_ttl: Duration,
    pub(super) placement: watch::Receiver<Placement>,
    pub(super) roots: Arc<RwLock<Roots>>,
    pub(super) places: Semaphore,
    pub(super) status: Arc<CaStatus>,
}

#[derive(Deserialize)]
struct ReviewAnswer {
    #[serde(default)]
    status: Review,
}

impl Service {
    pub(super) fn places() -> Semaphore {
        Semaphore::new(MAX_REQUESTS)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The status says why there is no certificate.
    pub(super) async fn create(
        &self,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let _place = self.places.try_acquire().map_err(|_| {
            Status::resource_exhausted(format!("{MAX_REQUESTS} requests are under way; ask again"))
        })?;
        let answered = self.answer(&request).await;
        self.status.answered(&answered);
        if let Err(status) = &answered {
            let id = request.get_ref().impersonated().unwrap_or_default();
            tracing::warn!(%id, code = ?status.code(), reason = status.message(), "no certificate");
        }
        answered.map(Response::new)
    }

    async fn answer(&self, request: &Request<CertificateRequest>) -> Result<CertificateResponse, Status> {
        let message = request.get_ref();
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .ok_or_else(|| Status::unauthenticated("expected the header authorization: Bearer TOKEN"))?;
        let review = self.review(token).await.map_err(|error| {
            Status::unavailable(format!("asking the API server whose the token is: {error}"))
        })?;
        let caller = decide::caller(&review, &self.audience, &self.agents, &self.placement.borrow())
            .map_err(|refusal| status(&refusal))?;
        let id =
            decide::wanted(message.impersonated(), &self.trust_domain).map_err(|refusal| status(&refusal))?;
        self.check(&caller, &id)
            .await
            .map_err(|refusal| status(&refusal))?;
        self.sign(message, &caller, &id)
    }

    async fn review(&self, token: &str) -> Result<Review, ApiError> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self.audience]},
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let body = Bytes::from(review.to_string());
        let answer = api::send(
            &self.client,
            api::request(Method::POST, path, "application/json", body),
        )
        .await?;
        let answer: ReviewAnswer = serde_json::from_slice(&answer)?;
        Ok(answer.status)
    }

    async fn check(&self, caller: &Caller, id: &SpiffeId) -> Result<(), Refusal> {
        let mut placement = self.placement.clone();
        let shown = placement.wait_for(|placement| decide::check(caller, id, placement).is_ok());
        if let Ok(Ok(_)) = timeout(LAG, shown).await {
            return Ok(());
        }
        decide::check(caller, id, &self.placement.borrow())
    }

    fn sign(
        &self,
        message: &CertificateRequest,
        caller: &Caller,
        id: &SpiffeId,
    ) -> Result<CertificateResponse, Status> {
        let asked = u64::try_from(message.validity_duration).map_err(|_| {
            Status::invalid_argument("validity_duration: expected no negative number of seconds")
        })?;
        let ttl = match asked {
            0 => self.max_ttl,
            seconds => Duration::from_secs(seconds).min(self.max_ttl),
        };
        let now = SystemTime::now();
        // What a panic elsewhere left is whole: roots are replaced, never changed.
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        let leaf = roots
            .signer(now)
            .sign(&message.csr, id, now, ttl)
            .map_err(|error| {
                let code = match error {
                    CaError::BadRequest { .. } | CaError::TtlOutOfBounds { .. } => Code::InvalidArgument,
                    _ => Code::Internal,
                };
                Status::new(code, api::with_causes(&error))
            })?;
        let (pod, node) = (&caller.pod, &caller.node);
        tracing::info!(%id, %node, %pod, ?ttl, "signed a certificate");
        Ok(CertificateResponse {
            cert_chain: vec![leaf, roots.bundle().to_pem()],
        })
    }
}

/// What the wire says of a refusal.
fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::BadIdentity { .. } => Code::InvalidArgument,
        Refusal::NotAgent { .. } | Refusal::NotBound | Refusal::NotOnNode { .. } => Code::PermissionDenied,
        Refusal::NotAuthenticated { .. } => Code::Unauthenticated,
        Refusal::NotReady => Code::Unavailable,
    };
    Status::new(code, refusal.to_string())
}

/// The longest life that the signer may be told to give.
pub(super) const LONGEST_TTL: Duration = CertificateAuthority::MAX_TTL;
