//! `docs/policy.md` and `docs/ci.md`: every file in them is written and every command run, in order, and what they print is
//! what stands there.
//!
//! ```text
//! ```yaml file=NAME     the file NAME is written, and taken in if the mesh runs
//! ```console            each line that begins with `$ ` is run by a shell; what follows is what it prints.
//!                       One that ends in `&` is the mesh: it's started and awaited.
//! ```
//!
//! Times, drawn ports and process ids are blurred before the comparison. With `ADIT_UPDATE_DOCS` set, the document is written
//! anew with what was printed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_platform_tests::{Finished, Running, Sandbox, program, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A part of the document.
enum Part {
    /// A command without its `$ `, and what it is said to print.
    Command {
        line: String,
        printed: String,
    },
    File {
        name: String,
        content: String,
    },
    /// Everything else, as it stands: prose, and the fences.
    Text(String),
}

fn parts(document: &str) -> Vec<Part> {
    enum In {
        Console,
        File(String),
        Prose,
    }
    let mut place = In::Prose;
    let mut parts = Vec::new();
    for line in document.lines() {
        match (&place, line.strip_prefix("```")) {
            (In::Prose, Some("console")) => place = In::Console,
            (In::Prose, Some(info)) if info.contains("file=") => {
                let name = info.split_once("file=").map(|(_, name)| name.to_owned());
                place = In::File(name.unwrap_or_default());
                parts.push(Part::Text(format!("{line}\n")));
                let In::File(name) = &place else { continue };
                parts.push(Part::File {
                    name: name.clone(),
                    content: String::new(),
                });
                continue;
            }
            (In::Console | In::File(_), Some("")) => place = In::Prose,
            (In::Console, _) => {
                match (line.strip_prefix("$ "), parts.last_mut()) {
                    (Some(command), _) => parts.push(Part::Command {
                        line: command.to_owned(),
                        printed: String::new(),
                    }),
                    (None, Some(Part::Command { printed, .. })) => _ = writeln!(printed, "{line}"),
                    (None, _) => panic!("a console block begins with a command, not with {line:?}"),
                }
                continue;
            }
            (In::File(_), _) => {
                if let Some(Part::File { content, .. }) = parts.last_mut() {
                    _ = writeln!(content, "{line}");
                }
                continue;
            }
            (In::Prose, _) => {}
        }
        parts.push(Part::Text(format!("{line}\n")));
    }
    parts
}

/// What differs from run to run, made alike. Records of one flow come in either order, and which end closed first is a race.
fn blurred(text: &str) -> String {
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            line.split_whitespace()
                .map(blurred_word)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    if lines.iter().all(|line| line.starts_with("TIME")) {
        lines.sort();
    }
    lines
        .join("\n")
        .replace("fin by source", "fin")
        .replace("fin by destination", "fin")
}

/// Numbers are drawn or measured in: times, ages (`12s`), ports beyond 32767, process ids and milliseconds, which stand alone.
fn blurred_word(word: &str) -> String {
    let is_number =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_number(word.trim_end_matches(',')) || word.strip_suffix('s').is_some_and(is_number) {
        return "N".to_owned();
    }
    let is_time = word.len() == "2026-01-01T00:00:00.000Z".len() && word.ends_with('Z') && word.contains('T');
    if is_time {
        return "TIME".to_owned();
    }
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(':') {
        let (before, after) = rest.split_at(at + 1);
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let is_drawn = after[..digits].parse::<u32>().is_ok_and(|port| port > 32_767);
        out.push_str(before);
        out.push_str(if is_drawn { "PORT" } else { &after[..digits] });
        rest = &after[digits..];
    }
    out + rest
}

struct Tutorial {
    sandbox: Sandbox,
    mesh: Option<Running>,
}

