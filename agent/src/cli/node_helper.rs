//! `adit node-helper`: the privileged side of a cluster's node.

use adit_node::cluster::{self, Options, PluginFolders};

use super::CliError;
use super::args::NodeHelper;

/// Serves until SIGTERM, or takes adit off the node. Must be called in a process with one thread.
pub(super) fn node_helper(args: NodeHelper) -> Result<u8, CliError> {
    let plugin = PluginFolders {
        configuration: args.cni_conf_dir,
        binaries: args.cni_bin_dir,
    };
    let options = Options {
        state: args.state,
        agent_uid: args.agent_uid,
        namespaces: args.netns_dir,
        tun_device: args.tun.path,
        pod_mtu: args.pod_mtu,
        exempt: args.exempt_namespaces,
        plugin: (!args.no_cni).then_some(plugin),
        ..Options::default()
    };
    match args.uninstall {
        true => cluster::uninstall(&options)?,
        false => cluster::serve(options, None)?,
    }
    Ok(0)
}
