//! Whether a rule matches a flow and, where it doesn't, for want of what.

use adit_flow::Protocol;

use super::{Context, Place};
use crate::model::{End, IcmpMatch, IpVersion, Peer, PortMatch, PortSpec, Rule};
use crate::verdict::{Field, Side};

/// The first field of `rule` that the flow doesn't satisfy; `None` if the rule matches.
#[inline]
pub(super) fn miss(context: &Context<'_>, rule: &Rule<u32>) -> Option<Field> {
    if rule.protocol.is_some_and(|protocol| protocol != context.protocol) {
        return Some(Field::Protocol);
    }
    // Ports and peers first: they are what most rules fail by, and what most rules have.
    if let Some(end) = &rule.destination
        && let Some(side) = miss_end(context, &context.destination, end)
    {
        return Some(Field::Destination(side));
    }
    if let Some(end) = &rule.source
        && let Some(side) = miss_end(context, &context.source, end)
    {
        return Some(Field::Source(side));
    }
    if rule
        .not_protocol
        .is_some_and(|protocol| protocol == context.protocol)
    {
        return Some(Field::NotProtocol);
    }
    if rule
        .version
        .is_some_and(|version| (version == IpVersion::V4) != context.destination.address.is_ipv4())
    {
        return Some(Field::IpVersion);
    }
    if rule.icmp.is_some_and(|wanted| !is_icmp(context, wanted)) {
        return Some(Field::Icmp);
    }
    if rule.not_icmp.is_some_and(|unwanted| is_icmp(context, unwanted)) {
        return Some(Field::NotIcmp);
    }
    None
}

fn is_icmp(context: &Context<'_>, wanted: IcmpMatch) -> bool {
    context
        .icmp
        .is_some_and(|icmp| icmp.kind == wanted.kind && wanted.code.is_none_or(|code| code == icmp.code))
}

#[inline]
fn miss_end<'s>(context: &Context<'s>, place: &Place<'s>, end: &End<u32>) -> Option<Side> {
    if let Some(ports) = &end.ports
        && !has_port(context, place, end, ports)
    {
        return Some(Side::Ports);
    }
    if let Some(peers) = &end.peers
        && !peers.iter().any(|peer| is_peer(context, place, peer))
    {
        return Some(Side::Peers);
    }
    if let Some(nets) = &end.nets
        && !nets.contains(place.address)
    {
        return Some(Side::Nets);
    }
    if let Some(nets) = &end.not_nets
        && (!nets.has_version_of(place.address) || nets.contains(place.address))
    {
        return Some(Side::NotNets);
    }
    if let Some(selector) = end.unless
        && is_selected(context, place, selector)
    {
        return Some(Side::NotSelector);
    }
    if let Some(ports) = &end.not_ports
        && has_port(context, place, end, ports)
    {
        return Some(Side::NotPorts);
    }
    None
}

#[inline]
fn is_peer<'s>(context: &Context<'s>, place: &Place<'s>, peer: &Peer<u32>) -> bool {
    match peer {
        Peer::Anyone => true,
        Peer::Block(nets) => nets.contains(place.address),
        Peer::Selected(selector) => is_selected(context, place, *selector),
    }
}

/// Whether the pod that owns the address, or a network set that holds it, is selected.
#[inline]
pub(super) fn is_selected<'s>(context: &Context<'s>, place: &Place<'s>, selector: u32) -> bool {
    context.set.tables.extents.get(selector).is_some_and(|extent| {
        place.pod.is_some_and(|pod| extent.contains(pod.class))
            || place
                .sets(context.set)
                .iter()
                .any(|class| extent.contains(*class))
    })
}

#[inline]
fn has_port(context: &Context<'_>, place: &Place<'_>, end: &End<u32>, ports: &[PortMatch]) -> bool {
    context.protocol.has_ports()
        && ports.iter().any(|wanted| {
            wanted
                .protocol
                .is_none_or(|protocol| protocol == context.protocol)
                && match &wanted.port {
                    PortSpec::Any => true,
                    PortSpec::Range(first, last) => (*first..=*last).contains(&place.port),
                    PortSpec::Named(name) => has_named_port(context, place, end, name, context.protocol),
                }
        })
}

/// Whether the pod at this end has the flow's port under `name`. In Calico it must be one that the rule's selectors
/// of this end select; that its address lies in a selected network set isn't enough.
fn has_named_port(
    context: &Context<'_>,
    place: &Place<'_>,
    end: &End<u32>,
    name: &str,
    protocol: Protocol,
) -> bool {
    let Some(pod) = place.pod.filter(|pod| {
        context.set.shared().ports(pod.ports).iter().any(|port| {
            port.number == place.port && port.protocol == protocol && port.name.as_deref() == Some(name)
        })
    }) else {
        return false;
    };
    let Some(peers) = end.peers.as_deref().filter(|_| end.named_ports_need_peer) else {
        return true;
    };
    peers.iter().any(|peer| match peer {
        Peer::Selected(selector) => context
            .set
            .tables
            .extents
            .get(*selector)
            .is_some_and(|extent| extent.contains(pod.class)),
        Peer::Anyone | Peer::Block(_) => true,
    })
}
