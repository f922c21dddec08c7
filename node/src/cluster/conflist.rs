//! The CNI plugin's place on the node: its file in the runtime's folder, and its entry in the runtime's list.
//!
//! The runtime reads the list whose file comes first in order of names. Other installers write that file whenever they
//! like, so ours looks again and again and puts its entry back, last in the chain: by then the interface exists.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::failure::{Failure, refused};
use super::serve::PluginFolders;
use crate::codes::Code;

/// Name of the plugin, its file and its type.
pub const PLUGIN: &str = "adit-cni";

/// Bytes of a list, at most.
const MAX_LIST: u64 = 1024 * 1024;

/// Where the plugin goes and what its entry says.
#[derive(Debug)]
pub(super) struct Conflist {
    folders: PluginFolders,
    entry: Value,
}

/// The list that the runtime reads.
#[derive(Debug)]
pub(super) struct Preview {
    /// Its place in the runtime's folder.
    pub(super) path: PathBuf,
    /// The file that would be replaced, where that is a link.
    pub(super) target: PathBuf,
    pub(super) list: Value,
}

impl Conflist {
    pub(super) fn new(folders: &PluginFolders, state: &Path, exempt: &[String]) -> Self {
        Self {
            folders: folders.clone(),
            entry: json!({ "type": PLUGIN, "state": state, "exemptNamespaces": exempt }),
        }
    }

    /// Puts this executable into the folder of plugins, whole or not at all.
    pub(super) fn install_binary(&self) -> Result<(), Failure> {
        let path = self.folders.binaries.join(PLUGIN);
        let unfinished = unfinished(&path);
        copy_executable(&unfinished)
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(refused(Code::CONFLIST, format!("installing {}", path.display())))
    }

    /// Sees to it that our entry is the last of the list that the runtime reads. Returns whether it had to be written. A
    /// node without a list has no network yet; there is nothing to do.
    pub(super) fn tend(&self) -> Result<bool, Failure> {
        let Some(path) = self.lists()?.into_iter().next() else {
            return Ok(false);
        };
        self.rewrite(&path, |plugins| put(plugins, &self.entry))
    }

    /// Whether the entry is where [`tend`](Self::tend) puts it; a node without a list has none.
    pub(super) fn is_installed(&self) -> Result<bool, Failure> {
        match self.lists()?.first() {
            Some(path) => Ok(mentions_us(path)?),
            None => Ok(false),
        }
    }

    /// Reads the list that the runtime reads, as [`tend`](Self::tend) would before it writes; `None` on a node without
    /// one.
    pub(super) fn preview(&self) -> Result<Option<Preview>, Failure> {
        let Some(path) = self.lists()?.into_iter().next() else {
            return Ok(None);
        };
        let (target, _, text) = read(&path)?;
        let failed = || refused::<io::Error>(Code::CONFLIST, format!("reading {}", path.display()));
        edit(&text, |plugins| put(plugins, &self.entry)).map_err(failed())?;
        let list = serde_json::from_slice(&text)
            .map_err(io::Error::from)
            .map_err(failed())?;
        Ok(Some(Preview { path, target, list }))
    }

    /// What of ours is on the node: lists that have our entry, and our file.
    pub(super) fn remains(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut remains = Vec::new();
        for path in self.lists()? {
            if mentions_us(&path)? {
                remains.push(path);
            }
        }
        let binary = self.folders.binaries.join(PLUGIN);
        remains.extend(binary.exists().then_some(binary));
        Ok(remains)
    }

