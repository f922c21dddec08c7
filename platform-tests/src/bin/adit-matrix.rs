//! `adit-matrix`: adit in virtual machines of Debian suites, cell by cell. Prints a table, writes a page and JUnit XML.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_platform_tests::matrix::{
    Cell, Column, Outcome, Programs, boots, judge, junit, page, prepare, table,
};
use clap::Parser;
use serde::{Deserialize, Serialize};

/// Every suite whose kernel is tried.
const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "sid"];

/// Runs adit in virtual machines with the kernels and root file systems of Debian suites, and compares what `adit check` says
/// with what comes of it. Needs root and a Debian machine, with some minutes for each suite.
///
/// Ends with 1 if a cell came to something else than is expected of it, with 2 if a machine doesn't run.
#[derive(Parser)]
struct Cli {
    /// Suites and cells, by name or by a part of it: `bookworm`, `laptop/tun`, `user`; all without any
    names: Vec<String>,
    /// The adit program: static, unless the suite has the libraries that it needs
    #[arg(long, value_name = "FILE", default_value = "target/matrix/adit")]
    adit: PathBuf,
    /// The adit-load program, likewise
    #[arg(long, value_name = "FILE", default_value = "target/matrix/adit-load")]
    load: PathBuf,
    /// The adit-cells program, likewise
    #[arg(long, value_name = "FILE", default_value = "target/matrix/adit-cells")]
    cells: PathBuf,
    /// Where matrix.md, junit.xml and outcomes.json are written
    #[arg(long, value_name = "FOLDER", default_value = "target/matrix")]
    out: PathBuf,
    /// Write the page into this file as well
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Keep what earlier runs found of cells that aren't run now
    #[arg(long)]
    keep: bool,
    /// Say that a suite was skipped, and why, where its machine can't be had, instead of failing
    #[arg(long)]
    skip_missing: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("adit-matrix: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Box<dyn Error>> {
    let Chosen { suites, cells } = chosen(&cli.names)?;
    let programs = Programs {
        adit: cli.adit.clone(),
        load: cli.load.clone(),
        cells: cli.cells.clone(),
    };
    fs::create_dir_all(&cli.out)?;
    let mut seen = match cli.keep {
        true => read(&cli.out)?,
        false => Vec::new(),
    };
    for suite in suites {
        if let Err(error) = prepare(suite) {
            if !cli.skip_missing {
                return Err(error.into());
            }
            println!("skipped: matrix {error}");
            continue;
        }
        merge(&mut seen, suite, outcomes(suite, &cells, &programs, &cli.out)?);
    }
    if seen.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    write(&seen, &cli.out)?;
    let columns = columns(seen);
    report(&columns, &cli.out, cli.page.as_deref())?;
    print!("{}", table(&columns));
    let wrong = columns
        .iter()
        .flat_map(|column| column.cells.iter().map(move |judged| (column, judged)));
    let wrong = wrong
        .filter(|(_, judged)| judged.verdict.is_wrong())
        .collect::<Vec<_>>();
    for (column, judged) in &wrong {
        let reason = judged.verdict.reason().unwrap_or_default();
        println!("\n{} {}: {reason}", column.suite, judged.outcome.cell);
    }
    Ok(ExitCode::from(u8::from(!wrong.is_empty())))
}

/// What to run: all of the cells on all of the suites.
struct Chosen {
    suites: Vec<&'static str>,
    cells: Vec<Cell>,
}

/// A name that is a suite's chooses it; another one the cells that have it in theirs.
fn chosen(names: &[String]) -> Result<Chosen, Box<dyn Error>> {
    let is_suite = |name: &&String| SUITES.contains(&name.as_str());
    let suites = SUITES
        .into_iter()
        .filter(|suite| names.iter().any(|name| name == suite));
    let suites = suites.collect::<Vec<_>>();
    let parts = names.iter().filter(|name| !is_suite(name)).collect::<Vec<_>>();
    let cells = Cell::all().into_iter().filter(|cell| {
        let name = cell.to_string();
        parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()))
    });
    let cells = cells.collect::<Vec<_>>();
    if cells.is_empty() {
        return Err(format!("no cell has {parts:?} in its name; one is laptop/tun/user").into());
    }
    let suites = if suites.is_empty() {
        SUITES.to_vec()
    } else {
        suites
    };
    Ok(Chosen { suites, cells })
}

/// What was seen on a suite's kernel, as it's kept.
#[derive(Deserialize, Serialize)]
struct Seen {
    suite: String,
    outcomes: Vec<Outcome>,
}

fn outcomes(
    suite: &str,
    cells: &[Cell],
    programs: &Programs,
    folder: &Path,
) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let mut outcomes = Vec::new();
    for boot in boots(suite, cells) {
        let parameter = boot.parameter.unwrap_or_default();
        eprintln!("{suite}: {} cells {parameter}", boot.cells.len());
        outcomes.extend(boot.run(programs, folder)?);
    }
    Ok(outcomes)
}

/// The new ones in the place of what was seen of the same cells before.
fn merge(seen: &mut Vec<Seen>, suite: &str, outcomes: Vec<Outcome>) {
    let of_suite = seen.iter().position(|seen| seen.suite == suite);
    let before = of_suite.map_or_else(Vec::new, |at| seen.remove(at).outcomes);
    let is_new = |cell: Cell| outcomes.iter().any(|outcome| outcome.cell == cell);
    let kept = before.into_iter().filter(|outcome| !is_new(outcome.cell));
    let mut all = kept.collect::<Vec<_>>();
    all.extend(outcomes);
    seen.push(Seen {
        suite: suite.to_owned(),
        outcomes: all,
    });
    seen.sort_by_key(|seen| SUITES.iter().position(|suite| *suite == seen.suite));
}

fn columns(seen: Vec<Seen>) -> Vec<Column> {
    let columns = seen.into_iter().map(|seen| Column {
        suite: seen.suite,
        cells: seen.outcomes.into_iter().map(judge).collect(),
    });
    columns.collect()
}

/// What earlier runs found; nothing where there was none.
fn read(folder: &Path) -> Result<Vec<Seen>, Box<dyn Error>> {
    match fs::read_to_string(folder.join(OUTCOMES)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
        Ok(text) => Ok(serde_json::from_str(&text)?),
    }
}

fn write(seen: &[Seen], folder: &Path) -> Result<(), Box<dyn Error>> {
    Ok(fs::write(
        folder.join(OUTCOMES),
        serde_json::to_string_pretty(seen)?,
    )?)
}

fn report(columns: &[Column], folder: &Path, copy: Option<&Path>) -> Result<(), Box<dyn Error>> {
    fs::write(folder.join("junit.xml"), junit(columns))?;
    let page = page(columns);
    fs::write(folder.join("matrix.md"), &page)?;
    if let Some(copy) = copy {
        fs::write(copy, &page)?;
    }
    Ok(())
}

/// The file that everything is kept in.
const OUTCOMES: &str = "outcomes.json";
