//! The page about performance, and its plots, made of the reports beside them.

mod plots;

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use super::report::{Report, SCHEMA, Setting};
use super::soak::Soak;
use super::table::shown;
use super::targets::{Judged, Sources};

/// A page in Markdown and the plots that it shows.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The text.
    pub text: String,
    /// Names of files in the folder `performance` beside it, and their content.
    pub plots: Vec<(String, String)>,
}

/// A report that can't be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum PageError {
    /// The file system said so.
    Io {
        /// What was read or written.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It's no report, or one of another schema.
    NoReport {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is none.
    Nothing {
        /// The folder.
        path: String,
    },
}

impl Page {
    /// Of the reports `performance/*.json` in the folder `docs`.
    ///
    /// # Errors
    /// There is none, or one of them is no report.
    pub fn of_folder(docs: &Path) -> Result<Self, PageError> {
        let folder = docs.join("performance");
        let files = files_ending(&folder, "json")?;
        if files.is_empty() {
            let path = folder.display().to_string();
            return Err(PageError::Nothing { path });
        }
        let reports = files.iter().map(|path| read(Path::new(path)));
        Ok(Self::of(&reports.collect::<Result<Vec<_>, _>>()?))
    }

    /// Writes `performance.md` and `performance/*.svg` in the folder `docs`; plots of before are removed.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, docs: &Path) -> Result<(), PageError> {
        let folder = docs.join("performance");
        for old in files_ending(&folder, "svg")? {
            fs::remove_file(&old).map_err(|source| PageError::Io { path: old, source })?;
        }
        let plots = self.plots.iter().map(|(name, plot)| (folder.join(name), plot));
        for (path, content) in plots.chain([(docs.join("performance.md"), &self.text)]) {
            fs::write(&path, content).map_err(|source| PageError::Io {
                path: path.display().to_string(),
                source,
            })?;
        }
        Ok(())
    }

    /// Of these reports.
    pub fn of(reports: &[Report]) -> Self {
        let mut page = Self {
            text: HEAD.to_owned(),
            plots: Vec::new(),
        };
        page.targets([Sources::of(reports), Sources::apart(reports)]);
        let of = |setting, lossy| {
            let fits = move |report: &&Report| {
                report.setting == setting && (report.run.loss_percent > 0.0) == lossy && report.soak.is_none()
            };
            reports.iter().filter(fits)
        };
        for report in of(Setting::Hosts, false) {
            page.section("Between two hosts", HOSTS, report);
            page.show(plots::of(report, "hosts"));
        }
        for report in of(Setting::HostsApart, false) {
            page.section("Between two hosts with processors of their own", APART, report);
            page.show(plots::of(report, "apart"));
        }
        for report in of(Setting::Cluster, false) {
            page.section("Between two nodes of a cluster", CLUSTER, report);
            page.show(plots::of(report, "cluster"));
        }
        for report in of(Setting::Hosts, true) {
            let title = format!("With {} % of the packets lost", report.run.loss_percent);
            page.section(&title, LOSS, report);
            page.show(plots::of(report, "loss"));
        }
        for (report, soak) in reports
            .iter()
            .filter_map(|report| Some((report, report.soak.as_ref()?)))
        {
            let title = format!("At full load for {:.0} minutes", soak.seconds / 60.0);
            page.section(&title, SOAK, report);
            page.text += &said(soak);
            page.show(plots::of_soak(soak));
        }
        page
    }

    fn targets(&mut self, [shared, apart]: [Sources<'_>; 2]) {
        self.text += TARGETS;
        for (shared, apart) in shared.judge().zip(apart.judge()) {
            let target = shared.target;
            let (what, floor, aim) = (target.what, target.floor(), target.aim());
            let found = [shared, apart].map(|judged| found(&judged));
            let _ = writeln!(self.text, "| {what} | {floor} | {aim} | {} |", found.join(" | "));
        }
    }

    fn section(&mut self, title: &str, words: &str, report: &Report) {
        let _ = write!(self.text, "\n## {title}\n\n{words}\n\n{report}");
    }

    fn show(&mut self, plots: Vec<(String, String, String)>) {
        for (name, title, plot) in plots {
            let _ = write!(self.text, "\n![{title}](performance/{name})\n");
            self.plots.push((name, plot));
        }
    }
}

/// A figure and whether it's met, as two cells.
fn found(judged: &Judged) -> String {
    match judged.value {
        None => format!("| {judged}"),
        Some(value) => format!("{} {} | {judged}", shown(value), judged.target.unit),
    }
}

fn said(soak: &Soak) -> String {
    let growth = soak.growth_percent().map_or_else(
        || "There are too few samples to tell whether memory grew.".to_owned(),
        |percent| {
            let flat = if soak.is_flat() {
                "is flat"
            } else {
                "is **not flat**"
            };
            format!("Memory {flat}: {percent:+.1} % from the second quarter of the time to the last.")
        },
    );
    let connections: u64 = soak.carried.iter().map(|slice| slice.connections).sum();
    format!("{growth} {connections} connections were opened and closed meanwhile.\n")
}

fn read(path: &Path) -> Result<Report, PageError> {
    let name = || path.display().to_string();
    let text = fs::read_to_string(path).map_err(|source| PageError::Io { path: name(), source })?;
    let report: Report = serde_json::from_str(&text).map_err(|error| PageError::NoReport {
        path: name(),
        reason: error.to_string(),
    })?;
    match report.schema == SCHEMA {
        true => Ok(report),
        false => Err(PageError::NoReport {
            path: name(),
            reason: format!("expected the schema {SCHEMA}, got {}", report.schema),
        }),
    }
}

/// The files in a folder with this ending, in order of their names.
fn files_ending(folder: &Path, ending: &str) -> Result<Vec<String>, PageError> {
    let failed = |source| PageError::Io {
        path: folder.display().to_string(),
        source,
    };
    let entries: Result<Vec<_>, _> = fs::read_dir(folder).map_err(failed)?.collect();
    let paths = entries.map_err(failed)?.into_iter().map(|entry| entry.path());
    let with_ending = paths.filter(|path| path.extension().is_some_and(|found| found == ending));
    let mut names: Vec<String> = with_ending.map(|path| path.display().to_string()).collect();
    names.sort_unstable();
    Ok(names)
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{path}: {source}"),
            Self::NoReport { path, reason } => write!(f, "{path} is no report of adit-bench: {reason}"),
            Self::Nothing { path } => write!(f, "there is no report in {path}: `just bench` writes one"),
        }
    }
}

