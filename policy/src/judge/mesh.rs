//! Istio's layer at the destination: is plaintext taken here, does a DENY match, does an ALLOW.

use std::cell::OnceCell;

use adit_identity::SpiffeId;

use super::{Context, Steps};
use crate::compile::chain::MeshChain;
use crate::model::{
    Action, Authorization, AuthorizationAction, AuthorizationMatch, AuthorizationRule, Body, MtlsMode,
    NetValues, Pattern, Values,
};
use crate::set::{Compiled, Kept};
use crate::verdict::{Field, Outcome, Ruling, Step, Unenforced};

/// Which policies count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// Those marked as dry run, too.
    DryRunToo,
    /// Those that are enforced.
    Enforced,
}

/// What the mesh's policies say of a flow.
pub(super) fn judge(context: &Context<'_>, chain: &MeshChain, count: Count, steps: &mut Steps) -> Ruling {
    let peer = Peer::new();
    if context.flow.source_identity.is_none()
        && let Some((MtlsMode::Strict, slot)) = chain.mtls.of(context.destination.port)
    {
        let policy = context.set.keep(slot);
        steps.push(|| Step {
            policy: policy.clone(),
            rule: None,
            outcome: Outcome::PlaintextRefused,
        });
        return Ruling::Strict { policy };
    }
    let with_action = |wanted: AuthorizationAction, list: &[u32]| -> Vec<u32> {
        let dry_run = chain.dry_run.iter().copied().filter(|slot| {
            count == Count::DryRunToo
                && body(context.set.policy(*slot)).is_some_and(|body| body.action == wanted)
        });
        list.iter().copied().chain(dry_run).collect()
    };
    let find = |slots: &[u32], action: Action, steps: &mut Steps| {
        slots.iter().find_map(|slot| {
            first_match(context, &peer, *slot, action, steps).map(|rule| Ruling::Rule {
                policy: context.set.keep(*slot),
                rule,
                action,
            })
        })
    };
    let denying = match count {
        Count::Enforced => find(&chain.deny, Action::Deny, steps),
        Count::DryRunToo => find(
            &with_action(AuthorizationAction::Deny, &chain.deny),
            Action::Deny,
            steps,
        ),
    };
    let custom = || {
        // Nobody can be asked, so whatever would have been asked about is refused where the mesh fails closed.
        let custom: Vec<u32> = chain
            .unenforced
            .iter()
            .copied()
            .filter(|slot| {
                context.set.tables.l7_denies
                    && body(context.set.policy(*slot))
                        .is_some_and(|body| body.action == AuthorizationAction::Custom)
            })
            .collect();
        find(&custom, Action::Deny, &mut Steps(None))
    };
    if let Some(ruling) = denying.or_else(custom) {
        return ruling;
    }
    let dry_allow;
    let allow = match count {
        Count::Enforced => &chain.allow[..],
        Count::DryRunToo => {
            dry_allow = with_action(AuthorizationAction::Allow, &chain.allow);
            &dry_allow[..]
        }
    };
    if allow.is_empty() {
        return Ruling::NoAllowPolicy;
    }
    find(allow, Action::Allow, steps).unwrap_or_else(|| Ruling::NoAllowMatch {
        policy: context.set.keep(allow[0]),
    })
}

/// The AUDIT policies that match.
pub(super) fn audits(context: &Context<'_>, chain: &MeshChain) -> Vec<Kept> {
    let peer = Peer::new();
    chain
        .audit
        .iter()
        .filter(|slot| first_match(context, &peer, **slot, Action::Log, &mut Steps(None)).is_some())
        .map(|slot| context.set.keep(*slot))
        .collect()
}

/// The rules that select the destination and aren't enforced as written.
pub(super) fn unenforced(context: &Context<'_>, chain: &MeshChain) -> Vec<Unenforced> {
    let mut out = Vec::new();
    for slot in &chain.unenforced {
        let Some(body) = body(context.set.policy(*slot)) else {
            continue;
        };
        match body.action {
            AuthorizationAction::Custom | AuthorizationAction::Elsewhere => out.push(Unenforced {
                policy: context.set.keep(*slot),
                rule: None,
            }),
            _ => out.extend(
                (0u32..)
                    .zip(&body.rules)
                    .filter(|(_, rule)| !rule.http.is_empty())
                    .map(|(rule, _)| Unenforced {
                        policy: context.set.keep(*slot),
                        rule: Some(rule),
                    }),
            ),
        }
    }
    out
}

