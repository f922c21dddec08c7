//! The filled matrix: as a table, as a page, as JUnit XML.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::cell::Cell;
use super::judge::{Judged, Verdict};

/// All that was seen on one kernel.
#[derive(Clone, Debug)]
pub struct Column {
    /// The Debian suite.
    pub suite: String,
    /// Its cells.
    pub cells: Vec<Judged>,
}

impl Column {
    fn kernel(&self) -> &str {
        let mut kernels = self.cells.iter().map(|judged| judged.outcome.kernel.as_str());
        kernels.find(|kernel| !kernel.is_empty()).unwrap_or("-")
    }

    fn verdict(&self, cell: Cell) -> Option<&Verdict> {
        let found = self.cells.iter().find(|judged| judged.outcome.cell == cell);
        found.map(|judged| &judged.verdict)
    }
}

/// The cells that any kernel has, in their order.
fn rows(columns: &[Column]) -> Vec<Cell> {
    let run = columns.iter().flat_map(|column| &column.cells);
    let run = run.map(|judged| judged.outcome.cell).collect::<BTreeSet<_>>();
    Cell::all()
        .into_iter()
        .filter(|cell| run.contains(cell))
        .collect()
}

/// For a terminal.
pub fn table(columns: &[Column]) -> String {
    const FIRST: usize = 30;
    const OTHERS: usize = 14;
    let mut text = format!("{:FIRST$}", "");
    for column in columns {
        let _ = write!(text, "{:OTHERS$}", column.suite);
    }
    text.push('\n');
    for cell in rows(columns) {
        let _ = write!(text, "{:FIRST$}", cell.to_string());
        for column in columns {
            let shown = column.verdict(cell).map_or("-", Verdict::short);
            let _ = write!(text, "{shown:OTHERS$}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// For a reader: the table, what each word means, and why what is refused is.
pub fn page(columns: &[Column]) -> String {
    let mut text = HEAD.to_owned();
    let head = columns
        .iter()
        .map(|column| format!("{}, {}", column.suite, column.kernel()))
        .collect::<Vec<_>>();
    let _ = writeln!(text, "| path, link, condition | {} |", head.join(" | "));
    let _ = writeln!(text, "| --- |{}", " --- |".repeat(columns.len()));
    for cell in rows(columns) {
        let shown = columns.iter().map(|column| match column.verdict(cell) {
            Some(Verdict::Works) => "√".to_owned(),
            Some(other) => format!("× {}", other.short()),
            None => "-".to_owned(),
        });
        let _ = writeln!(text, "| {cell} | {} |", shown.collect::<Vec<_>>().join(" | "));
    }
    text.push_str("\n## What is refused, and why\n\nThe words of the command that failed, as of the last kernel in the table.\n\n");
    for cell in rows(columns) {
        let last = columns
            .iter()
            .rev()
            .find_map(|column| column.verdict(cell)?.reason());
        if let Some(reason) = last {
            let _ = writeln!(text, "- `{cell}`: {}", quoted(reason));
        }
    }
    let all = columns.iter().flat_map(|column| &column.cells);
    let hashes = all
        .map(|judged| judged.outcome.sha256.as_str())
        .filter(|sum| !sum.is_empty())
        .collect::<BTreeSet<_>>();
    let hashes = hashes.into_iter().collect::<Vec<_>>().join("`, `");
    let _ = writeln!(
        text,
        "\nThe adit program in every cell, by its SHA-256: `{hashes}`."
    );
    text
}

const HEAD: &str = "# Where it was tried

Each cell asks `adit check` and does the real thing, in a virtual machine with the kernel and the root file system of a Debian
suite: √ both said yes. × both said no, with this code. `just matrix-page` writes this page; `just matrix` runs the same, all of it or by
names. [platforms.md](platforms.md) has what adit asks of a kernel.

The laptop path runs a mesh and sends requests and streams both ways between two workloads, through mutual TLS. The node path has
the helper and the agent put two running pods into the mesh, without Kubernetes but for a few answers in its place, and sends
the same from each to the other.

| condition | what it is |
| --- | --- |
| `root` | uid 0 with every capability |
| `user` | uid 1000 |
| `container` | uid 65532, no capability, no new privileges, parts of /proc hidden, no /dev/net/tun |
| `container-root` | the same as uid 0 |
| `read-only` | a read-only root file system and a seccomp filter that forbids what container runtimes forbid, namespaces and mounts apart; on a node the agent's |
| `no-userns` | `user.max_user_namespaces=0` |
| `tun-0600` | /dev/net/tun is root's alone |
| `no-ipv6` | a kernel started with `ipv6.disable=1` |
| `bare` | a root file system that holds adit, the test's program, and nothing else |

";

/// On one line of Markdown, and not too long.
fn quoted(reason: &str) -> String {
    const MOST: usize = 300;
    let mut short: String = reason.chars().take(MOST).collect();
    if short.len() < reason.len() {
        short.push('…');
    }
    format!("`{}`", short.replace('`', "'"))
}

/// For a CI system: a suite a kernel; what is refused as expected is skipped, with its reason.
pub fn junit(columns: &[Column]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for column in columns {
        let count =
            |is: fn(&Verdict) -> bool| column.cells.iter().filter(|judged| is(&judged.verdict)).count();
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">",
            escaped(&format!("{} {}", column.suite, column.kernel())),
            column.cells.len(),
            count(Verdict::is_wrong),
            count(|verdict| !verdict.is_wrong() && *verdict != Verdict::Works),
        );
        for Judged { outcome, verdict } in &column.cells {
            let (seconds, millis) = (outcome.millis / 1000, outcome.millis % 1000);
            let _ = write!(
                text,
                "    <testcase classname=\"{}\" name=\"{}\" time=\"{seconds}.{millis:03}\"",
                escaped(&column.suite),
                outcome.cell
            );
            let element = if verdict.is_wrong() { "failure" } else { "skipped" };
            match verdict.reason() {
                None => text.push_str("/>\n"),
                Some(reason) => {
                    let message = escaped(&format!("{}: {reason}", verdict.short()));
                    let _ = writeln!(text, "><{element} message=\"{message}\"/></testcase>");
                }
            }
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

/// For an attribute: characters that XML doesn't have are left out (XML 1.0 section 2.2).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => {}
            character if character < ' ' && !matches!(character, '\t' | '\n' | '\r') => {}
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::judge;
    use super::super::outcome::{Attempt, Outcome};
    use super::*;

    fn column() -> Column {
        let outcome = |cell: &str, check: Attempt, real: Attempt| {
            judge(Outcome {
                cell: cell.parse().unwrap(),
                kernel: "6.1.0".into(),
                sha256: "abc".into(),
                check,
                real,
                millis: 1234,
            })
        };
        let refused = Attempt::no("[ADIT-N001] \"no\" & <no>\u{1b}");
        Column {
            suite: "bookworm".into(),
            cells: vec![
                outcome("laptop/tun/no-userns", Attempt::no("ADIT-N101"), refused),
                outcome("laptop/tun/user", Attempt::yes(""), Attempt::yes("")),
                outcome("laptop/packet/user", Attempt::yes(""), Attempt::no("[ADIT-N040]")),
            ],
        }
    }

    #[test]
    fn a_table_has_a_row_a_cell() {
        let text = table(&[column()]);
        let lines = text.lines().collect::<Vec<_>>();
        assert_eq!(lines[0].trim(), "bookworm");
        let row = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(row(lines[1]), ["laptop/tun/user", "works"]);
        assert_eq!(row(lines[2]), ["laptop/tun/no-userns", "ADIT-N001"]);
        assert_eq!(row(lines[3]), ["laptop/packet/user", "WRONG"]);
    }

    #[test]
    fn junit_is_xml_whatever_was_said() {
        let text = junit(&[column()]);
        for part in [
            "tests=\"3\" failures=\"1\" skipped=\"1\"",
            "time=\"1.234\"/>",
            "&quot;no&quot; &amp; &lt;no&gt;\"/>",
            "<failure message=\"WRONG: ",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_page_says_why_and_with_what() {
        let text = page(&[column()]);
        assert!(text.contains("| laptop/tun/no-userns | × ADIT-N001 |"), "{text}");
        assert!(text.contains("- `laptop/packet/user`: "), "{text}");
        assert!(text.ends_with("SHA-256: `abc`.\n"), "{text}");
    }
}
