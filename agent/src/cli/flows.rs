//! `adit flows`: what flowed.

use std::io::{self, Write as _};

use adit_flow::FlowRecord;

use super::args::Flows;
use super::{CliError, block_on};
use crate::admin::{AgentClient, FlowLine, FlowQuery};
use crate::rundir::Base;

/// Prints the flows that are kept and, if asked to follow, those that end from now on.
pub(super) fn flows(args: Flows) -> Result<u8, CliError> {
    let paths = Base::of_process().find(args.mesh.mesh.as_deref())?;
    let query = FlowQuery {
        follow: args.follow,
        from: args.from,
        to: args.to,
        verdict: args.verdict.map(Into::into),
    };
    block_on(async {
        let client = AgentClient::connect(&paths.agent_socket()).await?;
        let mut stream = client.flows(query).await?;
        let mut out = io::stdout().lock();
        while let Some(line) = stream.next().await? {
            match line {
                FlowLine::Flow(record) if args.json => {
                    let text = serde_json::to_string(&record).map_err(io::Error::from)?;
                    writeln!(out, "{text}")?;
                }
                FlowLine::Flow(record) => writeln!(out, "{}", as_text(&record))?,
                FlowLine::Missed(count) => {
                    // Not among the records: whoever parses those must not meet anything else.
                    out.flush()?;
                    eprintln!("adit: {count} flows were missed here: they ended faster than they were read");
                }
            }
        }
        Ok(out.flush()?)
    })?;
    Ok(0)
}

fn as_text(record: &FlowRecord) -> String {
    let ended = record.started_us.saturating_add(record.duration_us);
    format!("{} {record}", timestamp(ended))
}

/// A time as RFC 3339 writes it, in UTC and to the millisecond.
fn timestamp(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = micros / 1000 % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. The year is taken to begin in
/// March, so that the leap day is its last; 400 of them have 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153; // 0 is March
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 {
        (year, month + 3)
    } else {
        (year + 1, month - 9)
    };
    (era * 400 + year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_868_799, "2000-02-29T23:59:59.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(seconds * 1_000_000), expected);
        }
        assert_eq!(timestamp(1_234_567), "1970-01-01T00:00:01.234Z");
    }

    #[test]
    fn days_follow_one_another() {
        let mut last = date(0);
        for day in 1..200_000 {
            let next = date(day);
            let (year, month, of_month) = next;
            let follows = next == (last.0, last.1, last.2 + 1)
                || of_month == 1 && (year, month) == (last.0, last.1 + 1)
                || next == (last.0 + 1, 1, 1) && (last.1, last.2) == (12, 31);
            assert!(follows, "{last:?} -> {next:?}");
            last = next;
        }
    }
}