    /// Takes our entry out of every list and our file out of the folder. Lists that others wrote are not touched, whatever
    /// is in them.
    pub(super) fn uninstall(&self) -> Result<(), Failure> {
        for path in self.lists()? {
            if mentions_us(&path)? {
                self.rewrite(&path, take_out)?;
            }
        }
        let binary = self.folders.binaries.join(PLUGIN);
        match fs::remove_file(&binary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(
                Code::CONFLIST,
                format!("removing {}", binary.display()),
            )(error)),
            _ => Ok(()),
        }
    }

    /// The runtime's lists in the order in which it would take them.
    fn lists(&self) -> Result<Vec<PathBuf>, Failure> {
        let folder = &self.folders.configuration;
        let failed = || refused::<io::Error>(Code::CONFLIST, format!("listing {}", folder.display()));
        let files = match fs::read_dir(folder) {
            // Whoever makes the node's network hasn't come yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed())?,
        };
        let mut paths = Vec::new();
        for file in files {
            let path = file.map_err(failed())?.path();
            let kind = path.extension().and_then(|extension| extension.to_str());
            if matches!(kind, Some("conflist" | "conf" | "json")) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// Changes the plugins of a list, whole or not at all; a list that is right already is not touched.
    fn rewrite(&self, path: &Path, change: impl FnOnce(&mut Vec<Value>)) -> Result<bool, Failure> {
        let failed = |what: &str| refused::<io::Error>(Code::CONFLIST, format!("{what} {}", path.display()));
        let (path, metadata, text) = read(path)?;
        let Some(text) = edit(&text, change).map_err(failed("reading"))? else {
            return Ok(false);
        };
        // In the same folder, since runtimes don't notice a file that is moved in from another; and with a name that is
        // no list's.
        let unfinished = unfinished(&path);
        create(&unfinished)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::set_permissions(&unfinished, metadata.permissions()))
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(failed("writing"))?;
        Ok(true)
    }
}

/// A list, its permissions and its text, from the file that is meant where the runtime's folder holds a link to it.
fn read(path: &Path) -> Result<(PathBuf, fs::Metadata, Vec<u8>), Failure> {
    let failed = |what: &str| refused::<io::Error>(Code::CONFLIST, format!("{what} {}", path.display()));
    let path = fs::canonicalize(path).map_err(failed("finding"))?;
    let metadata = fs::metadata(&path).map_err(failed("reading"))?;
    if metadata.len() > MAX_LIST {
        let message = format!("has {} bytes, expected at most {MAX_LIST}", metadata.len());
        return Err(failed("reading")(io::Error::other(message)));
    }
    let text = fs::read(&path).map_err(failed("reading"))?;
    Ok((path, metadata, text))
}

/// Whether our plugin's name is in a file. A look at the bytes: a configuration may be no list, or no JSON.
fn mentions_us(path: &Path) -> Result<bool, Failure> {
    let failed = || refused::<io::Error>(Code::CONFLIST, format!("reading {}", path.display()));
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(failed())?;
    file.take(MAX_LIST).read_to_end(&mut text).map_err(failed())?;
    let name = format!("\"{PLUGIN}\"");
    Ok(text.windows(name.len()).any(|window| window == name.as_bytes()))
}

/// A list with other plugins; `None` when they are the same.
fn edit(text: &[u8], change: impl FnOnce(&mut Vec<Value>)) -> io::Result<Option<Vec<u8>>> {
    let mut list = serde_json::from_slice::<Value>(text)?;
    let Some(Value::Array(plugins)) = list.get_mut("plugins") else {
        let message = "it is no list of plugins; only lists (.conflist) can be chained to";
        return Err(io::Error::other(message));
    };
    let before = plugins.clone();
    change(plugins);
    if *plugins == before {
        return Ok(None);
    }
    Ok(Some(serde_json::to_vec_pretty(&list)?))
}

/// Our entry at the end, and nowhere else.
fn put(plugins: &mut Vec<Value>, entry: &Value) {
    take_out(plugins);
    plugins.push(entry.clone());
}

fn take_out(plugins: &mut Vec<Value>) {
    plugins.retain(|plugin| !is_ours(plugin));
}

