//! The values that several APIs share: addresses, protocols, ports, selectors, metadata.

use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::Protocol;
use ipnet::IpNet;

use super::decode::{Decoder, Fields};
use crate::codes;
use crate::document::{Node, Value};
use crate::inventory::LabelMap;
use crate::model::PortSpec;
use crate::selector::{self, Expression};

/// A CIDR; a bare address stands for itself alone where `bare` says so.
pub(super) fn net(decoder: &mut Decoder<'_>, node: &Node, bare: bool) -> Option<IpNet> {
    let text = decoder.text(node)?;
    let parsed = match text.parse::<IpNet>() {
        Ok(net) => Some(net),
        Err(_) if bare => text.parse::<IpAddr>().ok().map(IpNet::from),
        Err(_) => None,
    };
    let parsed = parsed.map(unmapped);
    if parsed.is_none() {
        let expected = if bare { "an address or a CIDR" } else { "a CIDR" };
        decoder.fail(
            codes::BAD_ADDRESS,
            node.at,
            format!("expected {expected}, got {text:?}"),
        );
    }
    parsed
}

/// IPv4 addresses in IPv6's clothes are IPv4 addresses: flows have them so, and a block of the others matches none.
fn unmapped(net: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    match net {
        IpNet::V6(v6) => v6
            .addr()
            .to_ipv4_mapped()
            .zip(v6.prefix_len().checked_sub(MAPPED_BITS))
            .and_then(|(address, length)| IpNet::new(address.into(), length).ok())
            .unwrap_or(net),
        IpNet::V4(_) => net,
    }
}

/// A list of CIDRs.
pub(super) fn nets(decoder: &mut Decoder<'_>, node: &Node, bare: bool) -> Option<Vec<IpNet>> {
    decoder.list(node, |decoder, item| net(decoder, item, bare))
}

/// One of Kubernetes' transport protocols.
pub(super) fn transport(decoder: &mut Decoder<'_>, node: &Node) -> Option<Protocol> {
    decoder.choice(
        node,
        &[
            ("TCP", Protocol::Tcp),
            ("UDP", Protocol::Udp),
            ("SCTP", Protocol::Sctp),
        ],
    )
}

/// A port number.
pub(super) fn port_number(decoder: &mut Decoder<'_>, node: &Node) -> Option<u16> {
    let number = decoder.integer(node, 1..=65_535, codes::BAD_PORT)?;
    u16::try_from(number).ok()
}

/// A port number or the name of a container port.
pub(super) fn port(decoder: &mut Decoder<'_>, node: &Node) -> Option<PortSpec> {
    match &node.value {
        Value::Text(text) => match port_name(text) {
            Some(name) => Some(PortSpec::Named(name)),
            None => {
                let message =
                    format!("expected a number or a port name of 1 to 63 of [a-z0-9-], got {text:?}");
                decoder.fail(codes::BAD_PORT, node.at, message);
                None
            }
        },
        _ => port_number(decoder, node).map(|number| PortSpec::Range(number, number)),
    }
}

/// A name that a container port can have. Kubernetes allows 15 characters there; policies are a little laxer, and
/// a name that no port can have just matches none.
pub(super) fn port_name(text: &str) -> Option<Arc<str>> {
    let shape = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
        && text.bytes().any(|byte| byte.is_ascii_lowercase());
    shape.then(|| text.into())
}

/// A Kubernetes label selector: `matchLabels` and `matchExpressions`, all of which must hold.
pub(super) fn label_selector(decoder: &mut Decoder<'_>, node: &Node) -> Option<Expression> {
    let mut fields = decoder.fields(node)?;
    let mut parts = Vec::new();
    if let Some(labels) = decoder.optional(&mut fields, "matchLabels", labels) {
        parts.extend(
            labels
                .into_iter()
                .map(|(key, value)| Expression::Equals(key.into(), value.into())),
        );
    }
    let expressions = decoder.optional(&mut fields, "matchExpressions", |decoder, node| {
        decoder.list(node, match_expression)
    });
    parts.extend(expressions.unwrap_or_default());
    decoder.finish(fields);
    Some(Expression::all_of(parts))
}

#[derive(Clone, Copy)]
enum Operator {
    DoesNotExist,
    Exists,
    In,
    NotIn,
}

