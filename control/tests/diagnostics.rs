//! What people read when a mesh file is wrong: each file in `bad/` and its rendered report, word for word.
//!
//! To take new renderings after reading them: `INSTA_UPDATE=always cargo test -p adit-control --test diagnostics`.

use std::path::{Path, PathBuf};

use adit_control::{CODES, Report, Severity, Style, load, reload};

fn bad_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut files: Vec<PathBuf> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn report(path: &Path) -> Report {
    load(path).map_or_else(|report| report, |loaded| loaded.warnings)
}

#[test]
fn each_bad_file_has_its_report() {
    for path in bad_files() {
        let folder = path.parent().unwrap().display().to_string();
        let rendered = report(&path)
            .render(Style::Plain)
            .replace(&format!("{folder}/"), "");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(path.file_stem().unwrap().to_str().unwrap(), rendered);
        });
    }
}

/// Whatever the file, each finding has all that a person needs.
#[test]
fn each_finding_has_a_place_and_a_fix() {
    for path in bad_files() {
        let report = report(&path);
        assert!(!report.is_empty(), "{} was taken without a word", path.display());
        for finding in report.diagnostics() {
            assert!(
                report.position(finding).is_some(),
                "{}: {finding:?}",
                path.display()
            );
            assert!(
                !finding.fix.is_empty() && !finding.message.is_empty(),
                "{}: {finding:?}",
                path.display()
            );
        }
    }
}

/// A code without a file that shows it is untested, or dead.
#[test]
fn each_code_is_shown_by_a_bad_file() {
    let mut shown: Vec<&str> = bad_files()
        .iter()
        .flat_map(|path| report(path).diagnostics().to_vec())
        .map(|finding| finding.code.code)
        .collect();
    shown.extend(
        not_while_running()
            .diagnostics()
            .iter()
            .map(|finding| finding.code.code),
    );
    shown.extend(
        report(Path::new("no-such-file.yaml"))
            .diagnostics()
            .iter()
            .map(|finding| finding.code.code),
    );
    for code in CODES {
        assert!(shown.contains(&code.code), "no bad file shows {}", code.code);
    }
}

/// The report of a file that would change what a running mesh can't.
fn not_while_running() -> Report {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reload");
    let running = load(&folder.join("before.yaml"))
        .unwrap_or_else(|report| panic!("{report}"))
        .mesh;
    reload(&folder.join("after.yaml"), &running).unwrap_err()
}

#[test]
fn a_running_mesh_refuses_what_it_cannot_change() {
    let rendered = not_while_running().to_string();
    let (start, end) = (
        rendered.find("--> ").unwrap() + 4,
        rendered.find("after.yaml").unwrap(),
    );
    let folder = rendered[start..end].to_owned();
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("not_while_running", rendered.replace(&folder, ""));
    });
}

#[test]
fn codes_are_distinct_and_in_order() {
    assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
}

#[test]
fn a_warning_does_not_refuse_the_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad/selects_nothing.yaml");
    let warnings = load(&path).unwrap_or_else(|report| panic!("{report}")).warnings;
    assert!(
        warnings
            .diagnostics()
            .iter()
            .all(|finding| finding.severity == Severity::Warning)
    );
}
