//! The `adit` command, which is the CNI plugin too where it is called by that name.

use std::path::Path;
use std::process::ExitCode;

use adit_node::cluster::cni;

fn main() -> ExitCode {
    adit_node::names::look_up_without_modules();
    adit_node::memory::keep_freed();
    let name = std::env::args_os().next();
    match name.as_deref().and_then(|name| Path::new(name).file_name()) {
        Some(name) if name == cni::PLUGIN => cni::main(),
        _ => adit_agent::cli::main(),
    }
}
