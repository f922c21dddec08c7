//! `adit policy`: what policies say, of files or of the mesh that runs. The crate `adit-policy` answers; here files are read
//! and answers printed.

use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};

use adit_identity::TrustDomain;
use adit_policy::commands::ask::{Asker, Query};
use adit_policy::commands::{Source, cases, diff, eval, lint, read};
use adit_policy::objects::{Object, Reader};
use adit_policy::{Compiler, Options, Trace};
use clap::{Args, Subcommand};
use quick_junit::TestCase;

use super::{CliError, block_on, print};
use crate::admin::{AgentClient, ExplainQuery};
use crate::junit::{self, Outcome, Reason, Target};
use crate::rundir::Base;

#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Which flows between known workloads change their verdict from one set of policies to another
    Diff(Diff),
    /// Judge flows against objects: one JSON document a line on standard input, one answer a line on standard output
    Eval,
    /// Why a flow is allowed or denied, rule by rule
    Explain(Explain),
    /// What is wrong with policies as they are written
    Lint(Lint),
    /// Check expectations, written in YAML, against policies
    Test(Test),
}

#[derive(Debug, Args)]
pub(super) struct Diff {
    /// A file or folder: policies as they were, and the workloads
    old: PathBuf,
    /// A file or folder: policies as they are to be, and the workloads
    new: PathBuf,
    /// The most flows to judge
    #[arg(long, default_value_t = 1_000_000)]
    limit: usize,
    #[command(flatten)]
    mesh: MeshWide,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Who opens the flow: NAMESPACE/NAME or an address
    from: String,
    /// Whom it is opened to: TO:PORT, TO:PORT/PROTOCOL or TO/icmp
    to: String,
    /// Files or folders with policies and workloads; without any, the mesh that runs is asked
    #[arg(short, long = "file", value_name = "PATH", conflicts_with = "mesh")]
    files: Vec<PathBuf>,
    /// The mesh to ask; may be left out where one runs
    #[arg(long, value_name = "NAME")]
    mesh: Option<String>,
    /// Judge it as plain, without mutual TLS
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    wide: MeshWide,
}

