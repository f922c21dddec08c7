//! From a policy as read to one whose selectors are ids.

use std::sync::Arc;

use crate::model::{Action, Body, End, Peer, Policy, Rule};
use crate::selector::EndpointSelector;
use crate::set::Compiled;

/// Compiles a policy. `refer` gives each selector its id.
pub(super) fn compile(
    policy: &Arc<Policy>,
    tier_is_known: bool,
    mut refer: impl FnMut(&EndpointSelector) -> u32,
) -> Compiled {
    let mut compiled = Compiled {
        source: Arc::clone(policy),
        broken: policy.broken.clone(),
        ingress: None,
        egress: None,
    };
    let Body::Network(network) = &policy.body else {
        return compiled;
    };
    if !tier_is_known {
        compiled
            .broken
            .get_or_insert_with(|| format!("tier {:?} doesn't exist", network.tier).into());
        compiled.ingress = network.ingress.as_ref().map(|_| [deny_all()].into());
        compiled.egress = network.egress.as_ref().map(|_| [deny_all()].into());
        return compiled;
    }
    let mut rules = |rules: &Option<Box<[Rule<EndpointSelector>]>>| {
        rules
            .as_ref()
            .map(|rules| rules.iter().map(|rule| lower(rule, &mut refer)).collect())
    };
    compiled.ingress = rules(&network.ingress);
    compiled.egress = rules(&network.egress);
    compiled
}

fn deny_all() -> Rule<u32> {
    Rule {
        action: Action::Deny,
        protocol: None,
        not_protocol: None,
        version: None,
        icmp: None,
        not_icmp: None,
        source: None,
        destination: None,
        line: 0,
    }
}

fn lower(rule: &Rule<EndpointSelector>, refer: &mut impl FnMut(&EndpointSelector) -> u32) -> Rule<u32> {
    Rule {
        action: rule.action,
        protocol: rule.protocol,
        not_protocol: rule.not_protocol,
        version: rule.version,
        icmp: rule.icmp,
        not_icmp: rule.not_icmp,
        source: rule.source.as_deref().map(|end| Box::new(lower_end(end, refer))),
        destination: rule
            .destination
            .as_deref()
            .map(|end| Box::new(lower_end(end, refer))),
        line: rule.line,
    }
}

fn lower_end(end: &End<EndpointSelector>, refer: &mut impl FnMut(&EndpointSelector) -> u32) -> End<u32> {
    End {
        peers: end.peers.as_ref().map(|peers| {
            peers
                .iter()
                .map(|peer| match peer {
                    Peer::Anyone => Peer::Anyone,
                    Peer::Block(nets) => Peer::Block(nets.clone()),
                    Peer::Selected(selector) => Peer::Selected(refer(selector)),
                })
                .collect()
        }),
        unless: end.unless.as_ref().map(refer),
        nets: end.nets.clone(),
        not_nets: end.not_nets.clone(),
        ports: end.ports.clone(),
        not_ports: end.not_ports.clone(),
        named_ports_need_peer: end.named_ports_need_peer,
    }
}
