//! From the policies that select a class to its chains, made once for all classes that the same policies select.

use std::sync::Arc;

use super::chain::{Chain, Chains, Link, LinkOrigin, MeshChain, PortModes};
use super::ids::IdMap;
use super::policies::Policies;
use crate::flow::Direction;
use crate::gate::Gate;
use crate::model::{AuthorizationAction, Body, MtlsMode, PeerAuthentication, PeerLevel, Policy, Rule};
use crate::set::Compiled;

/// The chains in use, each once, and which class has which.
#[derive(Debug, Default)]
pub(super) struct ChainStore {
    made: IdMap<Arc<[u64]>, Arc<Made>>,
    by_class: IdMap<u32, Arc<Made>>,
    /// What may have lost its last class.
    left: Vec<Arc<Made>>,
    /// Room to work in: a chain is allocated once, as long as it is.
    stamps: Vec<u64>,
    links: Scratch,
}

/// A chain while it is made.
#[derive(Debug, Default)]
struct Scratch {
    links: Vec<Link>,
    origins: Vec<LinkOrigin>,
}

impl Scratch {
    fn push(&mut self, link: Link, slot: u32, rule: u32) {
        self.links.push(link);
        self.origins.push(LinkOrigin { slot, rule });
    }
}

/// The chains that certain policies make.
#[derive(Debug)]
pub(super) struct Made {
    /// The stamps of the policies, in order.
    stamps: Arc<[u64]>,
    chains: Chains,
}

impl ChainStore {
    /// The chains of these policies, given in order.
    pub(super) fn make(&mut self, policies: &Policies, slots: &[u32]) -> Arc<Made> {
        self.stamps.clear();
        self.stamps
            .extend(policies.parts(slots).map(|(_, part)| part.stamp));
        if let Some(made) = self.made.get(&self.stamps[..]) {
            return Arc::clone(made);
        }
        let stamps: Arc<[u64]> = self.stamps[..].into();
        let made = Arc::new(Made {
            stamps: Arc::clone(&stamps),
            chains: policies.chains(slots, &mut self.links),
        });
        self.made.insert(stamps, Arc::clone(&made));
        made
    }

    /// Gives a class what was made for it.
    pub(super) fn assign(&mut self, class: u32, made: &Arc<Made>) -> Chains {
        self.left.extend(self.by_class.insert(class, Arc::clone(made)));
        made.chains.clone()
    }

    /// Takes from a class what it has.
    pub(super) fn release(&mut self, class: u32) {
        self.left.extend(self.by_class.remove(&class));
    }

    /// How many chains there are, and how many classes have one.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.made.len(), self.by_class.len())
    }

    /// Lets go of the chains that no class has any more.
    pub(super) fn forget_unused(&mut self) {
        for made in self.left.drain(..) {
            // The table's and this one.
            if Arc::strong_count(&made) == 2 {
                self.made.remove(&made.stamps);
            }
        }
    }
}

/// What a policy adds to chains, close together: a policy that selects everybody has all of them made anew.
#[derive(Debug)]
pub(super) struct Part {
    /// Changes whenever the part does. No two parts ever share one.
    stamp: u64,
    rank: u32,
    standing: Standing,
    /// Whether it couldn't be compiled.
    broken: bool,
    /// Whether it is about what enters, and about what leaves; neither for policies of Istio's layer.
    directions: [bool; 2],
    /// The gates of its rules, those for what enters first.
    gates: Gates,
    egress_at: u32,
}

/// Whether a policy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is enforced.
    Enforced,
    /// It is enforced, and a staged one would replace it.
    Replaced,
    /// It is staged.
    Staged,
    /// It is staged, and stands for the removal of the enforced one.
    StagedRemoval,
}

/// Which policies a chain is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// What is enforced.
    Enforced,
    /// What would be if staged policies took the place of those that they stand for.
    Pending,
}

/// The gates of a policy's rules, those for what enters first.
pub(super) type Gates = Box<[Gate]>;

