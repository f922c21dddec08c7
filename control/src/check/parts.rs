//! Checks that several kinds of objects share, and those of nodes and services.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use adit_flow::{Protocol, WorkloadName};

use super::{Scope, bad_name, unique, unknown};
use crate::codes;
use crate::diagnostic::{Finding, Findings};
use crate::file::{ClusterIp, NodeFile, PortFile, ServiceFile, ServicePortFile, Transport};
use crate::mesh::{Node, ServiceSpec, WorkloadSpec};
use crate::names;
use crate::schema::{list, shorten};
use crate::snapshot::{ServicePort, TargetPort};
use crate::suggest;
use crate::tree::At;

/// Checks a DNS label.
pub(super) fn label(got: &str, what: &str, at: &At, findings: &mut Findings<'_>) {
    if let Err(problem) = names::check_label(got) {
        findings.error(&codes::BAD_NAME, at, bad_name(what, got, &problem));
    }
}

/// Checks the labels of an object or of a selector.
pub(super) fn labels(labels: &BTreeMap<String, String>, at: &At, findings: &mut Findings<'_>) {
    let finding = |message: String| Finding {
        message,
        label: "expected at most 63 letters, digits, `-`, `_` and `.`".to_owned(),
        fix: "correct it, such as `app.kubernetes.io/name: web`".to_owned(),
        also: None,
    };
    for (key, value) in labels {
        if let Err(problem) = names::check_label_key(key) {
            let message = format!("label key {:?}: {problem}", shorten(key));
            findings.key_error(&codes::BAD_LABEL, &at.field(key), finding(message));
        }
        if let Err(problem) = names::check_label_value(value) {
            let message = format!(
                "value {:?} of label {:?}: {problem}",
                shorten(value),
                shorten(key)
            );
            findings.error(&codes::BAD_LABEL, &at.field(key), finding(message));
        }
    }
}

/// Checks that a namespace exists.
pub(super) fn namespace(got: &str, scope: &Scope<'_>, at: &At, findings: &mut Findings<'_>) {
    if !scope.namespaces.contains(&got) {
        findings.error(
            &codes::UNKNOWN_NAMESPACE,
            at,
            unknown("namespace", got, &scope.namespaces, "namespaces"),
        );
    }
}

/// Joins a path of the file to the file's folder.
pub(super) fn path(folder: &Path, got: &str, at: &At, findings: &mut Findings<'_>) -> Option<PathBuf> {
    if got.is_empty() || got.contains('\0') {
        let finding = Finding {
            message: if got.is_empty() {
                "the path is empty"
            } else {
                "the path has a NUL character in it"
            }
            .to_owned(),
            label: "expected the path of a file or folder".to_owned(),
            fix: "write it relative to the mesh file; `.` is its own folder".to_owned(),
            also: None,
        };
        findings.error(&codes::BAD_PATH, at, finding);
        return None;
    }
    Some(folder.join(got))
}

/// Checks the nodes.
pub(super) fn nodes(files: &[NodeFile], at: &At, findings: &mut Findings<'_>) -> Vec<Node> {
    let place = |field: &'static str| move |index| at.index(index).field(field);
    unique(
        files.iter().map(|file| file.name.clone()),
        place("name"),
        "node",
        findings,
    );
    let mut nodes: Vec<Node> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let at = at.index(index);
        if let Err(problem) = names::check_subdomain(&file.name) {
            findings.error(
                &codes::BAD_NAME,
                &at.field("name"),
                bad_name("the node's name", &file.name, &problem),
            );
        }
        let Some(hbone) = node_address(&file.hbone, &at.field("hbone"), findings) else {
            continue;
        };
        if let Some(other) = nodes.iter().find(|node| node.hbone == hbone) {
            let finding = Finding {
                message: format!("nodes {:?} and {:?} have one address", other.name, file.name),
                label: "given to another node above".to_owned(),
                fix: "give each node an address or a port of its own".to_owned(),
                also: None,
            };
            findings.error(&codes::BAD_ADDRESS, &at.field("hbone"), finding);
        }
        nodes.push(Node {
            name: file.name.clone(),
            hbone,
        });
    }
    nodes
}

fn node_address(text: &str, at: &At, findings: &mut Findings<'_>) -> Option<SocketAddr> {
    let usable = |address: &SocketAddr| {
        let ip = address.ip();
        address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
    };
    let address = text.parse().ok().filter(usable);
    if address.is_none() {
        let finding = Finding {
            message: format!(
                "expected an IP address and a port that other nodes can connect to, got {text:?}"
            ),
            label: "not such an address".to_owned(),
            fix: "write it as `192.0.2.7:15008` or `\"[2001:db8::7]:15008\"`".to_owned(),
            also: None,
        };
        findings.error(&codes::BAD_ADDRESS, at, finding);
    }
    address
}

