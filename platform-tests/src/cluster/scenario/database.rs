//! A StatefulSet with a database.

use serde_json::json;

use crate::cluster::Namespace;
use crate::cluster::objects::{container, pod, service};

/// Redis, as a StatefulSet of one with its file on node 2: written, killed, and read again by name.
///
/// # Panics
/// If what was written isn't there.
pub fn database(namespace: &Namespace<'_>) {
    let folder = format!("/var/log/{}", namespace.name());
    let mut redis = container(
        "redis",
        "localhost/redis:1",
        &[
            "redis-server",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--dir",
            "/data",
            "--protected-mode",
            "no",
        ],
    );
    redis["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    redis["readinessProbe"] = json!({"tcpSocket": {"port": 6379}, "periodSeconds": 1});
    namespace.up([
        service("redis", "redis", 6379, 6379, &json!({"clusterIP": "None"})),
        json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "redis"},
            "spec": {
                "serviceName": "redis",
                "replicas": 1,
                "selector": {"matchLabels": {"app": "redis"}},
                "template": {
                    "metadata": {"labels": {"app": "redis"}},
                    "spec": {
                        "nodeSelector": {"kubernetes.io/hostname": "kn2"},
                        "terminationGracePeriodSeconds": 1,
                        "containers": [redis],
                        "volumes": [{"name": "data", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}],
                    },
                },
            },
        }),
        pod("client", 1, [container("redis", "localhost/redis:1", &["sleep", "86400"])]),
    ]);
    rolled_out(namespace);
    assert_eq!(command(namespace, &["set", "written", "before"]), "OK");
    namespace
        .kubectl(["delete", "pod", "redis-0", "--timeout=60s"])
        .stdout();
    rolled_out(namespace);
    assert_eq!(command(namespace, &["get", "written"]), "before");
}

fn rolled_out(namespace: &Namespace<'_>) {
    namespace
        .kubectl(["rollout", "status", "statefulset/redis", "--timeout=90s"])
        .stdout();
    namespace.wait_membership("redis-0");
}

/// By the pod's stable name. DNS may be five seconds behind the pod, and connections in that time may be refused.
#[track_caller]
fn command(namespace: &Namespace<'_>, words: &[&str]) -> String {
    let all = [&["redis-cli", "-h", "redis-0.redis"], words].concat();
    crate::wait_until(
        "redis to answer",
        std::time::Duration::from_secs(30),
        || {
            let answer = namespace.exec("client", "redis", all.iter().copied());
            (answer.code() == 0).then(|| answer.raw_stdout().trim().to_owned())
        },
        || namespace.kubectl(["get", "pods", "-o", "wide"]).raw_stdout(),
    )
}