/// Makes the gates of a policy. `gate` makes a rule's gate.
pub(super) fn gates_of(compiled: &Compiled, gate: impl FnMut(&Rule<u32>) -> Gate) -> Gates {
    let ingress = compiled.rules(Direction::Ingress);
    ingress
        .iter()
        .chain(compiled.rules(Direction::Egress))
        .map(gate)
        .collect()
}

impl Part {
    pub(super) fn new(compiled: &Compiled, gates: Gates, rank: u32, standing: Standing, stamp: u64) -> Self {
        Self {
            stamp,
            rank,
            standing,
            broken: compiled.broken.is_some(),
            directions: [compiled.ingress.is_some(), compiled.egress.is_some()],
            gates,
            egress_at: compiled.rules(Direction::Ingress).len() as u32,
        }
    }

    /// The gates of its rules.
    pub(super) fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// Has it stand otherwise.
    pub(super) fn stand(&mut self, standing: Standing, stamp: u64) {
        (self.standing, self.stamp) = (standing, stamp);
    }

    /// What it adds to a chain, if it counts there.
    fn counting(&self, direction: Direction, of: Of) -> Option<&[Gate]> {
        let counts = match self.standing {
            Standing::Enforced => true,
            Standing::Replaced => of == Of::Enforced,
            Standing::Staged => of == Of::Pending,
            Standing::StagedRemoval => false,
        };
        let [ingress, egress] = self.directions;
        let (entering, leaving) = self.gates.split_at(self.egress_at as usize);
        match direction {
            Direction::Egress => (counts && egress).then_some(leaving),
            Direction::Ingress => (counts && ingress).then_some(entering),
        }
    }
}

impl Policies {
    /// The chains of a class that these policies select, given in order.
    fn chains(&self, slots: &[u32], scratch: &mut Scratch) -> Chains {
        let staged = self
            .parts(slots)
            .any(|(_, part)| part.standing != Standing::Enforced);
        let mesh = self.parts(slots).any(|(_, part)| part.directions == [false; 2]);
        let mesh = mesh
            .then(|| self.mesh_chain(slots))
            .filter(|chain| !chain.is_empty());
        Chains {
            enforced: self.chain(slots, Of::Enforced, scratch),
            pending: staged.then(|| Arc::new(self.chain(slots, Of::Pending, scratch))),
            mesh: mesh.map(Arc::new),
        }
    }

    fn chain(&self, slots: &[u32], of: Of, scratch: &mut Scratch) -> Chain {
        scratch.links.clear();
        scratch.origins.clear();
        self.link(slots, Direction::Ingress, of, scratch);
        let egress_at = scratch.links.len();
        self.link(slots, Direction::Egress, of, scratch);
        Chain::new(&scratch.links, &scratch.origins, egress_at)
    }

    fn link(&self, slots: &[u32], direction: Direction, of: Of, out: &mut Scratch) {
        let mut tier: Option<OpenTier> = None;
        for (slot, part) in self.parts(slots) {
            let Some(gates) = part.counting(direction, of) else {
                continue;
            };
            if let Some(ended) = tier.take_if(|tier| tier.rank != part.rank) {
                ended.end(self, out);
            }
            let tier = tier.get_or_insert(OpenTier {
                rank: part.rank,
                first: slot,
                broken: None,
            });
            if part.broken {
                tier.broken.get_or_insert(slot);
            }
            for (rule, gate) in (0..).zip(gates) {
                out.push(Link::Rule(*gate), slot, rule);
            }
        }
        if let Some(ended) = tier {
            ended.end(self, out);
        }
    }

    fn parts(&self, slots: &[u32]) -> impl Iterator<Item = (u32, &Part)> {
        slots.iter().filter_map(|slot| Some((*slot, self.part(*slot)?)))
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

/// A tier whose policies are being linked.
struct OpenTier {
    rank: u32,
    first: u32,
    broken: Option<u32>,
}

impl OpenTier {
    fn end(self, policies: &Policies, out: &mut Scratch) {
        let passes = policies.tier_passes(self.rank);
        out.push(Link::TierEnd { passes }, self.broken.unwrap_or(self.first), 0);
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
