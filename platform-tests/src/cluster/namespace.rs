//! A Kubernetes namespace of a test's own.

use std::cell::Cell;
use std::process;
use std::time::Duration;

use serde_json::Value;

use super::{COMMAND_LIMIT, Cluster, READY_LIMIT};
use crate::process::{Finished, Running, wait_until};

/// The label that says which namespaces are in the mesh.
const MEMBERSHIP: &str = "istio.io/dataplane-mode";
/// The annotation of a pod whose traffic the agent has.
const CAPTURED: &str = r"{.metadata.annotations.ambient\.istio\.io/redirection}";

/// The annotation that says on which ports besides 15008 a captured pod takes HBONE.
const HBONE_PORT: &str = r"{.metadata.annotations.adit\.dev/hbone-port}";

/// Whether a namespace's pods are in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// They are, and a test waits until each is captured.
    Mesh,
    /// They aren't.
    Outside,
}

/// A namespace that a test made. It's deleted, with all that is in it, when this is dropped.
#[derive(Debug)]
pub struct Namespace<'c> {
    cluster: &'c Cluster,
    name: String,
    membership: Cell<Membership>,
}

impl<'c> Namespace<'c> {
    /// A new one; its name is `topic` with a number.
    ///
    /// # Panics
    /// If it can't be made.
    #[track_caller]
    pub fn new(cluster: &'c Cluster, topic: &str, membership: Membership) -> Self {
        let name = format!("{topic}-{}", process::id());
        cluster.kubectl(["create", "namespace", &name]).stdout();
        let namespace = Self {
            cluster,
            name,
            membership: Cell::new(Membership::Outside),
        };
        // No pod is taken before. Controllers that missed the API server for a while come back late.
        let account = || namespace.kubectl(["get", "serviceaccount", "default", "-o", "name"]);
        wait_until(
            "the namespace to have its service account",
            READY_LIMIT,
            || account().raw_stdout().starts_with("serviceaccount").then_some(()),
            || account().to_string(),
        );
        if membership == Membership::Mesh {
            namespace.set_membership(membership);
        }
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that it's in.
    pub fn cluster(&self) -> &'c Cluster {
        self.cluster
    }

    /// Whether its pods are in the mesh.
    pub fn membership(&self) -> Membership {
        self.membership.get()
    }

    /// Puts its pods into the mesh or takes them out; doesn't wait for it.
    ///
    /// # Panics
    /// If the namespace can't be labelled.
    #[track_caller]
    pub fn set_membership(&self, membership: Membership) {
        let label = match membership {
            Membership::Mesh => format!("{MEMBERSHIP}=ambient"),
            Membership::Outside => format!("{MEMBERSHIP}-"),
        };
        self.cluster
            .kubectl(["label", "namespace", &self.name, &label, "--overwrite"])
            .stdout();
        self.membership.set(membership);
    }

