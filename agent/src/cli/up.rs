//! `adit up`: a mesh file, until stopped.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use adit_flow::WorkloadName;

use super::args::Up;
use super::detach::detach;
use super::{CliError, report_style};
use crate::rundir::Base;
use crate::supervisor::{self, AgentArguments, Options, Source};

/// Loads the mesh file and runs it.
pub(super) fn up(args: Up) -> Result<u8, CliError> {
    let source = load(&args)?;
    let once = args
        .once
        .as_deref()
        .map(|wanted| resolve(&source, wanted))
        .transpose()?;
    let node = source.mesh.choose_node(source.node.as_deref())?;
    if let Some(log) = &args.detach {
        return detach(&source.mesh.name, log);
    }
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
        once,
        foreground: false,
        grace: args.grace,
        source,
    })?)
}

fn load(args: &Up) -> Result<Source, CliError> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|source| CliError::System {
            step: "finding the working directory",
            source,
        })
    };
    // Absolute, so that relative working directories are right wherever a program is started from.
    let path = absolute(&args.file)?;
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

/// The workload that `--once` means: `NAMESPACE/NAME`, or a name that one namespace has.
fn resolve(source: &Source, wanted: &str) -> Result<WorkloadName, CliError> {
    if let Ok(name) = wanted.parse() {
        return Ok(name);
    }
    let named = source
        .mesh
        .replicas_on(source.node.as_deref())
        .map(|replica| replica.name);
    let mut named: Vec<_> = named.filter(|name| name.name == wanted).collect();
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
