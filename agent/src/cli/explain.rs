//! `adit explain`: more about a code.

use super::args::Explain;
use super::{CliError, print, print_json};
use crate::explain::{self, Explanation};

/// Prints what there is to say of a code, or the list of all.
pub(super) fn explain(args: &Explain) -> Result<u8, CliError> {
    let Some(code) = &args.code else {
        let all = explain::all();
        match args.json {
            true => print_json(&all)?,
            false => print(
                &all.iter()
                    .map(|entry| format!("{}  {}\n", entry.code, entry.summary))
                    .collect::<String>(),
            )?,
        }
        return Ok(0);
    };
    let found = explain::find(code).ok_or_else(|| CliError::UnknownCode { got: code.clone() })?;
    match args.json {
        true => print_json(&found)?,
        false => print(&as_text(&found))?,
    }
    Ok(0)
}

fn as_text(entry: &Explanation) -> String {
    let Explanation {
        code,
        summary,
        cause,
        fix,
    } = entry;
    format!("{code}: {summary}\n\n  why: {cause}\n  fix: {fix}\n")
}
