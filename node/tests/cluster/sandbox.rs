//! Pods whose sandbox has a network stack of its own, as gVisor's: it takes the interface's addresses and reads its frames.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use adit_link::{Queue, VnetHeader, open_packet};
use adit_node::cluster::Decision;
use adit_node::codes::Code;
use rustix::process::Signal;

use crate::agent::Forwarder;
use crate::link::datagram;
use crate::plugin::{call, starts};
use crate::pod::{GATEWAY, Pod};
use crate::runner::Case;
use crate::world::{World, eventually, ip_in};

pub(crate) const ALL: &[Case] = &[
    ("a_sandbox_that_runs_cannot_join", runs_already),
    ("a_sandbox_that_joined_stays_until_it_ends", stays),
    ("a_pod_that_captures_packets_is_no_sandbox", captures),
    ("a_sandbox_is_told_when_adit_is_taken_off", taken_off),
];

const PORT: u16 = 5355;

/// Does what gVisor does when it starts. The sandbox lives as long as what this returns.
fn start_sandbox(pod: &Pod) -> Queue {
    let socket = pod.inside(|| open_packet("eth0", 1).unwrap().pop().unwrap());
    ip_in(&pod.path, "addr flush dev eth0");
    Queue::from_fd(socket.into()).unwrap()
}

/// Whether P's kernel has an address, and would answer for the pod.
fn kernel_has_address(pod: &Pod) -> bool {
    let shown = ip_in(&pod.path, "-o addr show dev eth0");
    shown.contains(&format!("{}/", pod.v4)) || shown.contains(&format!("{}/", pod.v6))
}

fn runs_already(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let sandbox = start_sandbox(&pod);
    let before = pod.state();
    let error = world.client().join(&pod.reference()).unwrap_err();
    assert_eq!(error.code(), Code::POD_SANDBOX, "{error}");
    assert!(error.to_string().contains("eth0 of"), "{error}");
    pod.assert_state(&before, "refused");
    assert_eq!(world.remembered(), Vec::<String>::new());
    // Somebody else's sandbox is in nobody's way.
    let other = Pod::new(world, "shop");
    drop(world.client().join(&other.reference()).unwrap());
    drop(sandbox);
}

/// Has the sandbox send a datagram, and waits for it on the node.
fn speaks(sandbox: &Queue, pod: &Pod) -> bool {
    let node = UdpSocket::bind((GATEWAY, PORT)).unwrap();
    node.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    eventually(|| {
        let packet = datagram(pod, PORT, b"own stack");
        sandbox.send(&VnetHeader::default(), [&packet[..]]).unwrap();
        let mut buffer = [0; 32];
        node.recv_from(&mut buffer)
            .is_ok_and(|(len, from)| &buffer[..len] == b"own stack" && from == SocketAddr::new(pod.v4, PORT))
    })
}

fn stays(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let admissions = starts(world, &pod, Decision::Join);
    let forwarder = Forwarder::start(world.client().join(&pod.reference()).unwrap().1);
    let sandbox = start_sandbox(&pod);
    assert!(speaks(&sandbox, &pod));

    let error = world.client().leave(&pod.uid).unwrap_err();
    assert_eq!(error.code(), Code::POD_SANDBOX, "{error}");
    assert!(speaks(&sandbox, &pod), "it is where it was");

    // Helper and agent come back, and take it up as they find it.
    drop(admissions);
    world.end_node(Signal::KILL);
    drop(forwarder);
    world.start(&[]);
    let forwarder = Forwarder::start(world.client().join(&pod.reference()).unwrap().1);
    assert!(!kernel_has_address(&pod), "{:#?}", pod.state());
    assert!(speaks(&sandbox, &pod));

    drop(sandbox);
    let output = call(world, "DEL", &pod);
    assert!(output.status.success(), "{output:?}");
    assert!(forwarder.ended());
    assert_eq!(world.remembered(), Vec::<String>::new());
    assert!(
        kernel_has_address(&pod),
        "the plugins before ours find what they made"
    );
}

fn captures(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let before = pod.state();
    let forwarder = Forwarder::start(world.client().join(&pod.reference()).unwrap().1);
    let capture = pod.inside(|| open_packet("eth0", 1).unwrap());
    world.client().leave(&pod.uid).unwrap();
    assert!(forwarder.ended());
    drop(capture);
    pod.assert_state(&before, "in the end");
}

fn taken_off(world: &World) {
    let log = world.folder.join("log");
    world.start(&["--log", log.to_str().unwrap()]);
    let pod = Pod::new(world, "shop");
    let forwarder = Forwarder::start(world.client().join(&pod.reference()).unwrap().1);
    let sandbox = start_sandbox(&pod);
    let mut off = world.role("as-uninstall");
    assert!(off.args(["--grace-ms", "100"]).status().unwrap().success());
    assert!(forwarder.ended());
    let told = fs::read_to_string(&log).unwrap();
    let said = told
        .lines()
        .find(|line| line.contains(&pod.uid) && line.contains("ADIT-N048"));
    assert!(said.is_some(), "{told}");
    assert_eq!(world.remembered(), Vec::<String>::new());
    drop(sandbox);
}
