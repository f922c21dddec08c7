//! The policies, their places, and the chains that they make for a class.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::chain::{Chain, Chains, Link, MeshChain, Pending, PortModes};
use super::ids::Ids;
use crate::flow::Direction;
use crate::model::{
    ADMIN_TIER, AuthorizationAction, BASELINE_TIER, Body, DEFAULT_TIER, DEFAULT_TIER_ORDER, MtlsMode, Order,
    PeerAuthentication, PeerLevel, Policy, PolicyKey, Tier,
};
use crate::selector::NamespaceScope;

/// All policies by slot, and the tiers that order them.
#[derive(Debug)]
pub(super) struct Policies {
    slots: HashMap<PolicyKey, u32>,
    records: Vec<Option<Record>>,
    free: Ids,
    tiers: BTreeMap<Arc<str>, Tier>,
    ranks: HashMap<Arc<str>, u32>,
    /// Every chain in use, so that classes with the same policies share one.
    chains: HashSet<Arc<Chain>>,
    chains_limit: usize,
    /// How many couldn't be read.
    broken: usize,
}

/// A policy and what the compiler must undo when it goes.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) policy: Arc<Policy>,
    pub(super) subject: u32,
    /// Every reference to a selector, the subject's included.
    pub(super) selectors: Vec<u32>,
    place: Place,
    /// The staged policy that would replace this one.
    pub(super) staged_by: Option<u32>,
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
            free: Ids::default(),
            tiers: BTreeMap::new(),
            ranks: HashMap::new(),
            chains: HashSet::new(),
            chains_limit: 1024,
            broken: 0,
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

    fn record_mut(&mut self, slot: u32) -> Option<&mut Record> {
        self.records.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn broken(&self) -> usize {
        self.broken
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &PolicyKey> {
        self.slots.keys()
    }

    pub(super) fn slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = self.slots.values().copied().collect();
        slots.sort_unstable();
        slots
    }

    /// Files a policy and returns its slot.
    pub(super) fn insert(&mut self, policy: Arc<Policy>, subject: u32, selectors: Vec<u32>) -> u32 {
        let slot = self
            .slots
            .get(&policy.key)
            .copied()
            .unwrap_or_else(|| self.free.take());
        let staged_by = self.record(slot).and_then(|record| record.staged_by);
        let place = self.place(&policy);
        self.slots.insert(policy.key.clone(), slot);
        let staged_by = staged_by.or_else(|| self.twin(&policy.key).filter(|_| !policy.key.staged));
        if policy.key.staged
            && let Some(twin) = self.twin(&policy.key).and_then(|twin| self.record_mut(twin))
        {
            twin.staged_by = Some(slot);
        }
        if self.records.len() <= slot as usize {
            self.records.resize_with(slot as usize + 1, || None);
        }
        self.broken += usize::from(policy.broken.is_some());
        let replaced = self.records[slot as usize].replace(Record {
            policy,
            subject,
            selectors,
            place,
            staged_by,
        });
        self.broken -= replaced.map_or(0, |record| usize::from(record.policy.broken.is_some()));
        slot
    }

    /// Forgets a policy.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Record> {
        let record = self.records.get_mut(slot as usize)?.take()?;
        self.slots.remove(&record.policy.key);
        self.free.give_back(slot);
        self.broken -= usize::from(record.policy.broken.is_some());
        if record.policy.key.staged
            && let Some(twin) = self
                .twin(&record.policy.key)
                .and_then(|twin| self.record_mut(twin))
        {
            twin.staged_by = None;
        }
        Some(record)
    }

    /// The enforced policy that a staged one stands for, or the other way round.
    pub(super) fn twin(&self, key: &PolicyKey) -> Option<u32> {
        let twin = PolicyKey {
            staged: !key.staged,
            ..key.clone()
        };
        self.slot(&twin)
    }

    /// Whether `policy` would stand where `record` does, in the same directions: its chains stay as they are.
    pub(super) fn keeps_its_place(&self, record: &Record, policy: &Policy) -> bool {
        match (&record.policy.body, &policy.body) {
            (Body::Network(old), Body::Network(new)) => {
                record.place == self.place(policy)
                    && old.ingress.is_some() == new.ingress.is_some()
                    && old.egress.is_some() == new.egress.is_some()
                    && old.removal == new.removal
            }
            (Body::Authorization(old), Body::Authorization(new)) => {
                old.action == new.action
                    && old.dry_run == new.dry_run
                    && has_unenforced(&record.policy) == has_unenforced(policy)
            }
            _ => false,
        }
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
    pub(super) fn ordered_tiers(&self) -> Vec<Tier> {
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
        self.ranks = (0..)
            .zip(self.ordered_tiers())
            .skip(1)
            .map(|(rank, tier)| (tier.name, rank))
            .collect();
    }

    /// The chains of a class that these policies select, given in order.
    pub(super) fn chains(&mut self, slots: &[u32]) -> Chains {
        let links = |direction: Direction, staged: bool| -> Box<[Link]> {
            slots
                .iter()
                .filter_map(|slot| {
                    let record = self.record(*slot)?;
                    let Body::Network(network) = &record.policy.body else {
                        return None;
                    };
                    let counts = match (staged, record.policy.key.staged) {
                        (false, is_staged) => !is_staged,
                        (true, false) => record.staged_by.is_none(),
                        (true, true) => !network.removal,
                    };
                    (counts && network.rules(direction).is_some()).then_some(Link {
                        tier: record.place.rank,
                        slot: *slot,
                    })
                })
                .collect()
        };
        let concerned = slots
            .iter()
            .filter_map(|slot| self.record(*slot))
            .any(|record| record.policy.key.staged || record.staged_by.is_some());
        let (ingress, egress) = (links(Direction::Ingress, false), links(Direction::Egress, false));
        let pending = concerned.then(|| (links(Direction::Ingress, true), links(Direction::Egress, true)));
        let mesh = self.mesh_chain(slots);
        Chains {
            ingress: self.shared(ingress),
            egress: self.shared(egress),
            pending: pending.map(|(ingress, egress)| {
                Box::new(Pending {
                    ingress: self.shared(ingress),
                    egress: self.shared(egress),
                })
            }),
            mesh: (!mesh.is_empty()).then(|| Arc::new(mesh)),
        }
    }

    fn shared(&mut self, links: Box<[Link]>) -> Arc<Chain> {
        let chain = Chain { links };
        if let Some(known) = self.chains.get(&chain) {
            return Arc::clone(known);
        }
        if self.chains.len() >= self.chains_limit {
            self.chains.retain(|chain| Arc::strong_count(chain) > 1);
            self.chains_limit = 1024.max(2 * self.chains.len());
        }
        let chain = Arc::new(chain);
        self.chains.insert(Arc::clone(&chain));
        chain
    }

    fn mesh_chain(&self, slots: &[u32]) -> MeshChain {
        let mut lists: [Vec<u32>; 5] = Default::default();
        let [deny, allow, audit, dry_run, unenforced] = &mut lists;
        let mut authentications = Vec::new();
        for slot in slots {
            let Some(record) = self.record(*slot) else {
                continue;
            };
            match &record.policy.body {
                Body::Network(_) => {}
                Body::PeerAuthentication(body) => authentications.push((*slot, &record.policy, body)),
                Body::Authorization(body) => {
                    if has_unenforced(&record.policy) {
                        unenforced.push(*slot);
                    }
                    match body.action {
                        AuthorizationAction::Custom | AuthorizationAction::Elsewhere => {}
                        AuthorizationAction::Audit => audit.push(*slot),
                        _ if body.dry_run && record.policy.broken.is_none() => dry_run.push(*slot),
                        AuthorizationAction::Allow => allow.push(*slot),
                        AuthorizationAction::Deny => deny.push(*slot),
                    }
                }
            }
        }
        let [deny, allow, audit, dry_run, unenforced] = lists.map(Vec::into_boxed_slice);
        MeshChain {
            deny,
            allow,
            audit,
            dry_run,
            unenforced,
            mtls: port_modes(&authentications),
        }
    }
}

