use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::WorkloadName;

use crate::compile::chain::Chains;
use crate::compile::chunked::{Chunked, Entry};
use crate::compile::extent::Extent;
use crate::compile::members::{Members, SetIndex};
use crate::compile::shared::Shared;
use crate::flow::{Direction, Flow};
use crate::judge;
use crate::model::{Policy, Rule};
use crate::verdict::{Decision, Trace};

/// Compiled policies and the workloads they are about: immutable, shared behind an `Arc`, replaced whole.
///
/// A verdict looks only at the policies that select the workload in question, and asks of a selector only whether
/// the peer's class is in it. Sets that follow one another share all that didn't change.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    pub(crate) generation: u64,
    pub(crate) tables: Tables,
}

/// What a verdict reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) members: Members,
    pub(crate) sets: Arc<SetIndex>,
    pub(crate) classes: Chunked<Chains>,
    pub(crate) policies: Chunked<Option<Arc<Compiled>>>,
    pub(crate) extents: Chunked<Extent>,
    pub(crate) shared: Shared,
    /// How many policies there are, staged ones included.
    pub(crate) policy_count: usize,
    pub(crate) l7_denies: bool,
}

/// A policy whose selectors are looked up by id.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) source: Arc<Policy>,
    /// Whether it denies in place of what it says: it is broken, or its tier is unknown.
    pub(crate) broken: Option<Arc<str>>,
    pub(crate) ingress: Option<Box<[Rule<u32>]>>,
    pub(crate) egress: Option<Box<[Rule<u32>]>>,
}

/// A policy that is kept by whoever refers to it. Which one it is, is looked up when somebody asks: the policy itself
/// isn't touched before.
#[derive(Clone)]
pub(crate) struct Kept(Entry<Option<Arc<Compiled>>>);

const OWN: &str = "a chain refers to policies of its own set";

impl std::ops::Deref for Kept {
    type Target = Compiled;

    fn deref(&self) -> &Compiled {
        self.0.as_deref().expect(OWN)
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.source.key)
    }
}

impl Compiled {
    pub(crate) fn rules(&self, direction: Direction) -> &[Rule<u32>] {
        match direction {
            Direction::Egress => self.egress.as_deref(),
            Direction::Ingress => self.ingress.as_deref(),
        }
        .unwrap_or_default()
    }
}

impl PolicySet {
    /// The set without any policy, of generation 0: every flow is allowed by default.
    pub fn allow_all() -> Self {
        Self::default()
    }

    /// Rises by one with every set that one compiler publishes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Judges `flow` where it leaves its source.
    ///
    /// The workload in question is the one that owns the source address. Where none does, the flow is denied if
    /// there is any policy at all: one that isn't known can't have been matched against them.
    pub fn egress(&self, flow: &Flow, trace: Trace) -> Decision {
        judge::judge(self, flow, Direction::Egress, trace)
    }

    /// Judges `flow` where it enters its destination, mesh authorization included.
    ///
    /// As for [`PolicySet::egress`], with the workload that owns the destination address.
    pub fn ingress(&self, flow: &Flow, trace: Trace) -> Decision {
        judge::judge(self, flow, Direction::Ingress, trace)
    }

    /// The workload that owns `address`.
    pub fn workload_at(&self, address: IpAddr) -> Option<&WorkloadName> {
        self.tables.members.get(address).map(|member| &member.name)
    }

    /// Every address that a workload owns, in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = (IpAddr, &WorkloadName)> {
        self.tables
            .members
            .iter()
            .map(|(address, member)| (address, &member.name))
    }

    /// The workload that owns `address`, and its service account.
    pub(crate) fn identity_at(&self, address: IpAddr) -> Option<(&WorkloadName, &str)> {
        self.tables
            .members
            .get(address)
            .map(|member| (&member.name, &*member.account))
    }

    /// How many policies the set holds, staged ones included.
    pub fn policy_count(&self) -> usize {
        self.tables.policy_count
    }

    pub(crate) fn policy(&self, slot: u32) -> &Compiled {
        let entry = self.tables.policies.get(slot);
        entry.and_then(Option::as_deref).expect(OWN)
    }

    /// The policy of a slot, to be kept longer than the set.
    #[inline]
    pub(crate) fn keep(&self, slot: u32) -> Kept {
        Kept(self.tables.policies.keep(slot).expect(OWN))
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Shared {
        &self.tables.shared
    }
}
