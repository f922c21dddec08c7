//! The container runtime's side: the plugin, its place in the node's list, and pods that wait for the agent.

use std::fs;
use std::path::Path;
use std::process::Output;

use adit_node::cluster::{Admissions, Decision, Notice};
use rustix::process::Signal;

use crate::agent::Forwarder;
use crate::pod::{GATEWAY, Pod};
use crate::runner::Case;
use crate::stream::Stream;
use crate::world::{World, eventually};

pub(crate) const ALL: &[Case] = &[
    ("a_new_pod_joins_on_the_agents_word", admitted),
    (
        "a_namespace_that_is_mounted_elsewhere_for_the_helper_is_found",
        mounted_elsewhere,
    ),
    (
        "a_new_pod_is_left_alone_or_refused_on_the_agents_word",
        not_admitted,
    ),
    ("a_new_pod_waits_for_an_agent_unless_it_is_exempt", no_agent),
    ("a_second_agent_takes_over", second_agent),
    (
        "a_deleted_pod_has_its_interface_for_the_plugins_after_us",
        deleted,
    ),
    (
        "a_pod_is_deleted_while_the_helper_is_away",
        deleted_without_helper,
    ),
    ("word_about_an_old_sandbox_doesnt_touch_the_new_one", old_sandbox),
    ("collecting_takes_what_the_runtime_forgot", collected),
    ("the_nodes_list_is_healed_while_the_helper_runs", healed),
];

/// What the plugin's entry and the previous plugin's result look like.
pub(crate) fn configuration(world: &World, pod: &Pod) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"pods","type":"adit-cni","state":{state:?},
            "exemptNamespaces":["adit-system"],"prevResult":{result}}}"#,
        state = world.folder.join("state"),
        result = result(pod),
    )
}

fn result(pod: &Pod) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","dns":{{}},"interfaces":[{{"name":"eth0","sandbox":{path:?}}}],"ips":[{{"address":"{v4}/24","gateway":"{GATEWAY}","interface":0}},{{"address":"{v6}/64"}}]}}"#,
        path = pod.path,
        v4 = pod.v4,
        v6 = pod.v6,
    )
}

pub(crate) fn call(world: &World, command: &str, pod: &Pod) -> Output {
    world.plugin(command, pod, &configuration(world, pod))
}

fn succeeds(world: &World, command: &str, pod: &Pod) {
    let output = call(world, command, pod);
    assert!(output.status.success(), "{command}: {output:?}");
}

/// Whether the plugin handed the result on.
pub(crate) fn passes(output: &Output, pod: &Pod) -> bool {
    output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == result(pod)
}

/// Answers one question in a thread of its own.
pub(crate) fn answer_next(
    mut admissions: Admissions,
    decision: Decision,
) -> std::thread::JoinHandle<Admissions> {
    std::thread::spawn(move || {
        let Notice::Admission(admission) = admissions.next().unwrap() else {
            panic!("expected a question");
        };
        assert_eq!(admission.pod.namespace, "shop");
        admissions.answer(admission.id, decision).unwrap();
        admissions
    })
}

/// Has the plugin called for a new pod, of which an agent says `decision`: it starts. The agent goes on to be asked.
pub(crate) fn starts(world: &World, pod: &Pod, decision: Decision) -> Admissions {
    let admissions = Admissions::connect(&world.agent_socket()).unwrap();
    let answering = answer_next(admissions, decision);
    let output = call(world, "ADD", pod);
    assert!(passes(&output, pod), "{output:?}");
    answering.join().unwrap()
}

fn admitted(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    starts(world, &pod, Decision::Join);
    let mut client = world.client();
    assert_eq!(client.members().unwrap().len(), 1);
    succeeds(world, "CHECK", &pod);
    let forwarder = Forwarder::start(client.join(&pod.reference()).unwrap().1);
    let stream = Stream::to_pod(&pod, pod.v4);
    assert!(stream.flows());
    stream.finish();
    drop(forwarder);
}

fn mounted_elsewhere(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let before = pod.state();
    let on_host = Path::new("/nonexistent/netns").join(pod.path.file_name().unwrap());
    let call = |command| {
        let output = world.plugin_for(command, &pod, &on_host, &configuration(world, &pod));
        assert!(output.status.success(), "{command}: {output:?}");
    };
    let admissions = Admissions::connect(&world.agent_socket()).unwrap();
    let answering = answer_next(admissions, Decision::Join);
    call("ADD");
    answering.join().unwrap();
    assert_eq!(world.client().members().unwrap().len(), 1);
    call("DEL");
    pod.assert_state(&before, "in the end");
}

