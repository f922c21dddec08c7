//! What `just dist` leaves in `target/dist`. `just packages` makes it and runs these.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_platform_tests::bare::static_executable;
use adit_platform_tests::{Finished, Sandbox, oci, program};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(120);

fn dist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist")
}

/// The only file there whose name ends so.
#[track_caller]
fn only(ending: &str) -> PathBuf {
    let entries = fs::read_dir(dist()).expect("`just dist` makes target/dist");
    let names = entries.map(|entry| entry.unwrap().path());
    let mut found = names.filter(|path| path.to_string_lossy().ends_with(ending));
    let first = found
        .next()
        .unwrap_or_else(|| panic!("target/dist has no *{ending}"));
    assert_eq!(found.next(), None, "expected one *{ending}");
    first
}

#[track_caller]
fn run(tool: &str, package: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program(tool, package));
    command.args(arguments).current_dir(dist());
    Finished::of(command, LIMIT).stdout()
}

/// The files of a folder and those below, without its own path.
fn files_below(folder: &Path) -> BTreeSet<String> {
    let list = run(
        "find",
        "findutils",
        &[&folder.display().to_string(), "-type", "f", "-printf", "/%P\n"],
    );
    list.lines().map(str::to_owned).collect()
}

/// What both packages have, whatever a distribution calls its folders.
const IN_BOTH: [&str; 9] = [
    "/usr/bin/adit",
    "/usr/share/adit/apparmor/adit",
    "/usr/share/bash-completion/completions/adit",
    "/usr/share/doc/adit/changelog.gz",
    "/usr/share/doc/adit/copyright",
    "/usr/share/doc/adit/install.md",
    "/usr/share/doc/adit/third-party.txt",
    "/usr/share/fish/vendor_completions.d/adit.fish",
    "/usr/share/man/man1/adit.1.gz",
];

#[test]
#[ignore = "of target/dist: `just packages`"]
fn the_deb_has_everything_and_depends_on_nothing() {
    let deb = only(".deb").display().to_string();
    let field = |name: &str| {
        run("dpkg-deb", "dpkg", &["--field", &deb, name])
            .trim()
            .to_owned()
    };
    assert_eq!(field("Package"), "adit");
    let maintainer = std::env::var("ADIT_MAINTAINER");
    assert_eq!(
        field("Maintainer"),
        maintainer.as_deref().unwrap_or(env!("CARGO_PKG_AUTHORS"))
    );
    assert_eq!(field("Version"), format!("{}-1", env!("CARGO_PKG_VERSION")));
    for name in ["Depends", "Pre-Depends", "Recommends"] {
        assert_eq!(field(name), "", "{name}");
    }
    let sandbox = Sandbox::new();
    let root = sandbox.folder("root");
    run(
        "dpkg-deb",
        "dpkg",
        &["--extract", &deb, &root.display().to_string()],
    );
    let found = files_below(&root);
    let own = [
        "/usr/share/doc/adit/changelog.Debian.gz",
        "/usr/share/zsh/vendor-completions/_adit",
    ];
    for path in IN_BOTH.iter().chain(&own) {
        assert!(found.contains(*path), "{path} in {found:?}");
    }
    assert!(!found.iter().any(|path| path.starts_with("/etc/")), "{found:?}");
    let packed = fs::read(root.join("usr/bin/adit")).unwrap();
    assert!(
        packed == fs::read(static_executable("adit")).unwrap(),
        "it's the executable that is tested"
    );
    let owners = run("dpkg-deb", "dpkg", &["--contents", &deb]);
    for line in owners.lines() {
        assert!(line.contains(" root/root "), "{line}");
    }
    // Completions and manual pages are of this version's commands.
    let completions = fs::read_to_string(root.join("usr/share/bash-completion/completions/adit")).unwrap();
    assert!(completions.contains("identity"), "{completions}");
    let licences = fs::read_to_string(root.join("usr/share/doc/adit/third-party.txt")).unwrap();
    for linked in [
        "rustls ",
        "smoltcp ",
        "tokio ",
        "GNU C library",
        "Permission is hereby granted",
    ] {
        assert!(licences.contains(linked), "{linked} in third-party.txt");
    }
}

