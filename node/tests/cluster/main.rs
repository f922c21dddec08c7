//! A node's helper for real: pods in namespaces of their own are put behind an agent and taken out again.
//!
//! The runner goes to network and mount namespaces of its own first, which play the node; so nothing that a case makes
//! is the machine's. Started by root it runs each case twice, as root and as uid 1000, which is root of a user namespace
//! then; otherwise once, as whoever runs it. This executable is its own cast, as in `pods`: called with a role it is the
//! helper, the plugin or a stranger ([`roles`]).
//!
//! What a case needs and the machine lacks is a failure. Only root can be another user as well: an ordinary user's run says
//! of the cases that need one, [`Suite::root_cases`], that they were ignored.

mod agent;
mod check;
mod crashes;
mod joining;
mod link;
mod plugin;
mod pod;
mod restarts;
mod roles;
#[path = "../common/runner.rs"]
mod runner;
mod sandbox;
mod stream;
mod uninstall;
mod world;

use runner::Suite;
use world::World;

/// What has to do with pods that join is done by either link.
fn suites() -> [Suite; 3] {
    let joins = [
        joining::ALL,
        link::EITHER,
        restarts::ALL,
        crashes::ALL,
        plugin::ALL,
        uninstall::ALL,
    ]
    .concat();
    [
        Suite {
            label: "tun",
            cases: [&joins[..], joining::TUN].concat(),
            root_cases: joining::ROOT.to_vec(),
            world: || World::new("tun"),
        },
        Suite {
            label: "packet",
            cases: [&joins[..], link::PACKET, sandbox::ALL].concat(),
            root_cases: joining::ROOT.to_vec(),
            world: || World::new("packet"),
        },
        Suite {
            label: "auto",
            cases: [link::AUTO, check::ALL].concat(),
            root_cases: Vec::new(),
            world: || World::new("auto"),
        },
    ]
}

fn main() -> std::process::ExitCode {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    match roles::play(&arguments) {
        Some(code) => code,
        None => runner::run(&suites(), &arguments, world::become_node),
    }
}
