//! Schemas and values in the words of a message.

use serde_json::Value as Json;

use super::resolve;
use crate::tree::{Node, Value};

/// The values of an enumeration; `None` if the schema isn't one.
pub(super) fn choices(schema: &Json) -> Option<Vec<&str>> {
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

/// What a schema wants, in words that fit behind "expected".
pub(super) fn describe(schema: &'static Json) -> String {
    if let Some(choices) = choices(schema) {
        return list(&choices);
    }
    if let Some(any) = schema.get("anyOf").and_then(Json::as_array) {
        let real: Vec<String> = any
            .iter()
            .filter(|option| option["type"] != "null")
            .map(|option| describe(resolve(option)))
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

/// The first sentence of a field's documentation, to stand inside another sentence.
pub(super) fn summary(schema: &Json) -> String {
    let text = schema["description"]
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ");
    let end = text.find(". ").unwrap_or(text.len());
    let sentence = text[..end].trim_end_matches('.');
    let mut chars = sentence.chars();
    chars
        .next()
        .map(|first| first.to_lowercase().chain(chars).collect())
        .unwrap_or_default()
}

/// What stands there, in words that fit behind "got": `written` is the text of a number or a boolean.
pub(super) fn got_words(node: &Node, written: &str) -> String {
    match &node.value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) => format!("the boolean {written}"),
        Value::Int(_) | Value::Float(_) => format!("the number {written}"),
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

/// `a`, `b` or `c`, in backquotes; of more than twenty the first are named and the others counted.
pub(crate) fn list<T: AsRef<str>>(words: &[T]) -> String {
    const NAMED: usize = 20;
    let mut named: Vec<String> = words
        .iter()
        .take(NAMED)
        .map(|word| format!("`{}`", word.as_ref()))
        .collect();
    if words.len() > NAMED {
        named.push(format!("{} others", words.len() - NAMED));
    }
    match named.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}

/// The field that people mean by a word of another tool's.
pub(super) fn alias(word: &str) -> Option<&'static str> {
    Some(match word {
        "serviceAccount" | "sa" => "serviceAccountName",
        "node" => "nodeName",
        "environment" => "env",
        "cwd" | "workdir" => "workingDir",
        "restart" => "restartPolicy",
        "readiness" | "livenessProbe" | "startupProbe" | "healthcheck" => "readinessProbe",
        "arguments" => "args",
        "scale" | "count" => "replicas",
        "number" | "port" => "containerPort",
        "target" => "targetPort",
        "ns" => "namespace",
        _ => return None,
    })
}
