//! The JSON schema of the mesh file, made from its types, and the check of a document against it.
//!
//! One source decides what is published, what editors offer and what is accepted: the types in [`crate::file`].
//! The check knows the keywords that those types make use of, and a test fails if they come to use another.

use std::sync::LazyLock;

use serde_json::Value as Json;

use crate::codes;
use crate::diagnostic::{Finding, Findings};
use crate::file::MeshFile;
use crate::suggest;
use crate::tree::{At, Entry, Node, Value};

static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
    let mut schema = schemars::schema_for!(MeshFile);
    schema.insert(
        "$id".to_owned(),
        "https://adit.dev/schemas/mesh-v1alpha1.json".into(),
    );
    schema.insert("title".to_owned(), "adit mesh file".into());
    schema.to_value()
});

/// The schema of the mesh file (JSON Schema 2020-12) as it is published in `docs/mesh.schema.json`.
pub fn json_schema() -> String {
    let mut text = serde_json::to_string_pretty(&*SCHEMA).expect("a JSON value with text keys is JSON");
    text.push('\n');
    text
}

/// Checks the shape of the whole document and makes a value of it if nothing is wrong.
pub(crate) fn decode(root: &Node, findings: &mut Findings<'_>) -> Option<MeshFile> {
    let mut checker = Checker { findings, faults: 0 };
    checker.check(root, &SCHEMA, &At::default());
    if checker.faults > 0 {
        return None;
    }
    match serde_json::from_value(root.to_json()) {
        Ok(file) => Some(file),
        // The schema is made from the type, so this is a gap in the check. It must not be a panic all the same.
        Err(error) => {
            let finding = Finding {
                message: format!("the document doesn't have the shape of a mesh file: {error}"),
                fix: "compare it with docs/mesh.schema.json".to_owned(),
                ..Finding::default()
            };
            findings.error(&codes::WRONG_TYPE, &At::default(), finding);
            None
        }
    }
}

struct Checker<'f, 'a> {
    findings: &'f mut Findings<'a>,
    faults: usize,
}