fn body(policy: &Compiled) -> Option<&Authorization> {
    match &policy.source.body {
        Body::Authorization(body) => Some(body),
        Body::Network(_) | Body::PeerAuthentication(_) => None,
    }
}

/// Who the peer proved to be.
struct Peer {
    /// The SPIFFE id without its scheme, as Istio's principals are written, once a rule asked for it.
    principal: OnceCell<Option<String>>,
}

impl Peer {
    fn new() -> Self {
        Self {
            principal: OnceCell::new(),
        }
    }

    fn principal(&self, id: Option<&SpiffeId>) -> Option<&str> {
        let render = |id: &SpiffeId| {
            format!(
                "{}/ns/{}/sa/{}",
                id.trust_domain(),
                id.namespace(),
                id.service_account()
            )
        };
        self.principal.get_or_init(|| id.map(render)).as_deref()
    }
}

/// The first rule of a policy that matches.
fn first_match(
    context: &Context<'_>,
    peer: &Peer,
    slot: u32,
    action: Action,
    steps: &mut Steps,
) -> Option<u32> {
    let body = body(context.set.policy(slot))?;
    (0u32..).zip(&body.rules).find_map(|(index, rule)| {
        let missed = miss(context, peer, rule, action);
        steps.push(|| Step {
            policy: context.set.keep(slot),
            rule: Some(index),
            outcome: missed.map_or(Outcome::Matched(action), Outcome::Missed),
        });
        missed.is_none().then_some(index)
    })
}

fn miss(context: &Context<'_>, peer: &Peer, rule: &AuthorizationRule, action: Action) -> Option<Field> {
    if !rule.http.is_empty() && action != Action::Deny {
        return Some(Field::Http);
    }
    // A DENY rule is read without its HTTP attributes. An entry of which nothing is left never holds, as in Istio,
    // or always, where the mesh fails closed.
    let emptied_holds = context.set.tables.l7_denies && !rule.http.is_empty();
    rule.clauses
        .iter()
        .find(|clause| {
            !clause.any.iter().any(|one| {
                if one.is_empty() {
                    emptied_holds
                } else {
                    holds(context, peer, one)
                }
            })
        })
        .map(|clause| Field::Clause(clause.field))
}

fn holds(context: &Context<'_>, peer: &Peer, one: &AuthorizationMatch) -> bool {
    let id = context.flow.source_identity.as_ref();
    let namespace = id.map(|id| id.namespace());
    let trust_domain = id.map(|id| id.trust_domain().as_str());
    value(&one.principals, |pattern| matches(pattern, peer.principal(id)))
        && value(&one.namespaces, |pattern| matches(pattern, namespace))
        && value(&one.accounts, |(namespace, name)| {
            id.is_some_and(|id| id.namespace() == &**namespace && id.service_account() == &**name)
        })
        && value(&one.trust_domains, |pattern| matches(pattern, trust_domain))
        && net(&one.source_nets, context.source.address)
        && net(&one.destination_nets, context.destination.address)
        && value(&one.ports, |port| *port == context.destination.port)
}

/// Any of the one list, if it has any, and none of the other: which holds where there is nothing to compare with.
fn value<T>(values: &Values<T>, test: impl Fn(&T) -> bool) -> bool {
    (values.any.is_empty() || values.any.iter().any(&test)) && !values.none.iter().any(&test)
}

fn net(values: &NetValues, address: std::net::IpAddr) -> bool {
    values.any.as_ref().is_none_or(|nets| nets.contains(address))
        && values.none.as_ref().is_none_or(|nets| !nets.contains(address))
}

fn matches(pattern: &Pattern, text: Option<&str>) -> bool {
    text.is_some_and(|text| match pattern {
        Pattern::Exact(wanted) => text == &**wanted,
        Pattern::Prefix(start) => text.starts_with(&**start),
        Pattern::Present => !text.is_empty(),
        Pattern::Suffix(end) => text.ends_with(&**end),
    })
}