fn not_admitted(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let before = pod.state();
    let admissions = starts(world, &pod, Decision::LeaveAlone);
    let reason = "no identity yet".to_owned();
    let answering = answer_next(admissions, Decision::Refuse { reason });
    let output = call(world, "ADD", &pod);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{output:?}");
    assert!(
        told.contains(r#""code":11"#) && told.contains("no identity yet"),
        "{told}"
    );
    assert!(told.contains("[ADIT-N027]"), "{told}");
    answering.join().unwrap();
    pod.assert_state(&before, "in the end");
    // Of a pod that isn't known there is nothing to check or to take away.
    succeeds(world, "CHECK", &pod);
    succeeds(world, "DEL", &pod);
    pod.assert_state(&before, "in the end");
}

fn no_agent(world: &World) {
    world.start(&[]);
    let (pod, exempt) = (Pod::new(world, "shop"), Pod::new(world, "adit-system"));
    let waits = |code: &str| {
        let output = call(world, "ADD", &pod);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success(), "{output:?}");
        assert!(told.contains(r#""code":11"#) && told.contains(code), "{told}");
        let output = call(world, "ADD", &exempt);
        assert!(passes(&output, &exempt), "{output:?}");
    };
    waits("[ADIT-N026]");
    assert_eq!(world.client().stats().unwrap().admissions_expired, 1);
    // The agent ends while it thinks.
    let mut admissions = Admissions::connect(&world.agent_socket()).unwrap();
    let thinking = std::thread::spawn(move || admissions.next().unwrap());
    waits_once(world, &pod);
    thinking.join().unwrap();
    world.end_node(Signal::KILL);
    waits("[ADIT-N030]");
}

fn waits_once(world: &World, pod: &Pod) {
    let output = call(world, "ADD", pod);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        told.contains(r#""code":11"#) && told.contains("[ADIT-N026]"),
        "{told}"
    );
}

fn second_agent(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let mut first = Admissions::connect(&world.agent_socket()).unwrap();
    let second = Admissions::connect(&world.agent_socket()).unwrap();
    assert!(
        first.next().is_err(),
        "the first is told that it isn't asked any more"
    );
    let answering = answer_next(second, Decision::LeaveAlone);
    let output = call(world, "ADD", &pod);
    assert!(passes(&output, &pod), "{output:?}");
    answering.join().unwrap();
}

fn deleted(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let before = pod.state();
    let admissions = Admissions::connect(&world.agent_socket()).unwrap();
    let answering = answer_next(admissions, Decision::Join);
    succeeds(world, "ADD", &pod);
    let _admissions = answering.join().unwrap();
    let forwarder = Forwarder::start(world.client().join(&pod.reference()).unwrap().1);
    succeeds(world, "DEL", &pod);
    assert!(forwarder.ended());
    pod.assert_state(&before, "in the end");
    assert_eq!(world.remembered(), Vec::<String>::new());
    succeeds(world, "DEL", &pod);

    // Without a namespace, as after a restart of the node's runtime.
    let gone = Pod::new(world, "shop");
    drop(world.client().join(&gone.reference()).unwrap());
    gone.vanish();
    succeeds(world, "DEL", &gone);
    assert_eq!(world.remembered(), Vec::<String>::new());
    assert!(eventually(|| !gone.is_on_node()));
}

fn deleted_without_helper(world: &World) {
    world.start(&[]);
    let (pod, gone) = (Pod::new(world, "shop"), Pod::new(world, "shop"));
    let before = pod.state();
    for pod in [&pod, &gone] {
        drop(world.client().join(&pod.reference()).unwrap());
    }
    world.end_node(Signal::KILL);
    succeeds(world, "DEL", &pod);
    pod.assert_state(&before, "in the end");
    gone.vanish();
    succeeds(world, "DEL", &gone);
    assert!(eventually(|| !gone.is_on_node()));
    assert_eq!(world.remembered(), Vec::<String>::new());
    succeeds(world, "DEL", &pod);
}

fn old_sandbox(world: &World) {
    world.start(&[]);
    let (mut old, mut new) = (Pod::new(world, "shop"), Pod::new(world, "shop"));
    old.uid = "same".into();
    new.uid = "same".into();
    let admissions = Admissions::connect(&world.agent_socket()).unwrap();
    let answering = answer_next(admissions, Decision::Join);
    succeeds(world, "ADD", &old);
    let before = new.state();
    let answering = answer_next(answering.join().unwrap(), Decision::Join);
    succeeds(world, "ADD", &new);
    answering.join().unwrap();
    let joined = new.state();
    assert_ne!(joined, before);
    succeeds(world, "DEL", &old);
    new.assert_state(&joined, "still joined");
    assert_eq!(world.client().members().unwrap()[0].addresses[0].ip, new.v4);
    succeeds(world, "DEL", &new);
    new.assert_state(&before, "in the end");
}

fn collected(world: &World) {
    world.start(&[]);
    let (kept, forgotten, ours) = (
        Pod::new(world, "shop"),
        Pod::new(world, "shop"),
        Pod::new(world, "shop"),
    );
    let mut admissions = Admissions::connect(&world.agent_socket()).unwrap();
    for pod in [&kept, &forgotten] {
        let answering = answer_next(admissions, Decision::Join);
        succeeds(world, "ADD", pod);
        admissions = answering.join().unwrap();
    }
    // Was running already: the runtime's name for it isn't known, so nothing can be said of it.
    drop(world.client().join(&ours.reference()).unwrap());
    let valid = format!(
        r#""cni.dev/valid-attachments":[{{"containerID":"{}","ifname":"eth0"}}],"prevResult""#,
        kept.container()
    );
    let configuration = configuration(world, &kept).replace(r#""prevResult""#, &valid);
    let output = world.plugin("GC", &kept, &configuration);
    assert!(output.status.success(), "{output:?}");
    let members = world.client().members().unwrap();
    let uids = members
        .iter()
        .map(|member| member.uid.as_str())
        .collect::<Vec<_>>();
    assert_eq!(uids, [kept.uid.as_str(), ours.uid.as_str()]);
}

fn healed(world: &World) {
    let list = world.folder.join("net.d/10-pods.conflist");
    let text = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp"}]}"#;
    fs::write(&list, text).unwrap();
    let has_entry = || fs::read_to_string(&list).unwrap().contains("adit-cni");
    world.start(&[]);
    assert!(has_entry());
    fs::write(&list, text).unwrap();
    assert!(eventually(has_entry));
    assert_eq!(world.client().stats().unwrap().conflist_healed, 2);
    let installed = world.folder.join("bin/adit-cni");
    assert!(installed.exists());
    world.end_node(Signal::TERM);
    assert!(
        has_entry(),
        "pods that start meanwhile must not start outside the mesh"
    );
    assert!(world.role("as-uninstall").status().unwrap().success());
    assert!(!has_entry() && !installed.exists());
}
