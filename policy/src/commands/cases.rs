//! `adit policy test`: expectations about flows, in YAML, checked against objects.
//!
//! ```yaml
//! objects: [policies/, pods.yaml]     # files to read besides, relative to this one
//! cases:
//! - name: the shop may reach its database     # optional
//!   from: shop/web-0                          # a workload or an address
//!   to: shop/db-0:5432/tcp                    # TO:PORT, TO:PORT/PROTOCOL or TO/icmp
//!   expect: allow                             # or deny
//!   by: default/KubernetesNetworkPolicy/shop/db     # optional: what must have decided, from its start
//!   plain: true                               # optional: without mutual TLS
//! ```
//!
//! A file may hold objects too, as further documents.

use std::fmt::Write as _;

use adit_identity::TrustDomain;

use super::ask::{Asker, Query};
use super::{Source, read};
use crate::codes;
use crate::compile::{Compiler, Options};
use crate::diagnostic::{Diagnostic, Position, Severity};
use crate::document::{self, Node, Value};
use crate::objects::{Reader, Reading};
use crate::verdict::Trace;

/// A case as written.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, or the question.
    pub name: String,
    /// The file it is in.
    pub file: String,
    /// Where in it.
    pub at: Position,
    /// The question.
    pub query: Query,
    /// Whether the flow is expected to be allowed.
    pub allow: bool,
    /// What is expected to have decided, from its start.
    pub by: Option<String>,
}

/// A case and what came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The case.
    pub case: Case,
    /// Why it failed; `None` if it passed.
    pub failure: Option<String>,
}

/// What came of all cases.
#[derive(Debug)]
pub struct Report {
    /// The cases, in the order written.
    pub outcomes: Vec<Outcome>,
    /// Errors in objects and cases. With any, the run has failed.
    pub diagnostics: Vec<Diagnostic>,
}

/// The files that the `objects` fields of a text name. The command reads them, relative to the text's own file, and
/// hands them to [`test()`] as further sources.
pub fn wanted_files(text: &str) -> Vec<String> {
    let documents = document::read(text).unwrap_or_default();
    documents
        .iter()
        .filter(|document| document.get("apiVersion").is_none())
        .filter_map(|document| document.get("objects"))
        .flat_map(|node| match &node.value {
            Value::List(items) => items
                .iter()
                .filter_map(Node::as_text)
                .map(str::to_owned)
                .collect(),
            Value::Text(text) => vec![text.clone()],
            _ => Vec::new(),
        })
        .collect()
}

