//! From the file as it is written to the mesh that it means: every check of meaning.
//!
//! A faulty part is reported and replaced by something harmless, so that one fault doesn't hide the others; the
//! mesh made of such parts is never handed out, because the report has an error.

mod parts;
mod probe;
mod ranges;
mod workload;

use std::collections::BTreeMap;
use std::path::Path;

use adit_flow::WorkloadName;
use adit_identity::TrustDomain;

use crate::address::Allocation;
use crate::codes;
use crate::diagnostic::{Finding, Findings};
use crate::file::{MeshFile, NamespaceFile};
use crate::mesh::{Mesh, ServiceSpec, WorkloadSpec};
use crate::names;
use crate::schema::list;
use crate::suggest;
use crate::tree::At;

/// The trust domain of a mesh that names none, as in Istio.
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// The most replicas of all workloads together: each has a namespace, an address and a certificate, and is listed
/// in every snapshot.
const MAX_REPLICAS: u64 = 10_000;
/// The label that Kubernetes sets on every namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// The names that other parts of the file may refer to.
struct Scope<'a> {
    folder: &'a Path,
    trust_domain: TrustDomain,
    namespaces: Vec<&'a str>,
    nodes: Vec<&'a str>,
}

/// Checks what the fields mean. `None` where a fault leaves no mesh to go on with.
pub(crate) fn mesh(path: &Path, file: MeshFile, findings: &mut Findings<'_>) -> Option<Mesh> {
    let root = At::default();
    parts::label(&file.name, "the mesh's name", &root.field("name"), findings);
    let scope = Scope {
        folder: match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        },
        trust_domain: trust_domain(file.trust_domain.as_deref(), &root.field("trustDomain"), findings),
        namespaces: file
            .namespaces
            .iter()
            .map(|namespace| namespace.name.as_str())
            .collect(),
        nodes: file.nodes.iter().map(|node| node.name.as_str()).collect(),
    };
    let ranges = ranges::check(file.addresses.as_ref(), &root.field("addresses"), findings);
    let nodes = parts::nodes(&file.nodes, &root.field("nodes"), findings);
    let namespaces = namespaces(&file.namespaces, &root.field("namespaces"), findings);
    let at_workloads = root.field("workloads");
    let workloads: Vec<WorkloadSpec> = (file.workloads.iter().enumerate())
        .filter_map(|(index, workload)| {
            workload::check(workload, &scope, &at_workloads.index(index), findings)
        })
        .collect();
    let at_services = root.field("services");
    let services: Vec<ServiceSpec> = (file.services.iter().enumerate())
        .map(|(index, service)| parts::service(service, &scope, &at_services.index(index), findings))
        .collect();
    unique_replicas(&file, &at_workloads, findings);
    unique(
        file.services
            .iter()
            .map(|service| format!("{}/{}", service.namespace, service.name)),
        |index| at_services.index(index).field("name"),
        "service",
        findings,
    );
    let at_policies = root.field("policies");
    let policy_paths = (file.policies.iter().enumerate())
        .filter_map(|(index, policy)| parts::path(scope.folder, policy, &at_policies.index(index), findings))
        .collect();
    if findings.report.has_errors() {
        return None;
    }
    services_reach_workloads(&services, &workloads, &at_services, findings);
    let test = file
        .test
        .as_deref()
        .and_then(|test| parts::test(test, &workloads, &root.field("test"), findings));
    let allocation = allocate(&ranges, &nodes, &workloads, &services, findings)?;
    Some(Mesh {
        name: file.name,
        trust_domain: scope.trust_domain,
        ranges,
        nodes,
        namespaces,
        workloads,
        services,
        policy_paths,
        policies: Vec::new(),
        test,
        allocation,
    })
}

/// Reports what a running mesh can't change. Its parts may come, go and change; what all of them have in their
/// certificates, addresses and folders can't.
pub(crate) fn may_replace(running: &Mesh, new: &Mesh, findings: &mut Findings<'_>) {
    let root = At::default();
    let mut fixed = |at: &At, what: &str, was: String| {
        let finding = Finding {
            message: format!("{what} of a running mesh can't change"),
            label: format!("expected {was}, as in the running mesh"),
            fix: "change it back, or stop the mesh with `adit down` and start it again".to_owned(),
            also: None,
        };
        findings.error(&codes::NEEDS_RESTART, at, finding);
    };
    if new.name != running.name {
        fixed(&root.field("name"), "the name", running.name.clone());
    }
    if new.trust_domain != running.trust_domain {
        fixed(
            &root.field("trustDomain"),
            "the trust domain",
            running.trust_domain.to_string(),
        );
    }
    if new.ranges != running.ranges {
        let was = format!(
            "workloads in {} and services in {}",
            running.ranges.pods, running.ranges.services
        );
        fixed(&root.field("addresses"), "the address range", was);
    }
    // A node's share of the addresses for workloads that join goes by its place in the list.
    let at = root.field("nodes");
    let moved = running
        .nodes
        .iter()
        .zip(&new.nodes)
        .position(|(was, is)| was.name != is.name);
    if let Some(index) = moved {
        fixed(
            &at.index(index).field("name"),
            "the order of the nodes",
            running.nodes[index].name.clone(),
        );
    } else if running.nodes.is_empty() != new.nodes.is_empty() {
        fixed(
            &at,
            "whether it has nodes",
            if running.nodes.is_empty() { "none" } else { "some" }.to_owned(),
        );
    }
}

