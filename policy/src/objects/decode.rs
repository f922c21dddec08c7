//! Walking a document strictly: every field is either taken or reported, with its path.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::Arc;

use adit_flow::Code;

use crate::codes;
use crate::diagnostic::{Diagnostic, Position, Severity};
use crate::document::{Key, Node, Value};

/// Reads one object and collects what is wrong with it.
pub(super) struct Decoder<'d> {
    file: Arc<str>,
    object: String,
    path: Vec<Step>,
    diagnostics: &'d mut Vec<Diagnostic>,
    errors: usize,
    first_error: Option<Arc<str>>,
    /// Whether a field without a value is worth a word.
    tells_nulls: bool,
}

enum Step {
    Field(String),
    Item(usize),
}

/// The fields of a mapping, and which of them were taken.
pub(super) struct Fields<'n> {
    fields: &'n [(Key, Node)],
    taken: Vec<bool>,
    pub(super) at: Position,
}

impl<'n> Fields<'n> {
    /// Whether the field is there, with a value or without.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(key, _)| key.name == name)
    }

    /// The value of a field; a `null` is as good as no field.
    pub(super) fn take(&mut self, name: &str) -> Option<&'n Node> {
        let index = self.fields.iter().position(|(key, _)| key.name == name)?;
        self.taken[index] = true;
        let node = &self.fields[index].1;
        (node.value != Value::Null).then_some(node)
    }
}

impl<'d> Decoder<'d> {
    pub(super) fn new(file: Arc<str>, object: String, diagnostics: &'d mut Vec<Diagnostic>) -> Self {
        Self {
            file,
            object,
            path: Vec::new(),
            diagnostics,
            errors: 0,
            first_error: None,
            tells_nulls: false,
        }
    }

    /// Has fields without a value told from here on. They are read as if they weren't written, as the API server does, and
    /// most rules say less without a field: `from:` with every line below it commented out is everybody.
    pub(super) fn tell_nulls(&mut self) {
        self.tells_nulls = true;
    }

    /// How many errors were found so far: by comparing two counts a caller knows whether a part was sound.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// The first error found, in words.
    pub(super) fn first_error(&self) -> Option<Arc<str>> {
        self.first_error.clone()
    }

    /// Records an error at `at`.
    pub(super) fn fail(&mut self, code: &'static Code, at: Position, message: impl Into<String>) {
        self.errors += 1;
        let message = message.into();
        if self.first_error.is_none() {
            let path = self.path_text();
            let place = if at.line > 0 {
                format!("line {}: ", at.line)
            } else {
                String::new()
            };
            self.first_error = Some(format!("{place}{path}: {message}").into());
        }
        self.push(code, Severity::Error, at, message);
    }

    /// Records a warning at `at`.
    pub(super) fn warn(&mut self, code: &'static Code, at: Position, message: impl Into<String>) {
        self.push(code, Severity::Warning, at, message.into());
    }

    fn push(&mut self, code: &'static Code, severity: Severity, at: Position, message: String) {
        let path = self.path_text();
        self.diagnostics.push(Diagnostic {
            code,
            severity,
            file: self.file.to_string(),
            at,
            object: self.object.clone(),
            path,
            message,
        });
    }

