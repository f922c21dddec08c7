//! Nothing is left behind, whoever dies first.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use adit_node::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::runner::Case;
use crate::world::{World, eventually, first_line, pod, processes_in};

pub(crate) const ALL: &[Case] = &[
    (
        "a_killed_supervisor_takes_everything_with_it",
        a_killed_supervisor_takes_everything_with_it,
    ),
    (
        "a_killed_enter_takes_its_program_with_it",
        a_killed_enter_takes_its_program_with_it,
    ),
    (
        "a_killed_init_is_told_from_a_program_that_ended",
        a_killed_init_is_told_from_a_program_that_ended,
    ),
    (
        "background_processes_end_with_the_program",
        background_processes_end_with_the_program,
    ),
    (
        "programs_outlive_a_killed_helper",
        programs_outlive_a_killed_helper,
    ),
    (
        "sigterm_ends_the_helper_and_its_folder",
        sigterm_ends_the_helper_and_its_folder,
    ),
    (
        "the_terminals_signals_do_not_end_the_helper",
        the_terminals_signals_do_not_end_the_helper,
    ),
    ("deleted_pods_leave_no_namespace", deleted_pods_leave_no_namespace),
];

/// The network namespaces that processes are in, the caller's own apart.
fn foreign_network_of(pid: u32) -> Option<String> {
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let link = network(&pid.to_string())?;
    (Some(&link) != network("self").as_ref()).then(|| link.to_string_lossy().into_owned())
}

/// The pod's network namespace, as seen through one of its programs.
fn network_of(world: &World, name: &str) -> String {
    world
        .output_of(name, &["readlink", "/proc/self/ns/net"])
        .trim()
        .to_owned()
}

/// A pid namespace with a sleeping program in it, and the process that stands for it outside.
fn sleeper(world: &World, name: &str, detach: bool) -> Child {
    let mut command = world.enter(name);
    if detach {
        command.arg("--detach");
    }
    command
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["as-app", "sleep"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut child), "asleep\n");
    child
}

fn a_killed_supervisor_takes_everything_with_it(world: &World) {
    let mut supervisor = world
        .role("as-supervisor")
        .arg("--socket")
        .arg(world.socket())
        .arg("--tun")
        .arg(&world.tun)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut supervisor), "asleep\n");
    let network = network_of(world, "lifeline");
    assert!(processes_in(&network).len() >= 3, "outer, init and the program");
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    assert!(
        eventually(|| processes_in(&network).is_empty()),
        "{:?}",
        processes_in(&network)
    );
    assert!(eventually(|| !fs::exists(world.run_directory()).unwrap()));
    assert_eq!(mounts(), before);
}

fn a_killed_enter_takes_its_program_with_it(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    for detach in [false, true] {
        let network = network_of(world, "a");
        let mut outer = sleeper(world, "a", detach);
        assert_eq!(processes_in(&network).len(), 3);
        outer.kill().unwrap();
        outer.wait().unwrap();
        assert!(
            eventually(|| processes_in(&network).is_empty()),
            "{:?}",
            processes_in(&network)
        );
    }
}

fn a_killed_init_is_told_from_a_program_that_ended(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let mut outer = sleeper(world, "a", false);
    let children = format!("/proc/{0}/task/{0}/children", outer.id());
    let init = fs::read_to_string(children)
        .unwrap()
        .trim()
        .parse::<i32>()
        .unwrap();
    kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
    assert_eq!(outer.wait().unwrap().code(), Some(137));
}

fn background_processes_end_with_the_program(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let output = world.app("a", &["leave-behind"]);
    assert!(output.status.success());
    let processes = String::from_utf8(output.stdout).unwrap();
    assert!(processes.starts_with("pid:["), "{processes}");
    // Not eventually: when `enter` has returned it is done.
    assert_eq!(processes_in(processes.trim()), [0; 0]);
}

fn programs_outlive_a_killed_helper(world: &World) {
    let mut client = world.start(&[]);
    client.create_pod(&pod("a", 2)).unwrap();
    let queues = client.open_queues("a").unwrap();
    let mut outer = sleeper(world, "a", true);
    kill_process(world.node_pid(), Signal::KILL).unwrap();
    assert!(world.node_ended());
    // The pod goes on with its agent; what is lost is that a restarted agent could have its queues.
    assert!(outer.try_wait().unwrap().is_none());
    assert!(client.list().is_err());
    assert!(Client::connect(&world.socket()).is_err());
    drop(queues);
    outer.kill().unwrap();
    outer.wait().unwrap();
}

fn sigterm_ends_the_helper_and_its_folder(world: &World) {
    let mut client = world.start(&[]);
    client.create_pod(&pod("a", 2)).unwrap();
    kill_process(world.node_pid(), Signal::TERM).unwrap();
    assert!(world.node_ended());
    assert!(!fs::exists(world.run_directory()).unwrap());
}

fn the_terminals_signals_do_not_end_the_helper(world: &World) {
    let mut client = world.start(&[]);
    // USR2 is what the kernel sends when a parent's thread ends; our parent is alive.
    for signal in [Signal::INT, Signal::HUP, Signal::QUIT, Signal::TSTP, Signal::USR2] {
        kill_process(world.node_pid(), signal).unwrap();
    }
    client.create_pod(&pod("a", 2)).unwrap();
    assert_eq!(client.list().unwrap(), ["a"]);
}

fn deleted_pods_leave_no_namespace(world: &World) {
    let mut client = world.start(&[]);
    client.create_pod(&pod("a", 2)).unwrap();
    let mut outer = sleeper(world, "a", false);
    let network = foreign_network_of(outer.id()).expect("outer is in the pod");
    client.delete_pod("a").unwrap();
    // Its program keeps it alive, and nobody can come in any more.
    assert_eq!(processes_in(&network).len(), 3);
    assert!(client.namespaces("a").is_err());
    outer.kill().unwrap();
    outer.wait().unwrap();
    assert!(eventually(|| processes_in(&network).is_empty()));
    // The same addresses again: nothing is in the way.
    client.create_pod(&pod("a", 2)).unwrap();
}
