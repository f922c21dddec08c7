use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::{Protocol, WorkloadName};

use crate::compile::chain::Chains;
use crate::compile::chunked::Chunked;
use crate::compile::extent::Extent;
use crate::compile::members::{Member, Members, SetIndex};
use crate::flow::{Direction, Flow};
use crate::judge;
use crate::model::{Peer, Policy, PortMatch, PortSpec, Rule};
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
    pub(crate) tiers: Arc<[TierEnd]>,
    /// How many policies there are, staged ones included.
    pub(crate) policy_count: usize,
    /// How many of them couldn't be read.
    pub(crate) broken_count: usize,
    pub(crate) l7_denies: bool,
}

/// How a tier ends.
#[derive(Clone, Debug)]
pub(crate) struct TierEnd {
    pub(crate) passes: bool,
}

/// A policy whose selectors are looked up by id.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) source: Arc<Policy>,
    /// Whether it denies in place of what it says: it is broken, or its tier is unknown.
    pub(crate) broken: Option<Arc<str>>,
    pub(crate) ingress: Option<Box<[Gated]>>,
    pub(crate) egress: Option<Box<[Gated]>>,
}

/// A rule behind its gate.
#[derive(Clone, Debug)]
pub(crate) struct Gated {
    pub(crate) gate: Gate,
    pub(crate) rule: Rule<u32>,
}

/// What most rules fail by, beside the rule: a flow that doesn't pass can't match. With it a rule is a cache line; the
/// rest of it lies elsewhere and isn't touched for most flows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    /// The one protocol that passes, or all.
    protocol: Option<u8>,
    /// The lowest and the highest destination port that pass.
    ports: (u16, u16),
    /// Which end must be selected.
    pub(crate) end: GateEnd,
    /// The selectors of which one must select it; only so many of these count.
    peers: [u32; GATE_PEERS],
    peer_count: u8,
}

/// Rules with more alternatives than this, or with other ones than selectors, are looked at whole.
const GATE_PEERS: usize = 3;

/// The end of a flow that a [`Gate`] asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateEnd {
    /// Where it goes.
    Destination,
    /// Where it comes from.
    Source,
}

impl Gate {
    /// The narrowest gate through which everything passes that `rule` matches.
    pub(crate) fn of(rule: &Rule<u32>) -> Self {
        let wanted = rule
            .destination
            .as_ref()
            .and_then(|end| end.ports.as_deref())
            .unwrap_or_default();
        let mut protocol = rule.protocol.map(Protocol::number);
        if let [first, rest @ ..] = wanted
            && rest.iter().all(|port| port.protocol == first.protocol)
        {
            protocol = protocol.or_else(|| first.protocol.map(Protocol::number));
        }
        let range = |port: &PortMatch| match port.port {
            PortSpec::Range(first, last) => (first, last),
            PortSpec::Any | PortSpec::Named(_) => (0, u16::MAX),
        };
        let ports = wanted
            .iter()
            .map(range)
            .reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)));
        let mut gate = Self {
            protocol,
            ports: ports.unwrap_or((0, u16::MAX)),
            end: GateEnd::Source,
            peers: [0; GATE_PEERS],
            peer_count: 0,
        };
        for (which, end) in [
            (GateEnd::Source, &rule.source),
            (GateEnd::Destination, &rule.destination),
        ] {
            let peers = end.as_deref().and_then(|end| end.peers.as_deref());
            if let Some(selectors) = peers.and_then(few_selectors) {
                gate.end = which;
                gate.peer_count = selectors.len() as u8;
                gate.peers[..selectors.len()].copy_from_slice(&selectors);
                break;
            }
        }
        gate
    }

    /// The selectors of which one must select [`Gate::end`]; none asks nothing.
    #[inline]
    pub(crate) fn peers(&self) -> &[u32] {
        &self.peers[..usize::from(self.peer_count)]
    }

    /// Whether a flow of this protocol to this port may match.
    #[inline]
    pub(crate) fn passes(&self, protocol: u8, port: u16) -> bool {
        self.protocol.is_none_or(|only| only == protocol) && (self.ports.0..=self.ports.1).contains(&port)
    }
}

/// The selectors of a list that holds nothing else, and few of them.
fn few_selectors(peers: &[Peer<u32>]) -> Option<Vec<u32>> {
    if !(1..=GATE_PEERS).contains(&peers.len()) {
        return None;
    }
    let selector = |peer: &Peer<u32>| match peer {
        Peer::Selected(selector) => Some(*selector),
        Peer::Anyone | Peer::Block(_) => None,
    };
    peers.iter().map(selector).collect()
}

impl Compiled {
    pub(crate) fn rules(&self, direction: Direction) -> &[Gated] {
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
            .map(|(address, member)| (*address, &member.name))
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

    pub(crate) fn member(&self, address: IpAddr) -> Option<&Arc<Member>> {
        self.tables.members.get(address)
    }

    pub(crate) fn policy(&self, slot: u32) -> &Arc<Compiled> {
        self.tables
            .policies
            .get(slot)
            .and_then(Option::as_ref)
            .expect("a chain refers to policies of its own set")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_behind_its_gate_is_a_cache_line_or_two() {
        assert!(size_of::<Gated>() <= 80, "{} bytes", size_of::<Gated>());
    }
}
