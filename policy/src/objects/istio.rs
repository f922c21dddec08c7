//! Istio's AuthorizationPolicy, as far as layer 4 sees it.

use std::sync::Arc;

use super::decode::{Decoder, Fields};
use super::header::Header;
use super::values;
use crate::codes;
use crate::diagnostic::Position;
use crate::document::Node;
use crate::model::{
    Authorization, AuthorizationAction, AuthorizationMatch, AuthorizationRule, Body, Clause, ClauseField,
    NetValues, Pattern, Policy, PolicyKind, Values, mesh_subject,
};
use crate::net::Nets;
use crate::selector::{EndpointSelector, Expression};

/// The namespace whose policies are about the whole mesh, unless the reader is told another.
pub const DEFAULT_ROOT_NAMESPACE: &str = "istio-system";

/// Reads the `spec` of an AuthorizationPolicy.
pub(super) fn authorization_policy(
    decoder: &mut Decoder<'_>,
    header: &Header,
    spec: Option<&Node>,
    root: &str,
) -> Policy {
    let namespace = header.namespace_or_default();
    let dry_run = header
        .annotation("istio.io/dry-run")
        .is_some_and(|text| TRUE.contains(&text));
    let mut body = Authorization {
        action: AuthorizationAction::Allow,
        dry_run,
        rules: Box::default(),
    };
    let mut labels = None;
    let mut subject_is_sound = true;
    // No spec, or an empty one, is an ALLOW policy without rules: it matches nothing and so denies all.
    if let Some(mut fields) = spec.and_then(|spec| decoder.fields(spec)) {
        let before = decoder.errors();
        labels = decoder.optional(&mut fields, "selector", match_labels).flatten();
        subject_is_sound = decoder.errors() == before;
        let actions = [
            ("ALLOW", AuthorizationAction::Allow),
            ("AUDIT", AuthorizationAction::Audit),
            ("CUSTOM", AuthorizationAction::Custom),
            ("DENY", AuthorizationAction::Deny),
        ];
        if let Some(action) = decoder.optional(&mut fields, "action", |decoder, node| {
            decoder.choice(node, &actions)
        }) {
            body.action = action;
        }
        let has_provider = provider(decoder, &mut fields);
        let has_selector = fields.has("selector");
        let is_elsewhere = has_targets(decoder, &mut fields, has_selector);
        let rules = decoder.optional(&mut fields, "rules", |decoder, node| {
            decoder.list(node, |decoder, node| rule(decoder, node, &namespace))
        });
        body.rules = rules.unwrap_or_default().into();
        check_action(decoder, &body, has_provider, fields.at);
        if is_elsewhere {
            body.action = AuthorizationAction::Elsewhere;
        }
        decoder.finish(fields);
    }
    warn_of_http(decoder, header, &body);
    let broken = decoder.first_error();
    if broken.is_some() {
        // Refuses everything from everybody, whatever it meant to do.
        body.action = AuthorizationAction::Deny;
        body.rules = [AuthorizationRule {
            clauses: Box::default(),
            http: Box::default(),
            line: 0,
        }]
        .into();
    }
    let scope = (*namespace != *root).then_some(&namespace);
    Policy {
        key: header.key(PolicyKind::AuthorizationPolicy, Some(&namespace), false),
        subject: if subject_is_sound {
            mesh_subject(scope, labels)
        } else {
            EndpointSelector::everything_in(scope)
        },
        body: Body::Authorization(body),
        origin: header.origin.clone(),
        broken,
    }
}

/// Whether an external authorizer is named.
fn provider(decoder: &mut Decoder<'_>, fields: &mut Fields<'_>) -> bool {
    let named = decoder.optional(fields, "provider", |decoder, node| {
        let mut fields = decoder.fields(node)?;
        let name = decoder.required(&mut fields, "name", |decoder, node| decoder.word(node).map(drop));
        decoder.finish(fields);
        name
    });
    named.is_some()
}

