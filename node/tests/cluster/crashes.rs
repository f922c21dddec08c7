//! The helper is killed before each step of a join and of a leave; the next one finishes what was begun.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use adit_link::{TunConfig, create_tun, open_packet};
use rustix::process::Signal;

use crate::agent::Forwarder;
use crate::pod::{Pod, in_namespace};
use crate::runner::Case;
use crate::stream::Stream;
use crate::world::{World, eventually};

pub(crate) const ALL: &[Case] = &[
    ("a_join_that_is_killed_before_any_step_is_finished", killed_joins),
    ("a_queue_that_is_closed_late_is_waited_for", closed_late),
    (
        "a_leave_that_is_killed_before_any_step_is_finished",
        killed_leaves,
    ),
    (
        "a_clearing_that_is_killed_before_any_step_is_finished",
        killed_clearings,
    ),
];

/// The names of the steps that `act` takes, as the helper wrote them down.
fn steps_of(world: &World, act: impl FnOnce()) -> Vec<String> {
    let path = world.folder.join("steps");
    let before = read(&path).len();
    act();
    let steps = read(&path).split_off(before);
    assert!(steps.len() >= 3, "{steps:?}");
    let distinct = steps.iter().collect::<BTreeSet<_>>();
    assert_eq!(
        distinct.len(),
        steps.len(),
        "a step that is taken twice: {steps:?}"
    );
    steps
}

fn read(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn start_recording(world: &World) {
    let path = world.folder.join("steps");
    world.start(&["--steps", path.to_str().unwrap()]);
}

fn killed_joins(world: &World) {
    start_recording(world);
    let steps = {
        let pod = Pod::new(world, "shop");
        steps_of(world, || drop(world.client().join(&pod.reference()).unwrap()))
    };
    world.end_node(Signal::TERM);
    for step in steps {
        let pod = Pod::new(world, "shop");
        let before = pod.state();
        let streams = [
            Stream::to_pod(&pod, pod.v4),
            Stream::from_pod(&pod, crate::pod::GATEWAY_V6),
        ];
        world.start(&["--die-at", &step]);
        let failed = world.client().join(&pod.reference());
        assert!(failed.is_err(), "{step}");
        assert!(world.node_died(), "{step}");
        world.start(&[]);
        let mut client = world.client();
        assert_eq!(client.members().unwrap().len(), 1, "{step}");
        let forwarder = Forwarder::start(client.join(&pod.reference()).unwrap().1);
        assert!(streams.iter().all(Stream::flows), "{step}");
        client.leave(&pod.uid).unwrap();
        assert!(forwarder.ended(), "{step}");
        assert!(streams.iter().all(Stream::flows), "{step}");
        streams.into_iter().for_each(Stream::finish);
        pod.assert_state(&before, &step);
        assert_eq!(world.remembered(), Vec::<String>::new(), "{step}");
        world.end_node(Signal::TERM);
    }
}

/// What a killed helper had in the air is closed by the kernel in its own time.
fn closed_late(world: &World) {
    let pod = Pod::new(world, "shop");
    world.start(&["--die-at", "joined"]);
    assert!(world.client().join(&pod.reference()).is_err());
    assert!(world.node_died());
    let pin = world.folder.join("state/netns").join(&pod.uid);
    let tun = &world.tun;
    let queue = match world.link {
        "packet" => in_namespace(&pin.with_extension("wires"), || {
            OwnedFd::from(open_packet("wire", 1).unwrap().remove(0))
        }),
        _ => in_namespace(&pin, || {
            let config = TunConfig {
                segmentation: true,
                ..TunConfig::new(tun, "out0")
            };
            OwnedFd::from(create_tun(&config).unwrap().queues.remove(0))
        }),
    };
    let closing = std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(200));
        drop(queue);
    });
    world.start(&[]);
    let mut client = world.client();
    let forwarder = Forwarder::start(client.join(&pod.reference()).unwrap().1);
    client.leave(&pod.uid).unwrap();
    assert!(forwarder.ended());
    closing.join().unwrap();
    world.end_node(Signal::TERM);
}

fn killed_leaves(world: &World) {
    start_recording(world);
    let steps = {
        let pod = Pod::new(world, "shop");
        let mut client = world.client();
        drop(client.join(&pod.reference()).unwrap());
        steps_of(world, || client.leave(&pod.uid).unwrap())
    };
    world.end_node(Signal::TERM);
    for step in steps {
        let pod = Pod::new(world, "shop");
        let before = pod.state();
        let streams = [
            Stream::to_pod(&pod, pod.v4),
            Stream::from_pod(&pod, crate::pod::GATEWAY_V6),
        ];
        world.start(&["--die-at", &step]);
        let mut client = world.client();
        let forwarder = Forwarder::start(client.join(&pod.reference()).unwrap().1);
        assert!(streams.iter().all(Stream::flows), "{step}");
        assert!(client.leave(&pod.uid).is_err(), "{step}");
        assert!(world.node_died(), "{step}");
        world.start(&[]);
        assert_eq!(world.client().members().unwrap(), [], "{step}");
        assert!(forwarder.ended(), "{step}");
        assert!(streams.iter().all(Stream::flows), "{step}");
        streams.into_iter().for_each(Stream::finish);
        pod.assert_state(&before, &step);
        assert_eq!(world.remembered(), Vec::<String>::new(), "{step}");
        world.end_node(Signal::TERM);
    }
}

fn killed_clearings(world: &World) {
    start_recording(world);
    let steps = {
        let pod = Pod::new(world, "shop");
        drop(world.client().join(&pod.reference()).unwrap());
        steps_of(world, || {
            pod.vanish();
            assert!(eventually(|| world.remembered().is_empty()));
        })
    };
    world.end_node(Signal::TERM);
    for step in steps {
        let pod = Pod::new(world, "shop");
        world.start(&["--die-at", &step]);
        drop(world.client().join(&pod.reference()).unwrap());
        pod.vanish();
        assert!(world.node_died(), "{step}");
        world.start(&[]);
        assert_eq!(world.remembered(), Vec::<String>::new(), "{step}");
        assert!(eventually(|| !pod.is_on_node()), "{step}");
        world.end_node(Signal::TERM);
    }
}
