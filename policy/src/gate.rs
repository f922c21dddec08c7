//! What most rules fail by, beside the rule.

use adit_flow::Protocol;

use crate::model::{Action, End, Peer, PortMatch, PortSpec, Rule};

/// What most rules fail by: a flow that doesn't pass can't match. Gates lie in the chains themselves, one behind the
/// other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    /// The one protocol that passes, or all.
    protocol: Option<u8>,
    /// The lowest and the highest destination port that pass.
    ports: (u16, u16),
    /// Which end `peer` is about, if any is.
    asks: Asks,
    /// What the rule does with what it matches.
    pub(crate) action: Action,
    /// A selector, or a list of them.
    peer: u32,
    /// What the rule asks besides, by id; [`NOTHING`] if every flow that passes matches.
    rest: u32,
}

const NOTHING: u32 = u32::MAX;

/// Which end of a flow a [`Gate`] asks about, and whether by one selector or by several. One byte, as gates must be
/// small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Nobody,
    Destination,
    DestinationOfSeveral,
    Source,
    SourceOfSeveral,
}

/// The end of a flow that a [`Gate`] asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateEnd {
    /// Where it goes.
    Destination,
    /// Where it comes from.
    Source,
}

/// Who an end must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GatePeers {
    /// Whom this selector selects.
    One(u32),
    /// Whom one of the selectors of this list selects.
    Several(u32),
}

/// A rule taken apart: the parts that many rules have in common are to be shared, and the gate refers to them.
pub(crate) struct Parts {
    protocol: Option<u8>,
    ports: (u16, u16),
    end: GateEnd,
    action: Action,
    /// The selectors of which one must select `end`; none asks nothing.
    pub(crate) peers: Vec<u32>,
    /// What the rule asks besides, as a rule without a line that allows; `None` asks nothing.
    pub(crate) rest: Option<Rule<u32>>,
}

impl Parts {
    /// Takes `rule` apart.
    pub(crate) fn of(rule: &Rule<u32>) -> Self {
        let wanted = rule
            .destination
            .as_ref()
            .and_then(|end| end.ports.as_deref())
            .unwrap_or_default();
        let mut protocol = rule.protocol;
        if let [first, more @ ..] = wanted
            && more.iter().all(|port| port.protocol == first.protocol)
        {
            protocol = protocol.or(first.protocol);
        }
        let range = |port: &PortMatch| match port.port {
            PortSpec::Range(first, last) => (first, last),
            PortSpec::Any | PortSpec::Named(_) => (0, u16::MAX),
        };
        let ports = wanted
            .iter()
            .map(range)
            .reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)));
        let mut rest = Rule {
            action: Action::Allow,
            line: 0,
            protocol: None,
            ..rule.clone()
        };
        if says_all_of_ports(protocol, rule.protocol, wanted)
            && let Some(end) = &mut rest.destination
        {
            end.ports = None;
        }
        let (end, peers) = take_peers(&mut rest);
        for end in [&mut rest.source, &mut rest.destination] {
            if let Some(end) = end {
                end.named_ports_need_peer &= end.peers.is_some() && has_named_port(end);
            }
            end.take_if(|end| **end == End::default());
        }
        Self {
            protocol: protocol.map(Protocol::number),
            ports: ports.unwrap_or((0, u16::MAX)),
            end,
            action: rule.action,
            peers,
            rest: Some(rest).filter(asks_something),
        }
    }

    /// The gate, given the ids of the parts that are shared: of `peers` where there are several, and of `rest`.
    pub(crate) fn gate(&self, peers: Option<u32>, rest: Option<u32>) -> Gate {
        let (asks, peer) = match (&self.peers[..], peers, self.end) {
            ([one], _, GateEnd::Destination) => (Asks::Destination, *one),
            ([one], _, GateEnd::Source) => (Asks::Source, *one),
            (_, Some(list), GateEnd::Destination) => (Asks::DestinationOfSeveral, list),
            (_, Some(list), GateEnd::Source) => (Asks::SourceOfSeveral, list),
            (_, None, _) => (Asks::Nobody, 0),
        };
        Gate {
            protocol: self.protocol,
            ports: self.ports,
            asks,
            action: self.action,
            peer,
            rest: rest.unwrap_or(NOTHING),
        }
    }
}

/// Whether the gate's protocol and its range of ports are all that the rule asks of the destination's port.
fn says_all_of_ports(gate: Option<Protocol>, rule: Option<Protocol>, wanted: &[PortMatch]) -> bool {
    match wanted {
        // A rule with ports matches protocols that have them alone, so one must be in the gate.
        [port] => {
            gate.is_some_and(Protocol::has_ports)
                && port.protocol.is_none_or(|protocol| Some(protocol) == gate)
                && rule.is_none_or(|protocol| Some(protocol) == gate)
                && !matches!(port.port, PortSpec::Named(_))
        }
        _ => false,
    }
}

/// Takes from a rule the selectors of the first end that may be nobody else than whom they select.
fn take_peers(rule: &mut Rule<u32>) -> (GateEnd, Vec<u32>) {
    for (which, end) in [
        (GateEnd::Source, &mut rule.source),
        (GateEnd::Destination, &mut rule.destination),
    ] {
        let Some(end) = end else {
            continue;
        };
        let selectors = end.peers.as_deref().and_then(selectors).unwrap_or_default();
        if selectors.is_empty() {
            continue;
        }
        // A named port may ask for the peers once more.
        if !(end.named_ports_need_peer && has_named_port(end)) {
            end.peers = None;
        }
        return (which, selectors);
    }
    (GateEnd::Source, Vec::new())
}

/// The selectors of a list that holds nothing else.
fn selectors(peers: &[Peer<u32>]) -> Option<Vec<u32>> {
    let selector = |peer: &Peer<u32>| match peer {
        Peer::Selected(selector) => Some(*selector),
        Peer::Anyone | Peer::Block(_) => None,
    };
    peers.iter().map(selector).collect()
}

fn has_named_port(end: &End<u32>) -> bool {
    let ports = end.ports.iter().chain(&end.not_ports).flatten();
    ports
        .into_iter()
        .any(|port| matches!(port.port, PortSpec::Named(_)))
}

fn asks_something(rule: &Rule<u32>) -> bool {
    rule.protocol.is_some()
        || rule.not_protocol.is_some()
        || rule.version.is_some()
        || rule.icmp.is_some()
        || rule.not_icmp.is_some()
        || rule.source.is_some()
        || rule.destination.is_some()
}

impl Gate {
    /// Which end must be whom; `None` asks nothing.
    #[inline]
    pub(crate) fn peers(&self) -> Option<(GateEnd, GatePeers)> {
        match self.asks {
            Asks::Nobody => None,
            Asks::Destination => Some((GateEnd::Destination, GatePeers::One(self.peer))),
            Asks::DestinationOfSeveral => Some((GateEnd::Destination, GatePeers::Several(self.peer))),
            Asks::Source => Some((GateEnd::Source, GatePeers::One(self.peer))),
            Asks::SourceOfSeveral => Some((GateEnd::Source, GatePeers::Several(self.peer))),
        }
    }

    /// What the rule asks that the gate doesn't, by its id among the shared.
    #[inline]
    pub(crate) fn rest(&self) -> Option<u32> {
        (self.rest != NOTHING).then_some(self.rest)
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
    fn what_a_gate_leaves_out_is_the_rest() {
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
            (true, rule(None, selected(40))),
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
            assert_eq!(Parts::of(&rule).rest.is_none(), whole, "{rule:?}");
        }
    }
}
