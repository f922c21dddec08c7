//! `packaging/oci-image.py`: what it writes is an OCI image layout, and the same folders give the same bytes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_platform_tests::{Finished, Sandbox, oci};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// A folder with a program, a link to it and a folder, made in this order or in the opposite one.
fn folder(sandbox: &Sandbox, name: &str, backwards: bool) -> PathBuf {
    let folder = sandbox.folder(name);
    let mut steps: Vec<fn(&Path)> = vec![
        |folder| fs::write(folder.join("adit"), "a program").unwrap(),
        |folder| symlink("adit", folder.join("a-link")).unwrap(),
        |folder| fs::create_dir(folder.join("tmp")).unwrap(),
    ];
    if backwards {
        steps.reverse();
    }
    steps.iter().for_each(|step| step(&folder));
    fs::set_permissions(folder.join("adit"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    folder
}

fn pack(out: &Path, arguments: &[&str], epoch: Option<&str>) -> Finished {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/oci-image.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg(out)
        .args(arguments)
        .env_remove("SOURCE_DATE_EPOCH");
    command.envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch)));
    Finished::of(command, LIMIT)
}

#[test]
fn one_platform_is_a_manifest_whose_blobs_are_what_they_say() {
    let sandbox = Sandbox::new();
    let content = folder(&sandbox, "content", false);
    let out = sandbox.dir().join("image.tar");
    let platform = format!("linux/amd64={}", content.display());
    let arguments = ["adit:dev", &platform, "--entrypoint", r#"["/adit"]"#];
    pack(&out, &arguments, None).stdout();
    let (annotations, images) = oci::read(&out, &sandbox.folder("unpacked"));
    assert_eq!(
        annotations["io.containerd.image.name"],
        "docker.io/library/adit:dev"
    );
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "dev");
    let [image] = &images[..] else {
        panic!("{images:?}")
    };
    assert_eq!(image.platform, "linux/amd64");
    assert_eq!(image.config["config"]["Entrypoint"], json!(["/adit"]));
    assert_eq!(image.config.get("created"), None, "no clock was read");
    let entries = [
        "lrwxrwxrwx 0/0 0 1970-01-01 00:00:00 a-link -> adit",
        "-rwxr-xr-x 0/0 9 1970-01-01 00:00:00 adit",
        "drwxrwxrwt 0/0 0 1970-01-01 00:00:00 tmp/",
    ];
    assert_eq!(image.entries, entries);
}

#[test]
fn several_platforms_are_an_index_and_the_same_content_gives_the_same_bytes() {
    let sandbox = Sandbox::new();
    let mut written = Vec::new();
    for (name, backwards) in [("one", false), ("two", true)] {
        let folder = folder(&sandbox, name, backwards);
        let out = sandbox.dir().join(format!("{name}.tar"));
        let platforms =
            ["linux/arm64", "linux/amd64"].map(|platform| format!("{platform}={}", folder.display()));
        let arguments = [
            "localhost/adit:1.2",
            &platforms[usize::from(backwards)],
            &platforms[usize::from(!backwards)],
            "--gzip",
            "--user",
            "65532:65532",
            "--label",
            "org.opencontainers.image.title=adit",
        ];
        pack(&out, &arguments, Some("1700000000")).stdout();
        written.push(fs::read(out).unwrap());
    }
    assert!(
        written[0] == written[1],
        "neither names of folders nor orders nor clocks count"
    );
    let (annotations, images) = oci::read(&sandbox.dir().join("one.tar"), &sandbox.folder("unpacked"));
    assert_eq!(annotations["io.containerd.image.name"], "localhost/adit:1.2");
    let platforms: Vec<&str> = images.iter().map(|image| image.platform.as_str()).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    for image in images {
        assert_eq!(image.config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(image.config["config"]["User"], "65532:65532");
        let labels = json!({"org.opencontainers.image.title": "adit"});
        assert_eq!(image.config["config"]["Labels"], labels);
        assert_eq!(image.manifest["annotations"], labels);
    }
}

#[test]
fn what_makes_no_image_is_refused_with_what_was_expected() {
    let sandbox = Sandbox::new();
    let out = sandbox.dir().join("image.tar");
    let folder = sandbox.folder("content").display().to_string();
    let cases = [
        (["adit", &format!("linux/amd64={folder}")], "NAME:TAG"),
        (["adit:1", "linux/amd64=no-such-folder"], "folder that exists"),
        (["adit:1", &format!("amd64={folder}")], "OS/ARCHITECTURE"),
    ];
    for (arguments, expected) in cases {
        let done = pack(&out, &arguments, None);
        assert_eq!(done.code(), 2, "{done}");
        assert!(done.stderr().contains(expected), "{done}");
        assert!(!out.exists());
    }
}
