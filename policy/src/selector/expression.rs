use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Labels of one object, as a selector sees them.
pub trait Labels {
    /// The value of `key`; `None` where the object doesn't have the label. An empty value is a value.
    fn value(&self, key: &str) -> Option<&str>;

    /// Whether the object is in a namespace: what `all()` and `global()` ask in a namespace selector.
    fn is_namespaced(&self) -> bool {
        true
    }
}

impl Labels for BTreeMap<String, String> {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// A selector over labels. Both grammars become this tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Expression {
    /// `all()`, and the empty Kubernetes selector. In a namespace selector: any object that is in a namespace.
    All,
    /// All of these hold.
    And(Box<[Self]>),
    /// The label is there and contains the text.
    Contains(Arc<str>, Arc<str>),
    /// The label is there and ends with the text.
    EndsWith(Arc<str>, Arc<str>),
    /// The label is there and has the value.
    Equals(Arc<str>, Arc<str>),
    /// `global()`: any object that is in no namespace.
    Global,
    /// The label is there.
    Has(Arc<str>),
    /// The label is there and has one of the values (sorted).
    In(Arc<str>, Box<[Arc<str>]>),
    /// It doesn't hold.
    Not(Box<Self>),
    /// The label is absent or has another value.
    NotEquals(Arc<str>, Arc<str>),
    /// The label is absent or has none of the values (sorted).
    NotIn(Arc<str>, Box<[Arc<str>]>),
    /// At least one of these holds.
    Or(Box<[Self]>),
    /// The label is there and starts with the text.
    StartsWith(Arc<str>, Arc<str>),
}

impl Expression {
    /// Whether the expression holds for `labels`.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let is = |key: &str, test: &dyn Fn(&str) -> bool| labels.value(key).is_some_and(test);
        match self {
            Self::All => labels.is_namespaced(),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Contains(key, text) => is(key, &|value| value.contains(&**text)),
            Self::EndsWith(key, text) => is(key, &|value| value.ends_with(&**text)),
            Self::Equals(key, expected) => is(key, &|value| value == &**expected),
            Self::Global => !labels.is_namespaced(),
            Self::Has(key) => labels.value(key).is_some(),
            Self::In(key, values) => is(key, &|value| has(values, value)),
            Self::Not(part) => !part.matches(labels),
            Self::NotEquals(key, other) => !is(key, &|value| value == &**other),
            Self::NotIn(key, values) => !is(key, &|value| has(values, value)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(labels)),
            Self::StartsWith(key, text) => is(key, &|value| value.starts_with(&**text)),
        }
    }

    /// All of `parts`; none is [`Expression::All`], one is itself.
    pub fn all_of(mut parts: Vec<Self>) -> Self {
        match parts.len() {
            0 => Self::All,
            1 => parts.remove(0),
            _ => Self::And(parts.into_boxed_slice()),
        }
    }

    /// Whether `global()` stands anywhere in it.
    pub(crate) fn mentions_global(&self) -> bool {
        match self {
            Self::Global => true,
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::mentions_global),
            Self::Not(part) => part.mentions_global(),
            _ => false,
        }
    }

    /// A label of the object's own, and the values of which it must have one, if the expression implies so.
    pub(crate) fn required(&self) -> Option<(&str, &[Arc<str>])> {
        // Several may be required; the one with the fewest values leaves the fewest candidates.
        self.requirements()
            .into_iter()
            .filter(|(key, _)| !is_derived(key))
            .min_by_key(|(_, values)| values.len())
    }

    /// The values of which the object must have one under one of `keys`, if the expression implies so.
    pub(crate) fn required_of(&self, keys: &[&str]) -> Option<&[Arc<str>]> {
        self.requirements()
            .into_iter()
            .find(|(key, _)| keys.contains(key))
            .map(|(_, values)| values)
    }

    fn requirements(&self) -> Vec<(&str, &[Arc<str>])> {
        match self {
            Self::Equals(key, value) => vec![(key, std::slice::from_ref(value))],
            Self::In(key, values) => vec![(key, values)],
            Self::And(parts) => parts.iter().flat_map(Self::requirements).collect(),
            _ => Vec::new(),
        }
    }
}

/// Whether `key` may name a label that the object doesn't carry itself: Calico derives it from the object's
/// namespace or service account.
fn is_derived(key: &str) -> bool {
    ["projectcalico.org/", "pcns.", "pcsa."]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

fn has(sorted: &[Arc<str>], value: &str) -> bool {
    sorted
        .binary_search_by(|candidate| (**candidate).cmp(value))
        .is_ok()
}

/// In Calico's grammar, so that a reader can paste it into a policy.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::And(parts) => joined(f, parts, " && "),
            Self::Contains(key, text) => write!(f, "{key} contains {}", Quoted(text)),
            Self::EndsWith(key, text) => write!(f, "{key} ends with {}", Quoted(text)),
            Self::Equals(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::In(key, values) => write!(f, "{key} in {}", Braced(values)),
            Self::Not(part) => write!(f, "!({part})"),
            Self::NotEquals(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::NotIn(key, values) => write!(f, "{key} not in {}", Braced(values)),
            Self::Or(parts) => joined(f, parts, " || "),
            Self::StartsWith(key, text) => write!(f, "{key} starts with {}", Quoted(text)),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[Expression], separator: &str) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        match part {
            Expression::And(_) | Expression::Or(_) => write!(f, "({part})")?,
            _ => write!(f, "{part}")?,
        }
    }
    Ok(())
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The grammar has no escapes: a text can hold one kind of quote, never both.
        let quote = if self.0.contains('\'') { '"' } else { '\'' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Braced<'a>(&'a [Arc<str>]);

impl fmt::Display for Braced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, value) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{}", Quoted(value))?;
        }
        f.write_str("}")
    }
}