impl Checker<'_, '_> {
    fn check(&mut self, node: &Node, schema: &'static Json, at: &At) {
        let schema = resolve(schema);
        if let Some(choices) = choices(schema) {
            return self.choice(node, &choices, at);
        }
        if let Some(any) = schema.get("anyOf").and_then(Json::as_array) {
            // An optional value is "this or null", and null values aren't checked at all.
            let mut real = any.iter().filter(|option| option["type"] != "null").map(resolve);
            let matching = real.clone().find(|option| has_type(node, option));
            return match (matching, real.next(), real.next()) {
                (Some(option), ..) | (None, Some(option), None) => self.check(node, option, at),
                _ => self.wrong_type(node, schema, at),
            };
        }
        if !has_type(node, schema) {
            return self.wrong_type(node, schema, at);
        }
        match &node.value {
            Value::Map(entries) => self.map(entries, schema, at),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.check(item, &schema["items"], &at.index(index));
                }
            }
            Value::Int(number) => self.bounds(*number, schema, at),
            Value::Null | Value::Bool(_) | Value::Float(_) | Value::Text(_) => {}
        }
    }

    fn map(&mut self, entries: &[Entry], schema: &'static Json, at: &At) {
        for (index, entry) in entries.iter().enumerate() {
            let at = at.field(&entry.key);
            if entries[..index].iter().any(|earlier| earlier.key == entry.key) {
                self.key_error(
                    &codes::DUPLICATE_FIELD,
                    &at,
                    entry,
                    format!("`{}` stands here a second time", entry.key),
                    "the second".to_owned(),
                    "remove one of the two".to_owned(),
                );
                continue;
            }
            match schema["properties"].get(&entry.key) {
                _ if entry.node.value == Value::Null => {}
                Some(property) => self.check(&entry.node, property, &at),
                None if schema["additionalProperties"].is_object() => {
                    self.check(&entry.node, &schema["additionalProperties"], &at);
                }
                None => self.unknown_field(entry, schema, &at),
            }
        }
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
        {
            let entry = entries.iter().find(|entry| entry.key == name);
            let (got, at) = match entry {
                Some(entry) if entry.node.value != Value::Null => continue,
                Some(_) => ("has no value", at.field(name)),
                None => ("is missing", at.clone()),
            };
            let property = resolve(&schema["properties"][name]);
            let finding = Finding {
                message: format!("`{name}` {got}"),
                label: format!("expected {} as `{name}`", describe(property)),
                fix: format!("add `{name}: …`: {}", summary(&schema["properties"][name])),
                also: None,
            };
            self.error(&codes::MISSING_FIELD, &at, finding);
        }
    }

    fn unknown_field(&mut self, entry: &Entry, schema: &Json, at: &At) {
        let known: Vec<&str> = schema["properties"]
            .as_object()
            .into_iter()
            .flat_map(|map| map.keys())
            .map(String::as_str)
            .collect();
        let near = alias(&entry.key)
            .filter(|alias| known.contains(alias))
            .or_else(|| suggest::nearest(&entry.key, known.iter().copied()));
        let fix = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "remove it, or move it to where it belongs".to_owned(),
        };
        let label = format!("expected one of {}", list(&known));
        self.key_error(
            &codes::UNKNOWN_FIELD,
            at,
            entry,
            format!("there is no field `{}` here", entry.key),
            label,
            fix,
        );
    }

    fn choice(&mut self, node: &Node, choices: &[&str], at: &At) {
        let got = match &node.value {
            Value::Text(text) if choices.contains(&text.as_str()) => return,
            Value::Text(text) => text.clone(),
            _ => String::new(),
        };
        let fix = match suggest::nearest(&got, choices.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write {}", list(choices)),
        };
        let finding = Finding {
            message: format!("expected {}, got {}", list(choices), got_words(node)),
            label: "not one of them".to_owned(),
            fix,
            also: None,
        };
        self.error(&codes::BAD_CHOICE, at, finding);
    }

    fn wrong_type(&mut self, node: &Node, schema: &Json, at: &At) {
        let expected = describe(schema);
        let wants = |name: &str| {
            schema["type"] == name
                || schema["type"]
                    .as_array()
                    .is_some_and(|types| types.iter().any(|t| t == name))
        };
        let fix = match &node.value {
            Value::Bool(_) | Value::Int(_) | Value::Float(_) if wants("string") => {
                "put quotes round it".to_owned()
            }
            Value::Text(text) if wants("integer") && text.parse::<u32>().is_ok() => {
                "remove the quotes".to_owned()
            }
            Value::Map(_) | Value::List(_) if !wants("array") && !wants("object") => {
                "write one value".to_owned()
            }
            Value::List(_) | Value::Map(_) if wants("array") => {
                "begin each element with a dash: `- …`".to_owned()
            }
            _ if wants("array") => "write it as a list: `[…]`".to_owned(),
            _ => format!("write {expected}"),
        };
        let message = format!("expected {expected}, got {}", got_words(node));
        let finding = Finding {
            message,
            label: format!("expected {expected}"),
            fix,
            also: None,
        };
        self.error(&codes::WRONG_TYPE, at, finding);
    }

    fn bounds(&mut self, number: i128, schema: &Json, at: &At) {
        let bound = |name| schema[name].as_i64().map(i128::from);
        let low = bound("minimum").is_some_and(|least| number < least);
        let high = bound("maximum").is_some_and(|most| number > most);
        if low || high {
            let expected = describe(schema);
            let finding = Finding {
                message: format!("expected {expected}, got {number}"),
                label: format!("too {}", if low { "small" } else { "large" }),
                fix: format!("choose {expected}"),
                also: None,
            };
            self.error(&codes::OUT_OF_RANGE, at, finding);
        }
    }

    fn error(&mut self, code: &'static adit_flow::Code, at: &At, finding: Finding<'_>) {
        self.faults += 1;
        self.findings.error(code, at, finding);
    }

    fn key_error(
        &mut self,
        code: &'static adit_flow::Code,
        at: &At,
        entry: &Entry,
        message: String,
        label: String,
        fix: String,
    ) {
        self.faults += 1;
        self.findings.error_on(
            code,
            at,
            entry.key_span.clone(),
            Finding {
                message,
                label,
                fix,
                also: None,
            },
        );
    }
}

