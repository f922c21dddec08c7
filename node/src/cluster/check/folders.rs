//! The container runtime's folders, and whether the helper could write there as it has to.
//!
//! Files are made, moved over each other and removed under names that neither the runtime nor an installer takes for
//! theirs; what can be told of files that exist only by replacing them is told by their attributes.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags};
use serde_json::Value;

use super::super::cni::VERSIONS;
use super::super::conflist::{self, Conflist, PLUGIN, Preview};
use super::super::failure::Failure;
use super::super::serve::{Options, PluginFolders};
use super::claim;

/// Sticky bit of a folder: only its owner and a file's own may replace the file.
const STICKY: u32 = 0o1000;

/// How the folder of lists is.
#[derive(Debug)]
pub(super) struct Configuration {
    /// Whether lists can be replaced there.
    pub(super) writable: Result<(), Refusal>,
    /// The list that the runtime reads; `None` when there is none.
    pub(super) list: Result<Option<List>, Failure>,
}

/// What can be told of a list before it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    pub(super) path: PathBuf,
    /// Types of its plugins, in order, or why a runtime or our plugin can't use it.
    pub(super) types: Result<Vec<String>, String>,
    /// Whether the file can be replaced.
    pub(super) replaceable: Result<(), Refusal>,
}

/// How the folder of plugins is.
#[derive(Debug)]
pub(super) struct Binaries {
    pub(super) writable: Result<(), Refusal>,
    /// What was put there can be executed; `None` when nothing could be put there.
    pub(super) executable: Option<bool>,
}

/// A step on a file that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) kind: io::ErrorKind,
    /// Which step, on what, and the answer.
    pub(super) message: String,
}

impl Refusal {
    fn of(step: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let step = format!("{step} {}", path.display());
        move |error| Self {
            kind: error.kind(),
            message: format!("{step}: {error}"),
        }
    }
}

/// Looks at the folder of lists, with the rights that the process has at the moment.
pub(super) fn configuration(folders: &PluginFolders, options: &Options) -> Configuration {
    let conflist = Conflist::new(folders, &options.state, &options.exempt);
    let preview = conflist.preview();
    let writable = rewrite_in(folder_of(preview.as_ref(), folders));
    let list = preview.map(|preview| preview.map(List::of));
    Configuration { writable, list }
}

/// The folders that a check writes to.
pub(super) fn written(folders: &PluginFolders, options: &Options) -> [PathBuf; 2] {
    let preview = Conflist::new(folders, &options.state, &options.exempt).preview();
    let lists = folder_of(preview.as_ref(), folders).to_owned();
    [lists, folders.binaries.clone()]
}

/// Where the list is replaced: where it is, and that may be elsewhere, by a link.
fn folder_of<'a>(preview: Result<&'a Option<Preview>, &Failure>, folders: &'a PluginFolders) -> &'a Path {
    let target = preview.ok().and_then(|list| list.as_ref()?.target.parent());
    target.unwrap_or(&folders.configuration)
}

/// Looks at the folder of plugins.
pub(super) fn binaries(folder: &Path) -> Binaries {
    let scratch = Scratch::new(folder);
    let [copy, place] = scratch.paths();
    let tried = conflist::copy_executable(copy)
        .and_then(|()| fs::rename(copy, place))
        .map_err(Refusal::of("putting a plugin into", folder))
        .and_then(|()| {
            // By the kernel's own rule for execve(2): permission bits, and how the file system is mounted.
            let executable = rustix::fs::access(place, Access::EXEC_OK).is_ok() && !is_noexec(folder);
            match folder.join(PLUGIN) {
                ours if fs::symlink_metadata(&ours).is_ok() => replaceable(&ours).map(|()| executable),
                _ => Ok(executable),
            }
        });
    match (tried, scratch.remove()) {
        (Ok(executable), Ok(())) => Binaries {
            writable: Ok(()),
            executable: Some(executable),
        },
        (Err(refusal), _) | (Ok(_), Err(refusal)) => Binaries {
            writable: Err(refusal),
            executable: None,
        },
    }
}

/// Lists with our entry, and our file. What can't be read isn't counted: it's a finding of its own.
pub(super) fn remains(folders: &PluginFolders, options: &Options) -> Vec<PathBuf> {
    let conflist = Conflist::new(folders, &options.state, &options.exempt);
    conflist.remains().unwrap_or_default()
}

impl List {
    fn of(preview: Preview) -> Self {
        Self {
            types: usable(&preview.list),
            replaceable: replaceable(&preview.target),
            path: preview.path,
        }
    }
}

