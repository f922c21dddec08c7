//! What a person gets to read when something isn't as it should be: a code of its own, an exit code, and more from
//! `adit explain`.

use std::net::TcpListener;
use std::time::Duration;

use adit_platform_tests::{Finished, MeshSpec, Running, Sandbox, UpOptions, Workload, free_port, wait_until};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(60);

/// Checks that the code is in the message, and that `adit explain` has why and what to do.
fn check(sandbox: &Sandbox, done: &Finished, exit: i32, code: &str) {
    let said = format!("{}{}", done.raw_stdout(), done.stderr());
    assert!(said.contains(code), "expected {code}: {done}");
    assert_eq!(done.code(), exit, "{code}: {done}");
    let mut explain = sandbox.command(sandbox.adit());
    explain.args(["explain", code]);
    let explained = Finished::of(explain, LIMIT).stdout();
    for part in [code, "why: ", "fix: "] {
        assert!(explained.contains(part), "{explained}");
    }
}

/// `adit up` of a mesh file's text, to its end.
fn up(sandbox: &Sandbox, text: &str, arguments: &[&str]) -> Finished {
    let file = sandbox.file("mistake.yaml", text);
    let mut command = sandbox.command(sandbox.adit());
    command.arg("up").arg(file).args(arguments);
    Finished::of(command, LIMIT)
}

#[test]
fn a_wrong_mesh_file_is_shown_where_it_is_wrong() {
    let sandbox = Sandbox::new();
    let text = MeshSpec::new("wrong").workload(Workload::idle("idle")).text();
    let done = up(&sandbox, &text.replace("\"labels\"", "\"lables\""), &[]);
    check(&sandbox, &done, 2, "ADIT-M003");
    let said = done.stderr();
    assert!(
        said.contains("mistake.yaml:") && said.contains("lables"),
        "{said}"
    );
    assert!(said.contains("did you mean") && said.contains("labels"), "{said}");
}

#[test]
fn a_busy_address_is_named() {
    let sandbox = Sandbox::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let spec = MeshSpec::new("busy")
        .node("a", &address)
        .workload(Workload::idle("idle").on("a"));
    let done = up(&sandbox, &spec.text(), &["--node", "a"]);
    check(&sandbox, &done, 1, "ADIT-A025");
    check(&sandbox, &done, 1, "ADIT-A006");
    let said = format!("{}{}", done.raw_stdout(), done.stderr());
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
}

#[test]
fn an_exhausted_range_is_refused_before_anything_starts() {
    let sandbox = Sandbox::new();
    let many = Workload::idle("many").set("replicas", 60.into());
    let spec = MeshSpec::new("small")
        .addresses(&["10.9.0.0/27"], &["10.10.0.0/27"])
        .workload(many);
    check(&sandbox, &up(&sandbox, &spec.text(), &[]), 2, "ADIT-M017");
}

#[test]
fn joining_is_refused_once_the_share_of_addresses_is_used_up() {
    let sandbox = Sandbox::new();
    let spec = MeshSpec::new("full")
        .addresses(&["10.9.0.0/27"], &["10.10.0.0/27"])
        .workload(Workload::idle("idle"));
    let file = sandbox.file("full.yaml", spec.text());
    let mut command = sandbox.command(sandbox.adit());
    command.arg("up").arg(file);
    let mesh = Running::spawn(command);
    let join = |number: u32, script: &str| {
        let mut join = sandbox.command(sandbox.adit());
        let name = format!("test/joined-{number}");
        join.args(["run", "--mesh", "full", "--as", &name, "--", "sh", "-c", script]);
        Running::spawn(join)
    };
    wait_until(
        "the mesh to run",
        LIMIT,
        || {
            let mut ps = sandbox.command(sandbox.adit());
            ps.arg("ps");
            Finished::of(ps, LIMIT).raw_stdout().contains("yes").then_some(())
        },
        String::new,
    );
    // The upper half of 32 addresses, less the last.
    let mut inside = Vec::new();
    let refused = (0..20).find_map(|number| {
        let mut running = join(number, "echo in; sleep 60");
        wait_until(
            "it to join or to be refused",
            LIMIT,
            || (running.has_ended() || running.stdout().contains("in")).then_some(()),
            String::new,
        );
        if running.has_ended() {
            return Some(running.finish(LIMIT));
        }
        inside.push(running);
        None
    });
    let refused = refused.expect("the share has an end");
    assert_eq!(inside.len(), 15, "{refused}");
    check(&sandbox, &refused, 125, "ADIT-A010");
    // A place that is given back can be had again.
    inside.pop();
    wait_until(
        "a place to be free",
        LIMIT,
        || (join(100, "true").finish(LIMIT).code() == 0).then_some(()),
        String::new,
    );
    drop(inside);
    mesh.signal(Signal::TERM);
    assert_eq!(mesh.finish(LIMIT).code(), 143);
}