fn match_expression(decoder: &mut Decoder<'_>, node: &Node) -> Option<Expression> {
    let mut fields = decoder.fields(node)?;
    let key = decoder.required(&mut fields, "key", |decoder, node| {
        let key = decoder.text(node)?;
        if !is_label_key(key) {
            decoder.fail(
                codes::BAD_SELECTOR,
                node.at,
                format!("expected a label key, got {key:?}"),
            );
            return None;
        }
        Some(Arc::<str>::from(key))
    });
    let operator = decoder.required(&mut fields, "operator", |decoder, node| {
        decoder.choice(
            node,
            &[
                ("In", Operator::In),
                ("NotIn", Operator::NotIn),
                ("Exists", Operator::Exists),
                ("DoesNotExist", Operator::DoesNotExist),
            ],
        )
    });
    let mut values = decoder
        .optional(&mut fields, "values", |decoder, node| {
            decoder.list(node, label_value)
        })
        .unwrap_or_default();
    values.sort_unstable();
    values.dedup();
    decoder.finish(fields);
    let (key, operator) = (key?, operator?);
    let wants_values = matches!(operator, Operator::In | Operator::NotIn);
    if wants_values == values.is_empty() {
        let expected = if wants_values {
            "values with In and NotIn"
        } else {
            "no values with Exists and DoesNotExist"
        };
        decoder.fail(
            codes::BAD_SELECTOR,
            node.at,
            format!("expected {expected}, got {} of them", values.len()),
        );
        return None;
    }
    Some(match operator {
        Operator::In => Expression::In(key, values.into()),
        Operator::NotIn => Expression::NotIn(key, values.into()),
        Operator::Exists => Expression::Has(key),
        Operator::DoesNotExist => Expression::Not(Box::new(Expression::Has(key))),
    })
}

/// A mapping of labels.
pub(super) fn labels(decoder: &mut Decoder<'_>, node: &Node) -> Option<LabelMap> {
    let Value::Map(fields) = &node.value else {
        let message = format!("expected a mapping of labels, got {}", node.value.describe());
        decoder.fail(codes::WRONG_TYPE, node.at, message);
        return None;
    };
    let mut out = LabelMap::new();
    for (key, value) in fields {
        decoder.within(&key.name, |decoder| {
            if !is_label_key(&key.name) {
                decoder.fail(
                    codes::BAD_SELECTOR,
                    key.at,
                    format!("expected a label key, got {:?}", key.name),
                );
            }
            if let Some(value) = label_value(decoder, value) {
                out.insert(key.name.clone(), value.to_string());
            }
        });
    }
    Some(out)
}

fn label_value(decoder: &mut Decoder<'_>, node: &Node) -> Option<Arc<str>> {
    let text = decoder.text(node)?;
    if !is_label_value(text) {
        let message = format!("expected a label value of at most 63 of [a-zA-Z0-9._-], got {text:?}");
        decoder.fail(codes::BAD_SELECTOR, node.at, message);
        return None;
    }
    Some(text.into())
}

fn is_label_value(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && ends(text.as_bytes().first())
        && ends(text.as_bytes().last())
}

fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let prefix_fits = prefix.is_none_or(|prefix| {
        (1..=253).contains(&prefix.len())
            && prefix
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
    });
    prefix_fits && !name.is_empty() && is_label_value(name)
}

/// A selector of Calico's grammar; the empty text is as good as none.
pub(super) fn calico_selector(decoder: &mut Decoder<'_>, node: &Node) -> Option<Expression> {
    let text = decoder.text(node)?;
    if text.trim().is_empty() {
        return None;
    }
    match selector::parse(text) {
        Ok(expression) => Some(expression),
        Err(error) => {
            decoder.fail(codes::BAD_SELECTOR, node.at, error.to_string());
            None
        }
    }
}

/// Which directions a list of types names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Types {
    pub(super) ingress: bool,
    pub(super) egress: bool,
}

/// `types` or `policyTypes`; an empty list is as good as none.
pub(super) fn types(decoder: &mut Decoder<'_>, fields: &mut Fields<'_>, name: &str) -> Option<Types> {
    decoder.optional(fields, name, |decoder, node| {
        let words = decoder.list(node, |decoder, node| {
            decoder.choice(node, &[("Ingress", true), ("Egress", false)])
        })?;
        (!words.is_empty()).then(|| Types {
            ingress: words.contains(&true),
            egress: words.contains(&false),
        })
    })
}
