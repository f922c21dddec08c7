//! The committed figures: a line for each case, its name and the instructions of one call.

use std::fmt;
use std::str::FromStr;

/// By how many of a hundred a figure may lie above the baseline. Builds of the same sources differ by none; a newer C
/// library moves what goes through `malloc` and `memcpy` by one or two.
pub(crate) const TOLERANCE: f64 = 3.0;

/// The figures, in the order of the cases.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Baseline(Vec<(String, f64)>);

/// How a figure lies to the baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Less by more than the tolerance: worth a new baseline.
    Fewer { percent: f64 },
    /// More than is tolerated.
    More { percent: f64 },
    /// The baseline doesn't have it.
    Unknown,
    /// As it was.
    Within { percent: f64 },
}

/// A line of the baseline that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidLine(String);

impl Baseline {
    pub(crate) fn of(counted: Vec<(&'static str, f64)>) -> Self {
        Self(
            counted
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
        )
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn judge(&self, name: &str, count: f64) -> Outcome {
        let Some((_, expected)) = self.0.iter().find(|(known, _)| known == name) else {
            return Outcome::Unknown;
        };
        let percent = (count / expected - 1.0) * 100.0;
        match percent {
            more if more > TOLERANCE => Outcome::More { percent },
            less if less < -TOLERANCE => Outcome::Fewer { percent },
            _ => Outcome::Within { percent },
        }
    }
}

impl FromStr for Baseline {
    type Err = InvalidLine;

    fn from_str(text: &str) -> Result<Self, InvalidLine> {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let read = |line: &str| {
            let (name, count) = line.rsplit_once(' ')?;
            let count = count.parse().ok().filter(|count| *count > 0.0)?;
            Some((name.trim_end().to_owned(), count))
        };
        let lines = lines.map(|line| read(line).ok_or_else(|| InvalidLine(line.to_owned())));
        lines.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions of one call on x86_64, of a release build by the compiler that rust-toolchain.toml names."
        )?;
        writeln!(
            f,
            "# CI fails above {TOLERANCE} % more. `just instructions --update` writes this file."
        )?;
        self.0
            .iter()
            .try_for_each(|(name, count)| writeln!(f, "{name:<52} {count:>10.0}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fewer { percent } => write!(
                f,
                "{percent:+.1} %: fewer, `just instructions --update` keeps it so"
            ),
            Self::More { percent } => {
                write!(f, "{percent:+.1} %: MORE than {TOLERANCE} % above the baseline")
            }
            Self::Unknown => write!(f, "NOT in the baseline"),
            Self::Within { percent } => write!(f, "{percent:+.1} %"),
        }
    }
}

impl fmt::Display for InvalidLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected a case and its instructions in the baseline, got {:?}",
            self.0
        )
    }
}

impl std::error::Error for InvalidLine {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_judged_by_the_tolerance() {
        let baseline: Baseline = "# what it is\n\na call, 10 flows     1000\n".parse().unwrap();
        assert_eq!(
            baseline.judge("a call, 10 flows", 1000.0),
            Outcome::Within { percent: 0.0 }
        );
        assert!(matches!(
            baseline.judge("a call, 10 flows", 1029.0),
            Outcome::Within { .. }
        ));
        assert!(matches!(
            baseline.judge("a call, 10 flows", 1031.0),
            Outcome::More { .. }
        ));
        assert!(matches!(
            baseline.judge("a call, 10 flows", 969.0),
            Outcome::Fewer { .. }
        ));
        assert_eq!(baseline.judge("another", 1.0), Outcome::Unknown);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let baseline = Baseline::of(vec![("netstack: receive", 1234.0), ("policy: verdict", 7.0)]);
        assert_eq!(baseline.to_string().parse(), Ok(baseline));
    }

    #[test]
    fn lines_without_a_figure_are_refused() {
        for line in ["name", "name 0", "name -3", "name x"] {
            assert_eq!(
                line.parse::<Baseline>(),
                Err(InvalidLine(line.to_owned())),
                "{line}"
            );
        }
    }

    #[test]
    fn the_committed_baseline_has_the_cases_in_their_order() {
        let baseline: Baseline = include_str!("../baseline.txt").parse().unwrap();
        let cases: Vec<&str> = crate::cases::all().iter().map(|case| case.name).collect();
        assert_eq!(baseline.names().collect::<Vec<_>>(), cases);
    }
}
