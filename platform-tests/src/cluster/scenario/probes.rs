//! The kubelet's probes.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Namespace;
use crate::cluster::objects::{agnhost, pod};

const POD: &str = "probed";

/// A pod with a container for each kind of probe.
#[derive(Debug)]
pub struct Probes<'n, 'c> {
    namespace: &'n Namespace<'c>,
}

/// Starts the pod; it is ready by all four kinds of probe.
///
/// # Panics
/// If it doesn't become so.
pub fn probes<'n, 'c>(namespace: &'n Namespace<'c>) -> Probes<'n, 'c> {
    let grpc = ["grpc-health-checking", "--port=5000", "--http-port=8083"];
    namespace.up([pod(
        POD,
        1,
        [
            probed(
                agnhost("http", &server("8080")),
                &json!({"httpGet": {"path": "/healthz", "port": 8080}}),
            ),
            probed(
                agnhost("tcp", &server("8081")),
                &json!({"tcpSocket": {"port": 8081}}),
            ),
            probed(agnhost("grpc", &grpc), &json!({"grpc": {"port": 5000}})),
            probed(
                agnhost("exec", &server("8082")),
                &json!({"exec": {"command": ["/agnhost", "connect", "--timeout=1s", "127.0.0.1:8082"]}}),
            ),
        ],
    )]);
    Probes { namespace }
}

impl Probes<'_, '_> {
    /// Watches them for some time: each is asked once a second, and two failures in a row would restart a container.
    ///
    /// # Panics
    /// If a container isn't ready, was restarted, or the kubelet saw a probe fail.
    #[track_caller]
    pub fn stay_green(&self, time: Duration) {
        self.green();
        thread::sleep(time);
        self.green();
    }

    #[track_caller]
    fn green(&self) {
        let template = "{range .status.containerStatuses[*]}{.name} {.ready} {.restartCount}{\"\\n\"}{end}";
        let mut states: Vec<String> = self
            .namespace
            .pod(POD, template)
            .lines()
            .map(str::to_owned)
            .collect();
        states.sort();
        assert_eq!(
            states,
            ["exec true 0", "grpc true 0", "http true 0", "tcp true 0"]
        );
        let events = self.namespace.kubectl([
            "get",
            "events",
            "--field-selector",
            "reason=Unhealthy",
            "-o",
            "jsonpath={.items[*].message}",
        ]);
        // A server isn't there in its container's first moments.
        let late = events
            .stdout()
            .lines()
            .filter(|line| !line.contains("Readiness") && !line.contains("Startup"))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        assert!(late.is_empty(), "{late:?}");
    }
}

fn server(port: &str) -> [&str; 3] {
    let (http, udp) = match port {
        "8080" => ("--http-port=8080", "--udp-port=8090"),
        "8081" => ("--http-port=8081", "--udp-port=8091"),
        _ => ("--http-port=8082", "--udp-port=8092"),
    };
    ["netexec", http, udp]
}

fn probed(mut container: Value, probe: &Value) -> Value {
    for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
        container[kind] = probe.clone();
        container[kind]["periodSeconds"] = 1.into();
        container[kind]["timeoutSeconds"] = 2.into();
        container[kind]["failureThreshold"] = if kind == "startupProbe" { 30 } else { 2 }.into();
    }
    container
}