#[test]
#[ignore = "of target/dist: `just packages`"]
fn the_rpm_has_everything_and_requires_no_library() {
    let rpm = only(".rpm").display().to_string();
    let query = |what: &[&str]| run("rpm", "rpm", &[&["-q", "--package"], what, &[&rpm]].concat());
    let requires = query(&["--requires"]);
    for line in requires.lines() {
        assert!(line.starts_with("rpmlib(") || line == "/bin/sh", "{requires}");
    }
    let found = query(&["--list"]);
    let found: BTreeSet<&str> = found.lines().collect();
    let own = [
        "/usr/share/licenses/adit/LICENSE",
        "/usr/share/zsh/site-functions/_adit",
    ];
    for path in IN_BOTH.iter().chain(&own) {
        assert!(found.contains(path), "{path} in {found:?}");
    }
    let about = query(&[
        "--queryformat",
        "%{NAME} %{VERSION}-%{RELEASE} %{LICENSE} %{BUILDHOST}",
    ]);
    assert_eq!(
        about,
        format!("adit {}-1 Apache-2.0 reproducible", env!("CARGO_PKG_VERSION"))
    );
    let digests = run("rpm", "rpm", &["--checksig", "--nosignature", &rpm]);
    assert!(digests.contains("digests OK"), "{digests}");
}

/// Scripts run where nothing is: what isn't there isn't used, and what they did is taken back.
#[test]
#[ignore = "of target/dist: `just packages`"]
fn the_scripts_of_the_packages_are_posix_and_know_both_managers() {
    let deb = only(".deb").display().to_string();
    let sandbox = Sandbox::new();
    let control = sandbox.folder("control");
    run(
        "dpkg-deb",
        "dpkg",
        &["--control", &deb, &control.display().to_string()],
    );
    let scripts = run(
        "rpm",
        "rpm",
        &[
            "-q",
            "--package",
            "--scripts",
            &only(".rpm").display().to_string(),
        ],
    );
    for (name, first) in [("postinst", "configure | 1 | 2"), ("prerm", "remove | 0")] {
        let script = control.join(name);
        run("sh", "dash", &["-n", &script.display().to_string()]);
        let text = fs::read_to_string(&script).unwrap();
        assert!(text.contains(first) && scripts.contains(first), "{name}: {text}");
        // What they aren't for is none of their business: they end before they touch anything.
        for argument in ["abort-upgrade", "failed-upgrade", "deconfigure"] {
            run("sh", "dash", &[&script.display().to_string(), argument]);
        }
    }
}

#[test]
#[ignore = "of target/dist: `just packages`"]
fn the_image_holds_the_executable_and_says_what_it_is() {
    let sandbox = Sandbox::new();
    let (annotations, images) = oci::read(&only("-oci.tar"), &sandbox.folder("image"));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(annotations["org.opencontainers.image.ref.name"], version);
    assert!(!images.is_empty());
    for image in images {
        let config = &image.config["config"];
        assert_eq!(config["Entrypoint"], json!(["/adit"]));
        assert_eq!(
            config["User"], "65532:65532",
            "whoever needs root says so, as the chart does"
        );
        assert_eq!(config["Labels"]["org.opencontainers.image.version"], version);
        assert_eq!(
            config["Labels"]["org.opencontainers.image.licenses"],
            "Apache-2.0"
        );
        let [entry] = &image.entries[..] else {
            panic!("expected /adit and nothing else, got {:?}", image.entries)
        };
        assert!(
            entry.starts_with("-rwxr-xr-x 0/0 ") && entry.ends_with(" 1970-01-01 00:00:00 adit"),
            "{entry}"
        );
    }
}

#[test]
#[ignore = "of target/dist: `just packages`"]
fn the_hashes_are_of_what_is_there() {
    run(
        "sha256sum",
        "coreutils",
        &["--check", "--strict", "--quiet", "SHA256SUMS"],
    );
    let hashes = fs::read_to_string(dist().join("SHA256SUMS")).unwrap();
    for ending in [".deb", ".rpm", "-oci.tar"] {
        assert!(
            hashes.lines().any(|line| line.ends_with(ending)),
            "{ending} in {hashes}"
        );
    }
}
