//! What a cell's outcome means. Pure.

use super::cell::{Expected, Version};
use super::outcome::{Ended, Outcome};

/// A cell with its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What was seen.
    pub outcome: Outcome,
    /// What it means.
    pub verdict: Verdict,
}

/// What an outcome means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works, and the check said that it would.
    Works,
    /// It can't work there, as is known: both said so, the command with this code.
    Refused {
        /// The code of the command.
        code: String,
        /// What it said.
        reason: String,
    },
    /// A defect: the two don't agree, one hung or gave no code, or the cell came to something else than is expected of it.
    Wrong {
        /// Which, and what was said.
        reason: String,
    },
}

impl Verdict {
    /// Whether the run has failed because of it.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong { .. })
    }

    /// In a word, for a table.
    pub fn short(&self) -> &str {
        match self {
            Self::Works => "works",
            Self::Refused { code, .. } => code,
            Self::Wrong { .. } => "WRONG",
        }
    }

    /// Why it isn't "works".
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Works => None,
            Self::Refused { reason, .. } | Self::Wrong { reason } => Some(reason),
        }
    }
}

/// Judges an outcome.
pub fn judge(outcome: Outcome) -> Judged {
    let verdict = verdict(&outcome);
    Judged { outcome, verdict }
}

fn verdict(outcome: &Outcome) -> Verdict {
    let (check, real) = (&outcome.check, &outcome.real);
    let wrong = |what: &str| Verdict::Wrong {
        reason: format!("{what}; the check: {}; the command: {}", check.said, real.said),
    };
    match (check.ended, real.ended) {
        (Ended::Hung, _) => wrong("the check hung"),
        (_, Ended::Hung) => wrong("the command hung"),
        (Ended::Yes, Ended::No) => wrong("the check said yes and the command failed"),
        (Ended::No, Ended::Yes) => wrong("the check said no and the command worked"),
        (Ended::Yes, Ended::Yes) => match outcome.cell.expected(version(outcome)) {
            Expected::Works => Verdict::Works,
            Expected::Refused(code) => wrong(&format!("it works, and {code} was expected")),
        },
        (Ended::No, Ended::No) if check.codes.is_empty() => wrong("the check gave no code"),
        (Ended::No, Ended::No) => match (outcome.cell.expected(version(outcome)), &real.codes[..]) {
            (_, []) => wrong("the command gave no code"),
            (Expected::Refused(code), codes) if codes.iter().any(|given| given == code) => Verdict::Refused {
                code: code.to_owned(),
                reason: real.said.clone(),
            },
            (Expected::Refused(code), _) => wrong(&format!("{code} was expected")),
            (Expected::Works, _) => wrong("it doesn't work, which was expected"),
        },
    }
}

fn version(outcome: &Outcome) -> Version {
    Version::of_release(&outcome.kernel)
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Attempt;
    use super::*;

    fn seen(cell: &str, check: Attempt, real: Attempt) -> Verdict {
        judge(Outcome {
            cell: cell.parse().unwrap(),
            kernel: "6.1.0-cloud".into(),
            sha256: String::new(),
            check,
            real,
            millis: 0,
        })
        .verdict
    }

    #[test]
    fn yes_and_yes_is_what_is_hoped_for() {
        let verdict = seen("laptop/tun/user", Attempt::yes(""), Attempt::yes(""));
        assert_eq!(verdict, Verdict::Works);
    }

    #[test]
    fn no_and_no_with_the_expected_code_is_a_refusal() {
        let no = || Attempt::no("[ADIT-A004] [ADIT-N001] EPERM");
        let check = || Attempt::no("ADIT-N101");
        assert_eq!(seen("laptop/tun/no-userns", check(), no()).short(), "ADIT-N001");
        // Where it should have worked it's none.
        assert!(seen("laptop/tun/user", check(), no()).is_wrong());
        // Nor with another code, nor without any.
        assert!(seen("laptop/tun/no-userns", check(), Attempt::no("[ADIT-N003]")).is_wrong());
        assert!(seen("laptop/tun/no-userns", check(), Attempt::no("EPERM")).is_wrong());
        assert!(seen("laptop/tun/no-userns", Attempt::no("EPERM"), no()).is_wrong());
    }

    #[test]
    fn a_check_that_lies_is_wrong_either_way() {
        for (check, real) in [
            (Attempt::yes(""), Attempt::no("[ADIT-N001]")),
            (Attempt::no("ADIT-N101"), Attempt::yes("")),
            (Attempt::of(Ended::Hung, ""), Attempt::no("[ADIT-N001]")),
            (Attempt::no("ADIT-N101"), Attempt::of(Ended::Hung, "")),
        ] {
            assert!(seen("laptop/tun/no-userns", check, real).is_wrong());
        }
    }
}
