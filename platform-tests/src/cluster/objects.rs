//! Kubernetes objects that the scenarios share.

use serde_json::{Value, json};

/// A shell with busybox' programs.
pub const SHELL: &str = "shell";
/// The load tool: a server on port 7000 that commands of the tool can be run beside.
pub const LOAD: &str = "load";
/// The port of [`LOAD`].
pub const LOAD_PORT: u16 = 7000;
const LOAD_IMAGE: &str = "localhost/adit-load:1";
/// agnhost's HTTP and UDP server.
pub const WEB: &str = "web";
/// The port of [`WEB`], for both protocols.
pub const WEB_PORT: u16 = 8080;
/// The name of a runtime class.
const GVISOR: &str = "gvisor";

/// A pod that ends at once when it's deleted, on node `kn<node>`, with the label `app: <name>`.
pub fn pod(name: &str, node: u8, containers: impl IntoIterator<Item = Value>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": format!("kn{node}"),
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": containers.into_iter().collect::<Vec<_>>(),
        },
    })
}

/// The same pod in a sandbox of [`gvisor`].
pub fn sandboxed(mut pod: Value) -> Value {
    pod["spec"]["runtimeClassName"] = GVISOR.into();
    pod
}

/// The class of pods that run in gVisor's sandboxes.
pub fn gvisor() -> Value {
    json!({
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": GVISOR},
        "handler": "runsc",
    })
}

/// A container named [`SHELL`] that waits.
pub fn shell() -> Value {
    container(SHELL, "localhost/busybox:1", &["sleep", "86400"])
}

/// A container named [`LOAD`].
pub fn load() -> Value {
    let mut load = container(
        LOAD,
        LOAD_IMAGE,
        &["/adit-load", "--limit", "86400", "serve", "--port", "7000"],
    );
    load["readinessProbe"] = json!({"tcpSocket": {"port": LOAD_PORT}, "periodSeconds": 1});
    load
}

/// A pod that runs the load tool once, with these words, and ends.
pub fn load_once(name: &str, node: u8, words: &[&str]) -> Value {
    let words = [&["/adit-load"], words].concat();
    let mut pod = pod(name, node, [container(LOAD, LOAD_IMAGE, &words)]);
    pod["spec"]["restartPolicy"] = "Never".into();
    pod
}

/// A container named [`WEB`].
pub fn web() -> Value {
    let mut web = agnhost(WEB, &["netexec", "--http-port=8080", "--udp-port=8080"]);
    web["readinessProbe"] = json!({"httpGet": {"path": "/healthz", "port": WEB_PORT}, "periodSeconds": 1});
    web
}

/// A container that runs agnhost, Kubernetes' own test program.
pub fn agnhost(name: &str, words: &[&str]) -> Value {
    let words: Vec<&str> = [&["/agnhost"], words].concat();
    container(name, "localhost/e2e-test-images/agnhost:2.43", &words)
}

/// A container whose image is on the nodes already.
pub fn container(name: &str, image: &str, command: &[&str]) -> Value {
    json!({"name": name, "image": image, "imagePullPolicy": "Never", "command": command})
}

/// A service for the pods with label `app: <app>`; `spec` is merged over what it has otherwise.
pub fn service(name: &str, app: &str, port: u16, target: u16, spec: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": [{"port": port, "targetPort": target}]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        service["spec"][key] = value.clone();
    }
    service
}
