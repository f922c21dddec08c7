//! What is left when something is stopped or killed: nothing. See docs/lifecycle.md.

use std::path::Path;
use std::time::Duration;

use adit_platform_tests::load::Rr;
use adit_platform_tests::{
    Finished, Mesh, MeshSpec, Running, Sandbox, Workload, pids_mentioning, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(30);

fn up(sandbox: &Sandbox) -> Mesh<'_> {
    let spec = MeshSpec::new("life")
        .workload(Workload::load_server(sandbox, "server", PORT))
        .workload(Workload::idle("idle"));
    let mesh = sandbox.up(spec);
    mesh.wait_ready();
    mesh
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// A program that joined and would go on for long.
fn joined(mesh: &Mesh<'_>, load: &str) -> Running {
    let mut client = mesh.spawn_as(
        "test/client",
        [load, "idle", "server:7000", "--count", "10", "--hold", "100"],
    );
    client.wait_for("opened 10", LIMIT);
    client
}

/// The pid of the process of this mesh whose command line has ` word `.
fn process_with(sandbox: &Sandbox, word: &str) -> u32 {
    let all = pids_mentioning(sandbox.dir());
    let found = all.iter().find(|(_, line)| line.split(' ').nth(1) == Some(word));
    found.unwrap_or_else(|| panic!("no `adit {word}` in {all:?}")).0
}

#[test]
fn signals_and_down_leave_nothing() {
    for (name, signal, status) in [
        ("Ctrl-C", Some(Signal::INT), 130),
        ("SIGTERM", Some(Signal::TERM), 143),
        ("SIGHUP", Some(Signal::HUP), 129),
        ("down", None, 0),
    ] {
        let sandbox = Sandbox::new();
        let mut mesh = up(&sandbox);
        let client = joined(&mesh, &sandbox.load());
        let code = match signal {
            Some(signal) => {
                mesh.signal(signal);
                mesh.wait_end()
            }
            None => {
                let done = mesh.adit(["down"]);
                assert_eq!(done.code(), 0, "{done}");
                mesh.wait_end()
            }
        };
        assert_eq!(code, status, "{name}: the status of adit up\n{}", mesh.logs());
        let done = client.finish(LIMIT);
        assert_ne!(
            done.code(),
            0,
            "{name}: a program that joined outlived the mesh: {done}"
        );
        assert_eq!(mesh.leftovers(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_killed_supervisor_takes_everything_with_it() {
    let sandbox = Sandbox::new();
    let mut mesh = up(&sandbox);
    let client = joined(&mesh, &sandbox.load());
    mesh.signal(Signal::KILL);
    assert_eq!(mesh.wait_end(), 137);
    client.finish(LIMIT);
    assert_eq!(mesh.leftovers(), Vec::<String>::new());
}

#[test]
fn a_killed_agent_is_started_again_and_the_pods_live_on() {
    let sandbox = Sandbox::new();
    let mesh = up(&sandbox);
    let (before, load) = (mesh.ps(), sandbox.load());
    let client = joined(&mesh, &load);
    kill(mesh.agent_pid());
    // Its flows are lost, and the programs see that.
    let found = client.finish(Duration::from_secs(120));
    eprintln!("the client of the killed agent: {found}");
    let after = wait_until(
        "another agent",
        LIMIT,
        || Some(mesh.ps()).filter(|ps| ps.agent_pid.is_some() && ps.agent_pid != before.agent_pid),
        || mesh.logs(),
    );
    assert_eq!(after.agent_restarts, 1);
    for (old, new) in before.workloads.iter().zip(&after.workloads) {
        assert_eq!(
            (old.pid(), new.restarts),
            (new.pid(), 0),
            "{} was started again",
            new.name
        );
    }
    mesh.wait_ready();
    let again: Rr = mesh
        .run_as("test/client", [&load, "rr", "server:7000", "--count", "10"])
        .json();
    assert_eq!(again.count, 10);
}

#[test]
fn a_killed_helper_ends_the_mesh_or_is_replaced() {
    let sandbox = Sandbox::new();
    let mut mesh = up(&sandbox);
    kill(process_with(&sandbox, "node"));
    // docs/lifecycle.md: the pods' namespaces are the helper's to keep, so the mesh ends, with a status that says so.
    let code = mesh.wait_end();
    assert_ne!(code, 0, "{}", mesh.logs());
    assert_eq!(mesh.leftovers(), Vec::<String>::new());
}

#[test]
fn a_killed_workload_is_started_again_if_it_should_be() {
    let sandbox = Sandbox::new();
    let server = Workload::load_server(&sandbox, "server", PORT).set("restartPolicy", "Always".into());
    let mesh = sandbox.up(MeshSpec::new("again").workload(server));
    let before = mesh.wait_ready();
    kill(before.workloads[0].pid().expect("it runs"));
    wait_until(
        "the workload to be started again",
        LIMIT,
        || Some(mesh.ps()).filter(|ps| ps.workloads[0].restarts >= 1 && ps.workloads[0].ready),
        || format!("{:?}\n{}", mesh.ps(), mesh.logs()),
    );
    let again: Rr = mesh
        .run_as(
            "test/client",
            [sandbox.load().as_str(), "rr", "server:7000", "--count", "10"],
        )
        .json();
    assert_eq!(again.count, 10);
}

/// `adit` with these arguments, to its end.
#[track_caller]
fn adit(sandbox: &Sandbox, arguments: &[&str]) -> Finished {
    let mut command = sandbox.command(sandbox.adit());
    command.args(arguments);
    Finished::of(command, LIMIT)
}

/// Has a detached mesh stopped, of which nothing is left then.
#[track_caller]
fn goes_down(sandbox: &Sandbox) {
    assert_eq!(adit(sandbox, &["down"]).code(), 0);
    wait_until(
        "everything to be gone",
        LIMIT,
        || sandbox.leftovers().is_empty().then_some(()),
        || format!("{:?}", sandbox.leftovers()),
    );
}

#[test]
fn a_detached_mesh_goes_on_and_down_stops_it() {
    let sandbox = Sandbox::new();
    let spec = MeshSpec::new("away").workload(Workload::load_server(&sandbox, "server", PORT));
    let file = sandbox.file("away.yaml", spec.text());
    let log = sandbox.dir().join("home/away.log");
    let adit = |arguments: &[&str]| adit(&sandbox, arguments);
    let (file, log) = (file.display().to_string(), log.display().to_string());
    let up = ["up", &file, "--detach", &log];
    let done = adit(&up);
    assert_eq!(done.code(), 0, "{done}\n{:?}", std::fs::read_to_string(&log));
    // It returned because all was ready.
    let load = sandbox.load();
    let found: Rr = adit(&[
        "run",
        "--mesh",
        "away",
        "--as",
        "test/client",
        "--",
        &load,
        "rr",
        "server:7000",
        "--count",
        "10",
    ])
    .json();
    assert_eq!(found.count, 10);
    let again = adit(&up);
    assert_eq!(again.code(), 1, "{again}");
    assert!(again.stderr().contains("ADIT-A012"), "{again}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("listening") && text.contains("ADIT-A001"), "{text}");
    goes_down(&sandbox);
}

#[test]
fn the_log_of_a_detached_mesh_is_bounded() {
    /// What a file has at most, and what is printed: more, in lines that are just short enough to be shown whole.
    const BOUND: u64 = 64 << 20;
    const PRINTED: u64 = 9_000 * 8_000;
    let sandbox = Sandbox::new();
    let script = format!(
        "head -c {PRINTED} /dev/zero | tr '\\0' x | fold -w 8000; echo; echo the end; exec sleep infinity"
    );
    let spec = MeshSpec::new("loud").workload(Workload::new("loud", ["sh", "-c", &script]));
    let file = sandbox.file("loud.yaml", spec.text()).display().to_string();
    let log = sandbox.dir().join("home/loud.log");
    let adit = |arguments: &[&str]| adit(&sandbox, arguments);
    let done = adit(&["up", &file, "--detach", &log.display().to_string()]);
    assert_eq!(done.code(), 0, "{done}");
    let latest = || std::fs::read_to_string(&log).unwrap();
    wait_until(
        "the last line",
        LIMIT,
        || latest().contains("the end").then_some(()),
        || format!("{} bytes", latest().len()),
    );
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    let (before, now) = (length(&log.with_extension("log.1")), length(&log));
    assert!(
        before <= BOUND && now < BOUND && before + now > PRINTED,
        "{before} bytes in the file before, {now} in the latest"
    );
    goes_down(&sandbox);
}

#[test]
fn the_exit_code_is_the_programs() {
    let sandbox = Sandbox::new();
    let mesh = up(&sandbox);
    for (argv, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let done = mesh.run_as("test/client", argv);
        assert_eq!(done.code(), code, "{argv:?}: {done}");
    }
}