    fn path_text(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) if text.is_empty() => text.push_str(name),
                // Writing to a String can't fail.
                Step::Field(name) => _ = write!(text, ".{name}"),
                Step::Item(index) => _ = write!(text, "[{index}]"),
            }
        }
        text
    }

    /// The fields of a mapping.
    pub(super) fn fields<'n>(&mut self, node: &'n Node) -> Option<Fields<'n>> {
        match &node.value {
            Value::Map(fields) => Some(Fields {
                fields,
                taken: vec![false; fields.len()],
                at: node.at,
            }),
            other => {
                self.fail(
                    codes::WRONG_TYPE,
                    node.at,
                    format!("expected a mapping, got {}", other.describe()),
                );
                None
            }
        }
    }

    /// Reports the fields that nobody took, and those without a value.
    pub(super) fn finish(&mut self, fields: Fields<'_>) {
        for ((key, node), taken) in fields.fields.iter().zip(fields.taken) {
            if taken && self.tells_nulls && node.value == Value::Null {
                self.within(&key.name, |decoder| {
                    let message = "no value: read as if the field weren't there";
                    decoder.warn(codes::IGNORED, key.at, message);
                });
            }
            if !taken {
                let message = format!("the API has no field {:?} here", key.name);
                self.within(&key.name, |decoder| {
                    decoder.fail(codes::UNKNOWN_FIELD, key.at, message)
                });
            }
        }
    }

    /// Runs `read` with `name` added to the path.
    pub(super) fn within<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(Step::Field(name.to_owned()));
        let out = read(self);
        self.path.pop();
        out
    }

    /// Reads a field that may be missing.
    pub(super) fn optional<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        let node = fields.take(name)?;
        self.within(name, |decoder| read(decoder, node))
    }

    /// Reads a field that must be there.
    pub(super) fn required<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        match fields.take(name) {
            Some(node) => self.within(name, |decoder| read(decoder, node)),
            None => {
                let at = fields.at;
                self.within(name, |decoder| {
                    decoder.fail(codes::MISSING_FIELD, at, "expected a value, got no field")
                });
                None
            }
        }
    }

    /// Reads every item of a list; those that can't be read are reported and left out.
    pub(super) fn list<T>(
        &mut self,
        node: &Node,
        mut read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::List(items) = &node.value else {
            let message = format!("expected a list, got {}", node.value.describe());
            self.fail(codes::WRONG_TYPE, node.at, message);
            return None;
        };
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            self.path.push(Step::Item(index));
            out.extend(read(self, item));
            self.path.pop();
        }
        Some(out)
    }

    /// A text.
    pub(super) fn text<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            other => {
                self.fail(
                    codes::WRONG_TYPE,
                    node.at,
                    format!("expected a text, got {}", other.describe()),
                );
                None
            }
        }
    }

    /// A text that isn't empty.
    pub(super) fn word<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        let text = self.text(node)?;
        if text.is_empty() {
            self.fail(codes::BAD_VALUE, node.at, "expected a text, got an empty one");
            return None;
        }
        Some(text)
    }

    /// A list with at least one item; an empty one is an error, since it could mean nothing or everything.
    pub(super) fn items<T>(
        &mut self,
        node: &Node,
        read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        if node.value == Value::List(Vec::new()) {
            let message = "expected at least one entry, got an empty list";
            self.fail(codes::MISSING_FIELD, node.at, message);
        }
        self.list(node, read)
    }

    /// A text to keep.
    pub(super) fn shared(&mut self, node: &Node) -> Option<Arc<str>> {
        self.text(node).map(Arc::from)
    }

    /// A whole number in `range`.
    pub(super) fn integer(
        &mut self,
        node: &Node,
        range: RangeInclusive<i64>,
        code: &'static Code,
    ) -> Option<i64> {
        match &node.value {
            Value::Integer(number) if range.contains(number) => Some(*number),
            Value::Integer(_) | Value::Float(_) => {
                let message = format!(
                    "expected a whole number from {} to {}, got {}",
                    range.start(),
                    range.end(),
                    node.value.describe()
                );
                self.fail(code, node.at, message);
                None
            }
            other => {
                self.fail(
                    codes::WRONG_TYPE,
                    node.at,
                    format!("expected a number, got {}", other.describe()),
                );
                None
            }
        }
    }

    /// A number, whole or not.
    pub(super) fn number(&mut self, node: &Node) -> Option<f64> {
        match &node.value {
            // Orders are far below 2^53; beyond it neighbours may tie, as they do in Calico, whose orders are floats.
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) if number.is_finite() => Some(*number),
            other => {
                self.fail(
                    codes::WRONG_TYPE,
                    node.at,
                    format!("expected a number, got {}", other.describe()),
                );
                None
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&mut self, node: &Node) -> Option<bool> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            other => {
                self.fail(
                    codes::WRONG_TYPE,
                    node.at,
                    format!("expected true or false, got {}", other.describe()),
                );
                None
            }
        }
    }

    /// One of the words of `choices`, as what it stands for.
    pub(super) fn choice<T: Copy>(&mut self, node: &Node, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.fail(
            codes::BAD_VALUE,
            node.at,
            format!("expected one of {}, got {text:?}", words.join(", ")),
        );
        None
    }
}
