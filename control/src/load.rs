//! From a file, or its text, to a checked mesh.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::check;
use crate::codes;
use crate::diagnostic::{Diagnostic, Finding, Findings, Report, Severity, floor};
use crate::file::{API_VERSION, MeshFile};
use crate::mesh::{Mesh, PolicyDocument};
use crate::schema;
use crate::tree::{At, Node, SyntaxError};

/// The longest mesh file, in bytes. Larger ones are refused unread.
pub const MAX_FILE: u64 = 1 << 20;
/// The longest policy file, in bytes.
pub const MAX_POLICY_FILE: u64 = 4 << 20;
/// The most policy files that a mesh reads, folders included.
pub const MAX_POLICY_FILES: usize = 4096;

/// A mesh that passed every check, and what was noticed on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The mesh.
    pub mesh: Mesh,
    /// The text that it was read from.
    pub text: String,
    /// Warnings only; often empty.
    pub warnings: Report,
}

/// Reads the mesh file at `path` and the policy files that it names.
///
/// # Errors
/// A report with at least one error: a file that can't be read, or anything that [`parse`] refuses.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    read_all(path, None)
}

/// The same for a file that replaces a running mesh.
///
/// # Errors
/// Besides those of [`load`], a change that can't be made while a mesh runs: of its name, trust domain or ranges,
/// or of a node's place.
pub fn reload(path: &Path, running: &Mesh) -> Result<Loaded, Report> {
    read_all(path, Some(running))
}

fn read_all(path: &Path, running: Option<&Mesh>) -> Result<Loaded, Report> {
    let text = read(path, MAX_FILE).map_err(|error| unreadable(path, &error))?;
    let (root, mut loaded) = parse_tree(path, &text)?;
    let mut findings = Findings::new(loaded.warnings, &root);
    if let Some(running) = running {
        check::may_replace(running, &loaded.mesh, &mut findings);
    }
    loaded.mesh.policies = read_policies(&loaded.mesh.policy_paths, &mut findings);
    loaded.warnings = findings.report;
    match loaded.warnings.has_errors() {
        true => Err(loaded.warnings),
        false => Ok(loaded),
    }
}

/// Checks the text of a mesh file. Pure: `path` is for messages and to resolve relative paths, and the policy
/// files aren't read.
///
/// # Errors
/// A report with at least one error, and with all those of one kind that the text has: of syntax, which stop at
/// the first; of shape (unknown fields, wrong types); of meaning (names, references, ranges).
pub fn parse(path: &Path, text: &str) -> Result<Loaded, Report> {
    parse_tree(path, text).map(|(_, loaded)| loaded)
}

/// Checks the shape of a mesh file alone, for tools that work on the file itself. [`parse`] checks what it means.
///
/// # Errors
/// As [`parse`], up to the errors of shape.
pub fn decode(path: &Path, text: &str) -> Result<MeshFile, Report> {
    let (root, report) = read_tree(path, text)?;
    let mut findings = Findings::new(report, &root);
    schema::decode(&root, &mut findings).ok_or(findings.report)
}

fn parse_tree(path: &Path, text: &str) -> Result<(Node, Loaded), Report> {
    let (root, report) = read_tree(path, text)?;
    let mut findings = Findings::new(report, &root);
    let mesh = schema::decode(&root, &mut findings).and_then(|file| check::mesh(path, file, &mut findings));
    let warnings = findings.report;
    match mesh {
        Some(mesh) if !warnings.has_errors() => Ok((
            root,
            Loaded {
                mesh,
                text: text.to_owned(),
                warnings,
            },
        )),
        _ => Err(warnings),
    }
}

fn read_tree(path: &Path, text: &str) -> Result<(Node, Report), Report> {
    let mut report = Report::new(path, text);
    if text.trim().is_empty() {
        report.push(empty());
        return Err(report);
    }
    match Node::parse(text) {
        Ok(root) => Ok((root, report)),
        Err(error) => {
            report.push(not_yaml(text, &error));
            Err(report)
        }
    }
}

/// The character that holds the byte at `offset`, or the end of the text.
fn char_at(text: &str, offset: usize) -> std::ops::Range<usize> {
    let start = floor(text, offset);
    start..start + text[start..].chars().next().map_or(0, char::len_utf8)
}

fn not_yaml(text: &str, error: &SyntaxError) -> Diagnostic {
    let fix = match error.message.as_str() {
        "a second document begins here" => {
            "a mesh file is one document: remove the line `---` or what follows it"
        }
        message if message.contains("tab") => "indent with spaces",
        _ => "check the indentation, the quotes and the brackets up to this place",
    };
    Diagnostic {
        code: &codes::SYNTAX,
        severity: Severity::Error,
        field: String::new(),
        message: format!("not one YAML document: {}", error.message),
        span: error.offset.map(|offset| char_at(text, offset)),
        label: "noticed here".to_owned(),
        related: Vec::new(),
        fix: fix.to_owned(),
    }
}

fn empty() -> Diagnostic {
    Diagnostic {
        code: &codes::MISSING_FIELD,
        severity: Severity::Error,
        field: String::new(),
        message: "the mesh file is empty".to_owned(),
        span: Some(0..0),
        label: "expected a mesh".to_owned(),
        related: Vec::new(),
        fix: format!("begin it with `apiVersion: {API_VERSION}` and `kind: Mesh`"),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Report {
    let mut report = Report::new(path, "");
    report.push(Diagnostic {
        code: &codes::UNREADABLE,
        severity: Severity::Error,
        field: String::new(),
        message: format!("the mesh file can't be read: {error}"),
        span: None,
        label: String::new(),
        related: Vec::new(),
        fix: "check that the path is right and that you may read it".to_owned(),
    });
    report
}

/// Reads a regular file of at most `limit` bytes of UTF-8.
fn read(path: &Path, limit: u64) -> io::Result<String> {
    use io::Read;

    let mut text = String::new();
    fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    match text.len() as u64 > limit {
        true => Err(io::Error::other(format!("it has more than {limit} bytes"))),
        false => Ok(text),
    }
}

fn read_policies(paths: &[PathBuf], findings: &mut Findings<'_>) -> Vec<PolicyDocument> {
    let mut documents = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let at = At::default().field("policies").index(index);
        if let Err((path, error)) = read_policy_path(path, &mut documents) {
            let finding = Finding {
                message: format!("policy file {} can't be read: {error}", path.display()),
                label: "named here".to_owned(),
                fix:
                    "paths are relative to the mesh file; name a file, or a folder of *.yaml, *.yml or *.json"
                        .to_owned(),
                also: None,
            };
            findings.error(&codes::POLICY_UNREADABLE, &at, finding);
        }
    }
    documents
}

fn read_policy_path(path: &Path, documents: &mut Vec<PolicyDocument>) -> Result<(), (PathBuf, io::Error)> {
    let blame = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    let files = match fs::metadata(path).map_err(blame(path))?.is_dir() {
        true => policy_files(path).map_err(blame(path))?,
        false => vec![path.to_owned()],
    };
    for file in files {
        if documents.len() == MAX_POLICY_FILES {
            return Err((
                file,
                io::Error::other(format!("there are more than {MAX_POLICY_FILES} policy files")),
            ));
        }
        let text = read(&file, MAX_POLICY_FILE).map_err(blame(&file))?;
        documents.push(PolicyDocument { path: file, text });
    }
    Ok(())
}

/// The policy files right in a folder, in order of name. Hidden ones are left out, as editors leave them about.
fn policy_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let known = path
            .extension()
            .is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
        if known && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
