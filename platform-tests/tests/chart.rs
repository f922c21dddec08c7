//! `deploy/`: the manifest is the chart's, the agent's pod is as tight as it's said to be, and no permission is without
//! its reason.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_platform_tests::Finished;
use serde_json::{Value, json};

const MANIFEST: &str = include_str!("../../deploy/adit.yaml");
const UNINSTALL: &str = include_str!("../../deploy/uninstall.yaml");
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

/// What takes adit off the nodes.
fn farewell() -> Value {
    serde_saphyr::from_str(UNINSTALL).expect("deploy/uninstall.yaml is one YAML document")
}

#[track_caller]
fn container(workload: &Value) -> &Value {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array();
    match containers.map(Vec::as_slice) {
        Some([container]) => container,
        other => panic!("expected one container, got {other:?}"),
    }
}

#[track_caller]
fn object(kind: &str, name: &str) -> Value {
    let found = objects()
        .into_iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("deploy/adit.yaml has no {kind} {name}"))
}

/// The chart with its defaults, as `just manifest` renders it.
fn render(more: &[&str]) -> Finished {
    let words = [
        "template",
        "adit",
        "adit",
        "--namespace",
        "adit-system",
        "--kube-version",
        "1.34.0",
    ];
    helm(&[&words, more].concat())
}

