//! The JSON schema of the mesh file, made from its types, and the check of a document against it.
//!
//! One source decides what is published, what editors offer and what is accepted: the types in [`crate::file`].
//! The check knows the keywords that those types make use of, and a test fails if they come to use another.

mod words;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use adit_flow::Code;
use serde_json::Value as Json;

use crate::codes;
use crate::diagnostic::{Finding, Findings};
use crate::file::MeshFile;
use crate::suggest;
use crate::tree::{At, Entry, Node, Value};
use words::{alias, choices, describe, got_words, summary};
pub(crate) use words::{list, shorten};

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
        let mut seen = BTreeSet::new();
        for entry in entries {
            let at = at.field(&entry.key);
            if !seen.insert(&entry.key) {
                let finding = Finding {
                    message: format!("`{}` stands here a second time", shorten(&entry.key)),
                    label: "the second".to_owned(),
                    fix: "remove one of the two".to_owned(),
                    also: None,
                };
                self.key_error(&codes::DUPLICATE_FIELD, &at, entry, finding);
                continue;
            }
            match schema["properties"].get(&entry.key) {
                // An empty field is an absent one, as in Kubernetes; an empty label is a mistake.
                Some(_) if entry.node.value == Value::Null => {}
                Some(property) => self.check(&entry.node, property, &at),
                None if schema["additionalProperties"].is_object() => {
                    self.check(&entry.node, &schema["additionalProperties"], &at);
                }
                None => self.unknown_field(entry, schema, &at),
            }
        }
        self.required(entries, schema, at);
    }

    fn required(&mut self, entries: &[Entry], schema: &'static Json, at: &At) {
        let names = schema["required"].as_array().into_iter().flatten();
        for name in names.filter_map(Json::as_str) {
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
                fix: format!("add `{name}: …` ({})", summary(&schema["properties"][name])),
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
        let finding = Finding {
            message: format!("there is no field `{}` here", shorten(&entry.key)),
            label: format!("expected one of {}", list(&known)),
            fix,
            also: None,
        };
        self.key_error(&codes::UNKNOWN_FIELD, at, entry, finding);
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
            message: format!("expected {}, got {}", list(choices), self.got(node)),
            label: "not one of them".to_owned(),
            fix,
            also: None,
        };
        self.error(&codes::BAD_CHOICE, at, finding);
    }

    fn wrong_type(&mut self, node: &Node, schema: &'static Json, at: &At) {
        let expected = describe(schema);
        let wants = |name: &str| {
            schema["type"] == name
                || schema["type"]
                    .as_array()
                    .is_some_and(|types| types.iter().any(|t| t == name))
        };
        let fix = match &node.value {
            Value::Null if wants("string") => "write `\"\"` for an empty text".to_owned(),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) if wants("string") => {
                format!("put quotes round it: {:?}", self.scalar(node))
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
        let message = format!("expected {expected}, got {}", self.got(node));
        let finding = Finding {
            message,
            label: format!("expected {expected}"),
            fix,
            also: None,
        };
        self.error(&codes::WRONG_TYPE, at, finding);
    }

    /// A number or a boolean as it is written: 1.10 is not 1.1, and yes is not true.
    fn scalar(&self, node: &Node) -> String {
        self.findings.report.source(&node.span).to_owned()
    }

    fn got(&self, node: &Node) -> String {
        got_words(node, &self.scalar(node))
    }

    fn bounds(&mut self, number: i128, schema: &'static Json, at: &At) {
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

    fn error(&mut self, code: &'static Code, at: &At, finding: Finding<'_>) {
        self.faults += 1;
        self.findings.error(code, at, finding);
    }

    fn key_error(&mut self, code: &'static Code, at: &At, entry: &Entry, finding: Finding<'_>) {
        self.faults += 1;
        self.findings.error_on(code, at, entry.key_span.clone(), finding);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Words that the check acts on, and those that are there for readers and editors.
    const KNOWN: [&str; 19] = [
        "$defs",
        "$id",
        "$ref",
        "$schema",
        "additionalProperties",
        "anyOf",
        "const",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maximum",
        "minimum",
        "oneOf",
        "properties",
        "required",
        "title",
        "type",
    ];

    fn keywords(schema: &'static Json, found: &mut Vec<&'static str>) {
        let Some(object) = schema.as_object() else {
            return;
        };
        for (word, value) in object {
            found.push(word);
            match value {
                Json::Object(named) if matches!(word.as_str(), "$defs" | "properties") => {
                    named.values().for_each(|schema| keywords(schema, found));
                }
                Json::Object(_) => keywords(value, found),
                Json::Array(options) => options.iter().for_each(|schema| keywords(schema, found)),
                _ => {}
            }
        }
    }

    #[test]
    fn the_check_knows_every_keyword_of_the_schema() {
        let mut found = Vec::new();
        keywords(&SCHEMA, &mut found);
        for word in found {
            assert!(
                KNOWN.contains(&word),
                "the schema uses {word:?}, which the check would ignore"
            );
        }
    }

    #[test]
    fn every_field_is_described() {
        let definitions = SCHEMA["$defs"].as_object().unwrap().values().chain([&*SCHEMA]);
        for (name, field) in
            definitions.flat_map(|schema| schema["properties"].as_object().into_iter().flatten())
        {
            assert!(!summary(field).is_empty(), "{name} has no description");
        }
    }
}
