//! A watched file: changes are published, faults leave the last good mesh, and nothing is published twice.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use adit_control::{FileSource, Update, load};

/// Far beyond what a change takes to be seen; it bounds how long a failing test hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a mesh file, deleted at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("adit-control-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn mesh(&self) -> PathBuf {
        self.0.join("mesh.yaml")
    }

    /// Writes the mesh file as editors do: a new file takes the old one's place.
    fn write(&self, rest: &str) {
        let text = format!(
            "apiVersion: adit.dev/v1alpha1\nkind: Mesh\nname: shop\nnamespaces: [{{name: shop}}]\n{rest}"
        );
        let new = self.0.join("mesh.yaml.new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.mesh()).unwrap();
    }

    fn watch(&self) -> (FileSource, Receiver<Update>) {
        let (publish, updates) = channel();
        let running = load(&self.mesh())
            .unwrap_or_else(|report| panic!("{report}"))
            .mesh;
        let source =
            FileSource::watch(&self.mesh(), running, move |update| drop(publish.send(update))).unwrap();
        (source, updates)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn names(update: Update) -> Vec<String> {
    match update {
        Update::Changed(loaded) => loaded
            .mesh
            .replicas()
            .map(|replica| replica.name.to_string())
            .collect(),
        Update::Refused(report) => panic!("{report}"),
    }
}

#[test]
fn changes_are_published_and_faults_are_refused() {
    let folder = Folder::new("changes");
    folder.write("");
    let (source, updates) = folder.watch();
    folder.write("workloads: [{name: web, namespace: shop, command: [web]}]\n");
    assert_eq!(names(updates.recv_timeout(PATIENCE).unwrap()), ["shop/web"]);
    folder.write("workloads: [{name: web, namespace: bank, command: [web]}]\n");
    let refused = updates.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(&refused, Update::Refused(report) if report.has_errors()),
        "{refused:?}"
    );
    // A comment changes nothing of the refused file's meaning, but its text: people see where the fault is now.
    folder.write("workloads: [{name: api, namespace: shop, command: [api]}]\n");
    assert_eq!(names(updates.recv_timeout(PATIENCE).unwrap()), ["shop/api"]);
    drop(source);
    folder.write("");
    assert!(
        updates.recv_timeout(PATIENCE).is_err(),
        "something was published after the end"
    );
}

#[test]
fn what_changes_nothing_is_not_published() {
    let folder = Folder::new("nothing");
    folder.write("");
    let (_source, updates) = folder.watch();
    folder.write("# a comment\n");
    fs::write(folder.0.join("unrelated"), "text").unwrap();
    folder.write("workloads: [{name: web, namespace: shop, command: [web]}]\n");
    assert_eq!(names(updates.recv_timeout(PATIENCE).unwrap()), ["shop/web"]);
}

#[test]
fn policy_files_belong_to_the_mesh() {
    let folder = Folder::new("policies");
    let policies = folder.0.join("policies");
    fs::create_dir(&policies).unwrap();
    for (name, text) in [
        ("b.yaml", "b"),
        ("a.yml", "a"),
        ("c.json", "c"),
        (".hidden.yaml", "h"),
        ("notes.txt", "n"),
    ] {
        fs::write(policies.join(name), text).unwrap();
    }
    folder.write("policies: [policies, policies/notes.txt]\n");
    let texts = |mesh: &adit_control::Mesh| {
        mesh.policies
            .iter()
            .map(|policy| policy.text.clone())
            .collect::<Vec<_>>()
            .concat()
    };
    let (_source, updates) = folder.watch();
    assert_eq!(texts(&load(&folder.mesh()).unwrap().mesh), "abcn");
    fs::write(policies.join("b.yaml"), "B").unwrap();
    match updates.recv_timeout(PATIENCE).unwrap() {
        Update::Changed(loaded) => assert_eq!(texts(&loaded.mesh), "aBcn"),
        Update::Refused(report) => panic!("{report}"),
    }
}
