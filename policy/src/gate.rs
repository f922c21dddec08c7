//! What most rules fail by, beside the rule.

use adit_flow::Protocol;

use crate::model::{Action, End, Peer, PortMatch, PortSpec, Rule};

/// What most rules fail by, beside the rule: a flow that doesn't pass can't match, and the rest of the rule isn't
/// touched for it. Gates lie in the chains themselves, one behind the other.
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
    /// Whether the rule asks nothing else, so that every flow that passes matches.
    whole: bool,
    /// What the rule does with what it matches.
    pub(crate) action: Action,
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
            whole: false,
            action: rule.action,
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
        gate.whole = gate.says_all_of(rule);
        gate
    }

    /// Whether this gate, made of `rule`, lets nothing else through than what `rule` matches.
    fn says_all_of(&self, rule: &Rule<u32>) -> bool {
        let peers_in = |which: GateEnd| self.peer_count > 0 && self.end == which;
        let end_in = |which: GateEnd, end: &Option<Box<End<u32>>>| {
            end.as_deref().is_none_or(|end| {
                (end.peers.is_none() || peers_in(which))
                    && end.unless.is_none()
                    && end.nets.is_none()
                    && end.not_nets.is_none()
                    && end.not_ports.is_none()
                    && (end.ports.is_none() || which == GateEnd::Destination)
            })
        };
        let ports_in = match rule.destination.as_deref().and_then(|end| end.ports.as_deref()) {
            None => true,
            // A rule with ports matches protocols that have them alone, so one must be in the gate.
            Some([port]) => {
                let wanted = port.protocol.or(rule.protocol);
                wanted.is_some_and(Protocol::has_ports)
                    && rule.protocol.is_none_or(|protocol| Some(protocol) == wanted)
                    && !matches!(port.port, PortSpec::Named(_))
            }
            Some(_) => false,
        };
        ports_in
            && end_in(GateEnd::Source, &rule.source)
            && end_in(GateEnd::Destination, &rule.destination)
            && rule.not_protocol.is_none()
            && rule.version.is_none()
            && rule.icmp.is_none()
            && rule.not_icmp.is_none()
    }

    /// Whether the rule asks nothing but what the gate does: what passes it, its peers included, matches.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The selectors of which one must select [`Gate::end`]; none asks nothing.
    #[inline]
    pub(crate) fn peers(&self) -> &[u32] {
        &self.peers[..usize::from(self.peer_count)]
    }

    /// The one destination port that passes, if it is one.
    pub(crate) fn port(&self) -> Option<u16> {
        (self.ports.0 == self.ports.1).then_some(self.ports.0)
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

    fn rule(protocol: Option<Protocol>, destination: End<u32>) -> Rule<u32> {
        Rule {
            action: Action::Allow,
            protocol,
            not_protocol: None,
            version: None,
            icmp: None,
            not_icmp: None,
            source: None,
            destination: Some(Box::new(destination)),
            line: 0,
        }
    }

    fn ports(ports: &[(Option<Protocol>, PortSpec)]) -> End<u32> {
        let ports = ports
            .iter()
            .cloned()
            .map(|(protocol, port)| PortMatch { protocol, port });
        End {
            ports: Some(ports.collect()),
            ..End::default()
        }
    }

    #[test]
    fn a_gate_that_leaves_something_out_is_not_the_whole_rule() {
        let (tcp, udp) = (Some(Protocol::Tcp), Some(Protocol::Udp));
        let one = PortSpec::Range(80, 90);
        let selected = |count: usize| End {
            peers: Some((0..count as u32).map(Peer::Selected).collect()),
            ..End::default()
        };
        for (whole, rule) in [
            (true, rule(None, End::default())),
            (true, rule(tcp, ports(&[(None, one.clone())]))),
            (true, rule(None, ports(&[(tcp, one.clone())]))),
            (true, rule(None, ports(&[(udp, PortSpec::Any)]))),
            (true, rule(None, selected(3))),
            (false, rule(None, selected(0))),
            (false, rule(None, selected(4))),
            (false, rule(None, ports(&[(None, one.clone())]))),
            (false, rule(tcp, ports(&[(udp, one.clone())]))),
            (
                false,
                rule(
                    tcp,
                    ports(&[(None, one.clone()), (None, PortSpec::Range(443, 443))]),
                ),
            ),
            (false, rule(tcp, ports(&[(None, PortSpec::Named("http".into()))]))),
            (false, rule(Some(Protocol::Icmp), ports(&[(None, PortSpec::Any)]))),
            (
                false,
                Rule {
                    version: Some(crate::model::IpVersion::V6),
                    ..rule(None, End::default())
                },
            ),
            (
                false,
                Rule {
                    source: Some(Box::new(ports(&[(tcp, one)]))),
                    ..rule(tcp, End::default())
                },
            ),
            (
                false,
                Rule {
                    source: Some(Box::new(selected(1))),
                    ..rule(None, selected(1))
                },
            ),
        ] {
            assert_eq!(Gate::of(&rule).is_whole(), whole, "{rule:?}");
        }
    }
}