/// Runs the cases of all sources against the objects of all sources.
pub fn test(reader: &Reader, options: Options, trust_domain: &TrustDomain, sources: &[Source<'_>]) -> Report {
    let mut cases = Vec::new();
    let mut diagnostics = Vec::new();
    let mut objects = Vec::new();
    for source in sources {
        // A text with cases in it is read document by document; one without is all objects.
        match document::read(source.text) {
            Ok(documents) if documents.iter().any(is_suite) => {
                for document in &documents {
                    if is_suite(document) {
                        read_suite(source.file, document, &mut cases, &mut diagnostics);
                    } else {
                        let mut reading = Reading::default();
                        reader.read_document(source.file, document, &mut reading);
                        objects.extend(reading.objects);
                        diagnostics.extend(reading.diagnostics);
                    }
                }
            }
            _ => {
                let reading = read(reader, std::slice::from_ref(source));
                objects.extend(reading.objects);
                diagnostics.extend(reading.diagnostics);
            }
        }
    }
    diagnostics.retain(Diagnostic::is_error);
    let set = Compiler::compile(options, objects);
    let asker = Asker::new(&set, trust_domain.clone());
    let outcomes = cases
        .into_iter()
        .map(|case| Outcome {
            failure: run(&asker, &case),
            case,
        })
        .collect();
    Report {
        outcomes,
        diagnostics,
    }
}

fn run(asker: &Asker<'_>, case: &Case) -> Option<String> {
    let answer = match asker.ask(&case.query, Trace::On) {
        Ok(answer) => answer,
        Err(error) => return Some(error.to_string()),
    };
    let word = |allowed: bool| if allowed { "allow" } else { "deny" };
    if answer.is_allowed() != case.allow {
        return Some(format!(
            "expected {}, got {}\n{}",
            word(case.allow),
            word(answer.is_allowed()),
            answer.render()
        ));
    }
    let by = case.by.as_ref()?;
    let decided_by = answer.decided_by();
    let found = decided_by.split("; ").any(|part| {
        part == by
            || part
                .split_once(' ')
                .is_some_and(|(_, part)| part.starts_with(by.as_str()))
    });
    (!found).then(|| format!("expected {by} to decide, got {decided_by}\n{}", answer.render()))
}

fn is_suite(document: &Node) -> bool {
    document.get("cases").is_some() && document.get("apiVersion").is_none()
}

fn read_suite(file: &str, document: &Node, cases: &mut Vec<Case>, diagnostics: &mut Vec<Diagnostic>) {
    let items = match document.get("cases").map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    for (index, item) in items.iter().enumerate() {
        match read_case(file, item) {
            Ok(case) => cases.push(case),
            Err(message) => diagnostics.push(Diagnostic {
                code: codes::BAD_CASE,
                severity: Severity::Error,
                file: file.to_owned(),
                at: item.at,
                object: String::new(),
                path: format!("cases[{index}]"),
                message,
            }),
        }
    }
}

fn read_case(file: &str, node: &Node) -> Result<Case, String> {
    let Value::Map(fields) = &node.value else {
        return Err(format!("expected a mapping, got {}", node.value.describe()));
    };
    const FIELDS: [&str; 6] = ["name", "from", "to", "expect", "by", "plain"];
    if let Some((key, _)) = fields
        .iter()
        .find(|(key, _)| !FIELDS.contains(&key.name.as_str()))
    {
        return Err(format!(
            "expected one of {}, got {:?}",
            FIELDS.join(", "),
            key.name
        ));
    }
    let text = |name: &str| node.get(name).and_then(Node::as_text);
    let required = |name: &str| text(name).ok_or_else(|| format!("expected a text as {name:?}, got none"));
    let (from, to) = (required("from")?, required("to")?);
    let mut query = Query::parse(from, to).map_err(|error| error.to_string())?;
    query.plain = match node.get("plain").map(|node| &node.value) {
        None => false,
        Some(Value::Bool(plain)) => *plain,
        Some(other) => {
            return Err(format!(
                "expected true or false as \"plain\", got {}",
                other.describe()
            ));
        }
    };
    let allow = match required("expect")? {
        "allow" => true,
        "deny" => false,
        other => return Err(format!("expected allow or deny as \"expect\", got {other:?}")),
    };
    Ok(Case {
        name: text("name").map_or_else(|| format!("{from} -> {to}"), str::to_owned),
        file: file.to_owned(),
        at: node.at,
        query,
        allow,
        by: text("by").map(str::to_owned),
    })
}

impl Report {
    /// Whether every case passed and every object could be used.
    pub fn passed(&self) -> bool {
        self.diagnostics.is_empty() && self.outcomes.iter().all(|outcome| outcome.failure.is_none())
    }

    /// The outcome for people: a line a case, the reason under those that failed, and a last line that sums up.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            _ = writeln!(out, "{diagnostic}");
        }
        let mut failed = 0;
        for Outcome { case, failure } in &self.outcomes {
            match failure {
                None => _ = writeln!(out, "ok    {}", case.name),
                Some(why) => {
                    failed += 1;
                    _ = writeln!(out, "FAIL  {} ({}:{})", case.name, case.file, case.at.line);
                    for line in why.lines() {
                        _ = writeln!(out, "      {line}");
                    }
                }
            }
        }
        _ = writeln!(
            out,
            "{} cases, {failed} failed, {} errors",
            self.outcomes.len(),
            self.diagnostics.len()
        );
        out
    }
}
