//! What most rules fail by, beside the rule.

use adit_flow::Protocol;

use crate::model::{Peer, PortMatch, PortSpec, Rule};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_behind_its_gate_is_a_cache_line_or_two() {
        assert!(size_of::<Gated>() <= 80, "{} bytes", size_of::<Gated>());
    }
}
