//! The policies and their places.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::chains::{Gates, Part, Standing};
use super::ids::Ids;
use crate::model::{
    ADMIN_TIER, BASELINE_TIER, Body, DEFAULT_TIER, DEFAULT_TIER_ORDER, Order, Policy, PolicyKey, Tier,
};
use crate::selector::NamespaceScope;
use crate::set::Compiled;

/// All policies by slot, and the tiers that order them.
#[derive(Debug)]
pub(super) struct Policies {
    slots: HashMap<PolicyKey, u32>,
    records: Vec<Option<Record>>,
    /// What each adds to chains.
    parts: Vec<Option<Part>>,
    free: Ids,
    tiers: BTreeMap<Arc<str>, Tier>,
    ranks: HashMap<Arc<str>, u32>,
    /// Whether a flow that a tier leaves undecided goes on, by rank.
    passing: Vec<bool>,
    /// The last stamp given.
    stamp: u64,
}

/// A policy and what the compiler must undo when it goes.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) policy: Arc<Policy>,
    pub(super) subject: u32,
    /// Every reference to a selector, the subject's included.
    pub(super) selectors: Vec<u32>,
    place: Place,
}

/// Where a policy stands among all.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    /// The tier's index; 0 is ahead of all tiers: policies whose tier doesn't exist. Istio's come last.
    rank: u32,
    order: Order,
    /// `name/namespace/kind`, which breaks ties as in Calico; a staged policy comes after its enforced twin.
    tie: String,
}

const MESH_RANK: u32 = u32::MAX;

impl Default for Policies {
    fn default() -> Self {
        let mut policies = Self {
            slots: HashMap::new(),
            records: Vec::new(),
            parts: Vec::new(),
            free: Ids::default(),
            tiers: BTreeMap::new(),
            ranks: HashMap::new(),
            passing: Vec::new(),
            stamp: 0,
        };
        policies.rank_tiers();
        policies
    }
}

impl Policies {
    pub(super) fn slot(&self, key: &PolicyKey) -> Option<u32> {
        self.slots.get(key).copied()
    }

    pub(super) fn record(&self, slot: u32) -> Option<&Record> {
        self.records.get(slot as usize)?.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &PolicyKey> {
        self.slots.keys()
    }

    pub(super) fn slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = self.slots.values().copied().collect();
        slots.sort_unstable();
        slots
    }

    /// The slot of a policy that is about to be filed.
    pub(super) fn slot_for(&mut self, key: &PolicyKey) -> u32 {
        self.slot(key).unwrap_or_else(|| self.free.take())
    }

    /// Files a policy under its slot. Returns what the one before it added to chains.
    pub(super) fn insert(
        &mut self,
        slot: u32,
        policy: Arc<Policy>,
        compiled: &Compiled,
        gates: Gates,
        subject: u32,
        selectors: Vec<u32>,
    ) -> Option<Part> {
        let place = self.place(&policy);
        self.slots.insert(policy.key.clone(), slot);
        let standing = match &policy.body {
            Body::Network(network) if policy.key.staged && network.removal => Standing::StagedRemoval,
            _ if policy.key.staged => Standing::Staged,
            _ if self.twin(&policy.key).is_some() => Standing::Replaced,
            _ => Standing::Enforced,
        };
        if policy.key.staged {
            self.stand_twin(&policy.key, Standing::Replaced);
        }
        if self.records.len() <= slot as usize {
            self.records.resize_with(slot as usize + 1, || None);
            self.parts.resize_with(slot as usize + 1, || None);
        }
        let stamp = self.next_stamp();
        let part = Part::new(compiled, gates, place.rank, standing, stamp);
        let replaced = self.parts[slot as usize].replace(part);
        self.records[slot as usize] = Some(Record {
            policy,
            subject,
            selectors,
            place,
        });
        replaced
    }

    /// Forgets a policy, and what it adds to chains.
    pub(super) fn remove(&mut self, slot: u32) -> Option<(Record, Part)> {
        let record = self.records.get_mut(slot as usize)?.take()?;
        let part = self.parts[slot as usize].take()?;
        self.slots.remove(&record.policy.key);
        self.free.give_back(slot);
        if record.policy.key.staged {
            self.stand_twin(&record.policy.key, Standing::Enforced);
        }
        Some((record, part))
    }

