//! The agent and the helper end and come back, and pods end without a word.

use adit_node::cluster::{Family, Kind};
use adit_node::codes::Code;
use rustix::process::Signal;

use crate::agent::Forwarder;
use crate::pod::Pod;
use crate::runner::Case;
use crate::stream::Stream;
use crate::world::{World, eventually};

pub(crate) const ALL: &[Case] = &[
    ("a_new_agent_takes_the_queues_again", agent_restarts),
    ("the_ports_of_an_agent_that_is_gone_are_closed", ports_closed),
    ("a_killed_helper_comes_back_to_what_there_is", helper_killed),
    ("both_are_killed_and_everything_goes_on", both_killed),
    (
        "a_helper_that_is_told_to_stop_leaves_pods_where_they_are",
        helper_stopped,
    ),
    ("a_pod_that_vanishes_leaves_nothing", vanishes),
    (
        "a_pod_that_vanishes_while_the_helper_is_away_leaves_nothing",
        vanishes_unseen,
    ),
    ("a_second_helper_is_refused", second_helper),
];

fn agent_restarts(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let stream = Stream::to_pod(&pod, pod.v4);
    let (member, queues) = world.client().join(&pod.reference()).unwrap();
    let forwarder = Forwarder::start(queues);
    assert!(stream.flows());
    drop(forwarder);
    let (again, queues) = world.client().join(&pod.reference()).unwrap();
    assert_eq!(again, member);
    let forwarder = Forwarder::start(queues);
    assert!(stream.flows());
    stream.finish();
    drop(forwarder);
}

/// What the kernel of O would refuse, since the listener is gone, reaches the next agent.
fn ports_closed(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let (mut first, second) = (world.client(), world.client());
    let queues = first.join(&pod.reference()).unwrap();
    for port in [80, 15008] {
        first.open_port(&pod.uid, port).unwrap();
    }
    let mut observer = second;
    drop(first);
    assert_eq!(
        observer.members().unwrap()[0].open_ports,
        [80, 15008],
        "an agent is there still"
    );
    drop(observer);
    let closed = || world.client().members().unwrap()[0].open_ports.is_empty();
    assert!(eventually(closed), "the ports stay open");
    drop(queues);
}

fn helper_killed(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let before = pod.state();
    let stream = Stream::to_pod(&pod, pod.v4);
    let mut client = world.client();
    let (_, queues) = client.join(&pod.reference()).unwrap();
    client.open_port(&pod.uid, 80).unwrap();
    let member = client.members().unwrap();
    let forwarder = Forwarder::start(queues);
    assert!(stream.flows());
    world.end_node(Signal::KILL);
    assert!(stream.flows(), "the agent doesn't need the helper to forward");
    world.start(&[]);
    let mut client = world.client();
    assert_eq!(client.members().unwrap(), member);
    let sockets = client.sockets(&pod.uid, Family::V4, Kind::Udp, 3).unwrap();
    assert_eq!(sockets.len(), 3);
    // The first agent holds the queues, and nobody can have them twice.
    let error = client.join(&pod.reference()).unwrap_err();
    assert_eq!(error.code(), Code::QUEUES_HELD, "{error}");
    assert!(stream.flows());
    drop(forwarder);
    let (_, queues) = client.join(&pod.reference()).unwrap();
    let forwarder = Forwarder::start(queues);
    assert!(stream.flows());
    client.leave(&pod.uid).unwrap();
    assert!(stream.flows());
    stream.finish();
    assert!(forwarder.ended());
    drop(sockets);
    pod.assert_state(&before, "in the end");
    assert_eq!(world.remembered(), Vec::<String>::new());
}

fn both_killed(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let stream = Stream::from_pod(&pod, crate::pod::GATEWAY);
    let forwarder = Forwarder::start(world.client().join(&pod.reference()).unwrap().1);
    assert!(stream.flows());
    world.end_node(Signal::KILL);
    drop(forwarder);
    world.start(&[]);
    let forwarder = Forwarder::start(world.client().join(&pod.reference()).unwrap().1);
    assert!(stream.flows());
    stream.finish();
    drop(forwarder);
}

fn helper_stopped(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let before = pod.state();
    let queues = world.client().join(&pod.reference()).unwrap();
    let joined = pod.state();
    world.end_node(Signal::TERM);
    pod.assert_state(&joined, "still joined");
    assert_eq!(world.remembered().len(), world.remembered_of_one());
    drop(queues);
    let uninstalled = world.role("as-uninstall").status().unwrap();
    assert!(uninstalled.success());
    pod.assert_state(&before, "in the end");
    assert_eq!(world.remembered(), Vec::<String>::new());
}

fn vanishes(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let mut client = world.client();
    let forwarder = Forwarder::start(client.join(&pod.reference()).unwrap().1);
    pod.vanish();
    assert!(forwarder.ended(), "the agent is told by the queue in O");
    assert!(eventually(|| world.remembered().is_empty()));
    assert!(eventually(|| !pod.is_on_node()));
    assert_eq!(client.members().unwrap(), []);
    assert_eq!(client.stats().unwrap().pods_vanished, 1);
}

fn vanishes_unseen(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    drop(world.client().join(&pod.reference()).unwrap());
    world.end_node(Signal::KILL);
    pod.vanish();
    world.start(&[]);
    assert_eq!(world.remembered(), Vec::<String>::new());
    assert!(eventually(|| !pod.is_on_node()));
}

fn second_helper(world: &World) {
    world.start(&[]);
    // It waits for the lock for a while, as one does whose predecessor is just ending.
    let refused = world.role("as-node").output().unwrap();
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("in use by another node helper"), "{told}");
    assert!(world.client().stats().is_ok());
}