fn trust_domain(text: Option<&str>, at: &At, findings: &mut Findings<'_>) -> TrustDomain {
    let default = || {
        DEFAULT_TRUST_DOMAIN
            .parse()
            .expect("the default is a trust domain")
    };
    let Some(text) = text else {
        return default();
    };
    text.parse().unwrap_or_else(|_| {
        let finding = Finding {
            message: format!("expected a trust domain, got {text:?}"),
            label: "expected 1 to 255 of the characters a-z, 0-9, `.`, `-` and `_`".to_owned(),
            fix: "write only the domain, such as `cluster.local`: no scheme, port or path".to_owned(),
            also: None,
        };
        findings.error(&codes::BAD_TRUST_DOMAIN, at, finding);
        default()
    })
}

fn namespaces(
    files: &[NamespaceFile],
    at: &At,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, BTreeMap<String, String>> {
    if files.is_empty() {
        let finding = Finding {
            message: "the mesh has no namespace".to_owned(),
            label: "expected at least one".to_owned(),
            fix: "add one: `namespaces: [{name: default}]`".to_owned(),
            also: None,
        };
        findings.error(&codes::EMPTY, at, finding);
    }
    unique(
        files.iter().map(|file| file.name.clone()),
        |index| at.index(index).field("name"),
        "namespace",
        findings,
    );
    let mut namespaces = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        let at = at.index(index);
        parts::label(&file.name, "the namespace's name", &at.field("name"), findings);
        parts::labels(&file.labels, &at.field("labels"), findings);
        let mut labels = file.labels.clone();
        labels.insert(NAMESPACE_LABEL.to_owned(), file.name.clone());
        namespaces.insert(file.name.clone(), labels);
    }
    namespaces
}

/// Reports every name that an earlier one of the same list equals.
fn unique(
    names: impl Iterator<Item = String>,
    place: impl Fn(usize) -> At,
    kind: &str,
    findings: &mut Findings<'_>,
) {
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for (index, name) in names.enumerate() {
        match first.get(&name) {
            Some(earlier) => duplicate(kind, &name, &place(index), &place(*earlier), findings),
            None => drop(first.insert(name, index)),
        }
    }
}

fn duplicate(kind: &str, name: &str, at: &At, earlier: &At, findings: &mut Findings<'_>) {
    let finding = Finding {
        message: format!("there are two {kind}s called {name:?}"),
        label: "the second".to_owned(),
        fix: "rename one of them".to_owned(),
        also: Some((earlier, "the first")),
    };
    findings.error(&codes::DUPLICATE_NAME, at, finding);
}

/// Replicas have names of their own, which must not be those of other workloads: `web-0` is one of `web`'s.
fn unique_replicas(file: &MeshFile, at: &At, findings: &mut Findings<'_>) {
    let total: u64 = file
        .workloads
        .iter()
        .map(|workload| u64::from(workload.replicas.unwrap_or(1)))
        .sum();
    if total > MAX_REPLICAS {
        let finding = Finding {
            message: format!("the mesh has {total} replicas"),
            label: format!("expected at most {MAX_REPLICAS} in all"),
            fix: "run fewer of them".to_owned(),
            also: None,
        };
        findings.error(&codes::TOO_MANY, at, finding);
        return;
    }
    let mut owners: BTreeMap<WorkloadName, usize> = BTreeMap::new();
    let place = |index: usize| at.index(index).field("name");
    for (index, workload) in file.workloads.iter().enumerate() {
        let clash = (0..workload.replicas.unwrap_or(1)).find_map(|ordinal| {
            let name = match workload.replicas {
                Some(_) => format!("{}-{ordinal}", workload.name),
                None => workload.name.clone(),
            };
            let name = WorkloadName::new(&workload.namespace, name);
            let earlier = *owners.entry(name.clone()).or_insert(index);
            (earlier != index).then_some((name, earlier))
        });
        if let Some((name, earlier)) = clash {
            duplicate(
                "workload",
                &name.to_string(),
                &place(index),
                &place(earlier),
                findings,
            );
        }
    }
}