/// Follows references to the schema's definitions.
fn resolve(schema: &'static Json) -> &'static Json {
    match schema
        .get("$ref")
        .and_then(Json::as_str)
        .and_then(|target| target.strip_prefix('#'))
    {
        Some(pointer) => SCHEMA.pointer(pointer).map_or(schema, resolve),
        None => schema,
    }
}

/// The values of an enumeration; `None` if the schema isn't one.
fn choices(schema: &Json) -> Option<Vec<&str>> {
    let constant = |option: &'_ Json| option.get("const").and_then(Json::as_str).is_some();
    if let Some(options) = schema
        .get("oneOf")
        .and_then(Json::as_array)
        .filter(|options| options.iter().all(constant))
    {
        return Some(
            options
                .iter()
                .filter_map(|option| option["const"].as_str())
                .collect(),
        );
    }
    let values = schema.get("enum").and_then(Json::as_array)?;
    Some(values.iter().filter_map(Json::as_str).collect())
}

fn has_type(node: &Node, schema: &Json) -> bool {
    let name = match node.value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Int(_) => "integer",
        Value::Float(_) => "number",
        Value::Text(_) => "string",
        Value::List(_) => "array",
        Value::Map(_) => "object",
    };
    match &schema["type"] {
        Json::Array(types) => types.iter().any(|known| known == name),
        known => known == name,
    }
}

/// What a schema wants, in words that fit behind "expected".
fn describe(schema: &Json) -> String {
    if let Some(choices) = choices(schema) {
        return list(&choices);
    }
    if let Some(any) = schema.get("anyOf").and_then(Json::as_array) {
        let real: Vec<String> = any
            .iter()
            .filter(|option| option["type"] != "null")
            .map(describe_reference)
            .collect();
        return real.join(" or ");
    }
    let kind = match &schema["type"] {
        Json::Array(types) => types.iter().find(|name| *name != "null").unwrap_or(&Json::Null),
        kind => kind,
    };
    match kind.as_str() {
        Some("integer") => match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
            (Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
            (Some(least), None) => format!("a whole number from {least}"),
            _ => "a whole number".to_owned(),
        },
        Some("string") => "text".to_owned(),
        Some("array") => "a list".to_owned(),
        Some("object") => "a mapping of fields".to_owned(),
        _ => "another value".to_owned(),
    }
}

fn describe_reference(schema: &Json) -> String {
    match schema
        .get("$ref")
        .and_then(Json::as_str)
        .and_then(|target| SCHEMA.pointer(target.strip_prefix('#')?))
    {
        Some(target) => describe(target),
        None => describe(schema),
    }
}

/// The first sentence of a field's documentation.
fn summary(schema: &Json) -> String {
    let text = schema["description"]
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ");
    let end = text.find(". ").unwrap_or(text.len());
    text[..end].trim_end_matches('.').to_lowercase_first()
}

trait LowercaseFirst {
    fn to_lowercase_first(&self) -> String;
}

impl LowercaseFirst for str {
    fn to_lowercase_first(&self) -> String {
        let mut chars = self.chars();
        chars
            .next()
            .map(|first| first.to_lowercase().chain(chars).collect())
            .unwrap_or_default()
    }
}

/// What stands there, in words that fit behind "got".
fn got_words(node: &Node) -> String {
    match &node.value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Int(value) => format!("the number {value}"),
        Value::Float(value) => format!("the number {value}"),
        Value::Text(value) => format!("the text {:?}", shorten(value)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping of fields".to_owned(),
    }
}

/// At most 40 characters of a text, for messages.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `a`, `b` or `c`, in backquotes.
pub(crate) fn list<T: AsRef<str>>(words: &[T]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}

/// The field that people mean by a word of another tool's.
fn alias(word: &str) -> Option<&'static str> {
    Some(match word {
        "serviceAccount" | "sa" => "serviceAccountName",
        "node" => "nodeName",
        "environment" => "env",
        "cwd" | "workdir" => "workingDir",
        "restart" => "restartPolicy",
        "readiness" | "livenessProbe" | "startupProbe" | "healthcheck" => "readinessProbe",
        "arguments" => "args",
        "scale" | "count" => "replicas",
        "number" => "containerPort",
        "ns" => "namespace",
        _ => return None,
    })
}
