//! Metrics and health over HTTP: `/metrics`, `/healthz/live` and `/healthz/ready`.
//!
//! ```text
//!   Subject (the node's agent, the signer) ──samples──▶ exposition ──text──▶ http
//! ```
//!
//! Whoever serves something is a [`Subject`]; [`names`] says what each metric means, and `docs/metrics.md` the same to
//! people.

mod exposition;
mod http;
mod names;

pub(crate) use exposition::Exposition;
pub(crate) use http::serve;
#[cfg(test)]
pub(crate) use names::NAMES;

/// What is asked about.
pub(crate) trait Subject: Send + Sync + 'static {
    /// Everything that is counted and measured.
    fn metrics(&self) -> impl Future<Output = Exposition> + Send;

    /// Whether it works on: if not, it's to be started anew, and the reason is for people.
    fn live(&self) -> Result<(), String>;

    /// Whether it can do what it's there for.
    fn ready(&self) -> Result<(), String>;
}
