//! What is wrong with a mesh file, where, and what to do about it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adit_flow::Code;
use annotate_snippets::{AnnotationKind, Element, Group, Level, Renderer, Snippet};

use crate::tree::{At, Node};

/// The most findings in one report: what comes after them is counted.
const MAX_FINDINGS: usize = 50;

/// The longest line of a message, in characters.
const MAX_LINE: usize = 400;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is taken as it stands.
    Warning,
    /// The file is refused.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// Its code and what `adit explain` says of it.
    pub code: &'static Code,
    /// How bad it is.
    pub severity: Severity,
    /// The field, from the root: `workloads[0].ports[1].name`. Empty where there is none.
    pub field: String,
    /// What is wrong, in one line.
    pub message: String,
    /// Where, in bytes of the text; `None` where no place in the text is to blame.
    pub span: Option<Range<usize>>,
    /// What was expected there, or what stands there instead.
    pub label: String,
    /// Other places that belong to it, such as the first of two equal names.
    pub related: Vec<(Range<usize>, String)>,
    /// What to do.
    pub fix: String,
}

/// The findings in one file. Its `Display` is the plain rendering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    path: PathBuf,
    text: Arc<str>,
    diagnostics: Vec<Diagnostic>,
    /// Findings beyond the most that a report holds.
    dropped: usize,
    /// Errors, those beyond included.
    errors: usize,
}

/// Whether to render with colours and other terminal sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// With them.
    Color,
    /// Without: for files, pipes and terminals that can't.
    Plain,
}

impl Report {
    pub(crate) fn new(path: &Path, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.into(),
            diagnostics: Vec::new(),
            dropped: 0,
            errors: 0,
        }
    }

    /// The file it is about.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The findings in the order of the text; those without a place first.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The text of a place in the file.
    pub(crate) fn source(&self, span: &Range<usize>) -> &str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// Whether the file was refused.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// Line and column of a finding, both counted from 1, the column in characters.
    pub fn position(&self, diagnostic: &Diagnostic) -> Option<(usize, usize)> {
        let before = self.text.get(..diagnostic.span.as_ref()?.start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some((
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        ))
    }

    /// Every finding with its lines of the text, ending in a newline; empty where there is nothing to say.
    pub fn render(&self, style: Style) -> String {
        let renderer = match style {
            Style::Color => Renderer::styled(),
            Style::Plain => Renderer::plain(),
        };
        let path = self.path.display().to_string();
        let mut rendered = String::new();
        for diagnostic in &self.diagnostics {
            rendered.push_str(&renderer.render(&[self.group(diagnostic, &path)]));
            rendered.push_str("\n\n");
        }
        if self.dropped > 0 {
            rendered.push_str(&format!("and {} more like these\n\n", self.dropped));
        }
        if rendered.ends_with("\n\n") {
            rendered.pop();
        }
        rendered
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic, path: &'a str) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.code.code);
        let mut group = match &diagnostic.span {
            Some(span) => {
                let primary = AnnotationKind::Primary
                    .span(span.clone())
                    .label(diagnostic.label.as_str());
                let related = diagnostic
                    .related
                    .iter()
                    .map(|(span, label)| AnnotationKind::Context.span(span.clone()).label(label.as_str()));
                let snippet = Snippet::source(&*self.text)
                    .path(path)
                    .annotation(primary)
                    .annotations(related);
                Group::with_title(title).element(Element::from(snippet))
            }
            None => Group::with_title(title).element(annotate_snippets::Origin::path(path)),
        };
        if !diagnostic.field.is_empty() {
            group = group.element(Level::NOTE.with_name("field").message(diagnostic.field.as_str()));
        }
        group.element(Level::HELP.with_name("fix").message(diagnostic.fix.as_str()))
    }

    fn is_full(&self) -> bool {
        self.diagnostics.len() == MAX_FINDINGS
    }

    /// Counts a finding that isn't shown.
    fn count(&mut self, severity: Severity) {
        self.errors += usize::from(severity == Severity::Error);
        self.dropped += 1;
    }

    pub(crate) fn push(&mut self, mut diagnostic: Diagnostic) {
        if self.is_full() {
            return self.count(diagnostic.severity);
        }
        self.errors += usize::from(diagnostic.severity == Severity::Error);
        diagnostic.span = diagnostic.span.map(|span| self.whole_characters(span));
        for (span, _) in &mut diagnostic.related {
            *span = self.whole_characters(span.clone());
        }
        let key = |diagnostic: &Diagnostic| diagnostic.span.as_ref().map_or(0, |span| span.start);
        let place = self
            .diagnostics
            .partition_point(|other| key(other) <= key(&diagnostic));
        self.diagnostics.insert(place, diagnostic);
    }
}

impl Report {
    /// The nearest span that begins and ends between characters of the text: what comes from a parser isn't trusted.
    fn whole_characters(&self, span: Range<usize>) -> Range<usize> {
        let start = floor(&self.text, span.start);
        start..floor(&self.text, span.end).max(start)
    }
}

/// The last place between characters that is at `offset` or before it.
pub(crate) fn floor(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len()))
        .rev()
        .find(|start| text.is_char_boundary(*start))
        .unwrap_or(0)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl std::error::Error for Report {}

/// A report being filled for a file whose tree is known: findings are made by field.
pub(crate) struct Findings<'a> {
    pub(crate) report: Report,
    root: &'a Node,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(report: Report, root: &'a Node) -> Self {
        Self { report, root }
    }

    /// Reports an error at `at`.
    pub(crate) fn error(&mut self, code: &'static Code, at: &At, finding: Finding<'_>) {
        self.push(Severity::Error, code, at, finding);
    }

    /// Reports a warning at `at`.
    pub(crate) fn warn(&mut self, code: &'static Code, at: &At, finding: Finding<'_>) {
        self.push(Severity::Warning, code, at, finding);
    }

    /// Reports an error of the key of the field at `at`.
    pub(crate) fn key_error(&mut self, code: &'static Code, at: &At, finding: Finding<'_>) {
        self.push_at(Severity::Error, code, at, self.root.key_span_of(at), finding);
    }

    /// Reports an error of the field at `at` that stands in `span`, where the path alone can't tell.
    pub(crate) fn error_on(
        &mut self,
        code: &'static Code,
        at: &At,
        span: Range<usize>,
        finding: Finding<'_>,
    ) {
        self.push_at(Severity::Error, code, at, span, finding);
    }

    fn push(&mut self, severity: Severity, code: &'static Code, at: &At, finding: Finding<'_>) {
        if self.report.is_full() {
            // Finding the place costs more than the finding is worth.
            return self.report.count(severity);
        }
        self.push_at(severity, code, at, self.root.span_of(at), finding);
    }

    fn push_at(
        &mut self,
        severity: Severity,
        code: &'static Code,
        at: &At,
        span: Range<usize>,
        finding: Finding<'_>,
    ) {
        let related = finding
            .also
            .map(|(at, label)| (self.root.span_of(at), label.to_owned()));
        self.report.push(Diagnostic {
            code,
            severity,
            field: bounded(at.to_string()),
            message: bounded(finding.message),
            span: Some(span),
            label: bounded(finding.label),
            related: related.into_iter().collect(),
            fix: bounded(finding.fix),
        });
    }
}

/// What stands in a file can be of any length; a line of a message can't.
fn bounded(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_LINE) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The words of a finding.
#[derive(Default)]
pub(crate) struct Finding<'a> {
    pub(crate) message: String,
    pub(crate) label: String,
    pub(crate) fix: String,
    /// Another place and what to say there.
    pub(crate) also: Option<(&'a At, &'a str)>,
}
