//! Errors as the runtime reads them: a number of the CNI specification, a sentence, and where to read on.

use serde_json::{Value, json};

use crate::codes::Code;

/// Numbers that the specification reserves (section 5, "Error").
const INVALID_ENVIRONMENT: u32 = 4;
const IO_FAILURE: u32 = 5;
const DECODING_FAILURE: u32 = 6;
const INVALID_CONFIGURATION: u32 = 7;
const TRY_AGAIN_LATER: u32 = 11;

/// The first number that a plugin may use for its own errors.
const OWN: u32 = 100;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CniError {
    pub(super) number: u32,
    code: Code,
    message: String,
}

impl CniError {
    pub(super) fn environment(message: String) -> Self {
        Self::new(INVALID_ENVIRONMENT, Code::PLUGIN_CALL, message)
    }

    pub(super) fn io(message: String) -> Self {
        Self::new(IO_FAILURE, Code::PLUGIN_CALL, message)
    }

    pub(super) fn decoding(message: String) -> Self {
        Self::new(DECODING_FAILURE, Code::PLUGIN_CALL, message)
    }

    pub(super) fn configuration(message: String) -> Self {
        Self::new(INVALID_CONFIGURATION, Code::PLUGIN_CALL, message)
    }

    /// What the helper said, or that it said nothing. Those that pass by themselves are to be tried again.
    pub(super) fn refused(code: Code, message: &str) -> Self {
        let passes = [
            Code::NO_AGENT,
            Code::AGENT_REFUSED,
            Code::HELPER_DOWN,
            Code::TOO_MANY,
            Code::QUEUES_HELD,
        ];
        let number = if passes.contains(&code) {
            TRY_AGAIN_LATER
        } else {
            OWN
        };
        Self::new(number, code, message.to_owned())
    }

    fn new(number: u32, code: Code, message: String) -> Self {
        Self {
            number,
            code,
            message,
        }
    }

    /// As the specification has it. The sentence shows up in the pod's events, so it begins with the code.
    pub(super) fn to_json(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "code": self.number,
            "msg": format!("[{}] {}", self.code, self.message),
            "details": self.code.entry().map_or("", |entry| entry.fix),
        })
    }
}
