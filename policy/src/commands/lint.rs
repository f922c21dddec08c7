//! `adit policy lint`: what is wrong with objects as they are written, before anything is enforced.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use adit_flow::Code;

use super::{Source, read};
use crate::codes;
use crate::diagnostic::{Diagnostic, Position, Severity};
use crate::flow::Direction;
use crate::inventory::{Account, Endpoint, EndpointKind, LabelMap, Namespace, Workload};
use crate::model::{ADMIN_TIER, Action, BASELINE_TIER, Body, DEFAULT_TIER, Network, Policy, PortSpec, Rule};
use crate::objects::{Object, Reader};
use crate::selector::EndpointSelector;

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// The findings, in order of file and line.
    pub diagnostics: Vec<Diagnostic>,
    /// How many policies were read.
    pub policies: usize,
    /// How many workloads were read; without any, checks that need them are left out.
    pub workloads: usize,
}

/// Checks objects: each for itself, then together.
pub fn lint(reader: &Reader, sources: &[Source<'_>]) -> Report {
    let reading = read(reader, sources);
    let mut linter = Linter {
        diagnostics: reading.diagnostics,
    };
    let policies: Vec<&Arc<Policy>> = reading
        .objects
        .iter()
        .filter_map(|object| match object {
            Object::Policy(policy) => Some(policy),
            _ => None,
        })
        .collect();
    linter.diagnostics.extend(duplicates(&reading.objects));
    linter.tiers(&reading.objects, &policies);
    for policy in &policies {
        linter.unreachable(policy);
    }
    let workloads = endpoints(&reading.objects);
    if !workloads.is_empty() {
        linter.against(&policies, &workloads);
    }
    linter
        .diagnostics
        .sort_by(|left, right| (&left.file, left.at).cmp(&(&right.file, right.at)));
    Report {
        diagnostics: linter.diagnostics,
        policies: policies.len(),
        workloads: workloads.len(),
    }
}

/// Objects given twice: which of them counts is said, since the other may be the one that was meant.
pub fn duplicates(objects: &[Object]) -> Vec<Diagnostic> {
    let mut seen = HashSet::new();
    let mut owners = BTreeMap::new();
    let mut found = Vec::new();
    for object in objects {
        if !seen.insert(object.key()) {
            let message = "an earlier object has the same kind, namespace and name";
            found.push(duplicate(object, message.to_owned()));
        }
        let Object::Workload(workload) = object else {
            continue;
        };
        for address in &workload.addresses {
            let owner = owners.entry(*address).or_insert(&workload.name);
            if *owner != &workload.name {
                found.push(duplicate(
                    object,
                    format!("{} has the address {address} too", *owner),
                ));
            }
        }
    }
    found
}

fn duplicate(object: &Object, message: String) -> Diagnostic {
    let (file, at, name) = match object {
        Object::Policy(policy) => (
            policy.origin.file.to_string(),
            policy.origin.at,
            policy.key.to_string(),
        ),
        other => (String::new(), Position::default(), describe(other)),
    };
    Diagnostic {
        code: codes::DUPLICATE,
        severity: Severity::Warning,
        file,
        at,
        object: name,
        path: String::new(),
        message,
    }
}

impl Report {
    /// How many errors there are: with any, something isn't enforced as it is written.
    pub fn errors(&self) -> usize {
        self.diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.is_error())
            .count()
    }

    /// The findings for people, one after the other, and a last line that sums up.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            _ = writeln!(out, "{diagnostic}");
        }
        let errors = self.errors();
        let warnings = self.diagnostics.len() - errors;
        _ = writeln!(
            out,
            "{} policies: {errors} errors, {warnings} warnings",
            self.policies
        );
        out
    }
}

struct Linter {
    diagnostics: Vec<Diagnostic>,
}

impl Linter {
    fn warn(&mut self, code: &'static Code, policy: &Policy, line: u32, path: String, message: String) {
        self.push(code, Severity::Warning, policy, line, path, message);
    }

    fn push(
        &mut self,
        code: &'static Code,
        severity: Severity,
        policy: &Policy,
        line: u32,
        path: String,
        message: String,
    ) {
        let at = if line > 0 {
            Position { line, column: 1 }
        } else {
            policy.origin.at
        };
        self.diagnostics.push(Diagnostic {
            code,
            severity,
            file: policy.origin.file.to_string(),
            at,
            object: policy.key.to_string(),
            path,
            message,
        });
    }

    fn tiers(&mut self, objects: &[Object], policies: &[&Arc<Policy>]) {
        let mut known: HashSet<&str> = HashSet::from([DEFAULT_TIER, ADMIN_TIER.0, BASELINE_TIER.0]);
        known.extend(objects.iter().filter_map(|object| match object {
            Object::Tier(tier) => Some(&*tier.name),
            _ => None,
        }));
        for policy in policies {
            if let Body::Network(network) = &policy.body
                && !known.contains(&*network.tier)
            {
                let message = format!("expected the name of a Tier, got {:?}", network.tier);
                self.push(
                    codes::UNKNOWN_TIER,
                    Severity::Error,
                    policy,
                    0,
                    "spec.tier".to_owned(),
                    message,
                );
            }
        }
    }

