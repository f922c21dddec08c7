//! Pods for real: namespaces, TUN devices, veth pairs, terminals and the end of everything, without root.
//!
//! This executable is its own cast: called with a role as its first argument it is the helper, `enter`, a supervisor
//! or the program in the pod (see [`roles`]); otherwise it runs the cases, one after another, because they look at the
//! machine's process table. Started by root it runs each case twice, as root and as uid 1000 with a private TUN device
//! node; otherwise once, as whoever runs it, with the node that `ADIT_TUN` names or the machine's own.
//!
//! What a case needs and the machine lacks is a failure. Only root can be another user as well: an ordinary user's run says
//! of the cases that need one, [`runner::Suite::root_cases`], that they were ignored.

mod cases;
mod expect;
mod lifetime;
mod link;
mod roles;
#[path = "../common/runner.rs"]
mod runner;
mod terminal;
mod world;

fn main() -> std::process::ExitCode {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    match roles::play(&arguments) {
        Some(code) => code,
        None => {
            let all = runner::Suite {
                label: "",
                cases: [cases::ALL, lifetime::ALL, link::ALL, terminal::ALL].concat(),
                root_cases: cases::ROOT.to_vec(),
                world: world::World::new,
            };
            runner::run(&[all], &arguments, || ())
        }
    }
}
