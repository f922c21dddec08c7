//! Requests to the API server, bounded in time and size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::timeout;

/// How long an answer may keep one waiting, its body included where that has an end.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest body, in bytes. A page of objects has some megabytes.
const MAX_BODY: usize = 256 * 1024 * 1024;
/// The longest explanation of an error that is read, in bytes.
const MAX_STATUS: usize = 64 * 1024;

/// A request that didn't come to a good end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The server answered otherwise than hoped for.
    #[error("the API server answers {code}: {message}")]
    Answered { code: StatusCode, message: String },
    #[error("the answer is not the JSON that was asked for: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the API server is silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("more than {limit} bytes in one piece")]
    TooLong { limit: usize },
    #[error("no connection to the API server: {0}")]
    Transport(String),
}

/// What the API server says of a request that failed.
#[derive(Default, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) message: String,
}

impl ApiError {
    /// Whether the server answered with this status.
    pub(super) fn is(&self, status: StatusCode) -> bool {
        matches!(self, Self::Answered { code, .. } if *code == status)
    }

    /// What a watch says in place of an event.
    pub(super) fn from_status(status: Status) -> Self {
        Self::Answered {
            code: StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            message: status.message,
        }
    }
}

/// Sends a request without waiting for the end of the answer's body.
///
/// # Errors
/// Anything but an answer of success.
pub(super) async fn open(client: &Client, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let answer = timeout(PATIENCE, client.send(request)).await;
    let response = answer
        .map_err(|_| ApiError::Silent(PATIENCE))?
        .map_err(|error| ApiError::Transport(with_causes(&error)))?;
    let code = response.status();
    if code.is_success() {
        return Ok(response);
    }
    let text = collect(response.into_body(), MAX_STATUS)
        .await
        .unwrap_or_default();
    let status: Status = serde_json::from_slice(&text).unwrap_or_default();
    let message = match status.message.is_empty() {
        true => String::from_utf8_lossy(&text).chars().take(200).collect(),
        false => status.message,
    };
    Err(ApiError::Answered { code, message })
}

/// The whole answer to a GET.
///
/// # Errors
/// Anything but an answer of success.
pub(super) async fn get(client: &Client, path: &str) -> Result<Bytes, ApiError> {
    let request = request(Method::GET, path, "application/json", Bytes::new());
    send(client, request).await
}

/// The whole answer to a request.
///
/// # Errors
/// Anything but an answer of success.
pub(super) async fn send(client: &Client, request: Request<Body>) -> Result<Bytes, ApiError> {
    let response = open(client, request).await?;
    timeout(PATIENCE, collect(response.into_body(), MAX_BODY))
        .await
        .map_err(|_| ApiError::Silent(PATIENCE))?
}

/// A request with a body of type `content`.
pub(super) fn request(method: Method, path: &str, content: &str, body: Bytes) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::CONTENT_TYPE, content)
        .body(Body::from(body))
        .expect("paths are made of names that the API server gave")
}

/// The next piece of a body; `None` at its end.
///
/// # Errors
/// The connection broke.
pub(super) async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        let Some(frame) = body.frame().await else {
            return Ok(None);
        };
        let frame = frame.map_err(|error| ApiError::Transport(with_causes(&error)))?;
        if let Ok(piece) = frame.into_data() {
            return Ok(Some(piece));
        }
    }
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut all = BytesMut::new();
    while let Some(piece) = next_piece(&mut body).await? {
        if all.len() + piece.len() > limit {
            return Err(ApiError::TooLong { limit });
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// An error with what caused it, on one line. Libraries differ in whether they repeat the cause.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
