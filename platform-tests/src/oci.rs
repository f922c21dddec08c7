//! Reads an OCI image layout as a runtime does, and believes nothing in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::Finished;

/// How long a tool may take.
const LIMIT: Duration = Duration::from_secs(60);
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The image of one platform.
#[derive(Clone, Debug)]
pub struct Image {
    /// As `linux/amd64`.
    pub platform: String,
    /// Its manifest.
    pub manifest: Value,
    /// Its configuration.
    pub config: Value,
    /// `MODE OWNER SIZE TIME NAME` of each entry of its only layer, as tar tells.
    pub entries: Vec<String>,
}

/// A layout that was unpacked.
#[derive(Debug)]
struct Layout<'a> {
    folder: &'a Path,
    /// Digests of blobs that something led to.
    seen: BTreeSet<String>,
}

/// The annotations of the only entry of the index of the layout in `tar`, and the images that it leads to. Every blob's
/// digest and size is compared with what its descriptor says, and every layer with its image's configuration. It's
/// unpacked into `folder`, which is empty.
///
/// # Panics
/// If anything doesn't fit, or a blob is there that nothing leads to.
#[track_caller]
pub fn read(tar: &Path, folder: &Path) -> (Value, Vec<Image>) {
    run("tar", &["-xf", &shown(tar), "-C", &shown(folder)]);
    let json = |name: &str| -> Value { serde_json::from_slice(&read_file(&folder.join(name))).unwrap() };
    assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = json("index.json");
    assert_eq!(
        (&index["schemaVersion"], &index["mediaType"]),
        (&2.into(), &INDEX.into())
    );
    let [entry] = entries_of(&index) else {
        panic!("expected one image, got {index}")
    };
    let mut layout = Layout {
        folder,
        seen: BTreeSet::new(),
    };
    let images = match entry["mediaType"] == INDEX {
        true => {
            let inner = layout.json(entry, INDEX);
            let images = entries_of(&inner).iter().map(|entry| layout.image(entry));
            images.collect()
        }
        false => vec![layout.image(entry)],
    };
    let there = fs::read_dir(folder.join("blobs/sha256")).unwrap();
    let there: BTreeSet<String> = there
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        there, layout.seen,
        "blobs that are there, and those that are used"
    );
    (entry["annotations"].clone(), images)
}

impl Layout<'_> {
    fn image(&mut self, descriptor: &Value) -> Image {
        let manifest = self.json(descriptor, MANIFEST);
        let config = self.json(&manifest["config"], CONFIG);
        let [layer] = manifest["layers"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        else {
            panic!("expected one layer, got {manifest}")
        };
        let kind = layer["mediaType"].as_str().unwrap_or_default();
        let blob = shown(&self.blob(layer));
        let unpack = match kind {
            "application/vnd.oci.image.layer.v1.tar" => "cat",
            "application/vnd.oci.image.layer.v1.tar+gzip" => "gzip -dc",
            other => panic!("{other} is no layer that every runtime knows"),
        };
        let hash = run("sh", &["-c", &format!("{unpack} <{blob} | sha256sum")]);
        let digest = format!("sha256:{}", hash.split_whitespace().next().unwrap_or_default());
        assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([digest]));
        let list = format!("{unpack} <{blob} | TZ=UTC tar -tv --full-time --numeric-owner");
        let entries = run("sh", &["-c", &list]);
        let platform = format!("{}/{}", text(&config["os"]), text(&config["architecture"]));
        let said = &descriptor["platform"];
        assert_eq!(
            platform,
            format!("{}/{}", text(&said["os"]), text(&said["architecture"]))
        );
        Image {
            platform,
            manifest,
            config,
            entries: entries
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect(),
        }
    }

    fn json(&mut self, descriptor: &Value, media_type: &str) -> Value {
        assert_eq!(descriptor["mediaType"], media_type, "{descriptor}");
        let value: Value = serde_json::from_slice(&read_file(&self.blob(descriptor))).unwrap();
        if media_type != CONFIG {
            assert_eq!(value["mediaType"], media_type, "{value}");
        }
        value
    }

    fn blob(&mut self, descriptor: &Value) -> PathBuf {
        let digest = text(&descriptor["digest"]);
        let digest = digest
            .strip_prefix("sha256:")
            .expect("a digest names its algorithm");
        let path = self.folder.join("blobs/sha256").join(digest);
        assert_eq!(
            descriptor["size"],
            fs::metadata(&path).unwrap().len(),
            "{descriptor}"
        );
        let hash = run("sha256sum", &[&shown(&path)]);
        assert_eq!(hash.split_whitespace().next(), Some(digest));
        self.seen.insert(digest.to_owned());
        path
    }
}

fn entries_of(index: &Value) -> &[Value] {
    index["manifests"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("expected a string, got {value}"))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[track_caller]
fn read_file(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    Finished::of(command, LIMIT).stdout()
}
