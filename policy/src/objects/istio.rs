//! Istio's AuthorizationPolicy, as far as layer 4 sees it, and PeerAuthentication.

use std::sync::Arc;

use super::decode::{Decoder, Fields};
use super::header::Header;
use super::values;
use crate::codes;
use crate::document::{Node, Value};
use crate::model::{
    Authorization, AuthorizationAction, AuthorizationMatch, AuthorizationRule, Body, Clause, ClauseField,
    MtlsMode, NetValues, Pattern, PeerAuthentication, PeerLevel, Policy, PolicyKind, Values, mesh_subject,
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
        if fields.take("provider").is_some() || body.action == AuthorizationAction::Custom {
            decoder.warn(
                codes::NOT_ENFORCED,
                fields.at,
                "layer 4 has no external authorizer: CUSTOM isn't enforced",
            );
        }
        for name in ["targetRef", "targetRefs"] {
            if let Some(node) = fields.take(name) {
                body.action = AuthorizationAction::Elsewhere;
                decoder.within(name, |decoder| {
                    decoder.warn(
                        codes::NOT_ENFORCED,
                        node.at,
                        "the policy is for a waypoint or gateway, not for workloads",
                    );
                });
            }
        }
        let rules = decoder.optional(&mut fields, "rules", |decoder, node| {
            decoder.list(node, |decoder, node| rule(decoder, node, &namespace))
        });
        body.rules = rules.unwrap_or_default().into();
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
fn match_labels(decoder: &mut Decoder<'_>, node: &Node) -> Option<Option<Expression>> {
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
                decoder.list(node, |decoder, node| {
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
        decoder.list(node, |decoder, node| condition(decoder, node, &mut http))
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
        out.source_nets = net_pair(decoder, &mut fields, ["ipBlocks", "notIpBlocks"]);
        &HTTP_SOURCES
    } else {
        out.ports = pair(decoder, &mut fields, ["ports", "notPorts"], port);
        &HTTP_OPERATIONS
    };
    let mut unseen_here = 0;
    for name in unseen {
        if fields
            .take(name)
            .is_some_and(|node| node.value != Value::List(Vec::new()))
        {
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
        "source.serviceAccount",
        "source.trustDomain",
    ];
    let families = ["experimental.", "request.auth.claims[", "request.headers["];
    known.contains(&key) || families.iter().any(|family| key.starts_with(family))
}

/// One entry of `when`. A key that layer 4 can't see leaves a match that asks nothing, which never holds.
fn condition(decoder: &mut Decoder<'_>, node: &Node, http: &mut Vec<Arc<str>>) -> Option<AuthorizationMatch> {
    let mut fields = decoder.fields(node)?;
    let mut out = AuthorizationMatch::default();
    let names = ["values", "notValues"];
    let key = decoder.required(&mut fields, "key", Decoder::shared)?;
    match &*key {
        "source.ip" => out.source_nets = net_pair(decoder, &mut fields, names),
        "source.namespace" => out.namespaces = pair(decoder, &mut fields, names, pattern),
        "source.principal" => out.principals = pair(decoder, &mut fields, names, pattern),
        "destination.ip" => out.destination_nets = net_pair(decoder, &mut fields, names),
        "destination.port" => out.ports = pair(decoder, &mut fields, names, port),
        other => {
            // Taken for HTTP, a misspelt key in a DENY would leave the rule without effect.
            if !is_http_attribute(other) {
                let message = format!("expected an attribute that Istio has, got {other}");
                decoder.fail(codes::BAD_VALUE, node.at, message);
            }
            for name in names {
                fields.take(name);
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
    let text = decoder.text(node)?;
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
    let text = decoder.text(node)?;
    Some(match text.split_once('/') {
        Some((namespace, name)) => (namespace.into(), name.into()),
        None => (Arc::clone(own), text.into()),
    })
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

/// Reads the `spec` of a PeerAuthentication.
pub(super) fn peer_authentication(
    decoder: &mut Decoder<'_>,
    header: &Header,
    spec: Option<&Node>,
    root: &str,
) -> Policy {
    let namespace = header.namespace_or_default();
    let in_root = *namespace == *root;
    let mut labels = None;
    let mut subject_is_sound = true;
    let mut mode = None;
    let mut ports = Vec::new();
    if let Some(mut fields) = spec.and_then(|spec| decoder.fields(spec)) {
        let before = decoder.errors();
        labels = decoder.optional(&mut fields, "selector", match_labels).flatten();
        subject_is_sound = decoder.errors() == before;
        mode = decoder.optional(&mut fields, "mtls", mutual_tls).flatten();
        ports = decoder
            .optional(&mut fields, "portLevelMtls", port_modes)
            .unwrap_or_default();
        let at = fields.at;
        decoder.finish(fields);
        if labels.is_some() && in_root {
            decoder.warn(
                codes::IGNORED,
                at,
                "a selector in the root namespace: Istio ignores the whole policy",
            );
        } else if labels.is_none() && !ports.is_empty() {
            decoder.warn(
                codes::IGNORED,
                at,
                "portLevelMtls has no effect without a selector",
            );
        }
    }
    let broken = decoder.first_error();
    if broken.is_some() {
        mode = Some(MtlsMode::Strict);
        ports.clear();
    }
    let level = match (labels.is_some() && subject_is_sound, in_root) {
        (true, true) if broken.is_none() => PeerLevel::Ignored,
        (_, true) => PeerLevel::Mesh,
        (true, false) => PeerLevel::Workload,
        (false, false) => PeerLevel::Namespace,
    };
    if level != PeerLevel::Workload {
        ports.clear();
    }
    let scope = (!in_root).then_some(&namespace);
    Policy {
        key: header.key(PolicyKind::PeerAuthentication, Some(&namespace), false),
        subject: mesh_subject(scope, labels.filter(|_| level == PeerLevel::Workload)),
        body: Body::PeerAuthentication(PeerAuthentication {
            level,
            mode,
            ports: ports.into(),
            // A broken one must count, so it is older than all.
            created: if broken.is_some() {
                i64::MIN
            } else {
                header.created
            },
        }),
        origin: header.origin.clone(),
        broken,
    }
}

/// `mode`; the inner `None` inherits.
fn mutual_tls(decoder: &mut Decoder<'_>, node: &Node) -> Option<Option<MtlsMode>> {
    let modes = [
        ("UNSET", None),
        ("DISABLE", Some(MtlsMode::Disable)),
        ("PERMISSIVE", Some(MtlsMode::Permissive)),
        ("STRICT", Some(MtlsMode::Strict)),
    ];
    let mut fields = decoder.fields(node)?;
    let mode = decoder.optional(&mut fields, "mode", |decoder, node| decoder.choice(node, &modes));
    decoder.finish(fields);
    Some(mode.flatten())
}

fn port_modes(decoder: &mut Decoder<'_>, node: &Node) -> Option<Vec<(u16, Option<MtlsMode>)>> {
    let Value::Map(entries) = &node.value else {
        let message = format!("expected a mapping of ports, got {}", node.value.describe());
        decoder.fail(codes::WRONG_TYPE, node.at, message);
        return None;
    };
    let mut out = Vec::new();
    for (key, value) in entries {
        decoder.within(&key.name, |decoder| match key.name.parse() {
            Ok(port) if port > 0 => out.extend(mutual_tls(decoder, value).map(|mode| (port, mode))),
            _ => {
                let message = format!("expected a port from 1 to 65535, got {:?}", key.name);
                decoder.fail(codes::BAD_PORT, key.at, message);
            }
        });
    }
    out.sort_unstable_by_key(|(port, _)| *port);
    Some(out)
}
