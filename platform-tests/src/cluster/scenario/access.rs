//! kubectl exec, logs and port-forward.

use std::time::Duration;

use crate::cluster::Namespace;
use crate::cluster::objects::{SHELL, WEB, WEB_PORT, pod, shell, web};

/// What people do with a pod by kubectl.
///
/// # Panics
/// If one of them doesn't work.
pub fn access(namespace: &Namespace<'_>) {
    namespace.up([pod("reached", 2, [web(), shell()])]);
    let said = namespace
        .exec("reached", SHELL, ["echo", "through exec"])
        .stdout();
    assert_eq!(said, "through exec\n");
    let logs = namespace.kubectl(["logs", "reached", "-c", WEB]).stdout();
    assert!(logs.contains("Started HTTP server"), "{logs}");
    let mut forward = namespace.spawn(["port-forward", "pod/reached", &format!(":{WEB_PORT}")]);
    forward.wait_for("Forwarding from 127.0.0.1:", Duration::from_secs(20));
    let said = forward.stdout();
    let port = said
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(" ->").next());
    let url = format!(
        "http://127.0.0.1:{}/hostname",
        port.expect("kubectl says the port that it took")
    );
    let answer = namespace
        .cluster()
        .outside(["curl", "-sS", "--max-time", "10", &url])
        .stdout();
    assert_eq!(answer, "reached");
}