#[test]
fn a_device_that_is_missing_is_a_finding_with_its_fix() {
    let sandbox = Sandbox::new();
    let absent = sandbox.dir().join("no-tun").display().to_string();
    let mut command = sandbox.command(sandbox.adit());
    command.args(["check", "--link", "tun", "--tun-device", &absent]);
    let done = Finished::of(command, LIMIT);
    check(&sandbox, &done, 1, "ADIT-N103");
    let fix = format!("mknod -m 0666 {absent} c 10 200");
    assert!(done.raw_stdout().contains(&fix), "{done}");
    let mut command = sandbox.command(sandbox.adit());
    command.args(["run", "--link", "tun", "--tun-device", &absent, "--", "true"]);
    check(&sandbox, &Finished::of(command, LIMIT), 125, "ADIT-N004");
}

#[test]
fn a_kernel_without_user_namespaces_is_a_finding_with_its_fix() {
    let sandbox = Sandbox::new();
    // A user namespace in which no further one may be made, as some distributions set it for everybody.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces; {adit} check; echo \"check: $?\"; {adit} run -- true; echo \"run: $?\"",
        adit = sandbox.adit().display()
    );
    let mut command = sandbox.command("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", &script]);
    let done = Finished::of(command, LIMIT);
    let said = format!("{}{}", done.raw_stdout(), done.stderr());
    assert!(said.contains("check: 1") && said.contains("run: 125"), "{said}");
    check(&sandbox, &done, 0, "ADIT-N101");
    check(&sandbox, &done, 0, "ADIT-N001");
    assert!(said.contains("user.max_user_namespaces"), "{said}");
}

#[test]
fn a_program_that_is_missing_gives_127() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(sandbox.adit());
    command.args(["run", "--", "no-such-program"]);
    check(&sandbox, &Finished::of(command, LIMIT), 127, "ADIT-N018");
    // In a mesh file it is that workload's end, which is said and doesn't end the others.
    let missing = Workload::new("missing", ["no-such-program"]);
    let mesh = sandbox.up_with(
        &MeshSpec::new("absent")
            .workload(missing)
            .workload(Workload::idle("idle")),
        UpOptions::default(),
    );
    wait_until(
        "the workload to have failed",
        LIMIT,
        || {
            let ps = mesh.adit(["ps"]).raw_stdout();
            (ps.contains("Failed") && ps.contains("127") && ps.contains("Running")).then_some(())
        },
        || mesh.logs(),
    );
    assert!(mesh.output().contains("no-such-program"), "{}", mesh.output());
}

#[test]
fn the_name_of_a_running_mesh_is_taken() {
    let sandbox = Sandbox::new();
    let spec = MeshSpec::new("twice").workload(Workload::idle("idle"));
    let mesh = sandbox.up(spec.clone());
    mesh.wait_ready();
    let file = sandbox.file("twice-again.yaml", spec.text());
    let mut command = mesh.command();
    command.arg("up").arg(file);
    check(&sandbox, &Finished::of(command, LIMIT), 1, "ADIT-A001");
    let absent = format!("nothing-{}", free_port());
    check(&sandbox, &mesh.adit(["down", &absent]), 1, "ADIT-A003");
}
