//! `adit run`: one program, in a mesh of its own or in one that runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_control::{AddressesFile, ApiVersion, Kind, MeshFile, NamespaceFile, RestartPolicy, WorkloadFile};
use adit_flow::WorkloadName;
use adit_node::enter;

use super::args::Run;
use super::{CliError, block_on, inner};
use crate::admin::{JoinRequest, SupervisorClient};
use crate::rundir::Base;
use crate::supervisor::{self, AgentArguments, Once, Options, Source};

/// Runs the program; the exit code is the program's.
pub(super) fn run(args: Run) -> Result<u8, CliError> {
    match (&args.mesh, &args.name) {
        (Some(mesh), Some(name)) => join(&args, mesh, name.clone()),
        _ => alone(args),
    }
}

/// Becomes a workload of a running mesh. The connection on which it joined is the program's lifeline: the membership
/// ends with the program and the program with the mesh, whoever is killed.
fn join(args: &Run, mesh: &str, name: WorkloadName) -> Result<u8, CliError> {
    let paths = Base::of_process().find(Some(mesh))?;
    let request = JoinRequest {
        name,
        labels: args.labels.iter().cloned().collect(),
        service_account: args.service_account.clone(),
    };
    let joined = block_on(async {
        let client = SupervisorClient::connect(&paths.supervisor_socket()).await?;
        let joined = client.join(request).await?;
        joined.into_lifeline().map_err(|source| CliError::System {
            step: "keeping the connection",
            source,
        })
    })?;
    let (ticket, lifeline) = joined;
    let argv = args.argv.iter().map(Into::into).collect();
    let options = enter::Options {
        lifeline: Some(lifeline),
        terminal: enter::Terminal::Keep,
    };
    inner::run_in_pod(&ticket.node_socket, &ticket.pod, None, argv, options)
}

/// A mesh with this program as its only workload.
fn alone(args: Run) -> Result<u8, CliError> {
    let directory = std::env::current_dir().map_err(|source| CliError::System {
        step: "finding the working directory",
        source,
    })?;
    let name = args
        .name
        .unwrap_or_else(|| WorkloadName::new("default", label(&args.argv[0])));
    let mesh_name = format!("run-{}", std::process::id());
    let file = mesh_file(mesh_name, &name, args.argv);
    let text = serde_json::to_string_pretty(&file).expect("the mesh file's types have text keys");
    // JSON is YAML; the path is what relative paths are relative to.
    let path = directory.join("adit-run.yaml");
    let loaded = adit_control::parse(&path, &text).map_err(|report| CliError::Mesh(Box::new(report)))?;
    Ok(supervisor::up(Options {
        source: Source {
            path,
            text,
            mesh: Arc::new(loaded.mesh),
            node: None,
        },
        base: Base::of_process(),
        watch: false,
        link: args.link.choice,
        tun_device: args.link.tun.path,
        agent: AgentArguments::default(),
        once: Some(Once::new(name)),
        foreground: true,
        log: None,
        grace: GRACE,
    })?)
}

fn mesh_file(mesh_name: String, name: &WorkloadName, argv: Vec<String>) -> MeshFile {
    MeshFile {
        api_version: ApiVersion::V1Alpha1,
        kind: Kind::Mesh,
        name: mesh_name,
        trust_domain: None,
        addresses: Some(addresses()),
        nodes: Vec::new(),
        namespaces: vec![NamespaceFile {
            name: name.namespace.clone(),
            labels: Default::default(),
        }],
        workloads: vec![WorkloadFile {
            name: name.name.clone(),
            namespace: name.namespace.clone(),
            node_name: None,
            replicas: None,
            labels: Default::default(),
            service_account_name: None,
            command: argv,
            args: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            ports: Vec::new(),
            readiness_probe: None,
            restart_policy: Some(RestartPolicy::Never),
        }],
        services: Vec::new(),
        policies: Vec::new(),
        test: None,
    }
}

/// Small ranges: what lies in them is out of the program's reach in the user's own network.
fn addresses() -> AddressesFile {
    let ranges = |v4: &str, v6: &str| vec![v4.to_owned(), v6.to_owned()];
    AddressesFile {
        pods: ranges("10.77.255.0/27", "fd77:6164:6974:77::/64"),
        services: ranges("10.77.255.32/27", "fd77:6164:6974:78::/64"),
    }
}

/// A DNS label out of a program's name, which may be anything.
fn label(program: &str) -> String {
    let file_name = Path::new(program)
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    let allowed = |character: char| {
        if character.is_ascii_alphanumeric() {
            character.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let label: String = file_name.chars().map(allowed).take(40).collect();
    let label = label.trim_matches('-');
    if label.is_empty() {
        "program".to_owned()
    } else {
        label.to_owned()
    }
}

/// How long the program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_any_name_make_a_mesh() {
        for program in [
            "curl",
            "/usr/bin/python3.11",
            "./My Program",
            "-",
            "..",
            "ü",
            &"x".repeat(300),
        ] {
            let name = WorkloadName::new("default", label(program));
            let file = mesh_file(
                "run-1".into(),
                &name,
                vec![program.to_owned(), "{{: - [".to_owned()],
            );
            let text = serde_json::to_string_pretty(&file).unwrap();
            let loaded = adit_control::parse(Path::new("/x/adit-run.yaml"), &text);
            let mesh = loaded.unwrap_or_else(|report| panic!("{program}: {report}")).mesh;
            assert_eq!(mesh.workloads[0].command, [program, "{{: - ["]);
            assert_eq!(mesh.workloads[0].working_dir, Path::new("/x"));
        }
    }
}
