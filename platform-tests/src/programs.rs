//! Programs that nobody here wrote.

use std::env;
use std::path::{Path, PathBuf};

/// Where programs are looked for: an ordinary user's folders, those of servers, and PostgreSQL's own.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The path of a program.
///
/// # Panics
/// If it isn't installed; names the Debian package that has it. A test that can't run must not pass.
#[track_caller]
pub fn program(name: &str, debian_package: &str) -> PathBuf {
    let postgresql = newest_postgresql();
    let folders = env::split_paths(SEARCH_PATH).chain(postgresql);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} isn't installed: `apt-get install {debian_package}` has it"))
}

/// Debian keeps the servers of each PostgreSQL version apart, out of everybody's PATH.
fn newest_postgresql() -> Option<PathBuf> {
    let versions = Path::new("/usr/lib/postgresql").read_dir().ok()?.flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    versions
        .map(|entry| entry.path())
        .max_by_key(number)
        .map(|newest| newest.join("bin"))
}

/// A number that can be set from outside, so that a nightly run can ask for more than CI has time for; says which.
///
/// # Panics
/// If the variable isn't a number.
#[track_caller]
pub fn configured(variable: &str, default: u64) -> u64 {
    let set = env::var(variable).ok();
    let value = set.as_deref().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text}: not a number"))
    });
    let value = value.unwrap_or(default);
    eprintln!("{variable}={value} (default {default})");
    value
}