/// Copies this executable to a new file.
pub(super) fn copy_executable(path: &Path) -> io::Result<()> {
    let mut own = fs::File::open("/proc/self/exe")?;
    io::copy(&mut own, &mut create(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// A new file. What an earlier writer left goes; what somebody put there to be written through, a link, isn't followed.
pub(super) fn create(path: &Path) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::File::create_new(path)
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(PLUGIN)
}

/// A name beside `path` that neither the runtime nor another installer takes for theirs.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.adit-new"))
}

/// Entry for `fuzz/`: whatever the list, putting our entry in twice is putting it in once, and taking it out again leaves
/// all that others wrote.
///
/// # Panics
/// When that doesn't hold.
#[cfg(fuzzing)]
pub fn fuzz(text: &[u8]) {
    let entry = json!({ "type": PLUGIN, "state": "/run/adit" });
    let read =
        |text: &[u8]| serde_json::from_slice::<Value>(text).expect("it was written by us, or read before");
    let Ok(added) = edit(text, |plugins| put(plugins, &entry)) else {
        return;
    };
    let mut without_ours = read(text);
    take_out(without_ours["plugins"].as_array_mut().expect("it was edited"));
    let added = added.unwrap_or_else(|| text.to_owned());
    assert!(
        matches!(edit(&added, |plugins| put(plugins, &entry)), Ok(None)),
        "once is enough"
    );
    let last = read(&added)["plugins"]
        .as_array()
        .and_then(|plugins| plugins.last().cloned());
    assert_eq!(last, Some(entry));
    let removed = edit(&added, take_out)
        .expect("it's a list")
        .expect("our entry was there");
    assert_eq!(read(&removed), without_ours, "what others wrote stays");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A runtime's folders, taken away at the end.
    struct Node {
        folder: PathBuf,
        conflist: Conflist,
    }

    impl Node {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("adit-conflist-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(folder.join("net.d")).unwrap();
            fs::create_dir_all(folder.join("bin")).unwrap();
            let folders = PluginFolders {
                configuration: folder.join("net.d"),
                binaries: folder.join("bin"),
            };
            let conflist = Conflist::new(&folders, Path::new("/run/adit"), &["kube-system".into()]);
            Self { folder, conflist }
        }

        fn write(&self, name: &str, list: &Value) {
            fs::write(self.folder.join("net.d").join(name), list.to_string()).unwrap();
        }

        fn read(&self, name: &str) -> Value {
            serde_json::from_slice(&fs::read(self.folder.join("net.d").join(name)).unwrap()).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let files = fs::read_dir(self.folder.join("net.d")).unwrap();
            let mut names = files
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect::<Vec<_>>();
            names.sort();
            names
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    fn list() -> Value {
        json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [
            { "type": "ptp", "mtu": 1450 }, { "type": "portmap" } ] })
    }

    #[test]
    fn the_entry_is_last_in_the_first_list_and_put_back_when_another_installer_rewrites_it() {
        let node = Node::new("heal");
        node.write("10-pods.conflist", &list());
        node.write("20-other.conflist", &list());
        assert_eq!(node.conflist.tend(), Ok(true));
        let written = node.read("10-pods.conflist");
        let types = written["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|plugin| &plugin["type"]);
        assert_eq!(types.collect::<Vec<_>>(), ["ptp", "portmap", PLUGIN]);
        assert_eq!(written["plugins"][0], list()["plugins"][0]);
        assert_eq!(written["plugins"][2]["state"], "/run/adit");
        assert_eq!(written["plugins"][2]["exemptNamespaces"], json!(["kube-system"]));
        assert_eq!(node.read("20-other.conflist"), list());
        assert_eq!(node.conflist.tend(), Ok(false));

        node.write("10-pods.conflist", &list());
        assert_eq!(node.conflist.tend(), Ok(true));
        assert_eq!(node.read("10-pods.conflist"), written);
        // Somebody's list that goes before: the runtime reads that one now.
        node.write("05-first.conflist", &list());
        assert_eq!(node.conflist.tend(), Ok(true));
        assert_eq!(node.read("05-first.conflist"), written);
        assert_eq!(
            node.names(),
            ["05-first.conflist", "10-pods.conflist", "20-other.conflist"]
        );
    }

    #[test]
    fn an_entry_of_another_build_is_replaced() {
        let node = Node::new("replace");
        let mut old = list();
        let entry = json!({ "type": PLUGIN, "state": "/elsewhere" });
        old["plugins"].as_array_mut().unwrap().insert(0, entry);
        node.write("10-pods.conflist", &old);
        assert_eq!(node.conflist.tend(), Ok(true));
        let plugins = node.read("10-pods.conflist")["plugins"]
            .as_array()
            .unwrap()
            .clone();
        assert_eq!(plugins.len(), 3);
        assert_eq!(plugins[2]["state"], "/run/adit");
    }

    #[test]
    fn uninstalling_leaves_the_lists_as_they_were() {
        let node = Node::new("uninstall");
        node.write("10-pods.conflist", &list());
        node.conflist.install_binary().unwrap();
        let binary = node.folder.join("bin").join(PLUGIN);
        assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o777, 0o755);
        // Files that are no lists of plugins stand beside it on many nodes.
        node.write("99-loopback.conf", &json!({ "type": "loopback" }));
        fs::write(node.folder.join("net.d/broken.json"), "{").unwrap();
        assert_eq!(node.conflist.is_installed(), Ok(false));
        assert_eq!(node.conflist.tend(), Ok(true));
        assert_eq!(node.conflist.is_installed(), Ok(true));
        let remains = node.conflist.remains().unwrap();
        assert_eq!(
            remains,
            [node.folder.join("net.d/10-pods.conflist"), binary.clone()]
        );
        node.conflist.uninstall().unwrap();
        node.conflist.uninstall().unwrap();
        assert_eq!(node.read("10-pods.conflist"), list());
        assert!(!binary.exists());
        assert_eq!(node.conflist.remains(), Ok(Vec::new()));
        assert_eq!(fs::read_dir(node.folder.join("bin")).unwrap().count(), 0);
    }

    #[test]
    fn numbers_that_others_wrote_stay_to_the_last_digit() {
        let text = r#"{"name":"pods","plugins":[{"type":"ptp","rate":2.2555555555555555e85,"mtu":18446744073709551615}]}"#;
        let added = edit(text.as_bytes(), |plugins| {
            put(plugins, &json!({ "type": PLUGIN }))
        })
        .unwrap()
        .unwrap();
        let removed = edit(&added, take_out).unwrap().unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&removed).unwrap()["plugins"][0].to_string(),
            r#"{"mtu":18446744073709551615,"rate":2.2555555555555555e+85,"type":"ptp"}"#
        );
    }

    #[test]
    fn a_link_is_followed_and_stays_a_link() {
        let node = Node::new("link");
        fs::create_dir(node.folder.join("real")).unwrap();
        fs::write(node.folder.join("real/pods"), list().to_string()).unwrap();
        let link = node.folder.join("net.d/10-pods.conflist");
        std::os::unix::fs::symlink(node.folder.join("real/pods"), &link).unwrap();
        assert_eq!(node.conflist.tend(), Ok(true));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            node.read("10-pods.conflist")["plugins"].as_array().unwrap().len(),
            3
        );
    }

    #[test]
    fn what_stands_at_the_name_of_an_unfinished_file_is_not_written_through() {
        let node = Node::new("through");
        node.write("10-pods.conflist", &list());
        let precious = node.folder.join("precious");
        fs::write(&precious, "kept").unwrap();
        for name in ["net.d/.10-pods.conflist.adit-new", "bin/.adit-cni.adit-new"] {
            std::os::unix::fs::symlink(&precious, node.folder.join(name)).unwrap();
        }
        node.conflist.install_binary().unwrap();
        assert_eq!(node.conflist.tend(), Ok(true));
        assert_eq!(fs::read(&precious).unwrap(), b"kept");
        let list = fs::symlink_metadata(node.folder.join("net.d/10-pods.conflist")).unwrap();
        assert!(list.is_file());
    }

    #[test]
    fn what_is_no_list_is_named_and_left_alone() {
        let node = Node::new("none");
        assert_eq!(node.conflist.tend(), Ok(false));
        node.write("10-pods.conf", &json!({ "type": "bridge" }));
        let failure = node.conflist.tend().unwrap_err();
        assert_eq!(failure.code, Code::CONFLIST);
        assert!(failure.message.contains("10-pods.conf"), "{failure}");
        assert_eq!(node.read("10-pods.conf"), json!({ "type": "bridge" }));
    }
}
