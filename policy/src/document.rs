//! YAML and JSON texts to a tree that remembers where each part stood.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use crate::diagnostic::Position;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// What a [`Node`] holds: the types that YAML's core schema and JSON have in common.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A number with a fraction, or too large for an integer.
    Float(f64),
    /// A whole number.
    Integer(i64),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<(Key, Node)>),
    /// Nothing: `null`, `~` or no value at all.
    Null,
    /// A text.
    Text(String),
}

/// A key of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Where it stands.
    pub at: Position,
    /// The key.
    pub name: String,
}

/// A text that is neither YAML nor JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unreadable {
    /// Where it goes wrong.
    pub at: Position,
    /// What the parser says.
    pub reason: String,
}

/// Reads a text of one or more YAML documents; JSON is YAML. Empty documents are left out.
///
/// # Errors
/// [`Unreadable`] for a syntax error anywhere: what follows one can't be trusted to mean what it seems to.
pub fn read(text: &str) -> Result<Vec<Node>, Unreadable> {
    let options = serde_saphyr::options! { with_snippet: false };
    let documents =
        serde_saphyr::from_multiple_with_options::<Node>(text, options).map_err(|error| Unreadable {
            at: error.location().map_or_else(Position::default, position),
            reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
        })?;
    Ok(documents
        .into_iter()
        .filter(|node| node.value != Value::Null)
        .collect())
}

fn position(location: Location) -> Position {
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Position {
        line: small(location.line()),
        column: small(location.column()),
    }
}

/// A JSON value has no positions.
impl From<serde_json::Value> for Node {
    fn from(json: serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => number.as_i64().map_or_else(
                || Value::Float(number.as_f64().unwrap_or(f64::MAX)),
                Value::Integer,
            ),
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(Self::from).collect()),
            serde_json::Value::Object(fields) => Value::Map(
                fields
                    .into_iter()
                    .map(|(name, value)| {
                        let at = Position::default();
                        (Key { at, name }, Self::from(value))
                    })
                    .collect(),
            ),
        };
        Self {
            at: Position::default(),
            value,
        }
    }
}

impl Value {
    /// What it is, in the words of an error message.
    pub fn describe(&self) -> String {
        let cut = |text: &str| text.chars().take(60).collect::<String>();
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
            Self::Null => "nothing".to_owned(),
            Self::Text(text) => format!("{:?}", cut(text)),
        }
    }
}

impl Node {
    /// The value of a mapping's key, if this is a mapping that has it.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(fields) => fields
                .iter()
                .find(|(key, _)| key.name == name)
                .map(|(_, node)| node),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            at: position(spanned.referenced),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // Nothing in these APIs is that large; as a float it fails every check of range.
        Ok(i64::try_from(value).map_or(Value::Float(f64::MAX), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, node)) = access.next_entry::<Spanned<String>, Node>()? {
            let at = position(key.referenced);
            fields.push((Key { at, name: key.value }, node));
        }
        Ok(Value::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_the_text() {
        let nodes = read("a: 1\nb:\n  - x: ~\n    8080: 'yes'\n---\n---\nc: true\n").unwrap();
        assert_eq!(nodes.len(), 2);
        let item = match &nodes[0].get("b").unwrap().value {
            Value::List(items) => &items[0],
            other => panic!("{other:?}"),
        };
        assert_eq!(item.get("x").unwrap().value, Value::Null);
        let port = item.get("8080").unwrap();
        assert_eq!(
            (port.as_text(), port.at),
            (Some("yes"), Position { line: 4, column: 11 })
        );
        assert_eq!(nodes[1].get("c").unwrap().value, Value::Bool(true));
    }

    #[test]
    fn a_syntax_error_says_where() {
        let error = read("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.at.line >= 2, "{error:?}");
        assert!(
            read("a: 1\na: 2\n").is_err(),
            "a key given twice hides one of its values"
        );
    }

    #[test]
    fn json_is_read_alike() {
        let nodes = read(r#"{"a": [1, 2.5, null, "x"], "b": {}}"#).unwrap();
        let json: serde_json::Value = serde_json::from_str(r#"{"a": [1, 2.5, null, "x"], "b": {}}"#).unwrap();
        let strip = |node: &Node| format!("{:?}", node.get("a").unwrap().value.describe());
        assert_eq!(strip(&nodes[0]), strip(&Node::from(json)));
    }
}
