//! Namespaces, service accounts, pods and network sets. What the API server wrote is read leniently: these objects
//! have hundreds of fields that have no bearing on policy.

use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::{Protocol, WorkloadName};

use super::decode::Decoder;
use super::header::Header;
use super::values;
use crate::codes;
use crate::document::{Node, Value};
use crate::inventory::{ContainerPort, NetworkSet, Workload};

/// Reads a Pod. Pods on the host's network and finished ones are `None`: they have no address of their own.
pub(super) fn pod<'n>(decoder: &mut Decoder<'_>, header: &Header, object: &'n Node) -> Option<Workload> {
    let spec = object.get("spec");
    let status = object.get("status");
    let field = |node: Option<&'n Node>, name: &str| node.and_then(|node| node.get(name));
    if field(spec, "hostNetwork").is_some_and(|node| node.value == Value::Bool(true)) {
        return None;
    }
    let phase = field(status, "phase").and_then(Node::as_text);
    if phase.is_some_and(|phase| ["Succeeded", "Failed"].contains(&phase)) {
        return None;
    }
    let account = field(spec, "serviceAccountName")
        .and_then(|node| node.as_text().map(Arc::from))
        .unwrap_or_else(|| "default".into());
    let mut ports = Vec::new();
    for list in ["containers", "initContainers"] {
        let containers = field(spec, list);
        decoder.within(&format!("spec.{list}"), |decoder| {
            for container in items(containers) {
                for port in items(container.get("ports")) {
                    ports.extend(container_port(decoder, port));
                }
            }
        });
    }
    let addresses = decoder.within("status", |decoder| {
        addresses_in(decoder, field(status, "podIP"), field(status, "podIPs"))
    });
    let node_addresses = decoder.within("status", |decoder| {
        addresses_in(decoder, field(status, "hostIP"), field(status, "hostIPs"))
    });
    Some(Workload {
        name: WorkloadName::new(&*header.namespace_or_default(), &*header.name),
        labels: header.labels.clone(),
        account,
        addresses,
        ports,
        node_addresses,
    })
}

fn items(node: Option<&Node>) -> &[Node] {
    match node.map(|node| &node.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}

fn container_port(decoder: &mut Decoder<'_>, node: &Node) -> Option<ContainerPort> {
    let number = node.get("containerPort")?;
    let number = decoder.within("containerPort", |decoder| values::port_number(decoder, number))?;
    let protocol = match node.get("protocol") {
        Some(node) => decoder.within("protocol", |decoder| values::transport(decoder, node))?,
        None => Protocol::Tcp,
    };
    Some(ContainerPort {
        name: node.get("name").and_then(Node::as_text).map(Arc::from),
        number,
        protocol,
    })
}

/// The addresses of `podIPs` (or `hostIPs`), or the one of `podIP`.
fn addresses_in(decoder: &mut Decoder<'_>, one: Option<&Node>, many: Option<&Node>) -> Vec<IpAddr> {
    let many: Vec<&Node> = items(many).iter().filter_map(|item| item.get("ip")).collect();
    let written = if many.is_empty() {
        one.into_iter().collect()
    } else {
        many
    };
    let mut out = Vec::new();
    for node in written {
        let Some(text) = node.as_text().filter(|text| !text.is_empty()) else {
            continue;
        };
        match text.parse() {
            Ok(address) => out.push(address),
            Err(_) => decoder.fail(
                codes::BAD_ADDRESS,
                node.at,
                format!("expected an IP address, got {text:?}"),
            ),
        }
    }
    out
}

/// Reads a NetworkSet, or a GlobalNetworkSet without a namespace.
pub(super) fn network_set(
    decoder: &mut Decoder<'_>,
    header: &Header,
    spec: Option<&Node>,
    namespace: Option<&Arc<str>>,
) -> NetworkSet {
    let mut nets = None;
    if let Some(mut fields) = spec.and_then(|spec| decoder.fields(spec)) {
        nets = decoder.optional(&mut fields, "nets", |decoder, node| {
            values::nets(decoder, node, true)
        });
        if let Some(node) = fields.take("allowedEgressDomains") {
            decoder.within("allowedEgressDomains", |decoder| {
                decoder.warn(codes::UNSUPPORTED, node.at, "expected nets");
            });
        }
        decoder.finish(fields);
    }
    NetworkSet {
        namespace: namespace.cloned(),
        name: Arc::clone(&header.name),
        labels: header.labels.clone(),
        nets: nets.unwrap_or_default(),
    }
}