/// Whether the policy is for a waypoint, gateway or service. An empty list is none: the policy is for workloads then.
fn has_targets(decoder: &mut Decoder<'_>, fields: &mut Fields<'_>, has_selector: bool) -> bool {
    let at = fields.at;
    let target = |decoder: &mut Decoder<'_>, node: &Node| {
        let mut fields = decoder.fields(node)?;
        for name in ["kind", "name"] {
            decoder.required(&mut fields, name, |decoder, node| decoder.word(node).map(drop));
        }
        for name in ["group", "namespace"] {
            decoder.optional(&mut fields, name, |decoder, node| decoder.text(node).map(drop));
        }
        decoder.finish(fields);
        Some(())
    };
    let one = decoder.optional(fields, "targetRef", target);
    let many = decoder.optional(fields, "targetRefs", |decoder, node| decoder.list(node, target));
    let count = usize::from(one.is_some()) + many.map_or(0, |many| many.len());
    if count > 0 && (has_selector || one.is_some() && count > 1) {
        let message = "expected one of selector, targetRef and targetRefs, got more of them";
        decoder.fail(codes::CONTRADICTION, at, message);
    } else if count > 0 {
        decoder.warn(
            codes::NOT_ENFORCED,
            at,
            "targetRefs: the policy is for a waypoint or gateway, not for workloads",
        );
    }
    count > 0
}

/// What istiod refuses of an action: most of it would have no effect, where an effect was meant.
fn check_action(decoder: &mut Decoder<'_>, body: &Authorization, has_provider: bool, at: Position) {
    let is_custom = body.action == AuthorizationAction::Custom;
    let needs_rules = is_custom || body.action == AuthorizationAction::Deny;
    if needs_rules && body.rules.is_empty() {
        let message = "expected rules beside this action, got none: add the rule {} to match everything";
        decoder.fail(codes::MISSING_FIELD, at, message);
    }
    if is_custom != has_provider {
        let message = "expected a provider with the action CUSTOM and with no other";
        decoder.fail(codes::CONTRADICTION, at, message);
    }
    if is_custom {
        let message = "layer 4 has no external authorizer: CUSTOM isn't enforced";
        decoder.warn(codes::NOT_ENFORCED, at, message);
    }
}

fn warn_of_http(decoder: &mut Decoder<'_>, header: &Header, body: &Authorization) {
    for (index, rule) in body
        .rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| !rule.http.is_empty())
    {
        let what = match body.action {
            AuthorizationAction::Allow => "the rule allows nothing here",
            AuthorizationAction::Deny => {
                "the rule is read without them, and has no effect where nothing else is left"
            }
            AuthorizationAction::Audit | AuthorizationAction::Custom | AuthorizationAction::Elsewhere => {
                "the rule has no effect here"
            }
        };
        let mut at = header.origin.at;
        at.line = if rule.line > 0 { rule.line } else { at.line };
        let attributes = rule.http.join(", ");
        decoder.within(&format!("spec.rules[{index}]"), |decoder| {
            decoder.warn(
                codes::NOT_ENFORCED,
                at,
                format!("HTTP attributes ({attributes}) without a waypoint: {what}"),
            );
        });
    }
}

/// `matchLabels`; `None` where it gives none.
pub(super) fn match_labels(decoder: &mut Decoder<'_>, node: &Node) -> Option<Option<Expression>> {
    let mut fields = decoder.fields(node)?;
    let labels = decoder
        .optional(&mut fields, "matchLabels", values::labels)
        .unwrap_or_default();
    decoder.finish(fields);
    let parts: Vec<_> = labels
        .into_iter()
        .map(|(key, value)| Expression::Equals(key.into(), value.into()))
        .collect();
    Some((!parts.is_empty()).then(|| Expression::all_of(parts)))
}

fn rule(decoder: &mut Decoder<'_>, node: &Node, namespace: &Arc<str>) -> Option<AuthorizationRule> {
    let mut fields = decoder.fields(node)?;
    let mut http = Vec::new();
    let mut clauses = Vec::new();
    let entries = |decoder: &mut Decoder<'_>,
                   fields: &mut Fields<'_>,
                   names: (&str, &str),
                   http: &mut Vec<Arc<str>>| {
        decoder
            .optional(fields, names.0, |decoder, node| {
                decoder.items(node, |decoder, node| {
                    let mut fields = decoder.fields(node)?;
                    let entry = decoder.required(&mut fields, names.1, |decoder, node| {
                        entry(decoder, node, namespace, names.1 == "source", http)
                    });
                    decoder.finish(fields);
                    entry
                })
            })
            .filter(|entries| !entries.is_empty())
    };
    let clause = |field, any: Vec<_>| Clause {
        field,
        any: any.into(),
    };
    let from = entries(decoder, &mut fields, ("from", "source"), &mut http);
    clauses.extend(from.map(|any| clause(ClauseField::From, any)));
    let to = entries(decoder, &mut fields, ("to", "operation"), &mut http);
    clauses.extend(to.map(|any| clause(ClauseField::To, any)));
    let conditions = decoder.optional(&mut fields, "when", |decoder, node| {
        decoder.items(node, |decoder, node| {
            condition(decoder, node, namespace, &mut http)
        })
    });
    clauses.extend(
        conditions
            .unwrap_or_default()
            .into_iter()
            .map(|one| clause(ClauseField::When, vec![one])),
    );
    decoder.finish(fields);
    http.sort_unstable();
    http.dedup();
    Some(AuthorizationRule {
        clauses: clauses.into(),
        http: http.into(),
        line: node.at.line,
    })
}

