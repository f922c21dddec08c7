//! Lengths of time as people write them.

use std::time::Duration;

/// A text that is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number and a unit, such as 100us, 500ms, 10s, 5m or 1h, got {got:?}")]
pub(super) struct InvalidDuration {
    got: String,
}

/// Reads `100us`, `500ms`, `10s`, `5m`, `1h`, and `0`, which is as long in any unit.
///
/// # Errors
/// Anything else, and what is beyond a year.
pub(super) fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration { got: text.to_owned() };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .ok_or_else(invalid)?;
    let number: u64 = text[..digits].parse().map_err(|_| invalid())?;
    let micros = match &text[digits..] {
        "us" | "µs" => 1,
        "ms" => 1000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return Err(invalid()),
    };
    let micros = number
        .checked_mul(micros)
        .filter(|&micros| micros <= YEAR)
        .ok_or_else(invalid)?;
    Ok(Duration::from_micros(micros))
}

const YEAR: u64 = 366 * 24 * 3_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood_and_anything_else_is_not() {
        for (text, micros) in [
            ("100us", 100),
            ("100µs", 100),
            ("500ms", 500_000),
            ("10s", 10_000_000),
            ("5m", 300_000_000),
            ("1h", 3_600_000_000),
            ("0s", 0),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_micros(micros)));
        }
        for bad in [
            "",
            "10",
            "s",
            "1d",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615h",
            "10000h",
        ] {
            assert!(parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