    /// kubectl in this namespace.
    ///
    /// # Panics
    /// As [`Cluster::kubectl`].
    #[track_caller]
    pub fn kubectl<'a>(&'a self, words: impl IntoIterator<Item = &'a str>) -> Finished {
        self.cluster
            .kubectl(["-n", self.name.as_str()].into_iter().chain(words))
    }

    /// The same in the background.
    #[track_caller]
    pub fn spawn<'a>(&'a self, words: impl IntoIterator<Item = &'a str>) -> Running {
        let all = ["kubectl", "-n", self.name.as_str()].into_iter().chain(words);
        Running::spawn(self.cluster.command(all))
    }

    /// Applies objects here, and waits for the pods among them: ready, and captured if the namespace is in the mesh.
    ///
    /// # Panics
    /// If one is refused, or a pod isn't ready within two minutes; says what its events say.
    #[track_caller]
    pub fn up(&self, objects: impl IntoIterator<Item = Value>) {
        let mut objects: Vec<Value> = objects.into_iter().collect();
        for object in &mut objects {
            object["metadata"]["namespace"] = self.name.as_str().into();
        }
        self.cluster.apply(&objects);
        for pod in objects.iter().filter(|object| object["kind"] == "Pod") {
            let name = pod["metadata"]["name"].as_str();
            self.wait_ready(name.expect("a pod has a name"));
        }
    }

    /// Waits for a pod.
    ///
    /// # Panics
    /// As [`Namespace::up`].
    #[track_caller]
    pub fn wait_ready(&self, pod: &str) {
        wait_until(
            &format!("pod {pod} to be ready"),
            READY_LIMIT,
            || (self.pod(pod, READY) == "True").then_some(()),
            || self.kubectl(["describe", "pod", pod]).raw_stdout(),
        );
        self.wait_membership(pod);
    }

    /// Waits until a pod that runs once has ended, and says what it wrote.
    ///
    /// # Panics
    /// If it failed, or still runs after `limit`.
    #[track_caller]
    pub fn finish(&self, pod: &str, limit: Duration) -> Finished {
        let logs = || self.kubectl(["logs", pod]);
        let phase = wait_until(
            &format!("pod {pod} to end"),
            limit,
            || {
                let phase = self.pod(pod, "{.status.phase}");
                ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
            },
            || logs().to_string(),
        );
        assert_eq!(phase, "Succeeded", "{pod}: {}", logs());
        logs()
    }

    /// Waits until the agent has a pod's traffic, or hasn't it any more, as the namespace's membership says.
    ///
    /// # Panics
    /// After two minutes.
    #[track_caller]
    pub fn wait_membership(&self, pod: &str) {
        let expected = match self.membership() {
            Membership::Mesh => "enabled",
            Membership::Outside => "",
        };
        wait_until(
            &format!("the annotation ambient.istio.io/redirection of {pod} to be {expected:?}"),
            READY_LIMIT,
            || (self.pod(pod, CAPTURED) == expected).then_some(()),
            || self.kubectl(["describe", "pod", pod]).raw_stdout(),
        );
    }

    /// Waits until a captured pod says on which ports besides 15008 it takes HBONE: `original`, or none.
    ///
    /// # Panics
    /// After two minutes.
    #[track_caller]
    pub fn wait_hbone_port(&self, pod: &str, expected: &str) {
        wait_until(
            &format!("the annotation adit.dev/hbone-port of {pod} to be {expected:?}"),
            READY_LIMIT,
            || (self.pod(pod, HBONE_PORT) == expected).then_some(()),
            || self.kubectl(["describe", "pod", pod]).raw_stdout(),
        );
    }

    /// A field of a pod, by a JSONPath template.
    #[track_caller]
    pub fn pod(&self, pod: &str, template: &str) -> String {
        let output = format!("jsonpath={template}");
        self.kubectl(["get", "pod", pod, "-o", &output]).raw_stdout()
    }

    /// A pod's address.
    ///
    /// # Panics
    /// If it has none.
    #[track_caller]
    pub fn address(&self, pod: &str) -> std::net::Ipv4Addr {
        let text = self.pod(pod, "{.status.podIP}");
        text.parse()
            .unwrap_or_else(|_| panic!("expected an IPv4 address of pod {pod}, got {text:?}"))
    }

    /// A pod's IPv6 address, in a cluster of both versions.
    ///
    /// # Panics
    /// If it has none; says how to start such a cluster.
    #[track_caller]
    pub fn address6(&self, pod: &str) -> std::net::Ipv6Addr {
        let text = self.pod(pod, "{.status.podIPs[1].ip}");
        text.parse().unwrap_or_else(|_| {
            panic!("expected an IPv6 address of pod {pod}, got {text:?}: this needs the cluster of `just cluster-dual-test`")
        })
    }

    /// Runs a program in a pod, to its end.
    ///
    /// # Panics
    /// As [`Cluster::kubectl`].
    #[track_caller]
    pub fn exec<'a>(
        &'a self,
        pod: &'a str,
        container: &'a str,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Finished {
        self.start(pod, container, words).finish(COMMAND_LIMIT)
    }

    /// The same in the background.
    #[track_caller]
    pub fn start<'a>(
        &'a self,
        pod: &'a str,
        container: &'a str,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Running {
        let exec = ["exec", pod, "-c", container, "--"];
        self.spawn(exec.into_iter().chain(words))
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let delete = ["kubectl", "delete", "namespace", &self.name, "--wait=false"];
        // A panic here would hide the one that says why the test failed.
        let _ = Running::spawn(self.cluster.command(delete)).try_finish(Duration::from_secs(30));
    }
}

const READY: &str = r#"{.status.conditions[?(@.type=="Ready")].status}"#;
