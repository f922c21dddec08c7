//! The rules of deny.toml, as far as they can be checked without cargo-deny, which takes longer to build than all of
//! adit: what must not be depended upon, licences, and versions that are there twice. `just deny` checks them all.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const RULES: &str = include_str!("../../deny.toml");

/// A dependency, built for adit or for its tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dependency {
    name: String,
    version: String,
    licence: String,
}

/// Everything in the dependency tree but the workspace's own crates.
fn dependencies() -> BTreeSet<Dependency> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args([
        "tree",
        "--locked",
        "--workspace",
        "--prefix",
        "none",
        "--no-dedupe",
    ])
    .args(["--edges", "normal,build,dev", "--format", "{p}|{l}"])
    .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let done = tree.output().expect("cargo runs its own tests");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).expect("names are ASCII");
    let found: BTreeSet<Dependency> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("adit-"))
        .map(|line| {
            let (package, licence) = line.split_once('|').expect("the format has one bar");
            let mut words = package.split(' ');
            let mut word = || words.next().unwrap_or_default();
            Dependency {
                name: word().to_owned(),
                version: word().trim_start_matches('v').to_owned(),
                licence: licence.to_owned(),
            }
        })
        .collect();
    assert!(found.len() > 100, "cargo tree gave too little:\n{text}");
    found
}

/// The quoted words of the list `key = [ … ]` that follow `before`, in any lines.
fn list(key: &str, before: &str) -> Vec<String> {
    let start = RULES
        .find(&format!("\n{key} = ["))
        .unwrap_or_else(|| panic!("deny.toml has no {key}"));
    let rest = &RULES[start..];
    let end = rest.find("]\n").expect("a list has an end");
    let parts = rest[..end].split(before).skip(1);
    parts
        .map(|part| part.split('"').next().unwrap_or_default().to_owned())
        .collect()
}

/// Whether an SPDX expression can be met with `allowed` licences alone. `/` is the old way to write OR.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut tokens = spaced.split_whitespace().peekable();
    let met = any(&mut tokens, allowed);
    met && tokens.next().is_none()
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// OR binds weakest. Both sides are always read.
fn any(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = all(tokens, allowed);
    while tokens.next_if_eq(&"OR").is_some() {
        met |= all(tokens, allowed);
    }
    met
}

fn all(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(tokens, allowed);
    while tokens.next_if_eq(&"AND").is_some() {
        met &= one(tokens, allowed);
    }
    met
}

fn one(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    match tokens.next() {
        Some("(") => {
            let met = any(tokens, allowed);
            tokens.next() == Some(")") && met
        }
        Some(name) => match tokens.next_if_eq(&"WITH").and_then(|_| tokens.next()) {
            Some(exception) => allowed.contains(&format!("{name} WITH {exception}")),
            None => allowed.contains(name),
        },
        None => false,
    }
}

#[test]
fn every_licence_is_allowed() {
    let allowed: BTreeSet<String> = list("allow", "\"").into_iter().step_by(2).collect();
    for dependency in dependencies() {
        assert!(
            is_allowed(&dependency.licence, &allowed),
            "{dependency:?}: allowed are {allowed:?}"
        );
    }
}

#[test]
fn nothing_that_is_banned_is_there() {
    let banned = list("deny", "crate = \"");
    assert!(banned.contains(&"openssl".to_owned()), "{banned:?}");
    for dependency in dependencies() {
        assert!(!banned.contains(&dependency.name), "{dependency:?} is banned");
    }
}

#[test]
fn two_versions_of_one_crate_have_their_reason() {
    let skipped = list("skip", "crate = \"");
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for dependency in dependencies() {
        // `syn@2` skips every 2.x.
        let named = |skip: &String| {
            skip.split_once('@').is_some_and(|(name, version)| {
                name == dependency.name && dependency.version.starts_with(&format!("{version}."))
            })
        };
        if !skipped.iter().any(named) {
            versions
                .entry(dependency.name)
                .or_default()
                .push(dependency.version);
        }
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert!(
        versions.is_empty(),
        "give a reason in deny.toml, or use one: {versions:?}"
    );
}

#[test]
fn expressions_are_read_as_spdx_has_them() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]
        .map(str::to_owned)
        .into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("MIT OR ISC AND GPL-3.0", true),
        ("(MIT OR ISC) AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("MIT ISC", false),
        ("(MIT", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression:?}");
    }
}
