//! The network layer: tiers in order, their policies in order, their rules in order, first match.

use super::matching::{is_selected, miss};
use super::{Context, Steps, kept};
use crate::compile::chain::Chain;
use crate::flow::Direction;
use crate::gate::{Gate, GateEnd, Gated};
use crate::model::Action;

use crate::verdict::{Outcome, Ruling, Step};

/// What a chain says of a flow.
pub(super) fn judge(context: &Context<'_>, chain: &Chain, direction: Direction, steps: &mut Steps) -> Ruling {
    let mut links = &chain.links[..];
    while let Some(first) = links.first() {
        let in_tier = links.iter().take_while(|link| link.tier == first.tier).count();
        let (tier, rest) = links.split_at(in_tier);
        links = rest;
        if let Some(ruling) = judge_tier(context, tier, direction, steps) {
            return ruling;
        }
    }
    Ruling::DefaultAllow
}

/// Whether one of the gate's selectors selects the end that it asks about.
#[inline]
fn may_select(context: &Context<'_>, gate: &Gate) -> bool {
    let place = match gate.end {
        GateEnd::Destination => &context.destination,
        GateEnd::Source => &context.source,
    };
    let peers = gate.peers();
    peers.is_empty() || peers.iter().any(|peer| is_selected(context, place, *peer))
}

/// What one tier says; `None` if the flow leaves it undecided.
fn judge_tier(
    context: &Context<'_>,
    tier: &[crate::compile::chain::Link],
    direction: Direction,
    steps: &mut Steps,
) -> Option<Ruling> {
    let protocol = context.protocol.number();
    for link in tier {
        let policy = context.set.policy(link.slot);
        for (index, Gated { gate, rule }) in (0u32..).zip(policy.rules(direction)) {
            // A trace wants to know by what a rule fails.
            if !(steps.is_on()
                || gate.passes(protocol, context.destination.port) && may_select(context, gate))
            {
                continue;
            }
            let missed = miss(context, rule);
            steps.push(|| Step {
                policy: kept(policy),
                rule: Some(index),
                outcome: missed.map_or(Outcome::Matched(rule.action), Outcome::Missed),
            });
            if missed.is_some() {
                continue;
            }
            match rule.action {
                Action::Log => {}
                Action::Pass => return None,
                Action::Allow | Action::Deny => {
                    return Some(Ruling::Rule {
                        policy: kept(policy),
                        rule: index,
                        action: rule.action,
                    });
                }
            }
        }
    }
    let policies = || tier.iter().map(|link| context.set.policy(link.slot));
    // One that couldn't be read may be why nothing matches: it's the one to be told of.
    let broken = (context.set.tables.broken_count > 0)
        .then(|| policies().find(|policy| policy.broken.is_some()))
        .flatten();
    let first = broken.or_else(|| policies().next())?;
    let passes = context
        .set
        .tables
        .tiers
        .get(tier.first()?.tier as usize)
        .is_some_and(|tier| tier.passes);
    steps.push(|| Step {
        policy: kept(first),
        rule: None,
        outcome: if passes {
            Outcome::TierPassed
        } else {
            Outcome::TierDenied
        },
    });
    (!passes).then(|| Ruling::TierEnd { policy: kept(first) })
}