    /// Has the enforced policy that a staged one stands for stand otherwise.
    fn stand_twin(&mut self, staged: &PolicyKey, standing: Standing) {
        let stamp = self.next_stamp();
        if let Some(twin) = self.twin(staged)
            && let Some(Some(part)) = self.parts.get_mut(twin as usize)
        {
            part.stand(standing, stamp);
        }
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    pub(super) fn part(&self, slot: u32) -> Option<&Part> {
        self.parts.get(slot as usize)?.as_ref()
    }

    /// The enforced policy that a staged one stands for, or the other way round.
    pub(super) fn twin(&self, key: &PolicyKey) -> Option<u32> {
        let twin = PolicyKey {
            staged: !key.staged,
            ..key.clone()
        };
        self.slot(&twin)
    }

    /// Whether `policy` would stand where `record` does.
    pub(super) fn keeps_its_place(&self, record: &Record, policy: &Policy) -> bool {
        record.place == self.place(policy)
    }

    /// Whether a flow that the tier of this rank leaves undecided goes on to the next.
    pub(super) fn tier_passes(&self, rank: u32) -> bool {
        self.passing.get(rank as usize).copied().unwrap_or_default()
    }

    fn place(&self, policy: &Policy) -> Place {
        let key = &policy.key;
        let (rank, order) = match &policy.body {
            Body::Network(network) => (self.ranks.get(&network.tier).copied().unwrap_or(0), network.order),
            // Which of several matching policies is named is up to us: the workload's own namespace before the mesh.
            Body::Authorization(_) | Body::PeerAuthentication(_) => {
                let of_the_mesh = policy.subject.namespace == NamespaceScope::Anywhere;
                (MESH_RANK, Order(f64::from(u8::from(of_the_mesh))))
            }
        };
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let staged = if key.staged { "/staged" } else { "" };
        Place {
            rank,
            order,
            tie: format!("{}/{namespace}/{}{staged}", key.name, key.kind.label()),
        }
    }

    /// The order in which the policies of two slots count.
    pub(super) fn compare(&self, left: u32, right: u32) -> Ordering {
        let place = |slot: u32| self.record(slot).map(|record| &record.place);
        match (place(left), place(right)) {
            (Some(left), Some(right)) => left
                .rank
                .cmp(&right.rank)
                .then(left.order.0.total_cmp(&right.order.0))
                .then_with(|| left.tie.cmp(&right.tie)),
            _ => left.cmp(&right),
        }
    }

    /// Adds, replaces or removes a tier. Returns whether anything changed; all chains must be made anew then.
    pub(super) fn set_tier(&mut self, name: &Arc<str>, tier: Option<Tier>) -> bool {
        if self.tiers.get(name) == tier.as_ref() {
            return false;
        }
        match tier {
            Some(tier) => self.tiers.insert(Arc::clone(name), tier),
            None => self.tiers.remove(name),
        };
        self.rank_tiers();
        let places: Vec<Option<Place>> = self
            .records
            .iter()
            .map(|record| record.as_ref().map(|record| self.place(&record.policy)))
            .collect();
        for (record, place) in self.records.iter_mut().zip(places) {
            if let (Some(record), Some(place)) = (record, place) {
                record.place = place;
            }
        }
        true
    }

    pub(super) fn tier_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tiers.keys()
    }

    pub(super) fn knows_tier(&self, name: &str) -> bool {
        self.ranks.contains_key(name)
    }

    /// The tiers in order, those that are always there included; index 0 is for policies of unknown tiers.
    fn ordered_tiers(&self) -> Vec<Tier> {
        let mut tiers = self.tiers.clone();
        for (name, order, passes) in [
            (ADMIN_TIER.0, ADMIN_TIER.1, true),
            (DEFAULT_TIER, DEFAULT_TIER_ORDER, false),
            (BASELINE_TIER.0, BASELINE_TIER.1, true),
        ] {
            let name: Arc<str> = name.into();
            tiers.entry(Arc::clone(&name)).or_insert(Tier {
                name,
                order: Order(order),
                passes,
            });
        }
        let mut ordered: Vec<Tier> = tiers.into_values().collect();
        // The sort is stable and the map is in order of name, which breaks the ties.
        ordered.sort_by(|left, right| left.order.0.total_cmp(&right.order.0));
        ordered.insert(
            0,
            Tier {
                name: "".into(),
                order: Order(f64::NEG_INFINITY),
                passes: true,
            },
        );
        ordered
    }

    fn rank_tiers(&mut self) {
        let tiers = self.ordered_tiers();
        self.passing = tiers.iter().map(|tier| tier.passes).collect();
        self.ranks = (0..)
            .zip(tiers)
            .skip(1)
            .map(|(rank, tier)| (tier.name, rank))
            .collect();
    }
}
