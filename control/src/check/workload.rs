//! Checks of one workload.

use std::collections::BTreeMap;

use adit_flow::WorkloadName;
use adit_identity::SpiffeId;

use super::{Scope, bad_name, parts, probe, unknown};
use crate::codes;
use crate::diagnostic::{Finding, Findings};
use crate::file::{EnvVar, WorkloadFile};
use crate::mesh::WorkloadSpec;
use crate::names;
use crate::schema::list;
use crate::snapshot::WorkloadPort;
use crate::tree::At;

/// Checks a workload by itself. `None` where its identity can't be made.
pub(super) fn check(
    file: &WorkloadFile,
    scope: &Scope<'_>,
    at: &At,
    findings: &mut Findings<'_>,
) -> Option<WorkloadSpec> {
    name(file, &at.field("name"), findings);
    parts::namespace(&file.namespace, scope, &at.field("namespace"), findings);
    node(file, scope, at, findings);
    parts::labels(&file.labels, &at.field("labels"), findings);
    let account = file
        .service_account_name
        .as_deref()
        .unwrap_or(names::DEFAULT_ACCOUNT);
    parts::label(
        account,
        "the service account's name",
        &at.field("serviceAccountName"),
        findings,
    );
    command(&file.command, &at.field("command"), findings);
    no_nul("argument", &file.args, &at.field("args"), findings);
    environment(&file.env, &at.field("env"), findings);
    let working_dir = match &file.working_dir {
        Some(folder) => parts::path(scope.folder, folder, &at.field("workingDir"), findings)?,
        None => scope.folder.to_owned(),
    };
    let ports = ports(file, &at.field("ports"), findings);
    let mut spec = WorkloadSpec {
        name: WorkloadName::new(&file.namespace, &file.name),
        node: file.node_name.clone(),
        replicas: file.replicas,
        labels: file.labels.clone(),
        identity: SpiffeId::new(scope.trust_domain.clone(), &file.namespace, account).ok()?,
        command: file.command.clone(),
        args: file.args.clone(),
        env: file
            .env
            .iter()
            .map(|var| (var.name.clone(), var.value.clone()))
            .collect(),
        working_dir,
        ports,
        readiness: None,
        restart: file.restart_policy.unwrap_or_default(),
    };
    if let Some(file) = &file.readiness_probe {
        spec.readiness = probe::check(file, &spec, &at.field("readinessProbe"), findings);
    }
    Some(spec)
}

/// The longest name is that of the last replica.
fn name(file: &WorkloadFile, at: &At, findings: &mut Findings<'_>) {
    let Err(problem) = names::check_label(&file.name) else {
        let last = file.replicas.map_or_else(
            || file.name.clone(),
            |count| format!("{}-{}", file.name, count.max(1) - 1),
        );
        if let Err(problem) = names::check_label(&last) {
            findings.error(
                &codes::BAD_NAME,
                at,
                bad_name("the last replica's name", &last, &problem),
            );
        }
        return;
    };
    findings.error(
        &codes::BAD_NAME,
        at,
        bad_name("the workload's name", &file.name, &problem),
    );
}

fn node(file: &WorkloadFile, scope: &Scope<'_>, at: &At, findings: &mut Findings<'_>) {
    match &file.node_name {
        Some(name) if !scope.nodes.contains(&name.as_str()) => {
            let finding = unknown("node", name, &scope.nodes, "nodes");
            findings.error(&codes::UNKNOWN_NODE, &at.field("nodeName"), finding);
        }
        None if !scope.nodes.is_empty() => {
            let finding = Finding {
                message: format!(
                    "workload {}/{} doesn't say which node runs it",
                    file.namespace, file.name
                ),
                label: format!("expected `nodeName` to be {}", list(&scope.nodes)),
                fix: format!("add `nodeName: {}`", scope.nodes[0]),
                also: None,
            };
            findings.error(&codes::UNKNOWN_NODE, at, finding);
        }
        _ => {}
    }
}

/// Checks the words of a command.
pub(super) fn command(words: &[String], at: &At, findings: &mut Findings<'_>) {
    if words.first().is_none_or(String::is_empty) {
        let finding = Finding {
            message: "the command names no program".to_owned(),
            label: "empty".to_owned(),
            fix: "name the program and its arguments: `[python3, -m, http.server]`".to_owned(),
            also: None,
        };
        findings.error(&codes::BAD_COMMAND, at, finding);
    }
    no_nul("argument", words, at, findings);
}

fn no_nul(what: &str, words: &[String], at: &At, findings: &mut Findings<'_>) {
    for (index, _) in words.iter().enumerate().filter(|(_, word)| word.contains('\0')) {
        let finding = Finding {
            message: format!("the {what} has a NUL character in it"),
            label: "no program can be given that".to_owned(),
            fix: "remove the NUL character".to_owned(),
            also: None,
        };
        findings.error(&codes::BAD_COMMAND, &at.index(index), finding);
    }
}

fn environment(vars: &[EnvVar], at: &At, findings: &mut Findings<'_>) {
    let mut first = BTreeMap::new();
    for (index, var) in vars.iter().enumerate() {
        let here = at.index(index);
        let mut bad = |field: &str, message: String, earlier: Option<&At>| {
            let finding = Finding {
                message,
                label: "can't be set".to_owned(),
                fix: "a name has letters, digits and `_`, and stands once".to_owned(),
                also: earlier.map(|at| (at, "the first")),
            };
            findings.error(&codes::BAD_ENV, &here.field(field), finding);
        };
        if var.name.is_empty() || var.name.contains(['=', '\0']) {
            bad(
                "name",
                format!("{:?} is not the name of an environment variable", var.name),
                None,
            );
        }
        if var.value.contains('\0') {
            bad(
                "value",
                format!("the value of {:?} has a NUL character in it", var.name),
                None,
            );
        }
        if let Some(earlier) = first.insert(&var.name, index) {
            let earlier = at.index(earlier).field("name");
            bad(
                "name",
                format!("environment variable {:?} stands twice", var.name),
                Some(&earlier),
            );
        }
    }
}

fn ports(file: &WorkloadFile, at: &At, findings: &mut Findings<'_>) -> Vec<WorkloadPort> {
    let names: Vec<Option<&str>> = file.ports.iter().map(|port| port.name.as_deref()).collect();
    let numbers = file.ports.iter().map(|port| (port.container_port, port.protocol));
    parts::port_clashes(numbers, &names, "containerPort", at, findings);
    let mut ports = Vec::new();
    for (index, port) in file.ports.iter().enumerate() {
        if let Some(name) = &port.name {
            parts::port_name(name, &at.index(index).field("name"), findings);
        }
        ports.push(WorkloadPort {
            name: port.name.clone(),
            number: port.container_port,
            protocol: port.protocol.into(),
        });
    }
    ports
}
