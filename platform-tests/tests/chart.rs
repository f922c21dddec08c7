//! `deploy/`: the manifest is the chart's, the agent's pod is as tight as it's said to be, and no permission is without
//! its reason.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_platform_tests::Finished;
use serde_json::{Value, json};

const MANIFEST: &str = include_str!("../../deploy/adit.yaml");
const LIMIT: Duration = Duration::from_secs(60);

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn helm(words: &[&str]) -> Finished {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/helm");
    let program = if own.is_file() { own } else { "helm".into() };
    let mut helm = Command::new(program);
    helm.current_dir(deploy()).args(words);
    Finished::of(helm, LIMIT)
}

fn objects() -> Vec<Value> {
    serde_saphyr::from_multiple(MANIFEST).expect("deploy/adit.yaml is YAML")
}

#[track_caller]
fn object(kind: &str, name: &str) -> Value {
    let found = objects()
        .into_iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("deploy/adit.yaml has no {kind} {name}"))
}

#[test]
#[ignore = "needs helm: `just chart` builds and runs it"]
fn the_manifest_is_what_the_chart_renders() {
    let rendered = helm(&[
        "template",
        "adit",
        "adit",
        "--namespace",
        "adit-system",
        "--kube-version",
        "1.34.0",
    ]);
    let namespace =
        std::fs::read_to_string(deploy().join("namespace.yaml")).expect("deploy/namespace.yaml exists");
    assert!(
        namespace + &rendered.stdout() == MANIFEST,
        "deploy/adit.yaml isn't what the chart renders; `just manifest` writes it"
    );
}

#[test]
#[ignore = "needs helm: `just chart` builds and runs it"]
fn every_platform_renders_with_its_paths_and_others_are_refused() {
    let helper = |settings: &[&str]| -> Finished {
        let words = [
            "template",
            "adit",
            "adit",
            "--kube-version",
            "1.34.0",
            "-s",
            "templates/helper.yaml",
        ];
        helm(&[&words, settings].concat())
    };
    let values: Value =
        serde_saphyr::from_str(include_str!("../../deploy/adit/values.yaml")).expect("values are YAML");
    let platforms = values["platforms"].as_object().expect("platforms are a table");
    for name in [
        "default",
        "k3s",
        "k0s",
        "microk8s",
        "minikube",
        "kind",
        "openshift",
        "gke",
        "bottlerocket",
        "talos",
    ] {
        let rendered = helper(&["--set", &format!("platform={name}")]).stdout();
        for (_, path) in platforms[name].as_object().into_iter().flatten() {
            let path = path.as_str().expect("a path is text");
            assert!(rendered.contains(&format!("path: {path},")), "{name}: {path}");
        }
    }
    let over = helper(&["--set", "platform=k3s,cni.binDir=/elsewhere"]).stdout();
    assert!(
        over.contains("path: /elsewhere,")
            && over.contains("path: /var/lib/rancher/k3s/agent/etc/cni/net.d,")
    );
    let unknown = helper(&["--set", "platform=nope"]);
    assert!(
        unknown.code() != 0
            && unknown
                .stderr()
                .contains(r#"platform is "nope"; expected one of: bottlerocket"#),
        "{unknown}"
    );
}

#[test]
fn agent_and_ca_are_restricted_and_only_the_helper_is_privileged() {
    for (kind, name, host_paths) in [
        ("DaemonSet", "adit-agent", vec!["/run/adit/agent"]),
        ("Deployment", "adit-ca", vec![]),
    ] {
        let spec = &object(kind, name)["spec"]["template"]["spec"];
        let pod = &spec["securityContext"];
        assert_eq!(
            (&pod["runAsNonRoot"], &pod["runAsUser"]),
            (&json!(true), &json!(65532)),
            "{name}"
        );
        assert_eq!(pod["seccompProfile"], json!({"type": "RuntimeDefault"}), "{name}");
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(spec[field].is_null(), "{name} has {field}");
        }
        for container in spec["containers"].as_array().into_iter().flatten() {
            let expected = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            });
            assert_eq!(container["securityContext"], expected, "{name}");
        }
        let paths: Vec<&str> = spec["volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|volume| volume["hostPath"]["path"].as_str())
            .collect();
        assert_eq!(paths, host_paths, "{name}");
    }
    let helper = &object("DaemonSet", "adit-helper")["spec"]["template"]["spec"];
    assert_eq!(
        helper["automountServiceAccountToken"], false,
        "the helper has no business with the API"
    );
}

#[test]
fn no_permission_is_a_wildcard_or_reads_a_secret_that_is_not_its_own() {
    let all = objects();
    let roles = all
        .iter()
        .filter(|object| ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap_or_default()));
    let mut secrets = 0;
    for role in roles {
        for rule in role["rules"].as_array().into_iter().flatten() {
            assert!(!rule.to_string().contains('*'), "{rule}");
            if rule["resources"].to_string().contains("secrets") {
                assert_eq!(rule["resourceNames"], json!(["adit-ca"]), "{rule}");
                secrets += 1;
            }
        }
    }
    assert_eq!(secrets, 1);
}

/// Over each rule stands a comment.
#[test]
fn every_permission_has_its_reason() {
    let lines: Vec<&str> = MANIFEST.lines().collect();
    let mut rules = 0;
    for (index, line) in lines.iter().enumerate() {
        if line.starts_with("- apiGroups:") {
            rules += 1;
            assert!(
                lines[index - 1].starts_with("# "),
                "line {} of deploy/adit.yaml: {line}",
                index + 1
            );
        }
    }
    assert!(rules > 10, "{rules} rules");
}