#[test]
#[ignore = "needs helm: `just chart` builds and runs it"]
fn the_manifest_is_what_the_chart_renders() {
    let rendered = render(&["--no-hooks"]);
    let uninstall = render(&["--show-only", "templates/uninstall.yaml"]);
    assert!(
        uninstall.stdout() == UNINSTALL,
        "deploy/uninstall.yaml isn't what the chart renders; `just manifest` writes it"
    );
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
    let helper = |settings: &[&str]| render(&[&["--show-only", "templates/helper.yaml"], settings].concat());
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
#[ignore = "needs helm: `just chart` builds and runs it"]
fn the_wire_port_is_the_original_one_or_istios() {
    let agent = |port: &str| {
        render(&[
            "--show-only",
            "templates/agent.yaml",
            "--set",
            &format!("agent.wirePort={port}"),
        ])
    };
    for port in ["original", "15008"] {
        let argument = format!("- --wire-port={port}\n");
        assert!(agent(port).stdout().contains(&argument), "{port}");
    }
    let refused = agent("8080");
    let expected = r#"agent.wirePort is "8080"; expected original or 15008"#;
    assert!(
        refused.code() != 0 && refused.stderr().contains(expected),
        "{refused}"
    );
}

#[test]
#[ignore = "needs helm: `just chart` builds and runs it"]
fn the_link_is_one_that_the_helper_knows() {
    let helper = |link: &str| {
        render(&[
            "--show-only",
            "templates/helper.yaml",
            "--set",
            &format!("helper.link={link}"),
        ])
    };
    for link in ["auto", "packet", "tun"] {
        let argument = format!("- --link={link}\n");
        assert!(helper(link).stdout().contains(&argument), "{link}");
    }
    let refused = helper("veth");
    let expected = r#"helper.link is "veth"; expected auto, packet or tun"#;
    assert!(
        refused.code() != 0 && refused.stderr().contains(expected),
        "{refused}"
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

/// Whatever asks for a port asks for one that the container has, and the program is told of the same.
#[test]
fn every_workload_is_probed_and_metrics_are_where_they_are_said_to_be() {
    for (kind, name) in [("DaemonSet", "adit-agent"), ("Deployment", "adit-ca")] {
        let workload = object(kind, name);
        let container = container(&workload);
        for (probe, path) in [
            ("livenessProbe", "/healthz/live"),
            ("readinessProbe", "/healthz/ready"),
        ] {
            let asked = &container[probe]["httpGet"];
            assert_eq!(asked, &json!({"path": path, "port": "metrics"}), "{name}");
        }
        let ports = container["ports"].as_array().into_iter().flatten();
        let port = ports.clone().find(|port| port["name"] == "metrics");
        let port = port.expect("the port has a name")["containerPort"].to_string();
        let told = format!("--metrics=0.0.0.0:{port}");
        let args = container["args"].as_array().into_iter().flatten();
        assert!(args.clone().any(|arg| *arg == told), "{name}: {told}");
        let annotations = &workload["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/port"], port, "{name}");
        assert_eq!(annotations["prometheus.io/path"], "/metrics", "{name}");
    }
    let helper = object("DaemonSet", "adit-helper");
    for (probe, question) in [("livenessProbe", "live"), ("readinessProbe", "ready")] {
        let command = &container(&helper)[probe]["exec"]["command"];
        assert_eq!(
            command,
            &json!([
                "/adit",
                "node-helper",
                "--state=/run/adit",
                format!("--probe={question}")
            ])
        );
    }
}

/// An installation or an upgrade must never take adit off a node.
#[test]
fn what_takes_adit_off_the_nodes_is_made_before_a_deletion_alone() {
    assert!(!MANIFEST.contains("--uninstall") && !MANIFEST.contains("helm.sh/hook"));
    let farewell = farewell();
    let annotations = &farewell["metadata"]["annotations"];
    assert_eq!(annotations["helm.sh/hook"], "pre-delete");
    let helper = object("DaemonSet", "adit-helper");
    let (ours, helpers) = (container(&farewell), container(&helper));
    for same in ["image", "securityContext", "volumeMounts"] {
        assert_eq!(ours[same], helpers[same], "{same}");
    }
    let pod = |workload: &Value| workload["spec"]["template"]["spec"].clone();
    for same in ["volumes", "tolerations", "nodeSelector", "serviceAccountName"] {
        assert_eq!(pod(&farewell)[same], pod(&helper)[same], "{same}");
    }
    // It is done where the same paths say so.
    let paths = |words: &Value| -> Vec<String> {
        let words = words.as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut paths: Vec<_> = words
            .filter(|word| word.starts_with("--cni-") || word.starts_with("--state"))
            .map(str::to_owned)
            .collect();
        paths.sort();
        paths
    };
    let asked = paths(&ours["readinessProbe"]["exec"]["command"]);
    assert_eq!((paths(&ours["args"]), asked.len()), (asked, 3));
}

#[test]
#[ignore = "needs helm: `just chart` builds and runs it"]
fn whoever_waits_for_the_nodes_may_look_at_one_daemon_set_and_the_pods_beside_it() {
    let rendered = render(&["--show-only", "templates/uninstall-wait.yaml"]).stdout();
    let all: Vec<Value> = serde_saphyr::from_multiple(&rendered).expect("it is YAML");
    let weight = |object: &Value| -> i32 {
        let annotations = &object["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/hook"], "pre-delete", "{object}");
        let weight = annotations["helm.sh/hook-weight"].as_str();
        weight
            .and_then(|weight| weight.parse().ok())
            .expect("it has a weight")
    };
    let made_first = weight(&farewell());
    for object in &all {
        match object["kind"].as_str() {
            Some("Role") => assert_eq!(
                object["rules"],
                json!([{"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["adit-uninstall"],
                    "verbs": ["get"]}, {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}])
            ),
            Some("Job") => {
                assert!(weight(object) > made_first);
                let expected = json!({
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                });
                assert_eq!(container(object)["securityContext"], expected);
                // It says which nodes take too long before it's ended, and once.
                let spec = &object["spec"];
                let failure = &spec["podFailurePolicy"]["rules"][0];
                assert_eq!(
                    (&failure["action"], &failure["onExitCodes"]["values"]),
                    (&json!("FailJob"), &json!([3]))
                );
                assert_eq!(failure["onExitCodes"]["containerName"], container(object)["name"]);
                let arguments = container(object)["args"].to_string();
                assert!(arguments.contains("--timeout=240s"), "{arguments}");
                assert_eq!(spec["activeDeadlineSeconds"], 270);
                let tolerations = &spec["template"]["spec"]["tolerations"];
                assert!(
                    tolerations.is_null(),
                    "it could be put on the node that is down: {tolerations}"
                );
            }
            _ => assert!(weight(object) < made_first),
        }
    }
    assert_eq!(all.len(), 4, "{rendered}");
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
