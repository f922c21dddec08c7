//! Counts of connections from other nodes, up to the moment when a worker has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the first bytes of a connection said of the pod that it's for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peeked {
    /// A ClientHello that names a pod, or something else.
    Named(String),
    /// A ClientHello without a name.
    Nameless,
    /// No ClientHello, or one longer than is looked at.
    NotTls,
    /// The bytes didn't come in time, or the connection broke.
    Slow,
    /// Too many others were awaited.
    Unseen,
}

/// Counted by the listener, read for `adit dump`.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    awaited: AtomicU64,
    closed: AtomicU64,
    by_hello: [AtomicU64; Peeked::LABELS.len()],
}

/// A connection whose first bytes are awaited; counted as long as this lives.
#[derive(Debug)]
pub(super) struct Awaited(Arc<Arrivals>);

impl Peeked {
    const LABELS: [&str; 5] = ["named", "nameless", "not-tls", "slow", "unseen"];

    fn index(&self) -> usize {
        match self {
            Self::Named(_) => 0,
            Self::Nameless => 1,
            Self::NotTls => 2,
            Self::Slow => 3,
            Self::Unseen => 4,
        }
    }
}

impl Arrivals {
    /// A connection's first bytes are awaited from now on.
    pub(super) fn awaiting(self: &Arc<Self>) -> Awaited {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        Awaited(Arc::clone(self))
    }

    /// A connection is handed to a worker, after this was seen of it.
    pub(super) fn peeked(&self, peeked: &Peeked) {
        self.by_hello[peeked.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was closed because no worker could take it.
    pub(super) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds these counts to `into`, under the names that metrics use.
    pub(super) fn collect(&self, into: &mut BTreeMap<String, u64>) {
        let mut add = |name: String, counter: &AtomicU64| {
            into.insert(name, counter.load(Ordering::Relaxed));
        };
        for (label, counter) in Peeked::LABELS.iter().zip(&self.by_hello) {
            add(format!("connections_accepted_total{{hello={label}}}"), counter);
        }
        add("connections_closed_total".to_owned(), &self.closed);
        add("hellos_awaited".to_owned(), &self.awaited);
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_arrival_is_counted_once_and_the_awaited_only_while_they_are() {
        let arrivals = Arc::new(Arrivals::default());
        let count = |name: &str| {
            let mut all = BTreeMap::new();
            arrivals.collect(&mut all);
            all[name]
        };
        let awaited = arrivals.awaiting();
        assert_eq!(count("hellos_awaited"), 1);
        drop(awaited);
        assert_eq!(count("hellos_awaited"), 0);
        for peeked in [Peeked::Named("web".into()), Peeked::Slow, Peeked::Slow] {
            arrivals.peeked(&peeked);
        }
        assert_eq!(count("connections_accepted_total{hello=named}"), 1);
        assert_eq!(count("connections_accepted_total{hello=slow}"), 2);
        assert_eq!(count("connections_accepted_total{hello=unseen}"), 0);
    }
}
