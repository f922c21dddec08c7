//! YAML as a tree that knows where each of its nodes stands in the text.
//!
//! Deserialising straight into the file's types would stop at the first fault; a tree lets every fault be found.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

/// A value and the bytes of the text that it stands in.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Range<usize>,
}

/// What a node is. Numbers and booleans are those of YAML 1.2's core schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping, in the order of the text. Keys may repeat.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) node: Node,
}

/// A text that is not one YAML document.
#[derive(Clone, Debug)]
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    pub(crate) offset: Option<usize>,
}

/// Where something is in the tree, from the root: `workloads[0].ports[1].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct At(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
}

impl At {
    /// The field `name` of what's here.
    pub(crate) fn field(&self, name: &str) -> Self {
        self.with(Step::Field(name.to_owned()))
    }

    /// The element `index` of the list that's here.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Field(name) if !name.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                    write!(f, "[{name:?}]")?
                }
                Step::Field(name) if position == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

impl Node {
    /// Reads one YAML document.
    ///
    /// # Errors
    /// Text that isn't YAML, more than one document, or more of something than the parser's budget allows:
    /// depth, nodes, aliases.
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let options = serde_saphyr::options! {
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            strict_booleans: true,
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options::<Self>(text, options).map_err(|error| {
            let error = error.without_snippet();
            let message = match error {
                serde_saphyr::Error::MultipleDocuments { .. } => "a second document begins here".to_owned(),
                error => error.to_string(),
            };
            // The place is shown beside the text.
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            SyntaxError {
                message,
                offset: error.location().map(|location| offset(text, location)),
            }
        })
    }

    /// The span of the node at `at`, or of the nearest one above it that exists.
    pub(crate) fn span_of(&self, at: &At) -> Range<usize> {
        let nearest = (0..=at.0.len())
            .rev()
            .find_map(|len| self.node(&At(at.0[..len].to_vec())));
        nearest.unwrap_or(self).span.clone()
    }

    fn node(&self, at: &At) -> Option<&Self> {
        at.0.iter()
            .try_fold(self, |node, step| match (step, &node.value) {
                (Step::Field(name), Value::Map(entries)) => entries
                    .iter()
                    .find(|entry| entry.key == *name)
                    .map(|entry| &entry.node),
                (Step::Index(index), Value::List(items)) => items.get(*index),
                _ => None,
            })
    }

    /// The span of the key of the field at `at`, or of the nearest node above it that exists.
    pub(crate) fn key_span_of(&self, at: &At) -> Range<usize> {
        let above = At(at.0[..at.0.len().saturating_sub(1)].to_vec());
        let entry = match (at.0.last(), self.node(&above).map(|node| &node.value)) {
            (Some(Step::Field(name)), Some(Value::Map(entries))) => {
                entries.iter().find(|entry| entry.key == *name)
            }
            _ => None,
        };
        entry.map_or_else(|| self.span_of(at), |entry| entry.key_span.clone())
    }

    /// The same without positions. Of a repeated key the last value stays.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => value.into(),
                (_, Ok(value)) => value.into(),
                _ => Json::String(value.to_string()),
            },
            Value::Float(value) => (*value).into(),
            Value::Text(value) => Json::String(value.clone()),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                // An empty value is an absent one, as in Kubernetes.
                let present = entries.iter().filter(|entry| entry.node.value != Value::Null);
                Json::Object(
                    present
                        .map(|entry| (entry.key.clone(), entry.node.to_json()))
                        .collect(),
                )
            }
        }
    }
}

impl PartialEq for Node {
    /// Equal in value, wherever they stand.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned {
            value, referenced, ..
        } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            value,
            span: range(referenced),
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

fn range(location: Location) -> Range<usize> {
    let span = location.span();
    let start = span.byte_offset().unwrap_or(0) as usize;
    start..start + span.byte_len().unwrap_or(0) as usize
}

/// The byte at a location: the scanner's own errors have only a line and a column, both counted from 1.
fn offset(text: &str, location: Location) -> usize {
    if let Some(offset) = location.span().byte_offset() {
        return offset as usize;
    }
    let line = text
        .split_inclusive('\n')
        .take(location.line().saturating_sub(1) as usize)
        .map(str::len)
        .sum();
    let column = text[line..]
        .char_indices()
        .nth(location.column().saturating_sub(1) as usize);
    column.map_or(text.len(), |(column, _)| line + column)
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key_span = range(key.referenced);
            entries.push(Entry {
                key: key.value,
                key_span,
                node: map.next_value()?,
            });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_bytes() {
        let text = "a: é x\nb:\n- 1\n- {c: true}\n- no\n- \"7\"\n";
        let root = Node::parse(text).unwrap();
        let span = |at: &At| &text[root.span_of(at)];
        assert_eq!(span(&At::default().field("a")), "é x");
        assert_eq!(span(&At::default().field("b").index(0)), "1");
        assert_eq!(span(&At::default().field("b").index(1)), "{");
        assert_eq!(&text[root.key_span_of(&At::default().field("b"))], "b");
        assert_eq!(span(&At::default().field("b").index(1).field("c")), "true");
    }
}
