//! `adit node-helper`: the privileged side of a cluster's node.

use adit_node::cluster::{self, Options, PluginFolders};

use super::CliError;
use super::args::NodeHelper;

/// Serves until SIGTERM, takes adit off the node, or asks how it is there. Must be called in a process with one thread.
pub(super) fn node_helper(args: NodeHelper) -> Result<u8, CliError> {
    let plugin = PluginFolders {
        configuration: args.cni_conf_dir,
        binaries: args.cni_bin_dir,
    };
    let options = Options {
        state: args.state,
        agent_uid: args.agent_uid,
        namespaces: args.netns_dir,
        link: args.link.choice,
        tun_device: args.link.tun.path,
        pod_mtu: args.pod_mtu,
        exempt: args.exempt_namespaces,
        plugin: (!args.no_cni).then_some(plugin),
        ..Options::default()
    };
    match (args.probe, args.uninstall, args.stay) {
        (Some(question), ..) => cluster::probe(&options, question.into())?,
        (None, true, true) => cluster::stay_uninstalled(&options, args.drain)?,
        (None, true, false) => cluster::uninstall(&options, args.drain)?,
        (None, false, _) => cluster::serve(options, None)?,
    }
    Ok(0)
}
