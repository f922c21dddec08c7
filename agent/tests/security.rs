//! `docs/security.md` says what the sources say: requests, sockets, capabilities, system calls, and tests and files that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../../docs/security.md");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn source(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The part of `text` between `start` and the next `end` after it.
#[track_caller]
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, after) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("there is no {start:?}"));
    after.split_once(end).map_or(after, |(part, _)| part)
}

/// A section of the document, up to the next heading.
#[track_caller]
fn section(heading: &str) -> &'static str {
    between(DOCUMENT, &format!("\n{heading}\n"), "\n#")
}

/// What stands in backquotes.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What stands in backquotes in the first cell of each row of a table, by itself.
fn first_cells(section: &str) -> BTreeSet<&str> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once("` |").map(|(name, _)| name))
        .collect()
}

/// The words that begin with `prefix`, without it.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let end = |rest: &str| {
        rest.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len())
    };
    let parts = text.split(prefix).skip(1);
    parts.map(|rest| &rest[..end(rest)]).collect()
}

/// The variants of an enum that is written as `rustfmt` has it.
fn variants(text: &'static str, head: &str) -> BTreeSet<&'static str> {
    let lines = between(text, head, "\n}").lines();
    let named = lines.filter_map(|line| line.strip_prefix("    "));
    named
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| &line[..line.find(|c: char| !c.is_alphanumeric()).unwrap_or(line.len())])
        .collect()
}

/// Every Rust source but what was built.
fn all_sources(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            all_sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_request_to_the_helper_is_in_the_document_and_no_other() {
    let agent = include_str!("../../node/src/cluster/protocol.rs");
    assert_eq!(
        first_cells(section("### Requests of the agent")),
        variants(agent, "pub enum Request {")
    );
    let plugin = include_str!("../../node/src/cluster/protocol/plugin.rs");
    assert_eq!(
        first_cells(section("### Requests of the plugin")),
        variants(plugin, "pub(crate) enum PluginRequest {")
    );
}

#[test]
fn every_capability_is_in_the_document_and_no_other() {
    let serve = source("node/src/cluster/serve.rs");
    let kept = between(&serve, "sys::keep_capabilities(", ")");
    assert_eq!(kept, "NEEDED | held & USED_IF_HELD");
    let of = |name| {
        words(
            between(&serve, &format!("const {name}: CapabilitySet = "), ";"),
            "CapabilitySet::",
        )
    };
    let section = section("### Capabilities");
    assert_eq!(first_cells(section), &of("NEEDED") | &of("USED_IF_HELD"));
    // The chart's own list, where it gives one: the container has what the document says that it has.
    let templates = source("deploy/adit/templates/_helpers.tpl");
    let helper = between(&templates, "define \"adit.helper\"", "end }}");
    let context = between(helper, "securityContext:", "resources:");
    assert_eq!(
        quoted(section).contains("privileged: true"),
        context.contains("privileged: true")
    );
    assert!(
        !context.contains("capabilities:"),
        "the document names none that the chart adds"
    );
}

#[test]
fn every_socket_is_in_the_document_and_no_other() {
    let serve = source("node/src/cluster/serve.rs");
    let constant = |name: &str| between(&serve, &format!("const {name}: &str = \""), "\"").to_owned();
    let state = between(&serve, "state: \"", "\"");
    let listened = serve.matches("= listen(").count();
    let helper = [
        format!(
            "{state}/{}/{}",
            constant("AGENT_FOLDER"),
            constant("AGENT_SOCKET")
        ),
        format!("{state}/{}", constant("PLUGIN_SOCKET")),
    ];
    assert_eq!(listened, helper.len(), "the helper listens on these");
    let documented = first_cells(section("### Sockets"));
    let others: BTreeSet<&str> = documented
        .iter()
        .copied()
        .filter(|path| !helper.iter().any(|known| known == path))
        .collect();
    assert_eq!(documented.len(), helper.len() + others.len(), "{documented:?}");
    assert_eq!(others, BTreeSet::from(["$ADIT_RUN_DIR/NAME/agent.sock"]));
}

#[test]
fn every_system_call_of_the_agent_is_in_the_document_and_no_other() {
    let confine = source("agent/src/confine.rs");
    let mut allowed = words(
        between(&confine, "const ALLOWED: &[i64] = &[", "];"),
        "libc::SYS_",
    );
    allowed.extend(words(between(&confine, "fn allow_list()", "\n}"), "libc::SYS_"));
    let table = between(section("### System calls"), "| --- | --- |\n", "\n\n");
    let documented: BTreeSet<&str> = table
        .lines()
        .filter_map(|row| row.trim_end_matches(" |").rsplit_once("| "))
        .flat_map(|(_, calls)| quoted(calls))
        .collect();
    assert_eq!(documented, allowed);
}

#[test]
fn every_test_and_every_file_that_the_document_names_exists() {
    let mut sources = String::new();
    all_sources(&root(), &mut sources);
    let calls = quoted(section("### System calls"));
    let (mut tests, mut files) = (0, 0);
    for name in quoted(DOCUMENT).difference(&calls) {
        let is_test = name.split('_').count() >= 3
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if is_test {
            tests += 1;
            let defined = [format!("fn {name}("), format!("\"{name}\"")];
            assert!(
                defined.iter().any(|text| sources.contains(text)),
                "no test is called {name}"
            );
        }
        let is_file =
            name.contains('/') && name.contains('.') && !name.contains([' ', '$']) && !name.starts_with('/');
        if is_file {
            files += 1;
            assert!(root().join(name).is_file(), "there is no {name}");
        }
    }
    assert!(tests > 20 && files > 10, "{tests} tests, {files} files");
}