const HTTP_SOURCES: [&str; 4] = [
    "requestPrincipals",
    "notRequestPrincipals",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];
const HTTP_OPERATIONS: [&str; 6] = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];

/// A `source` or an `operation`.
fn entry(
    decoder: &mut Decoder<'_>,
    node: &Node,
    namespace: &Arc<str>,
    is_source: bool,
    http: &mut Vec<Arc<str>>,
) -> Option<AuthorizationMatch> {
    let mut fields = decoder.fields(node)?;
    let mut out = AuthorizationMatch::default();
    let unseen: &[&str] = if is_source {
        out.principals = pair(decoder, &mut fields, ["principals", "notPrincipals"], pattern);
        out.namespaces = pair(decoder, &mut fields, ["namespaces", "notNamespaces"], pattern);
        out.accounts = pair(
            decoder,
            &mut fields,
            ["serviceAccounts", "notServiceAccounts"],
            |decoder, node| account(decoder, node, namespace),
        );
        out.trust_domains = pair(decoder, &mut fields, ["trustDomains", "notTrustDomains"], pattern);
        out.source_nets = net_pair(decoder, &mut fields, ["ipBlocks", "notIpBlocks"]);
        if out.accounts != Values::default()
            && (out.principals != Values::default() || out.namespaces != Values::default())
        {
            let message = "expected serviceAccounts without principals and namespaces, got both";
            decoder.fail(codes::CONTRADICTION, node.at, message);
        }
        &HTTP_SOURCES
    } else {
        out.ports = pair(decoder, &mut fields, ["ports", "notPorts"], port);
        &HTTP_OPERATIONS
    };
    let mut unseen_here = 0;
    for name in unseen {
        if has_words(decoder, &mut fields, name) {
            http.push((*name).into());
            unseen_here += 1;
        }
    }
    decoder.finish(fields);
    if unseen_here == 0 && out.is_empty() {
        decoder.fail(
            codes::MISSING_FIELD,
            node.at,
            "expected at least one field with a value, got none",
        );
    }
    Some(out)
}

/// Whether a list of texts that layer 4 can't see is there and not empty.
fn has_words(decoder: &mut Decoder<'_>, fields: &mut Fields<'_>, name: &str) -> bool {
    let words = decoder.optional(fields, name, |decoder, node| {
        decoder.list(node, |decoder, node| decoder.word(node).map(drop))
    });
    words.is_some_and(|words| !words.is_empty())
}

/// What istiod takes for true in an annotation.
const TRUE: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];

/// Whether Istio has the attribute `key` for proxies that read HTTP.
fn is_http_attribute(key: &str) -> bool {
    let known = [
        "connection.sni",
        "remote.ip",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.principal",
    ];
    let families = ["experimental.", "request.auth.claims[", "request.headers["];
    known.contains(&key) || families.iter().any(|family| key.starts_with(family))
}

