//! README.md says what is true: its session is run as it stands there, and its commands exist.

use std::path::Path;
use std::time::Duration;

use adit_platform_tests::{Finished, Running, Sandbox, program};

const README: &str = include_str!("../../README.md");
const JUSTFILE: &str = include_str!("../../justfile");
const LIMIT: Duration = Duration::from_secs(60);

/// The commands of the session: the block that begins with `adit ps`, without comments.
fn session() -> Vec<&'static str> {
    let blocks = README.split("```").skip(1).step_by(2);
    let block = blocks.map(str::trim).find(|block| block.starts_with("adit ps"));
    let lines = block
        .expect("README.md has a session that begins with `adit ps`")
        .lines();
    lines
        .map(|line| line.split(" #").next().unwrap_or_default().trim())
        .collect()
}

/// What `./dev demo` runs once adit is built.
fn demo() -> Vec<&'static str> {
    assert!(README.contains("./dev demo "), "README.md names the demo");
    let line = JUSTFILE
        .lines()
        .find_map(|line| line.trim().strip_prefix("target/release/adit up "));
    let file = line.expect("the justfile's demo runs `adit up`");
    vec!["up", file]
}

fn copy(sandbox: &Sandbox, from: &Path, name: &str) {
    sandbox.folder(name);
    for entry in from.read_dir().unwrap().map(Result::unwrap) {
        let inner = format!("{name}/{}", entry.file_name().to_string_lossy());
        match entry.file_type().unwrap().is_dir() {
            true => copy(sandbox, &entry.path(), &inner),
            false => drop(sandbox.file(&inner, std::fs::read(entry.path()).unwrap())),
        }
    }
}

/// A line of the session in a shell, as a person types it.
fn typed(sandbox: &Sandbox, line: &str) -> std::process::Command {
    let mut shell = sandbox.command("sh");
    let alias = format!("adit() {{ {} \"$@\"; }}; {line}", sandbox.adit().display());
    shell.args(["-c", &alias]);
    shell
}

#[test]
fn the_session_works_as_it_is_written() {
    program("curl", "curl");
    program("python3", "python3");
    let sandbox = Sandbox::new();
    copy(
        &sandbox,
        concat!(env!("CARGO_MANIFEST_DIR"), "/../examples").as_ref(),
        "examples",
    );
    let mut up = sandbox.command(sandbox.adit());
    up.args(demo());
    let mut up = Running::spawn(up);
    // The client of the example asks for the page every five seconds: its line is the demo's working page.
    up.wait_for("The shop is open", LIMIT);
    let mut done = Vec::new();
    for line in session() {
        let shell = typed(&sandbox, line);
        let said = match line.contains("flows -f") {
            // Until Ctrl-C.
            true => {
                let mut following = Running::spawn(shell);
                following.wait_for("mtls allow", LIMIT);
                following.stdout()
            }
            false => Finished::of(shell, LIMIT).stdout(),
        };
        done.push((line, said));
    }
    let said = |command: &str| {
        let found = done.iter().find(|(line, _)| line.starts_with(command));
        &found
            .unwrap_or_else(|| panic!("no `{command}` in README.md's session"))
            .1
    };
    for workload in ["shop/web-0", "shop/web-1", "shop/api", "shop/client"] {
        assert!(said("adit ps").contains(workload), "{}", said("adit ps"));
    }
    assert!(
        said("adit run").contains("<h1>The shop is open</h1>"),
        "{}",
        said("adit run")
    );
    assert!(said("adit flows").contains("shop/web"), "{}", said("adit flows"));
    assert!(
        said("adit identity").contains("spiffe://shop.local/ns/shop/sa/web"),
        "{}",
        said("adit identity")
    );
    said("adit down");
    assert_eq!(up.finish(LIMIT).code(), 0);
}

#[test]
fn every_command_that_is_named_exists() {
    let sandbox = Sandbox::new();
    // The first column of the table; `adit ps`, `flows`, … stands for several.
    let rows = README.lines().filter(|line| line.starts_with("| `adit "));
    let named = rows.flat_map(|row| {
        row.split('|')
            .nth(1)
            .unwrap_or_default()
            .split('`')
            .skip(1)
            .step_by(2)
    });
    let mut group = Vec::new();
    let mut count = 0;
    for text in named {
        let words: Vec<&str> = text
            .split(' ')
            .filter(|word| word.chars().all(|letter| letter.is_ascii_lowercase()))
            .collect();
        let arguments = match words.as_slice() {
            ["adit", rest @ ..] => {
                group = rest[..rest.len() - 1].to_vec();
                rest.to_vec()
            }
            // As the one before, with another last word.
            other => [&group, other].concat(),
        };
        let mut command = sandbox.command(sandbox.adit());
        command.args(&arguments).arg("--help");
        Finished::of(command, LIMIT).stdout();
        count += 1;
    }
    assert!(count >= 15, "only {count} commands found in README.md's table");
}
