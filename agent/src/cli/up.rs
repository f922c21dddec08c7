//! `adit up`: a mesh file, until stopped.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use adit_flow::WorkloadName;

use super::args::{PodLink, Up};
use super::detach::detach;
use super::{CliError, check, report_style};
use crate::rundir::Base;
use crate::supervisor::{self, AgentArguments, Artifacts, Once, Options, Source, UpError};

/// Loads the mesh file and runs it.
pub(super) fn up(args: Up) -> Result<u8, CliError> {
    let source = load(&args)?;
    let test = match &args.once {
        Some(wanted) => Some(test(&source, wanted.as_deref())?),
        None => None,
    };
    let node = source.mesh.choose_node(source.node.as_deref())?;
    if let Some(log) = &args.detach {
        return detach(&source.mesh.name, log);
    }
    let artifacts = match (&args.artifacts, &test) {
        (Some(folder), Some(test)) => Some(keep(folder, &source, test, &args.link)?),
        _ => None,
    };
    let listen = args.listen.or_else(|| node.map(|node| node.hbone));
    Ok(supervisor::up(Options {
        base: Base::of_process(),
        watch: true,
        link: args.link.choice,
        tun_device: args.link.tun.path,
        agent: AgentArguments {
            listen,
            state_dir: args.state_dir,
            svid_ttl: args.svid_ttl,
            workers: args.workers,
            busy_poll: args.busy_poll,
        },
        once: test.map(|test| Once {
            test,
            timeout: args.timeout,
            artifacts,
        }),
        foreground: false,
        log: args.detached,
        grace: args.grace,
        source,
    })?)
}

/// Opens the folder of artifacts, and keeps what this machine can do in it: that is tried out before anything is started,
/// while this process has one thread.
fn keep(folder: &Path, source: &Source, test: &WorkloadName, link: &PodLink) -> Result<Artifacts, CliError> {
    let mut artifacts =
        Artifacts::open(folder, &source.mesh.name, test, here(source)).map_err(UpError::from)?;
    artifacts
        .keep_check(&check::as_json(&check::laptop(link)?))
        .map_err(UpError::from)?;
    Ok(artifacts)
}

/// The replicas that run here.
fn here(source: &Source) -> impl Iterator<Item = WorkloadName> {
    source
        .mesh
        .replicas_on(source.node.as_deref())
        .map(|replica| replica.name)
}

fn load(args: &Up) -> Result<Source, CliError> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|source| CliError::System {
            step: "finding the working directory",
            source,
        })
    };
    // Absolute, so that relative working directories are right wherever a program is started from.
    let path = absolute(args.file.path())?;
    let loaded = adit_control::load(&path).map_err(|report| CliError::Mesh(Box::new(report)))?;
    let _ = std::io::stderr().write_all(loaded.warnings.render(report_style()).as_bytes());
    loaded.mesh.choose_node(args.node.as_deref())?;
    Ok(Source {
        path,
        text: loaded.text,
        mesh: Arc::new(loaded.mesh),
        node: args.node.clone(),
    })
}

/// The workload that `--once` means: that of the mesh file, `NAMESPACE/NAME`, or a name that one namespace has.
fn test(source: &Source, wanted: Option<&str>) -> Result<WorkloadName, CliError> {
    let Some(wanted) = wanted else {
        return source.mesh.test.clone().ok_or_else(|| CliError::NoTest {
            file: source.path.clone(),
            known: here(source)
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        });
    };
    if let Ok(name) = wanted.parse() {
        return Ok(name);
    }
    let mut named: Vec<_> = here(source).filter(|name| name.name == wanted).collect();
    match (named.pop(), named.is_empty()) {
        (Some(name), true) => Ok(name),
        (found, _) => {
            let problem = match found {
                Some(_) => {
                    format!("--once: several namespaces have a workload {wanted:?}; write NAMESPACE/NAME")
                }
                None => format!("--once: no workload {wanted:?} runs here"),
            };
            Err(CliError::Usage { problem })
        }
    }
}