/// What services refer to on workloads: that there are some, and that they have the named ports.
fn services_reach_workloads(
    services: &[ServiceSpec],
    workloads: &[WorkloadSpec],
    at: &At,
    findings: &mut Findings<'_>,
) {
    for (index, service) in services.iter().enumerate() {
        let at = at.index(index);
        let selected = || {
            workloads
                .iter()
                .filter(|pod| service.selects(&pod.name.namespace, &pod.labels))
        };
        if selected().next().is_none() {
            findings.warn(
                &codes::SELECTS_NOTHING,
                &at.field("selector"),
                nothing_selected(service, workloads),
            );
        }
        for (number, port) in service.ports.iter().enumerate() {
            let crate::TargetPort::Name(name) = &port.target else {
                continue;
            };
            let Some(pod) = selected().find(|pod| {
                port.target
                    .resolve(&pod.name, &pod.ports, port.protocol)
                    .is_none()
            }) else {
                continue;
            };
            let named: Vec<&str> = (pod.ports.iter().filter(|other| other.protocol == port.protocol))
                .filter_map(|other| other.name.as_deref())
                .collect();
            let target = at.field("ports").index(number).field("targetPort");
            findings.error(
                &codes::UNKNOWN_PORT,
                &target,
                parts::unknown_port(name, port.protocol, &pod.name, &named),
            );
        }
    }
}

fn nothing_selected(service: &ServiceSpec, workloads: &[WorkloadSpec]) -> Finding<'static> {
    let elsewhere = workloads
        .iter()
        .find(|pod| service.selects(&service.name.namespace, &pod.labels));
    let fix = match (elsewhere, near_label(service, workloads)) {
        (Some(pod), _) => format!(
            "{} has these labels; a service selects only in its own namespace",
            pod.name
        ),
        (None, Some((key, value, pod))) => format!("did you mean `{key}: {value}`, which {pod} has?"),
        (None, None) => "compare it with the labels of the workloads in this namespace".to_owned(),
    };
    Finding {
        message: format!("service {} selects no workload", service.name),
        label: format!(
            "no workload in {:?} has all of these labels",
            service.name.namespace
        ),
        fix,
        also: None,
    }
}

/// A label that a workload of the service's namespace has nearly as the selector wants it.
fn near_label<'a>(
    service: &'a ServiceSpec,
    workloads: &'a [WorkloadSpec],
) -> Option<(&'a str, &'a str, &'a WorkloadName)> {
    service.selector.iter().find_map(|(key, value)| {
        let pods = workloads
            .iter()
            .filter(|pod| pod.name.namespace == service.name.namespace);
        let known: Vec<_> = pods
            .filter_map(|pod| Some((pod.labels.get(key)?.as_str(), &pod.name)))
            .collect();
        let near =
            suggest::nearest(value, known.iter().map(|(known, _)| *known)).filter(|near| near != value)?;
        let (_, pod) = known.iter().find(|(known, _)| *known == near)?;
        Some((key.as_str(), near, *pod))
    })
}

fn allocate(
    ranges: &crate::Ranges,
    nodes: &[crate::Node],
    workloads: &[WorkloadSpec],
    services: &[ServiceSpec],
    findings: &mut Findings<'_>,
) -> Option<Allocation> {
    let at = At::default().field("addresses");
    if nodes.len() > ranges.max_nodes() {
        let finding = Finding {
            message: format!(
                "the mesh has {} nodes and its range for workloads fits {}",
                nodes.len(),
                ranges.max_nodes()
            ),
            label: "too small".to_owned(),
            fix: "choose a larger range under `addresses.pods`".to_owned(),
            also: None,
        };
        findings.error(&codes::RANGE_EXHAUSTED, &at.field("pods"), finding);
        return None;
    }
    let pods = workloads
        .iter()
        .flat_map(WorkloadSpec::expand)
        .map(|replica| replica.name);
    let services = services
        .iter()
        .filter(|service| !service.headless)
        .map(|service| service.name.clone());
    Allocation::new(ranges, pods, services)
        .map_err(|exhausted| {
            let field = if exhausted.what == "services" {
                "services"
            } else {
                "pods"
            };
            let finding = Finding {
                message: exhausted.to_string(),
                label: "too small".to_owned(),
                fix: format!("choose a larger range under `addresses.{field}`, or run fewer"),
                also: None,
            };
            findings.error(&codes::RANGE_EXHAUSTED, &at.field(field), finding);
        })
        .ok()
}

/// A reference to something that isn't there.
fn unknown(kind: &str, got: &str, known: &[&str], list_name: &str) -> Finding<'static> {
    let fix = match suggest::nearest(got, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add it under `{list_name}`"),
    };
    let label = match known {
        [] => format!("the mesh has no {kind}s"),
        known => format!("expected {}", list(known)),
    };
    Finding {
        message: format!("there is no {kind} {got:?}"),
        label,
        fix,
        also: None,
    }
}

/// A name that must be a DNS label, as a message.
fn bad_name(what: &str, got: &str, problem: &names::BadName) -> Finding<'static> {
    Finding {
        message: format!(
            "{what} {:?} is not a DNS label: {problem}",
            crate::schema::shorten(got)
        ),
        label: "expected 1 to 63 of the characters a-z, 0-9 and `-`".to_owned(),
        fix: match names::repaired(got) {
            Some(repaired) => format!("write `{repaired}`"),
            None => "use lower-case letters, digits and dashes".to_owned(),
        },
        also: None,
    }
}