impl Tutorial {
    fn shell(&self, line: &str) -> Finished {
        let mut command = self.sandbox.command("sh");
        let path = format!(
            "{}:{}",
            self.sandbox.dir().join("bin").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        command
            .args(["-c", &format!("{{ {line}\n}} 2>&1")])
            .env("PATH", path)
            .current_dir(self.folder());
        Finished::of(command, LIMIT)
    }

    fn folder(&self) -> PathBuf {
        self.sandbox.dir().join("home")
    }

    fn run(&mut self, line: &str) -> String {
        if let Some(line) = line.strip_suffix(" &") {
            self.start(line);
            return String::new();
        }
        let told = self.told();
        let done = self.shell(line);
        let mut printed = done
            .raw_stdout()
            .replace(&*self.folder().to_string_lossy(), "/home/me/notes");
        if done.code() != 0 {
            _ = writeln!(printed, "(exit status {})", done.code());
        }
        if line.starts_with("rm ") {
            self.wait_told(told);
        }
        printed
    }

    fn start(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("adit"));
        let mut command = self.sandbox.command(self.sandbox.adit());
        command.args(words).current_dir(self.folder());
        self.mesh = Some(Running::spawn(command));
        wait_until(
            "the mesh to be ready",
            LIMIT,
            || {
                let ps = self.shell("adit ps").raw_stdout();
                let rows = ps.lines().filter(|line| line.contains("Running")).count();
                (rows == 2 && !ps.contains(" no ")).then_some(())
            },
            || self.said(),
        );
    }

    fn write(&self, name: &str, content: &str) {
        let told = self.told();
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.sandbox.folder(&format!("home/{folder}"));
        }
        self.sandbox.file(&format!("home/{name}"), content);
        self.wait_told(told);
    }

    /// How often the mesh has said what became of a file.
    fn told(&self) -> usize {
        let said = self.said();
        said.matches("took effect").count() + said.matches("can't be used").count()
    }

    /// Waits until the mesh has said what became of the file that was just saved.
    fn wait_told(&self, before: usize) {
        if self.mesh.is_some() {
            wait_until(
                "the file to be taken or refused",
                LIMIT,
                || (self.told() > before).then_some(()),
                || self.said(),
            );
        }
    }

    fn said(&self) -> String {
        let mesh = self.mesh.as_ref();
        mesh.map(|mesh| mesh.stdout() + &mesh.stderr())
            .unwrap_or_default()
    }
}

#[test]
fn the_policy_tutorial_prints_what_it_says() {
    follow("policy.md");
}

#[test]
fn the_ci_tutorial_prints_what_it_says() {
    follow("ci.md");
}

/// The files of the walk along a CI job are those of the example, until the walk breaks one.
#[test]
fn the_ci_tutorial_is_that_of_the_example() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ci");
    let mut seen = BTreeSet::new();
    for part in parts(&read("ci.md")) {
        if let Part::File { name, content } = part
            && seen.insert(name.clone())
        {
            let there = std::fs::read_to_string(example.join(&name)).unwrap_or_default();
            assert_eq!(content, there, "{name} is another in examples/ci");
        }
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

fn path(document: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(document)
}

fn read(document: &str) -> String {
    std::fs::read_to_string(path(document)).unwrap_or_else(|error| panic!("docs/{document}: {error}"))
}

fn follow(document: &str) {
    program("curl", "curl");
    program("python3", "python3-minimal");
    let mut tutorial = Tutorial {
        sandbox: Sandbox::new(),
        mesh: None,
    };
    let mut now = String::new();
    let mut differences = Vec::new();
    for part in parts(&read(document)) {
        match part {
            Part::Text(text) => now.push_str(&text),
            Part::File { name, content } => {
                tutorial.write(&name, &content);
                now.push_str(&content);
            }
            Part::Command { line, printed } => {
                let got = tutorial.run(&line);
                if blurred(&got) != blurred(&printed) {
                    differences.push(format!("$ {line}\nexpected:\n{printed}got:\n{got}"));
                }
                _ = write!(now, "$ {line}\n{got}");
            }
        }
    }
    if let Some(mesh) = tutorial.mesh.take() {
        let ended = mesh.finish(LIMIT);
        assert_eq!(ended.code(), 0, "adit up after adit down: {ended}");
    }
    if std::env::var_os("ADIT_UPDATE_DOCS").is_some() {
        std::fs::write(path(document), now).expect("the document can be written");
    } else {
        assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    }
}
