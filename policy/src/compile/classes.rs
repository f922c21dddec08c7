//! Classes of endpoints and the selectors that match them, each kept up to date as the other changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::chunked::Chunked;
use super::extent::Extent;
use super::ids::Ids;
use super::index::{TermIndex, demanded, offered};
use crate::inventory::Endpoint;
use crate::selector::EndpointSelector;

/// Endpoints, selectors, and which selector matches which endpoint.
#[derive(Debug, Default)]
pub(super) struct Matching {
    class_ids: HashMap<Arc<Endpoint>, u32>,
    classes: HashMap<u32, ClassRecord>,
    free_classes: Ids,
    class_index: TermIndex,
    selector_ids: HashMap<Arc<EndpointSelector>, u32>,
    selectors: HashMap<u32, SelectorRecord>,
    free_selectors: Ids,
    selector_index: TermIndex,
}

#[derive(Debug)]
struct ClassRecord {
    endpoint: Arc<Endpoint>,
    /// How many pods (or sets) are of it.
    members: u32,
    terms: Vec<u64>,
}

#[derive(Debug)]
struct SelectorRecord {
    selector: Arc<EndpointSelector>,
    /// How many times policies refer to it.
    references: u32,
    terms: Vec<u64>,
    /// The policies whose subject it is.
    subject_of: BTreeSet<u32>,
}

/// A class that a new member made.
pub(super) struct Joined {
    pub(super) class: u32,
    /// The policies that select it; `None` if the class was there already.
    pub(super) selected_by: Option<Vec<u32>>,
}

impl Matching {
    /// Counts one more member of the class of `endpoint`, and makes the class if there is none.
    pub(super) fn join(&mut self, endpoint: Endpoint, extents: &mut Chunked<Extent>) -> Joined {
        if let Some(class) = self.class_ids.get(&endpoint).copied() {
            if let Some(record) = self.classes.get_mut(&class) {
                record.members += 1;
            }
            return Joined {
                class,
                selected_by: None,
            };
        }
        let class = self.free_classes.take();
        let endpoint = Arc::new(endpoint);
        let terms = offered(&endpoint);
        let mut selected_by = Vec::new();
        for id in self.selector_index.candidates(&terms) {
            let record = &self.selectors[&id];
            if record.selector.matches(&endpoint) {
                extents.entry(id).insert(class);
                selected_by.extend(&record.subject_of);
            }
        }
        self.class_index.insert(&terms, class);
        self.class_ids.insert(Arc::clone(&endpoint), class);
        self.classes.insert(
            class,
            ClassRecord {
                endpoint,
                members: 1,
                terms,
            },
        );
        Joined {
            class,
            selected_by: Some(selected_by),
        }
    }

    /// Counts one member less. Returns whether that was the last: the class is gone then and its id is free.
    pub(super) fn leave(&mut self, class: u32, extents: &mut Chunked<Extent>) -> bool {
        let Some(record) = self.classes.get_mut(&class) else {
            return false;
        };
        record.members -= 1;
        if record.members > 0 {
            return false;
        }
        if let Some(record) = self.classes.remove(&class) {
            for id in self.selector_index.candidates(&record.terms) {
                if extents.get(id).is_some_and(|extent| extent.contains(class)) {
                    extents.entry(id).remove(class);
                }
            }
            self.class_index.remove(&record.terms, class);
            self.class_ids.remove(&record.endpoint);
        }
        self.free_classes.give_back(class);
        true
    }

    /// Counts one more reference to `selector`, and finds whom it matches if it is new.
    pub(super) fn refer(&mut self, selector: &EndpointSelector, extents: &mut Chunked<Extent>) -> u32 {
        if let Some(id) = self.selector_ids.get(selector).copied() {
            if let Some(record) = self.selectors.get_mut(&id) {
                record.references += 1;
            }
            return id;
        }
        let id = self.free_selectors.take();
        let selector = Arc::new(selector.clone());
        let terms = demanded(&selector);
        let matched = self
            .class_index
            .candidates(&terms)
            .into_iter()
            .filter(|class| selector.matches(&self.classes[class].endpoint))
            .collect::<Vec<_>>();
        *extents.entry(id) = Extent::from_sorted(&matched);
        self.selector_index.insert(&terms, id);
        self.selector_ids.insert(Arc::clone(&selector), id);
        self.selectors.insert(
            id,
            SelectorRecord {
                selector,
                references: 1,
                terms,
                subject_of: BTreeSet::new(),
            },
        );
        id
    }

    /// Counts one reference less; a selector that nobody refers to is forgotten.
    pub(super) fn release(&mut self, id: u32, extents: &mut Chunked<Extent>) {
        let Some(record) = self.selectors.get_mut(&id) else {
            return;
        };
        record.references -= 1;
        if record.references > 0 {
            return;
        }
        if let Some(record) = self.selectors.remove(&id) {
            self.selector_index.remove(&record.terms, id);
            self.selector_ids.remove(&record.selector);
        }
        *extents.entry(id) = Extent::default();
        self.free_selectors.give_back(id);
    }

    /// Notes that the selector is the subject of a policy, so that new classes learn of it.
    pub(super) fn set_subject(&mut self, selector: u32, policy: u32) {
        if let Some(record) = self.selectors.get_mut(&selector) {
            record.subject_of.insert(policy);
        }
    }

    /// Takes back [`Matching::set_subject`].
    pub(super) fn clear_subject(&mut self, selector: u32, policy: u32) {
        if let Some(record) = self.selectors.get_mut(&selector) {
            record.subject_of.remove(&policy);
        }
    }

    /// Whether the class stands for pods: only those have policies.
    pub(super) fn is_pod(&self, class: u32) -> bool {
        self.classes
            .get(&class)
            .is_some_and(|record| record.endpoint.is_pod())
    }
}
