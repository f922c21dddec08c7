//! Finding the classes that a selector may match, and the selectors that may match a class, without trying all.
//!
//! Most selectors demand a namespace, a label with a certain value, or both. Each demand is a *term*; a class offers
//! the terms of its namespace and labels. A selector is filed under the terms it demands, a class under those it
//! offers, and only pairs that share one are evaluated. Terms are hashes: a collision costs an evaluation, no more.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::inventory::Endpoint;
use crate::selector::{EndpointSelector, NamespaceScope};

/// Ids by term.
#[derive(Clone, Debug, Default)]
pub(super) struct TermIndex {
    ids: HashMap<u64, Vec<u32>>,
}

impl TermIndex {
    pub(super) fn insert(&mut self, terms: &[u64], id: u32) {
        for term in terms {
            self.ids.entry(*term).or_default().push(id);
        }
    }

    pub(super) fn remove(&mut self, terms: &[u64], id: u32) {
        for term in terms {
            if let Some(ids) = self.ids.get_mut(term) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.ids.remove(term);
                }
            }
        }
    }

    /// The ids filed under any of `terms`, ascending, each once.
    pub(super) fn candidates(&self, terms: &[u64]) -> Vec<u32> {
        let mut out: Vec<u32> = terms
            .iter()
            .filter_map(|term| self.ids.get(term))
            .flatten()
            .copied()
            .collect();
        out.sort_unstable();
        out.dedup();
        out
    }
}

fn term(namespace: Option<&str>, label: Option<(&str, &str)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (namespace, label).hash(&mut hasher);
    hasher.finish()
}

/// The terms that an endpoint offers: with and without its namespace, with each label and with none.
pub(super) fn offered(endpoint: &Endpoint) -> Vec<u64> {
    let own = endpoint.namespace.as_ref().map(|namespace| &*namespace.name);
    let labels = || {
        endpoint
            .labels
            .iter()
            .map(|(key, value)| Some((key.as_str(), value.as_str())))
    };
    let mut terms = Vec::with_capacity(2 * (endpoint.labels.len() + 1));
    for label in labels().chain([None]) {
        terms.push(term(None, label));
        if own.is_some() {
            terms.push(term(own, label));
        }
    }
    terms
}

/// A selector that names more namespaces and values than this is filed under fewer terms, for more candidates.
const TERM_LIMIT: usize = 32;

/// The terms of which an endpoint must offer one to be selected.
pub(super) fn demanded(selector: &EndpointSelector) -> Vec<u64> {
    let namespaces: Option<Vec<&str>> = match &selector.namespace {
        NamespaceScope::Anywhere => None,
        NamespaceScope::Named(name) => Some(vec![name]),
        NamespaceScope::Matching(expression) => expression
            .required_of(&["kubernetes.io/metadata.name", "projectcalico.org/name"])
            .map(|values| values.iter().map(|value| &**value).collect()),
    };
    let labels = selector
        .labels
        .as_ref()
        .and_then(|expression| expression.required());
    let mut label_terms: Vec<Option<(&str, &str)>> = match labels {
        Some((key, values)) => values.iter().map(|value| Some((key, &**value))).collect(),
        None => vec![None],
    };
    let mut namespace_terms: Vec<Option<&str>> =
        namespaces.map_or_else(|| vec![None], |names| names.into_iter().map(Some).collect());
    if label_terms.len() * namespace_terms.len() > TERM_LIMIT {
        if label_terms.len() > namespace_terms.len() {
            label_terms = vec![None];
        } else {
            namespace_terms = vec![None];
        }
    }
    let mut terms: Vec<u64> = namespace_terms
        .iter()
        .flat_map(|namespace| label_terms.iter().map(|label| term(*namespace, *label)))
        .collect();
    terms.sort_unstable();
    terms.dedup();
    terms
}