    /// Rules behind one that matches everything and decides.
    fn unreachable(&mut self, policy: &Policy) {
        let Body::Network(network) = &policy.body else {
            return;
        };
        for direction in [Direction::Ingress, Direction::Egress] {
            let rules = network.rules(direction).unwrap_or_default();
            let Some(last) = rules
                .iter()
                .position(|rule| rule.action != Action::Log && asks_nothing(rule))
            else {
                continue;
            };
            for (index, rule) in rules.iter().enumerate().skip(last + 1) {
                // In a union a rule beside one that allows all does no harm, but says nothing either.
                let path = format!("spec.{direction}[{index}]");
                self.warn(
                    codes::UNREACHABLE_RULE,
                    policy,
                    rule.line,
                    path,
                    format!("rule {last} matches every flow, so this one never decides"),
                );
            }
        }
    }

    fn against(&mut self, policies: &[&Arc<Policy>], workloads: &[(&Workload, Endpoint)]) {
        let names: HashSet<&str> = workloads
            .iter()
            .flat_map(|(workload, _)| &workload.ports)
            .filter_map(|port| port.name.as_deref())
            .collect();
        for policy in policies.iter().filter(|policy| policy.broken.is_none()) {
            if !workloads
                .iter()
                .any(|(_, endpoint)| policy.subject.matches(endpoint))
            {
                let message = format!("none of the {} workloads given is selected", workloads.len());
                self.warn(codes::SELECTS_NOTHING, policy, 0, "spec".to_owned(), message);
            }
            if let Body::Network(network) = &policy.body {
                self.port_names(policy, network, &names);
            }
        }
    }

    fn port_names(&mut self, policy: &Policy, network: &Network, known: &HashSet<&str>) {
        for direction in [Direction::Ingress, Direction::Egress] {
            for (index, rule) in network.rules(direction).unwrap_or_default().iter().enumerate() {
                for name in named_ports(rule).filter(|name| !known.contains(name)) {
                    let path = format!("spec.{direction}[{index}]");
                    let message = format!("no workload given has a port named {name:?}");
                    self.warn(codes::UNKNOWN_PORT_NAME, policy, rule.line, path, message);
                }
            }
        }
    }
}

fn describe(object: &Object) -> String {
    match object {
        Object::Namespace { name, .. } => format!("Namespace {name}"),
        Object::Policy(policy) => policy.key.to_string(),
        Object::ServiceAccount { namespace, name, .. } => format!("ServiceAccount {namespace}/{name}"),
        Object::Set(set) => match &set.namespace {
            Some(namespace) => format!("NetworkSet {namespace}/{}", set.name),
            None => format!("GlobalNetworkSet {}", set.name),
        },
        Object::Tier(tier) => format!("Tier {}", tier.name),
        Object::Workload(workload) => format!("Pod {}", workload.name),
    }
}

fn asks_nothing(rule: &Rule<EndpointSelector>) -> bool {
    rule.protocol.is_none()
        && rule.not_protocol.is_none()
        && rule.version.is_none()
        && rule.icmp.is_none()
        && rule.not_icmp.is_none()
        && rule.source.is_none()
        && rule.destination.is_none()
}

fn named_ports(rule: &Rule<EndpointSelector>) -> impl Iterator<Item = &str> {
    [&rule.source, &rule.destination]
        .into_iter()
        .flatten()
        .flat_map(|end| [&end.ports, &end.not_ports])
        .flatten()
        .flat_map(|ports| ports.iter())
        .filter_map(|port| match &port.port {
            PortSpec::Named(name) => Some(&**name),
            PortSpec::Any | PortSpec::Range(..) => None,
        })
}

/// The workloads as selectors see them.
fn endpoints(objects: &[Object]) -> Vec<(&Workload, Endpoint)> {
    let mut namespaces = BTreeMap::new();
    let mut accounts = BTreeMap::new();
    for object in objects {
        match object {
            Object::Namespace { name, labels } => {
                namespaces.insert(&**name, labels);
            }
            Object::ServiceAccount {
                namespace,
                name,
                labels,
            } => {
                accounts.insert((&**namespace, &**name), labels);
            }
            _ => {}
        }
    }
    let endpoint = |workload: &Workload| {
        let namespace = workload.name.namespace.as_str();
        let labels = |found: Option<&&LabelMap>| found.map(|labels| (*labels).clone()).unwrap_or_default();
        Endpoint {
            kind: EndpointKind::Pod,
            namespace: Some(Arc::new(Namespace::new(
                namespace,
                labels(namespaces.get(namespace)),
            ))),
            labels: workload.labels.clone(),
            account: Some(Arc::new(Account {
                name: Arc::clone(&workload.account),
                labels: labels(accounts.get(&(namespace, &*workload.account))),
            })),
        }
    };
    objects
        .iter()
        .filter_map(|object| match object {
            Object::Workload(workload) => Some((workload, endpoint(workload))),
            _ => None,
        })
        .collect()
}