/// The types of a list's plugins, if runtimes take it and it's of a version that our plugin speaks.
fn usable(list: &Value) -> Result<Vec<String>, String> {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    if text(list, "name").is_none_or(|name| name.is_empty()) {
        return Err("it has no name".into());
    }
    // CNI 1.1 lets a list state several, of which the runtime takes one that it knows.
    let stated = [list.get("cniVersion")].into_iter().flatten();
    let several = list
        .get("cniVersions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let known = |version: &Value| version.as_str().is_some_and(|text| VERSIONS.contains(&text));
    if !stated.chain(several).any(known) {
        let got = text(list, "cniVersion").map_or_else(|| "none".into(), |version| format!("{version:?}"));
        return Err(format!(
            "its cniVersion is {got}, expected one of {}",
            VERSIONS.join(", ")
        ));
    }
    let plugins = list.get("plugins").and_then(Value::as_array);
    let plugins = plugins.map_or(&[][..], Vec::as_slice);
    if plugins
        .iter()
        .all(|plugin| text(plugin, "type").as_deref() == Some(PLUGIN))
    {
        return Err("no plugin in it makes an interface".into());
    }
    let types = plugins.iter().enumerate().map(|(at, plugin)| {
        let kind = text(plugin, "type").filter(|kind| !kind.is_empty());
        kind.ok_or_else(|| format!("plugin {} of {} has no type", at + 1, plugins.len()))
    });
    types.collect()
}

/// Does to files of our own what the helper does to the list.
fn rewrite_in(folder: &Path) -> Result<(), Refusal> {
    let scratch = Scratch::new(folder);
    let [new, old] = scratch.paths();
    let tried = conflist::create(old)
        .and_then(|_| conflist::create(new))
        .and_then(|_| fs::set_permissions(new, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(new, old))
        .map_err(Refusal::of("replacing a file in", folder));
    // Whatever became of it.
    let removed = scratch.remove();
    tried.and(removed)
}

/// Whether another file could be renamed over this one, as far as that is up to the file.
fn replaceable(path: &Path) -> Result<(), Refusal> {
    let fixed = |message: &str| Refusal {
        kind: io::ErrorKind::PermissionDenied,
        message: format!("{} {message}", path.display()),
    };
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        .map_err(|error| Refusal::of("looking at", path)(error.into()))?;
    let attributes = found.stx_attributes;
    if attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND) {
        return Err(fixed("can't be replaced: it has the attribute i or a (lsattr)"));
    }
    if attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(fixed("can't be replaced: something is mounted on it"));
    }
    let is_folder = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    if is_folder {
        return Err(fixed("is a folder"));
    }
    let folder = path.parent().and_then(|parent| fs::metadata(parent).ok());
    let us = rustix::process::geteuid().as_raw();
    let others =
        |folder: &fs::Metadata| folder.mode() & STICKY != 0 && folder.uid() != us && found.stx_uid != us;
    match folder {
        Some(folder) if others(&folder) => Err(fixed("is another user's, in a folder with the sticky bit")),
        _ => Ok(()),
    }
}

fn is_noexec(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Two names in a folder, and nothing at them in the end.
struct Scratch([PathBuf; 2]);

impl Scratch {
    fn new(folder: &Path) -> Self {
        Self(["new", "old"].map(|part| claim::file(folder, part)))
    }

    fn paths(&self) -> [&Path; 2] {
        self.0.each_ref().map(PathBuf::as_path)
    }

    fn remove(&self) -> Result<(), Refusal> {
        for path in &self.0 {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Refusal::of("removing", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_that_runtimes_or_our_plugin_refuse_is_not_usable() {
        let ptp = json!([{ "type": "ptp" }]);
        for (list, expected) in [
            (
                json!({ "cniVersion": "1.0.0", "name": "n", "plugins": ptp }),
                Ok(vec!["ptp".to_owned()]),
            ),
            (
                json!({ "cniVersion": "1.2.0", "cniVersions": ["1.1.0"], "name": "n", "plugins": ptp }),
                Ok(vec!["ptp".to_owned()]),
            ),
            (json!({ "cniVersion": "1.0.0", "plugins": ptp }), Err("no name")),
            (json!({ "name": "n", "plugins": ptp }), Err("cniVersion is none")),
            (
                json!({ "cniVersion": "0.2.0", "name": "n", "plugins": ptp }),
                Err("cniVersion is \"0.2.0\", expected one of 0.3.0,"),
            ),
            (
                json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [] }),
                Err("no plugin in it"),
            ),
            (
                json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [{ "type": PLUGIN }] }),
                Err("no plugin in it"),
            ),
            (
                json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [{ "type": "ptp" }, {}] }),
                Err("plugin 2 of 2 has no type"),
            ),
        ] {
            match (usable(&list), expected) {
                (Ok(types), Ok(expected)) => assert_eq!(types, expected),
                (Err(reason), Err(words)) => assert!(reason.contains(words), "{reason}"),
                (got, expected) => panic!("{list}: {got:?}, expected {expected:?}"),
            }
        }
    }
}
