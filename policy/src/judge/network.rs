//! The network layer: tiers in order, their policies in order, their rules in order, first match.

use super::matching::{is_selected, miss};
use super::{Context, Steps};
use crate::compile::chain::{Chain, Link, RuleLink};
use crate::flow::Direction;
use crate::gate::{Gate, GateEnd, GatePeers};
use crate::model::Action;
use crate::verdict::{Outcome, Ruling, Step};

/// What a chain says of a flow.
pub(super) fn judge(context: &Context<'_>, chain: &Chain, direction: Direction, steps: &mut Steps) -> Ruling {
    let links = chain.links(direction);
    // A trace wants to know of every rule.
    match chain.by_port(direction).filter(|_| !steps.is_on()) {
        Some(index) => {
            let places = index.places(context.destination.port);
            judge_links(
                context,
                places.map(|place| &links[place as usize]),
                direction,
                steps,
            )
        }
        None => judge_links(context, links.iter(), direction, steps),
    }
}

#[inline]
fn judge_links<'l>(
    context: &Context<'_>,
    links: impl Iterator<Item = &'l Link>,
    direction: Direction,
    steps: &mut Steps,
) -> Ruling {
    // Whether a rule passed the flow on to the next tier: the rest of this one doesn't count.
    let mut passed_on = false;
    for link in links {
        match link {
            Link::Rule(link) => {
                if passed_on || !matches(context, link, direction, steps) {
                    continue;
                }
                match link.gate.action {
                    Action::Log => {}
                    Action::Pass => passed_on = true,
                    Action::Allow | Action::Deny => {
                        return Ruling::Rule {
                            policy: context.set.keep(link.slot),
                            rule: link.rule,
                            action: link.gate.action,
                        };
                    }
                }
            }
            Link::TierEnd { passes, slot } => {
                if std::mem::take(&mut passed_on) {
                    continue;
                }
                steps.push(|| Step {
                    policy: context.set.keep(*slot),
                    rule: None,
                    outcome: if *passes {
                        Outcome::TierPassed
                    } else {
                        Outcome::TierDenied
                    },
                });
                if !passes {
                    return Ruling::TierEnd {
                        policy: context.set.keep(*slot),
                    };
                }
            }
        }
    }
    Ruling::DefaultAllow
}

/// Whether a rule matches the flow.
#[inline]
fn matches(context: &Context<'_>, link: &RuleLink, direction: Direction, steps: &mut Steps) -> bool {
    if !steps.is_on() {
        return passes(context, &link.gate)
            && link
                .gate
                .rest()
                .is_none_or(|rest| miss(context, context.set.shared().rest(rest)).is_none());
    }
    // A trace wants to know by what the rule fails as it is written.
    let policy = context.set.policy(link.slot);
    let Some(rule) = policy.rules(direction).get(link.rule as usize) else {
        return false;
    };
    let missed = miss(context, rule);
    steps.push(|| Step {
        policy: context.set.keep(link.slot),
        rule: Some(link.rule),
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
    let place = match gate.end {
        GateEnd::Destination => &context.destination,
        GateEnd::Source => &context.source,
    };
    match gate.peers {
        GatePeers::Anyone => true,
        GatePeers::One(selector) => is_selected(context, place, selector),
        GatePeers::Several(list) => {
            let selectors = context.set.shared().peers(list);
            selectors
                .iter()
                .any(|selector| is_selected(context, place, *selector))
        }
    }
}
