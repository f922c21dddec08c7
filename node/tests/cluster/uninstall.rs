//! Adit is taken off the node while pods are in the mesh and carry streams; and what the kubelet's probes say.

use std::fs;
use std::process::{Child, Output};

use adit_node::cluster::{Admissions, Notice};
use adit_node::codes::Code;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::Forwarder;
use crate::plugin::{call, passes};
use crate::pod::{GATEWAY, Pod};
use crate::runner::Case;
use crate::stream::Stream;
use crate::world::{World, eventually};

pub(crate) const ALL: &[Case] = &[
    ("an_agent_lets_its_pods_go_when_adit_is_taken_off", with_agent),
    (
        "pods_that_the_agent_keeps_are_let_go_when_their_time_is_over",
        agent_keeps,
    ),
    ("adit_is_taken_off_where_the_helper_is_gone", without_helper),
    (
        "a_helper_that_is_started_again_meanwhile_takes_nothing_back",
        started_again,
    ),
    ("the_probes_say_how_the_helper_is", probes),
];

const LIST: &str =
    r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp","mtu":1450},{"type":"portmap"}]}"#;

/// A node's list of plugins.
fn write_list(world: &World) {
    fs::write(world.folder.join("net.d/10-pods.conflist"), LIST).unwrap();
    fs::write(
        world.folder.join("net.d/99-loopback.conf"),
        r#"{"type":"loopback"}"#,
    )
    .unwrap();
}

/// That the list says what it did, and nothing else is in the runtime's folders.
fn assert_off(world: &World) {
    let list = fs::read(world.folder.join("net.d/10-pods.conflist")).unwrap();
    let parse = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
    assert_eq!(parse(&list), parse(LIST.as_bytes()));
    let count = |folder: &str| fs::read_dir(world.folder.join(folder)).unwrap().count();
    assert_eq!((count("net.d"), count("bin")), (2, 0));
    assert_eq!(world.remembered(), Vec::<String>::new());
}

fn asked(world: &World, question: &str) -> Output {
    let mut probe = world.role("as-probe");
    probe.args(["--question", question]).output().unwrap()
}

#[track_caller]
fn assert_no(world: &World, question: &str, code: &str) {
    let output = asked(world, question);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains(code),
        "{question}: {output:?}"
    );
}

fn uninstaller(world: &World, options: &[&str]) -> Child {
    world.role("as-uninstall").args(options).spawn().unwrap()
}

fn with_agent(world: &World) {
    write_list(world);
    world.start(&[]);
    let (pod, late) = (Pod::new(world, "shop"), Pod::new(world, "shop"));
    let (before, late_before) = (pod.state(), late.state());
    let streams = [Stream::to_pod(&pod, pod.v4), Stream::from_pod(&pod, GATEWAY)];
    let flow = || streams.iter().for_each(|stream| assert!(stream.flows()));
    let mut admissions = Admissions::connect(&world.agent_socket()).unwrap();
    let mut client = world.client();
    let forwarder = Forwarder::start(client.join(&pod.reference()).unwrap().1);
    flow();
    assert_no(world, "uninstalled", "ADIT-N036");

    let mut off = uninstaller(world, &["--grace-ms", "600000", "--stay"]);
    assert!(!admissions.is_dismissed());
    assert_eq!(admissions.next().unwrap(), Notice::Dismissal);
    // An agent that is started meanwhile is told at once.
    let again = Admissions::connect(&world.agent_socket()).unwrap();
    assert!(again.is_dismissed());
    // The agent takes its time; new pods start outside the mesh meanwhile.
    let output = call(world, "ADD", &late);
    assert!(passes(&output, &late), "{output:?}");
    late.assert_state(&late_before, "left alone");
    let error = client.join(&late.reference()).unwrap_err();
    assert_eq!(error.code(), Code::DISMISSED, "{error}");
    assert_no(world, "uninstalled", "ADIT-N036");
    flow();
    assert_eq!(
        client.members().unwrap().len(),
        1,
        "the agent's pod is its own to let go"
    );
    client.leave(&pod.uid).unwrap();
    assert!(forwarder.ended());

    assert!(eventually(|| asked(world, "uninstalled").status.success()));
    assert!(asked(world, "ready").status.success(), "an idle helper is ready");
    assert_off(world);
    pod.assert_state(&before, "in the end");
    flow();
    streams.into_iter().for_each(Stream::finish);
    kill_process(Pid::from_child(&off), Signal::TERM).unwrap();
    assert!(off.wait().unwrap().success());
}

fn agent_keeps(world: &World) {
    write_list(world);
    world.start(&[]);
    let pods = [(); 10].map(|()| Pod::new(world, "shop"));
    let before = pods.each_ref().map(Pod::state);
    let stream = Stream::to_pod(&pods[0], pods[0].v4);
    let _admissions = Admissions::connect(&world.agent_socket()).unwrap();
    let mut client = world.client();
    let forwarders = pods
        .each_ref()
        .map(|pod| Forwarder::start(client.join(&pod.reference()).unwrap().1));
    assert!(stream.flows());
    let mut off = uninstaller(world, &["--grace-ms", "300"]);
    assert!(off.wait().unwrap().success());
    assert!(stream.flows());
    assert_off(world);
    for (pod, before) in pods.iter().zip(&before) {
        pod.assert_state(before, "in the end");
    }
    assert!(forwarders.into_iter().all(Forwarder::ended));
    stream.finish();
}

fn without_helper(world: &World) {
    write_list(world);
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let before = pod.state();
    let stream = Stream::from_pod(&pod, GATEWAY);
    let forwarder = Forwarder::start(world.client().join(&pod.reference()).unwrap().1);
    assert!(stream.flows());
    world.end_node(Signal::KILL);
    // The agent outlives the helper, and holds the queues.
    assert!(
        uninstaller(world, &["--grace-ms", "600000"])
            .wait()
            .unwrap()
            .success()
    );
    assert!(forwarder.ended());
    assert!(stream.flows());
    assert_off(world);
    pod.assert_state(&before, "in the end");
    stream.finish();
}

fn started_again(world: &World) {
    write_list(world);
    world.start(&[]);
    let mut off = uninstaller(world, &["--stay"]);
    let is_off = || eventually(|| asked(world, "uninstalled").status.success());
    assert!(is_off());
    world.end_node(Signal::KILL);
    world.start(&[]);
    assert!(is_off());
    assert_off(world);
    kill_process(Pid::from_child(&off), Signal::TERM).unwrap();
    assert!(off.wait().unwrap().success());
    // Nobody wants it off any more: a helper that starts now serves the node again.
    world.end_node(Signal::TERM);
    world.start(&[]);
    assert!(asked(world, "ready").status.success());
    assert_no(world, "uninstalled", "10-pods.conflist");
}

fn probes(world: &World) {
    assert_no(world, "live", "ADIT-N009");
    assert_no(world, "ready", "ADIT-N009");
    assert!(
        asked(world, "uninstalled").status.success(),
        "nothing was installed yet"
    );
    world.start(&[]);
    assert!(asked(world, "live").status.success());
    // No list: the node has no network yet.
    assert_no(world, "ready", "ADIT-N031");
    write_list(world);
    assert!(eventually(|| asked(world, "ready").status.success()));
    world.end_node(Signal::KILL);
    fs::write(world.folder.join("state/pods/unreadable"), "?").unwrap();
    world.start(&[]);
    assert!(asked(world, "live").status.success());
    assert_no(world, "ready", "ADIT-N028");
}
