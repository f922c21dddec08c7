//! The network layer: tiers in order, their policies in order, their rules in order, first match.

use super::matching::{is_selected, miss};
use super::{Context, Steps};
use crate::compile::chain::{Chain, Link, LinkOrigin};
use crate::flow::Direction;
use crate::gate::{Gate, GateEnd, GatePeers};
use crate::model::Action;
use crate::verdict::{Outcome, Ruling, Step};

/// What a chain says of a flow.
pub(super) fn judge(context: &Context<'_>, chain: &Chain, direction: Direction, steps: &mut Steps) -> Ruling {
    let links = chain.links(direction);
    let origin = |place| chain.origin(direction, place);
    // A trace wants to know of every rule.
    match chain.by_port(direction).filter(|_| !steps.is_on()) {
        Some(index) => {
            let places = index.places(context.destination.port);
            let links = places.map(|place| (place as usize, &links[place as usize]));
            judge_links(context, links, origin, direction, steps)
        }
        None => judge_links(context, links.iter().enumerate(), origin, direction, steps),
    }
}

#[inline]
fn judge_links<'l>(
    context: &Context<'_>,
    links: impl Iterator<Item = (usize, &'l Link)>,
    origin: impl Fn(usize) -> LinkOrigin,
    direction: Direction,
    steps: &mut Steps,
) -> Ruling {
    // Whether a rule passed the flow on to the next tier: the rest of this one doesn't count.
    let mut passed_on = false;
    for (place, link) in links {
        match link {
            Link::Rule(gate) => {
                if passed_on {
                    continue;
                }
                let matches = if steps.is_on() {
                    matches_as_written(context, origin(place), direction, steps)
                } else {
                    matches(context, gate)
                };
                if !matches {
                    continue;
                }
                match gate.action {
                    Action::Log => {}
                    Action::Pass => passed_on = true,
                    Action::Allow | Action::Deny => {
                        let LinkOrigin { slot, rule } = origin(place);
                        return Ruling::Rule {
                            policy: context.set.keep(slot),
                            rule,
                            action: gate.action,
                        };
                    }
                }
            }
            Link::TierEnd { passes } => {
                if std::mem::take(&mut passed_on) {
                    continue;
                }
                steps.push(|| Step {
                    policy: context.set.keep(origin(place).slot),
                    rule: None,
                    outcome: if *passes {
                        Outcome::TierPassed
                    } else {
                        Outcome::TierDenied
                    },
                });
                if !passes {
                    return Ruling::TierEnd {
                        policy: context.set.keep(origin(place).slot),
                    };
                }
            }
        }
    }
    Ruling::DefaultAllow
}

/// Whether a rule matches the flow.
#[inline]
fn matches(context: &Context<'_>, gate: &Gate) -> bool {
    passes(context, gate)
        && gate
            .rest()
            .is_none_or(|rest| miss(context, context.set.shared().rest(rest)).is_none())
}

/// As [`matches()`], by the rule itself: a trace wants to know what of it the flow misses.
fn matches_as_written(
    context: &Context<'_>,
    origin: LinkOrigin,
    direction: Direction,
    steps: &mut Steps,
) -> bool {
    let policy = context.set.policy(origin.slot);
    let Some(rule) = policy.rules(direction).get(origin.rule as usize) else {
        return false;
    };
    let missed = miss(context, rule);
    steps.push(|| Step {
        policy: context.set.keep(origin.slot),
        rule: Some(origin.rule),
        outcome: missed.map_or(Outcome::Matched(rule.action), Outcome::Missed),
    });
    missed.is_none()
}

/// Whether the flow passes the gate, and one of the gate's selectors selects the end that it asks about.
#[inline]
fn passes(context: &Context<'_>, gate: &Gate) -> bool {
    if !gate.passes(context.protocol.number(), context.destination.port) {
        return false;
    }
    let Some((end, peers)) = gate.peers() else {
        return true;
    };
    let place = match end {
        GateEnd::Destination => &context.destination,
        GateEnd::Source => &context.source,
    };
    match peers {
        GatePeers::One(selector) => is_selected(context, place, selector),
        GatePeers::Several(list) => {
            let selectors = context.set.shared().peers(list);
            selectors
                .iter()
                .any(|selector| is_selected(context, place, *selector))
        }
    }
}