/// Whether an AuthorizationPolicy has a rule, or is one, that layer 4 can't enforce.
fn has_unenforced(policy: &Policy) -> bool {
    match &policy.body {
        Body::Authorization(body) => {
            matches!(
                body.action,
                AuthorizationAction::Custom | AuthorizationAction::Elsewhere
            ) || body.rules.iter().any(|rule| !rule.http.is_empty())
        }
        Body::Network(_) | Body::PeerAuthentication(_) => false,
    }
}

/// The mode of each port: the first that is set among the workload policy's port, the workload policy, the
/// namespace's and the mesh's. Of several policies at one level only the oldest counts.
fn port_modes(policies: &[(u32, &Arc<Policy>, &PeerAuthentication)]) -> PortModes {
    // One that couldn't be read may have been about any port and at any level: nothing plain is taken.
    if let Some((slot, ..)) = policies.iter().find(|(_, policy, _)| policy.broken.is_some()) {
        return PortModes {
            ports: Box::default(),
            other: Some((MtlsMode::Strict, *slot)),
        };
    }
    let at = |level: PeerLevel| {
        policies
            .iter()
            .filter(|(_, _, body)| body.level == level)
            .min_by_key(|(_, policy, body)| (body.created, Arc::clone(&policy.key.name)))
    };
    let other = [PeerLevel::Workload, PeerLevel::Namespace, PeerLevel::Mesh]
        .into_iter()
        .find_map(|level| at(level).and_then(|(slot, _, body)| Some((body.mode?, *slot))));
    let ports = at(PeerLevel::Workload)
        .into_iter()
        .flat_map(|(slot, _, body)| {
            body.ports
                .iter()
                .filter_map(|(port, mode)| Some((*port, (*mode)?, *slot)))
        })
        .collect();
    PortModes { ports, other }
}
