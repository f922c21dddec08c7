//! Which identities have pods on which node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use adit_identity::{SpiffeId, TrustDomain};
use kube::Client;
use tokio::sync::{mpsc, watch};

use crate::kubernetes::health::Record;
use crate::kubernetes::kind::{Kind, PODS};
use crate::kubernetes::list_watch::{Change, Item, Watcher, What};
use crate::kubernetes::object::{self, Key, Malformed, Placed};

/// Changes that wait. When it's full the watch waits, and the API server with it.
const MAX_CHANGES: usize = 1024;

/// The pods that have a node and haven't ended, with or without addresses: an SVID is asked for before a pod has any.
#[derive(Debug, Default)]
pub(super) struct Placement {
    is_listed: bool,
    pods: HashMap<Key, Placed>,
    nodes: HashMap<Arc<str>, Arc<str>>,
    /// How many pods of an identity a node has.
    counts: HashMap<(Arc<str>, SpiffeId), usize>,
}

impl Placement {
    /// Whether all pods are known.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Whether `node` has a pod of `id`.
    pub(super) fn has(&self, node: &str, id: &SpiffeId) -> bool {
        self.counts.contains_key(&(node.into(), id.clone()))
    }

    /// The node of the pod with this uid.
    pub(super) fn node_of(&self, uid: &str) -> Option<&str> {
        self.nodes.get(uid).map(|node| &**node)
    }

    fn apply(&mut self, what: What<Placed>) {
        match what {
            What::Changed(item) => self.put(item),
            What::Listed(items) => {
                let mut gone: BTreeSet<Key> = self.pods.keys().cloned().collect();
                for item in &items {
                    gone.remove(&item.key);
                }
                let gone = gone.into_iter().map(|key| Item { key, object: None });
                for item in gone.chain(items) {
                    self.put(item);
                }
                self.is_listed = true;
            }
        }
    }

    fn put(&mut self, item: Item<Placed>) {
        if let Some(before) = self.pods.remove(&item.key) {
            self.nodes.remove(&before.uid);
            let place = (before.node, before.identity);
            if let Some(count) = self.counts.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&place);
                }
            }
        }
        if let Some(placed) = item.object {
            let place = (Arc::clone(&placed.node), placed.identity.clone());
            *self.counts.entry(place).or_default() += 1;
            self.nodes
                .insert(Arc::clone(&placed.uid), Arc::clone(&placed.node));
            self.pods.insert(item.key, placed);
        }
    }
}

/// Watches pods into `placement`, until nobody reads it.
pub(super) async fn follow(
    client: Client,
    trust_domain: TrustDomain,
    health: Arc<Record>,
    placement: watch::Sender<Placement>,
) {
    let (changes, mut incoming) = mpsc::channel::<Change<Placed>>(MAX_CHANGES);
    let watcher = Watcher {
        client,
        kind: PODS,
        trust_domain,
        health,
        changes,
        read,
    };
    let collect = async {
        while let Some(change) = incoming.recv().await {
            placement.send_modify(|placement| placement.apply(change.what));
        }
    };
    tokio::select! {
        () = watcher.run() => {}
        () = collect => {}
        () = placement.closed() => {}
    }
}

fn read(_: Kind, json: &str, trust_domain: &TrustDomain) -> Result<Option<Placed>, Malformed> {
    object::placed(json, trust_domain)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn item(name: &str, uid: &str, node: &str, account: &str) -> Item<Placed> {
        let key: Key = name.parse().unwrap();
        let id = format!("spiffe://demo.local/ns/{}/sa/{account}", key.namespace);
        Item {
            object: Some(Placed {
                uid: uid.into(),
                node: node.into(),
                identity: id.parse().unwrap(),
            }),
            key,
        }
    }

    /// Pods by name, uid, node and account, all that there are.
    pub(in super::super) fn placement(pods: &[(&str, &str, &str, &str)]) -> Placement {
        let mut placement = Placement::default();
        let items = pods
            .iter()
            .map(|(name, uid, node, account)| item(name, uid, node, account));
        placement.apply(What::Listed(items.collect()));
        placement
    }

    #[test]
    fn a_node_has_an_identity_as_long_as_it_has_one_of_its_pods() {
        let id = "spiffe://demo.local/ns/shop/sa/web".parse().unwrap();
        let mut placement = placement(&[("shop/a", "1", "one", "web"), ("shop/b", "2", "one", "web")]);
        let gone = |name: &str| {
            What::Changed(Item {
                key: name.parse().unwrap(),
                object: None,
            })
        };
        assert!(placement.has("one", &id) && !placement.has("two", &id));
        placement.apply(gone("shop/a"));
        assert!(placement.has("one", &id));
        // The same pod once more, on another node and of another uid.
        placement.apply(What::Changed(item("shop/b", "3", "two", "web")));
        assert!(!placement.has("one", &id) && placement.has("two", &id));
        assert_eq!(
            (placement.node_of("2"), placement.node_of("3")),
            (None, Some("two"))
        );
        placement.apply(What::Listed(Vec::new()));
        assert!(!placement.has("two", &id) && placement.node_of("3").is_none());
    }
}
