//! Why a step wasn't taken, on its way from the process that tried to whoever asked for it.

use std::io;

use crate::codes::Code;

/// A step that failed: a code for `adit explain`, and what was tried, on what, and what the kernel said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Names the step that the kernel refused.
pub(super) fn refused<E: Into<io::Error>>(code: Code, step: impl Into<String>) -> impl FnOnce(E) -> Failure {
    move |error| Failure::new(code, format!("{}: {}", step.into(), error.into()))
}
