//! `adit check`: can this machine do it, and can it be a node of a cluster?

use std::path::PathBuf;

use adit_node::LinkChoice;
use adit_node::cluster::{self, PluginFolders};
use adit_node::probe::{self, Finding, Options, Status};
use clap::Args;
use serde_json::json;

use super::args::Check;
use super::{CliError, print, print_json};

/// What is checked of a cluster's node, and where its folders are.
#[derive(Debug, Args)]
pub(super) struct NodeCheck {
    /// Try out what the node path in a Kubernetes node needs instead, as root there
    #[arg(long = "node")]
    is_wanted: bool,
    /// The node helper's folder
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/run/adit",
        requires = "is_wanted"
    )]
    state: PathBuf,
    /// The container runtime's CNI configuration
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/etc/cni/net.d",
        requires = "is_wanted"
    )]
    cni_conf_dir: PathBuf,
    /// The container runtime's CNI plugins
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/opt/cni/bin",
        requires = "is_wanted"
    )]
    cni_bin_dir: PathBuf,
}

impl NodeCheck {
    fn options(&self, link: LinkChoice, tun_device: PathBuf) -> cluster::Options {
        cluster::Options {
            state: self.state.clone(),
            link,
            tun_device,
            plugin: Some(PluginFolders {
                configuration: self.cni_conf_dir.clone(),
                binaries: self.cni_bin_dir.clone(),
            }),
            ..cluster::Options::default()
        }
    }
}

/// Tries everything out and tells. Must be called in a process with one thread.
pub(super) fn check(args: &Check) -> Result<u8, CliError> {
    let tun_device = args.link.tun.path.clone();
    let findings = match args.node.is_wanted {
        true => cluster::check(&args.node.options(args.link.choice, tun_device))?,
        false => probe::run(&Options {
            link: args.link.choice,
            tun_device,
        })?,
    };
    match args.json {
        true => print_json(&findings.iter().map(as_json).collect::<Vec<_>>())?,
        false => print(&findings.iter().map(as_text).collect::<String>())?,
    }
    let failed = findings.iter().any(|finding| finding.status == Status::Fail);
    Ok(u8::from(failed))
}

fn as_text(finding: &Finding) -> String {
    let mark = match finding.status {
        Status::Ok => '√',
        Status::Warn => '‼',
        Status::Fail => '×',
    };
    let Finding {
        code,
        what,
        reason,
        fix,
        ..
    } = finding;
    let line = format!("{mark} {what} [{code}]: {reason}\n");
    match fix {
        Some(fix) => format!("{line}    fix: {fix}\n"),
        None => line,
    }
}

fn as_json(finding: &Finding) -> serde_json::Value {
    let status = match finding.status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "fail",
    };
    json!({
        "code": finding.code.to_string(),
        "status": status,
        "what": finding.what,
        "reason": finding.reason,
        "fix": finding.fix,
    })
}