/// One entry of `when`. A key that layer 4 can't see leaves a match that asks nothing, which never holds.
fn condition(
    decoder: &mut Decoder<'_>,
    node: &Node,
    namespace: &Arc<str>,
    http: &mut Vec<Arc<str>>,
) -> Option<AuthorizationMatch> {
    let mut fields = decoder.fields(node)?;
    let mut out = AuthorizationMatch::default();
    let names = ["values", "notValues"];
    let key = decoder.required(&mut fields, "key", Decoder::shared)?;
    match &*key {
        "source.ip" => out.source_nets = net_pair(decoder, &mut fields, names),
        "source.namespace" => out.namespaces = pair(decoder, &mut fields, names, pattern),
        "source.principal" => out.principals = pair(decoder, &mut fields, names, pattern),
        "source.serviceAccount" => {
            out.accounts = pair(decoder, &mut fields, names, |decoder, node| {
                account(decoder, node, namespace)
            });
        }
        "source.trustDomain" => out.trust_domains = pair(decoder, &mut fields, names, pattern),
        "destination.ip" => out.destination_nets = net_pair(decoder, &mut fields, names),
        "destination.port" => out.ports = pair(decoder, &mut fields, names, port),
        other => {
            // Taken for HTTP, a misspelt key in a DENY would leave the rule without effect.
            if !is_http_attribute(other) {
                let message = format!("expected an attribute that Istio has, got {other}");
                decoder.fail(codes::BAD_VALUE, node.at, message);
            }
            let given = names.map(|name| has_words(decoder, &mut fields, name));
            if given == [false, false] {
                let message = "expected values or notValues, got neither";
                decoder.fail(codes::MISSING_FIELD, node.at, message);
            }
            http.push(key);
            decoder.finish(fields);
            return Some(out);
        }
    }
    decoder.finish(fields);
    if out.is_empty() {
        decoder.fail(
            codes::MISSING_FIELD,
            node.at,
            "expected values or notValues, got neither",
        );
    }
    Some(out)
}

/// Values of which one must match, and those of which none may.
fn pair<T>(
    decoder: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    names: [&str; 2],
    read: impl Fn(&mut Decoder<'_>, &Node) -> Option<T>,
) -> Values<T> {
    let [any, none] = names.map(|name| {
        decoder
            .optional(fields, name, |decoder, node| decoder.list(node, &read))
            .unwrap_or_default()
            .into_boxed_slice()
    });
    Values { any, none }
}

fn net_pair(decoder: &mut Decoder<'_>, fields: &mut Fields<'_>, names: [&str; 2]) -> NetValues {
    let [any, none] = names.map(|name| {
        decoder
            .optional(fields, name, |decoder, node| values::nets(decoder, node, true))
            .filter(|nets| !nets.is_empty())
            .map(|nets| Nets::new(&nets))
    });
    NetValues { any, none }
}

fn pattern(decoder: &mut Decoder<'_>, node: &Node) -> Option<Pattern> {
    let text = decoder.word(node)?;
    let inner = text.strip_prefix('*').unwrap_or(text);
    let inner = inner.strip_suffix('*').unwrap_or(inner);
    if inner.contains('*') || text.len() > 1 && text.starts_with('*') && text.ends_with('*') {
        let message =
            format!("only a first or a last * stands for any text; the other of {text:?} is read as it is");
        decoder.warn(codes::IGNORED, node.at, message);
    }
    if text.starts_with("spiffe://") {
        let message = format!("principals are compared without spiffe://, so {text:?} matches nobody");
        decoder.warn(codes::IGNORED, node.at, message);
    }
    Some(if text == "*" {
        Pattern::Present
    } else if let Some(suffix) = text.strip_prefix('*') {
        Pattern::Suffix(suffix.into())
    } else if let Some(prefix) = text.strip_suffix('*') {
        Pattern::Prefix(prefix.into())
    } else {
        Pattern::Exact(text.into())
    })
}

/// `namespace/name`, or `name` in the policy's own namespace.
fn account(decoder: &mut Decoder<'_>, node: &Node, own: &Arc<str>) -> Option<(Arc<str>, Arc<str>)> {
    let text = decoder.word(node)?;
    let (namespace, name) = text.split_once('/').unwrap_or((own, text));
    if [namespace, name]
        .iter()
        .any(|part| part.is_empty() || part.contains(['/', '*']))
    {
        let message = format!("expected NAMESPACE/NAME or NAME without a wildcard, got {text:?}");
        decoder.fail(codes::BAD_VALUE, node.at, message);
        return None;
    }
    Some((namespace.into(), name.into()))
}

/// A port, which Istio writes as a text.
fn port(decoder: &mut Decoder<'_>, node: &Node) -> Option<u16> {
    let text = decoder.text(node)?;
    let number = text.parse().ok().filter(|number| *number > 0);
    if number.is_none() {
        decoder.fail(
            codes::BAD_PORT,
            node.at,
            format!("expected a port from \"1\" to \"65535\", got {text:?}"),
        );
    }
    number
}