impl std::error::Error for PageError {}

const HEAD: &str = "<!-- Written by `adit-bench page` from performance/*.json: `just performance` measures and writes it anew. -->

# Performance

What adit does beside a direct path and beside others, measured in one run on one machine. Absolute figures are the machine's;
what counts is the ratio to the direct path of the same run. [Where the bytes go](where-the-bytes-go.md) says why they are what
they are.

## What it's to reach

";

const TARGETS: &str = "Two pods with an agent each, on processors that both hosts share, as on one machine; and with half of them for each host and all
that runs on it, as between two nodes. The floors are for the first.

| figure | floor | aim | shared | | apart | |
|---|---|---|---|---|---|---|
";

const HOSTS: &str = "Two network namespaces with a veth pair between them are the hosts; `direct` is that cable alone. `adit-two`: two pods
with an agent each, HBONE over the cable. `adit-one`: two pods of one agent, the same in memory. `adit-outside`: from a pod to a
host outside the mesh, as an ordinary user; pasta and slirp4netns do the same. Other columns are proxies that were given by a
script. The measures take turns on all paths, in every round.";

const APART: &str = "The same, with half of the processors for each host and all that runs on it. So an agent is beside its own pods, as on a node, and not
beside the other agent, as the scheduler may have it ([why that matters](where-the-bytes-go.md#who-runs-beside-whom)).";

const CLUSTER: &str = "Between pods on two nodes of a Kubernetes cluster, both on one machine. `direct` is without the mesh, `hbone` is both pods
in it, `forwarded-in` and `forwarded-out` is the server or the client alone: plain TCP that passes one agent.";

const LOSS: &str = "Packets are lost on the cable, each way, at random; the direct path loses as many. A packet is what the kernels hand each
other, up to 64 KiB.";

const SOAK: &str = "Four streams each way and new connections beside them, without a pause.";

#[cfg(test)]
mod tests {
    use super::*;

    /// The page of the reports in a folder is the one that lies there.
    #[track_caller]
    fn assert_generated(docs: &str) {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join(docs);
        let page = Page::of_folder(&docs).unwrap();
        let anew = format!("write it anew with `adit-bench page --docs {}`", docs.display());
        let read = |path: String| {
            fs::read_to_string(docs.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}: {anew}"))
        };
        assert_eq!(read("performance.md".to_owned()), page.text, "{anew}");
        for (name, plot) in &page.plots {
            assert_eq!(read(format!("performance/{name}")), *plot, "{name}: {anew}");
        }
        let written = files_ending(&docs.join("performance"), "svg").unwrap().len();
        assert_eq!(
            written,
            page.plots.len(),
            "plots that are no longer of the page: {anew}"
        );
    }

    #[test]
    fn a_small_run_of_every_kind_gives_the_golden_page() {
        assert_generated("bench/golden");
    }

    #[test]
    fn the_page_in_the_documentation_is_of_the_reports_beside_it() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let there = docs.join("performance.md").exists();
        // Before anybody has measured there is neither.
        assert_eq!(
            there,
            docs.join("performance").exists(),
            "the page and its reports go together"
        );
        if there {
            assert_generated("../docs");
        }
    }

    #[test]
    fn another_schema_is_refused() {
        let folder = std::env::temp_dir().join(format!("adit-page-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("x.json");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/golden/performance/hosts.json");
        let text = fs::read_to_string(golden).unwrap();
        fs::write(&path, text.replace(SCHEMA, "adit-bench/0")).unwrap();
        let error = read(&path).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(
            error.ends_with("expected the schema adit-bench/1, got adit-bench/0"),
            "{error}"
        );
    }
}
