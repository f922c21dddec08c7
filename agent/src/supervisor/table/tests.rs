use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use adit_link::LinkKind;

use super::*;
use crate::admin::WorkloadState;

const MESH: &str = "
apiVersion: adit.dev/v1alpha1
kind: Mesh
name: shop
namespaces: [{name: shop}]
workloads:
- {name: web, namespace: shop, replicas: 2, command: [httpd], readinessProbe: {tcpSocket: {port: 8080}}}
- {name: db, namespace: shop, command: [postgres]}
";

fn table(now: Instant) -> Table {
    let path = Path::new("/mesh.yaml");
    let mesh = Arc::new(adit_control::parse(path, MESH).unwrap().mesh);
    Table::new(
        Source {
            path: path.into(),
            text: MESH.into(),
            mesh,
            node: None,
        },
        now,
    )
}

#[test]
fn a_changed_file_takes_effect_as_far_as_the_same_workloads_run() {
    let replace = |from: &str, to: &str| {
        let mut table = table(Instant::now());
        let before = table.desired().update;
        let text = MESH.replace(from, to);
        let mesh = adit_control::parse(Path::new("/mesh.yaml"), &text).unwrap().mesh;
        let replaced = table.replace(mesh, text, Instant::now());
        let after = table.desired().update;
        assert!(after.generation > before.generation);
        (replaced, after.text != before.text)
    };
    let whole = |restart_needed| Replaced::Whole { restart_needed };
    assert_eq!(
        replace("command: [postgres]", "command: [postgres], labels: {a: b}"),
        (whole(false), true)
    );
    assert_eq!(replace("[postgres]", "[mariadbd]"), (whole(true), true));
    assert_eq!(replace("replicas: 2", "replicas: 3"), (Replaced::Policies, false));
}

#[test]
fn the_version_in_force_and_a_refused_one_are_told() {
    let start = Instant::now();
    let later = |seconds| start + Duration::from_secs(seconds);
    let mut table = table(start);
    table.refuse(Fault::new("ADIT-A019", "no"), later(5));
    let files = table.report(later(8)).files;
    assert_eq!((files.generation, files.seconds_in_force), (1, 8));
    assert_eq!(files.refused.map(|refused| refused.seconds_ago), Some(3));
    let mesh = adit_control::parse(Path::new("/mesh.yaml"), MESH).unwrap().mesh;
    table.replace(mesh, MESH.to_owned(), later(9));
    let files = table.report(later(10)).files;
    assert_eq!(
        (files.generation, files.seconds_in_force, files.refused),
        (2, 1, None)
    );
}

fn name(text: &str) -> WorkloadName {
    text.parse().unwrap()
}

fn ready(table: &Table) -> Vec<String> {
    table
        .desired()
        .update
        .ready
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn without_a_probe_running_is_ready_and_with_one_it_is_not_yet() {
    let now = Instant::now();
    let mut table = table(now);
    assert_eq!(ready(&table), [] as [&str; 0]);
    assert!(table.on_change(&name("shop/db"), Change::Started { pid: 7 }, now));
    assert!(!table.on_change(&name("shop/web-0"), Change::Started { pid: 8 }, now));
    assert_eq!(ready(&table), ["shop/db"]);
    assert!(table.on_change(&name("shop/web-0"), Change::Ready(true), now));
    assert_eq!(ready(&table), ["shop/db", "shop/web-0"]);
    assert!(table.on_change(&name("shop/web-0"), Change::Stopping, now));
    assert_eq!(ready(&table), ["shop/db"]);
}

#[test]
fn a_test_waits_until_all_beside_it_are_ready_or_done() {
    let now = Instant::now();
    let (mut table, test) = (table(now), name("shop/web-1"));
    let waiting = |table: &Table| match table.around(&test, now) {
        Around::Waiting(waiting) => waiting,
        other => panic!("{other:?}"),
    };
    assert_eq!(waiting(&table), ["shop/web-0 (Pending)", "shop/db (Pending)"]);
    table.on_change(&name("shop/web-0"), Change::Started { pid: 7 }, now);
    table.on_change(&name("shop/web-0"), Change::Ready(true), now);
    let exited = |succeeded, retry_in| Change::Exited {
        how: if succeeded { "status 0" } else { "status 1" }.into(),
        succeeded,
        retry_in,
    };
    table.on_change(&name("shop/db"), exited(false, Some(Duration::from_secs(2))), now);
    assert_eq!(waiting(&table), ["shop/db (CrashLoop, last ended with status 1)"]);
    table.on_change(&name("shop/db"), exited(true, None), now);
    assert_eq!(table.around(&test, now), Around::Ready);
    table.on_change(&name("shop/db"), exited(false, None), now);
    let failed = Around::Failed {
        name: name("shop/db"),
        how: "status 1".into(),
    };
    assert_eq!(table.around(&test, now), failed);
}

#[test]
fn a_late_check_of_a_program_that_ended_makes_nothing_ready() {
    let now = Instant::now();
    let mut table = table(now);
    table.on_change(&name("shop/web-0"), Change::Started { pid: 8 }, now);
    let exited = Change::Exited {
        how: "status 1".into(),
        succeeded: false,
        retry_in: Some(Duration::from_secs(4)),
    };
    table.on_change(&name("shop/web-0"), exited, now);
    assert!(!table.on_change(&name("shop/web-0"), Change::Ready(true), now));
    let row = &table.report(now + Duration::from_secs(1)).workloads[0];
    assert_eq!(row.state, WorkloadState::CrashLoop { retry_in_seconds: 3 });
    assert_eq!((row.last_exit.as_deref(), row.restarts), (Some("status 1"), 0));
}

fn made(pod: &Pod) -> Change {
    Change::PodMade {
        pod: pod.clone(),
        link: LinkKind::Tun,
    }
}

#[test]
fn generations_rise_with_what_the_agent_must_know() {
    let now = Instant::now();
    let mut table = table(now);
    let first = table.desired().update.generation;
    let pod = table.pod(&name("shop/db")).unwrap();
    assert!(table.on_change(&pod.name, made(&pod), now));
    assert!(!table.on_change(&pod.name, made(&pod), now));
    assert_eq!(table.desired().update.generation, first + 1);
    assert_eq!(*table.desired().pods, [pod].into());
}

#[test]
fn joining_gives_an_address_and_leaving_takes_it_back() {
    let now = Instant::now();
    let mut table = table(now);
    let request = || JoinRequest {
        name: name("shop/debug"),
        labels: BTreeMap::new(),
        service_account: None,
    };
    let first = table.join(request(), now).unwrap();
    let addresses = table.snapshot().workloads[&first.name].addresses.clone();
    assert_eq!(addresses.len(), 2);
    assert!(matches!(
        table.join(request(), now),
        Err(JoinError::NameTaken { .. })
    ));
    assert_eq!(table.desired().update.joined[0].addresses, addresses);
    assert!(
        !table.leave(&table.pod(&name("shop/db")).unwrap()),
        "workloads of the file stay"
    );
    assert!(table.leave(&first));
    let second = table.join(request(), now).unwrap();
    assert_eq!(table.desired().update.joined[0].addresses, addresses);
    assert_ne!(first, second);
    assert!(!table.leave(&first), "who left can't leave for who came after");
    table.on_change(&first.name, made(&first), now);
    assert!(table.desired().pods.is_empty(), "nor have a pod for them");
    table.on_change(&second.name, made(&second), now);
    assert_eq!(
        (table.desired().pods.len(), ready(&table)),
        (1, vec!["shop/debug".to_owned()])
    );
}