#[derive(Debug, Args)]
pub(super) struct Lint {
    /// Files or folders
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Test {
    /// Files with cases; the objects that they name are read besides
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write JUnit XML here; with `-` to standard output instead of the outcomes
    #[arg(long, value_name = "FILE|-")]
    junit: Option<Target>,
    #[command(flatten)]
    mesh: MeshWide,
}

#[derive(Debug, Args)]
pub(super) struct MeshWide {
    /// The mesh's trust domain
    #[arg(long, default_value = "cluster.local", value_parser = trust_domain)]
    trust_domain: TrustDomain,
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    text.parse()
        .map_err(|error: adit_identity::InvalidSpiffeId| error.to_string())
}

/// Exit status: 0 for yes, 1 for no (a finding, a failed case, a denied flow, a difference), 2 for bad input.
pub(super) fn policy(command: Policy) -> Result<u8, CliError> {
    match command {
        Policy::Diff(args) => diff_command(&args),
        Policy::Eval => eval_command(),
        Policy::Explain(args) => explain_command(&args),
        Policy::Lint(args) => lint_command(&args),
        Policy::Test(args) => test_command(&args),
    }
}

fn diff_command(args: &Diff) -> Result<u8, CliError> {
    let old = objects(&Texts::read(std::slice::from_ref(&args.old))?)?;
    let new = objects(&Texts::read(std::slice::from_ref(&args.new))?)?;
    let report = diff::diff(Options::default(), &args.mesh.trust_domain, old, new, args.limit);
    print(&report.render())?;
    Ok(u8::from(!report.changes.is_empty()))
}

/// Every line is answered before the next is read, so another program can drive it through pipes.
fn eval_command() -> Result<u8, CliError> {
    let mut out = io::stdout().lock();
    for (index, line) in io::stdin().lock().lines().enumerate() {
        let line = line.map_err(|source| CliError::System {
            step: "reading standard input",
            source,
        })?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = eval::eval_line(&line).map_err(|error| CliError::Usage {
            problem: format!("line {} of standard input: {error}", index + 1),
        })?;
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(0)
}

fn explain_command(args: &Explain) -> Result<u8, CliError> {
    let usage = |error: &dyn std::fmt::Display| CliError::Usage {
        problem: error.to_string(),
    };
    let query = Query {
        plain: args.plain,
        ..Query::parse(&args.from, &args.to).map_err(|error| usage(&error))?
    };
    if args.files.is_empty() {
        return explain_running(args);
    }
    let set = Compiler::compile(Options::default(), objects(&Texts::read(&args.files)?)?);
    let asker = Asker::new(&set, args.wide.trust_domain.clone());
    let answer = asker.ask(&query, Trace::On).map_err(|error| usage(&error))?;
    print(&answer.render())?;
    Ok(u8::from(!answer.is_allowed()))
}

/// Asks the agent of a running mesh, which answers by the policies that are in force there.
fn explain_running(args: &Explain) -> Result<u8, CliError> {
    let paths = Base::of_process().find(args.mesh.as_deref())?;
    let query = ExplainQuery {
        from: args.from.clone(),
        to: args.to.clone(),
        plain: args.plain,
    };
    let explained = block_on(async {
        Ok(AgentClient::connect(&paths.agent_socket())
            .await?
            .explain(query)
            .await?)
    })?;
    print(&explained.text)?;
    Ok(u8::from(!explained.allowed))
}

fn lint_command(args: &Lint) -> Result<u8, CliError> {
    let texts = Texts::read(&args.paths)?;
    let report = lint::lint(&Reader::default(), &texts.sources());
    print(&report.render())?;
    Ok(u8::from(report.errors() > 0))
}

fn test_command(args: &Test) -> Result<u8, CliError> {
    let mut texts = Texts::read(&args.files)?;
    for file in &args.files {
        let folder = file.parent().unwrap_or_else(|| Path::new(""));
        let cases = texts.text_of(file).unwrap_or_default();
        let wanted: Vec<_> = cases::wanted_files(cases)
            .into_iter()
            .map(|name| folder.join(name))
            .collect();
        texts.0.extend(Texts::read(&wanted)?.0);
    }
    texts.0.sort();
    texts.0.dedup_by(|a, b| a.0 == b.0);
    let report = cases::test(
        &Reader::default(),
        Options::default(),
        &args.mesh.trust_domain,
        &texts.sources(),
    );
    match &args.junit {
        Some(Target::Stdout) => Target::Stdout.write(&as_junit(&report))?,
        Some(target @ Target::File(path)) => {
            target
                .write(&as_junit(&report))
                .map_err(|source| unusable("writing", path, &source))?;
            print(&report.render())?;
        }
        None => print(&report.render())?,
    }
    Ok(u8::from(!report.passed()))
}

/// The outcome as a report: a suite for each file of cases, and one for objects that can't be used.
fn as_junit(report: &cases::Report) -> String {
    let mut suites = Vec::new();
    if !report.diagnostics.is_empty() {
        let all: Vec<_> = report.diagnostics.iter().map(ToString::to_string).collect();
        let reason = Reason {
            kind: "objects",
            message: &all[0],
            text: &all.join("\n"),
        };
        let case = junit::case("objects", "objects can be used", Outcome::Error(reason));
        suites.push(junit::suite("objects", [case]));
    }
    for outcomes in report.outcomes.chunk_by(|a, b| a.case.file == b.case.file) {
        let file = &outcomes[0].case.file;
        suites.push(junit::suite(file, outcomes.iter().map(junit_case)));
    }
    junit::text("adit policy test", suites)
}

fn junit_case(outcome: &cases::Outcome) -> TestCase {
    let case = &outcome.case;
    let Some(why) = &outcome.failure else {
        return junit::case(&case.file, &case.name, Outcome::Passed);
    };
    let text = format!("{}:{}: {why}", case.file, case.at.line);
    let reason = Reason {
        kind: "verdict",
        message: why.lines().next().unwrap_or_default(),
        text: &text,
    };
    junit::case(&case.file, &case.name, Outcome::Failed(reason))
}

/// Reads objects; what is wrong with them goes to standard error, and what can't be compiled fails closed.
fn objects(texts: &Texts) -> Result<Vec<Object>, CliError> {
    let reading = read(&Reader::default(), &texts.sources());
    let mut err = io::stderr().lock();
    for diagnostic in &reading.diagnostics {
        writeln!(err, "{diagnostic}")?;
    }
    if reading.incomplete {
        return Err(CliError::Usage {
            problem: "a file, or an object that policies lean on, can't be read; see above".to_owned(),
        });
    }
    Ok(reading.objects)
}

/// Files by name, with what they hold.
struct Texts(Vec<(String, String)>);

impl Texts {
    /// Reads files; of folders every `.yaml`, `.yml` and `.json` in them and below, in order of name.
    fn read(paths: &[PathBuf]) -> Result<Self, CliError> {
        let mut texts = Vec::new();
        for path in paths {
            collect(path, &mut texts)?;
        }
        Ok(Self(texts))
    }

    fn sources(&self) -> Vec<Source<'_>> {
        self.0.iter().map(|(file, text)| Source { file, text }).collect()
    }

    fn text_of(&self, path: &Path) -> Option<&str> {
        let name = path.display().to_string();
        self.0
            .iter()
            .find(|(file, _)| *file == name)
            .map(|(_, text)| text.as_str())
    }
}

fn collect(path: &Path, texts: &mut Vec<(String, String)>) -> Result<(), CliError> {
    if !path.is_dir() {
        let text = fs::read_to_string(path).map_err(|source| unusable("reading", path, &source))?;
        texts.push((path.display().to_string(), text));
        return Ok(());
    }
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut entries: Vec<PathBuf> = entries
        .map_err(|source| unusable("reading", path, &source))?
        .iter()
        .map(fs::DirEntry::path)
        .collect();
    entries.sort();
    for entry in entries {
        let is_document = entry
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if entry.is_dir() || is_document {
            collect(&entry, texts)?;
        }
    }
    Ok(())
}

fn unusable(doing: &str, path: &Path, source: &io::Error) -> CliError {
    CliError::Usage {
        problem: format!("{doing} {}: {source}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use quick_junit::{Report, TestCaseStatus};

    use super::*;

    #[test]
    fn cases_become_junit_file_by_file_with_the_place_of_each() {
        let pods = "
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop}, status: {podIP: 10.0.0.2}}";
        let suite = "
cases:
- {name: open, from: shop/web, to: 'shop/db:5432', expect: allow}
- {name: '<shut>', from: shop/web, to: 'shop/db:22', expect: deny}
";
        let source = |file, text| Source { file, text };
        let test = |sources: &[Source<'_>]| {
            let domain = "cluster.local".parse().unwrap();
            let report = cases::test(&Reader::default(), Options::default(), &domain, sources);
            Report::deserialize_from_str(&as_junit(&report)).unwrap()
        };
        let report = test(&[
            source("a.yaml", suite),
            source("pods.yaml", pods),
            source("z.yaml", suite),
        ]);
        let names: Vec<_> = report
            .test_suites
            .iter()
            .map(|suite| suite.name.as_str())
            .collect();
        assert_eq!(names, ["a.yaml", "z.yaml"]);
        assert_eq!((report.tests, report.failures, report.errors), (4, 2, 0));
        let failed = &report.test_suites[0].test_cases[1];
        let TestCaseStatus::NonSuccess { description, .. } = &failed.status else {
            panic!("{failed:?}")
        };
        assert_eq!(failed.name.as_str(), "<shut>");
        let text = description.as_ref().map(|text| text.as_str()).unwrap_or_default();
        assert!(text.starts_with("a.yaml:4: expected deny, got allow"), "{text}");
        let broken = test(&[source("pods.yaml", pods), source("z.yaml", "cases: [{from: x}]")]);
        assert_eq!((broken.tests, broken.errors), (1, 1));
    }
}