/// Checks a service by itself.
pub(super) fn service(
    file: &ServiceFile,
    scope: &Scope<'_>,
    at: &At,
    findings: &mut Findings<'_>,
) -> ServiceSpec {
    label(&file.name, "the service's name", &at.field("name"), findings);
    namespace(&file.namespace, scope, &at.field("namespace"), findings);
    labels(&file.selector, &at.field("selector"), findings);
    let headless = file.cluster_ip == Some(ClusterIp::None);
    let mut empty = |field: &str, message: String, fix: &str| {
        let finding = Finding {
            message,
            label: "empty".to_owned(),
            fix: fix.to_owned(),
            also: None,
        };
        findings.error(&codes::EMPTY, &at.field(field), finding);
    };
    if file.selector.is_empty() {
        let message = format!("service {:?} selects by no label", file.name);
        empty(
            "selector",
            message,
            "name at least one label of the workloads that serve it: `selector: {app: web}`",
        );
    }
    if file.ports.is_empty() && !headless {
        let message = format!("service {:?} has no port", file.name);
        empty(
            "ports",
            message,
            "add one: `ports: [{port: 80}]`, or make it headless with `clusterIP: None`",
        );
    }
    let at_ports = at.field("ports");
    service_port_clashes(&file.ports, &at_ports, findings);
    let ports = (file.ports.iter().enumerate())
        .map(|(index, port)| service_port(port, &at_ports.index(index), findings))
        .collect();
    ServiceSpec {
        name: WorkloadName::new(&file.namespace, &file.name),
        selector: file.selector.clone(),
        headless,
        ports,
    }
}

fn service_port_clashes(ports: &[ServicePortFile], at: &At, findings: &mut Findings<'_>) {
    let numbers = ports.iter().map(|port| (port.port, port.protocol));
    let names: Vec<Option<&str>> = ports.iter().map(|port| port.name.as_deref()).collect();
    port_clashes(numbers, &names, "port", at, findings);
    if ports.len() < 2 {
        return;
    }
    for (index, _) in names.iter().enumerate().filter(|(_, name)| name.is_none()) {
        let finding = Finding {
            message: "a service with several ports needs a name for each".to_owned(),
            label: "this one has none".to_owned(),
            fix: "add `name: …`".to_owned(),
            also: None,
        };
        findings.error(&codes::EMPTY, &at.index(index), finding);
    }
}

fn service_port(file: &ServicePortFile, at: &At, findings: &mut Findings<'_>) -> ServicePort {
    if let Some(name) = &file.name {
        label(name, "the port's name", &at.field("name"), findings);
    }
    let target = match &file.target_port {
        None => TargetPort::Number(file.port),
        Some(PortFile::Number(number)) => TargetPort::Number(*number),
        Some(PortFile::Name(name)) => {
            port_name(name, &at.field("targetPort"), findings);
            TargetPort::Name(name.clone())
        }
    };
    ServicePort {
        name: file.name.clone(),
        port: file.port,
        protocol: file.protocol.into(),
        target,
        outside: Vec::new(),
    }
}

/// Checks the name of a port.
pub(super) fn port_name(name: &str, at: &At, findings: &mut Findings<'_>) {
    if let Err(problem) = names::check_port_name(name) {
        let finding = Finding {
            message: format!("{:?} is not a port name: {problem}", shorten(name)),
            label: "expected at most 15 of the characters a-z, 0-9 and `-`".to_owned(),
            fix: "use a short name such as `http`".to_owned(),
            also: None,
        };
        findings.error(&codes::BAD_PORT_NAME, at, finding);
    }
}

/// Reports numbers that stand twice for one protocol, and names that stand twice.
pub(super) fn port_clashes(
    numbers: impl Iterator<Item = (u16, Transport)>,
    names: &[Option<&str>],
    field: &str,
    at: &At,
    findings: &mut Findings<'_>,
) {
    let mut clash = |message: String, index: usize, earlier: usize, field: &str| {
        let finding = Finding {
            message,
            label: "the second".to_owned(),
            fix: "remove or change one of them".to_owned(),
            also: Some((&at.index(earlier).field(field), "the first")),
        };
        findings.error(&codes::DUPLICATE_PORT, &at.index(index).field(field), finding);
    };
    let mut by_number = BTreeMap::new();
    for (index, (number, protocol)) in numbers.enumerate() {
        if let Some(earlier) = by_number.insert((number, Protocol::from(protocol)), index) {
            clash(
                format!("port {number}/{} stands twice", Protocol::from(protocol)),
                index,
                earlier,
                field,
            );
        }
    }
    let mut by_name = BTreeMap::new();
    for (index, name) in names
        .iter()
        .enumerate()
        .filter_map(|(index, name)| Some((index, (*name)?)))
    {
        if let Some(earlier) = by_name.insert(name, index) {
            clash(format!("two ports are called {name:?}"), index, earlier, "name");
        }
    }
}

/// A port name that a workload doesn't have.
pub(super) fn unknown_port(
    got: &str,
    protocol: Protocol,
    pod: &WorkloadName,
    known: &[&str],
) -> Finding<'static> {
    Finding {
        message: format!("workload {pod} has no {protocol} port called {got:?}"),
        label: match known {
            [] => format!("no {protocol} port of the workload has a name"),
            known => format!("expected {}", list(known)),
        },
        fix: match suggest::nearest(got, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("name the port under the workload's `ports`, or use its number: {pod}"),
        },
        also: None,
    }
}

/// The replica that `test` names.
pub(super) fn test(
    got: &str,
    workloads: &[WorkloadSpec],
    at: &At,
    findings: &mut Findings<'_>,
) -> Option<WorkloadName> {
    let replicas = || workloads.iter().flat_map(WorkloadSpec::expand);
    if let Some(replica) = replicas().find(|replica| replica.name.to_string() == got) {
        return Some(replica.name);
    }
    let known: Vec<String> = replicas().map(|replica| replica.name.to_string()).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    findings.error(
        &codes::UNKNOWN_TEST,
        at,
        unknown("workload", got, &known, "workloads"),
    );
    None
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Sctp => Self::Sctp,
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}
