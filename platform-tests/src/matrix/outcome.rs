//! What was seen in a cell, as `adit-cells` says it: one JSON object a line.

use serde::{Deserialize, Serialize};

use super::cell::Cell;

/// All that was seen in one cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which.
    pub cell: Cell,
    /// `uname -r`.
    pub kernel: String,
    /// The SHA-256 of the adit program that was run, in hexadecimal.
    pub sha256: String,
    /// What `adit check` said.
    pub check: Attempt,
    /// What came of the real thing.
    pub real: Attempt,
    /// How long both took, in milliseconds.
    pub millis: u64,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// How it ended.
    pub ended: Ended,
    /// The codes in what it said, the first first: of a check those of findings that fail.
    pub codes: Vec<String>,
    /// What it said, in a line or two.
    pub said: String,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It took too long, and was ended.
    Hung,
    /// No.
    No,
    /// Yes.
    Yes,
}

impl Attempt {
    /// It worked.
    pub fn yes(said: impl Into<String>) -> Self {
        Self::of(Ended::Yes, said)
    }

    /// It didn't, and said so.
    pub fn no(said: impl Into<String>) -> Self {
        Self::of(Ended::No, said)
    }

    /// With the codes in what was said.
    pub fn of(ended: Ended, said: impl Into<String>) -> Self {
        let said = said.into();
        Self {
            ended,
            codes: codes(&said),
            said,
        }
    }
}

/// The codes in a text (`ADIT-N001`), each once, in order.
pub fn codes(text: &str) -> Vec<String> {
    const LENGTH: usize = "ADIT-N001".len();
    let mut codes: Vec<String> = Vec::new();
    for (at, _) in text.match_indices("ADIT-") {
        let Some(code) = text.get(at..at + LENGTH) else {
            continue;
        };
        let (head, digits) = code.split_at(LENGTH - 3);
        let is_code =
            head.as_bytes()[5].is_ascii_uppercase() && digits.bytes().all(|digit| digit.is_ascii_digit());
        if is_code && !codes.iter().any(|known| known == code) {
            codes.push(code.to_owned());
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_once_each() {
        let text = "error: [ADIT-A004] no: [ADIT-N001] EPERM (ADIT-A004) ADIT-x ADIT-N1 ADIT-n001";
        assert_eq!(codes(text), ["ADIT-A004", "ADIT-N001"]);
        assert!(codes("ADIT-").is_empty());
    }

    #[test]
    fn an_outcome_reads_back() {
        let outcome = Outcome {
            cell: "node/packet/bare".parse().unwrap(),
            kernel: "6.1.0".into(),
            sha256: "00".into(),
            check: Attempt::yes(""),
            real: Attempt::no("[ADIT-N021] no"),
            millis: 1,
        };
        let line = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&line).unwrap(), outcome);
    }
}
