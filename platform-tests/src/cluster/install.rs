//! adit in the cluster, as `deploy/adit.yaml` puts it there.

use std::path::Path;
use std::time::Duration;

use adit_flow::FlowRecord;
use serde_json::Value;

use super::kinds::policy_kinds;
use super::{COMMAND_LIMIT, Cluster, Node, Privileges};
use crate::process::{Finished, Running, wait_until};

/// The namespace that the manifest makes.
pub(super) const NAMESPACE: &str = "adit-system";
const LIMIT: Duration = Duration::from_secs(180);

/// Command lines by which the processes of a node are found.
pub const AGENT: &str = "/adit node-agent";
/// See [`AGENT`].
pub const HELPER: &str = "/adit node-helper";

/// adit, installed.
#[derive(Clone, Copy, Debug)]
pub struct Adit<'c> {
    cluster: &'c Cluster,
}

impl<'c> Adit<'c> {
    /// Applies the manifest, and the kinds of policy that it knows, and waits until everything in it runs. Does nothing but wait if it's there already.
    ///
    /// # Panics
    /// If it doesn't run within three minutes; says what the pods say.
    #[track_caller]
    pub fn install(cluster: &'c Cluster) -> Self {
        cluster.apply(&policy_kinds());
        let mut kubectl = Running::spawn(cluster.command(["kubectl", "apply", "-f", "-"]));
        kubectl.say(&manifest());
        kubectl.finish(COMMAND_LIMIT).stdout();
        let adit = Self { cluster };
        for part in [
            "deployment/adit-ca",
            "daemonset/adit-helper",
            "daemonset/adit-agent",
        ] {
            adit.wait_rolled_out(part);
        }
        adit
    }

    /// Takes it off both nodes, as `deploy/README.md` says: until [`Adit::delete`] it is installed still, and idle.
    ///
    /// # Panics
    /// If that takes longer than three minutes.
    #[track_caller]
    pub fn take_off(self) {
        self.cluster
            .kubectl(["apply", "-f", &deployed("uninstall.yaml")])
            .stdout();
        self.wait_rolled_out("daemonset/adit-uninstall");
    }

    /// Deletes what was installed.
    ///
    /// # Panics
    /// If that takes longer than three minutes.
    #[track_caller]
    pub fn delete(self) {
        let manifest = deployed("adit.yaml");
        let words = ["kubectl", "delete", "-f", &manifest];
        Running::spawn(self.cluster.command(words)).finish(LIMIT).stdout();
    }

    /// What of adit is left on a node: processes, the plugin and its entry in the runtime's list, pods' outer namespaces.
    #[track_caller]
    pub fn remains(self, node: Node<'_>) -> String {
        let found = [
            "pgrep -fa '^/adit '",
            "grep -l adit-cni /etc/cni/net.d/*",
            "ls /opt/cni/bin | grep adit",
            "ls /run/adit/netns /run/adit/pods | grep -v '^/run\\|^$'",
        ]
        .map(|script| node.run(["sh", "-c", script]).raw_stdout());
        found.concat()
    }

    /// Each of adit's pods, since when it's ready and how often it was started again.
    #[track_caller]
    pub fn ready_since(self) -> String {
        let each = r#"{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")]} {.status.containerStatuses[0].restartCount}{"\n"}{end}"#;
        let output = format!("jsonpath={each}");
        self.cluster
            .kubectl(["-n", NAMESPACE, "get", "pods", "-o", &output])
            .stdout()
    }

    /// Where it's installed.
    pub(super) fn cluster(self) -> &'c Cluster {
        self.cluster
    }

    #[track_caller]
    pub(super) fn wait_rolled_out(self, part: &str) {
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        let words = ["kubectl", "-n", NAMESPACE, "rollout", "status", part, &timeout];
        let done = Running::spawn(self.cluster.command(words)).finish(LIMIT + Duration::from_secs(30));
        assert!(done.code() == 0, "{done}\n{}", self.said());
    }

    /// Starts the agents anew, one node after the other, as an upgrade does, and waits until they are ready.
    ///
    /// # Panics
    /// If that takes longer than three minutes.
    #[track_caller]
    pub fn restart_agents(self) {
        let agents = "daemonset/adit-agent";
        let restart = ["-n", NAMESPACE, "rollout", "restart", agents];
        self.cluster.kubectl(restart).stdout();
        self.wait_rolled_out(agents);
    }

    /// Waits until a kill has healed: agent and helper run on each node, and their pods are ready.
    ///
    /// # Panics
    /// After three minutes.
    #[track_caller]
    pub fn wait_whole(self) {
        // The pods' status may still be that of before the kill.
        for node in [1, 2].map(|number| self.cluster.node(number)) {
            for program in [AGENT, HELPER] {
                wait_until(
                    &format!("`{program}` to run on {}", node.name()),
                    LIMIT,
                    || (!node.processes(program).is_empty()).then_some(()),
                    || self.said(),
                );
            }
        }
        for part in ["daemonset/adit-helper", "daemonset/adit-agent"] {
            self.wait_rolled_out(part);
        }
    }

    /// The pods and the ends of their logs.
    pub fn said(self) -> String {
        let pods = self
            .cluster
            .kubectl(["-n", NAMESPACE, "get", "pods", "-o", "wide"])
            .raw_stdout();
        let logs = ["adit-ca", "adit-helper", "adit-agent"].map(|app| {
            let selector = format!("app={app}");
            self.cluster
                .kubectl([
                    "-n",
                    NAMESPACE,
                    "logs",
                    "-l",
                    &selector,
                    "--tail=15",
                    "--prefix",
                    "--ignore-errors",
                ])
                .raw_stdout()
        });
        format!("{pods}\n{}", logs.concat())
    }

    /// `adit WORD...` in the agent of a node.
    ///
    /// # Panics
    /// If that takes longer than two minutes.
    #[track_caller]
    pub fn agent<'a>(self, node: Node<'_>, words: impl IntoIterator<Item = &'a str>) -> Finished {
        let pod = self.pod_of("adit-agent", node);
        let mut command = self
            .cluster
            .command(["kubectl", "-n", NAMESPACE, "exec", &pod, "--", "/adit"]);
        command.args(words);
        Finished::of(command, COMMAND_LIMIT)
    }

    /// The flow records that the agent of a node keeps.
    ///
    /// # Panics
    /// If a line isn't a record.
    #[track_caller]
    pub fn flows(self, node: Node<'_>) -> Vec<FlowRecord> {
        self.agent(node, ["flows", "--json"]).json_lines()
    }

    /// What agent and helper of a node have said since they were started.
    #[track_caller]
    pub fn logs(self, node: Node<'_>) -> String {
        let of = |app: &str| {
            let pod = self.pod_of(app, node);
            self.cluster.kubectl(["-n", NAMESPACE, "logs", &pod]).raw_stdout()
        };
        of("adit-helper") + &of("adit-agent")
    }

    /// Waits until the agents of both nodes have the SVID of a namespace's pods: an agent that has just started lets their
    /// flows pass plain until then.
    ///
    /// # Panics
    /// After three minutes.
    #[track_caller]
    pub fn wait_identified(self, namespace: &str) {
        let own = format!("spiffe://cluster.local/ns/{namespace}/sa/default");
        for node in [1, 2].map(|number| self.cluster.node(number)) {
            wait_until(
                &format!("the agent on {} to have {own}", node.name()),
                LIMIT,
                || {
                    let identities = self.agent(node, ["identity"]).raw_stdout();
                    identities.contains(&own).then_some(())
                },
                || self.said(),
            );
        }
    }

    /// What the API server answers to a PATCH that an agent sends with its own token: the HTTP status.
    ///
    /// # Panics
    /// If it doesn't answer.
    #[track_caller]
    pub fn patch_as_agent(self, node: Node<'_>, path: &str, patch: &Value) -> u16 {
        let pod = self.pod_of("adit-agent", node);
        let token = self
            .cluster
            .kubectl([
                "-n",
                NAMESPACE,
                "create",
                "token",
                "adit-agent",
                "--bound-object-kind",
                "Pod",
                "--bound-object-name",
                &pod,
            ])
            .stdout();
        let (token, patch) = (
            format!("Authorization: Bearer {}", token.trim()),
            patch.to_string(),
        );
        let url = format!("https://10.99.0.254:6443{path}");
        let answer = self.cluster.outside([
            "curl",
            "-sS",
            "-k",
            "--max-time",
            "10",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "PATCH",
            "-H",
            &token,
            "-H",
            "Content-Type: application/strategic-merge-patch+json",
            "-d",
            &patch,
            &url,
        ]);
        let status = answer.stdout();
        status
            .parse()
            .unwrap_or_else(|_| panic!("expected an HTTP status of {url}: {answer}"))
    }

    /// The name of the pod of `app` on a node.
    #[track_caller]
    fn pod_of(self, app: &str, node: Node<'_>) -> String {
        let label = format!("app={app}");
        let selector = format!("spec.nodeName={}", node.name());
        self.cluster
            .kubectl([
                "-n",
                NAMESPACE,
                "get",
                "pods",
                "-l",
                &label,
                "--field-selector",
                &selector,
                "-o",
                "jsonpath={.items[0].metadata.name}",
            ])
            .stdout()
    }

    /// What the agent of a node may do.
    ///
    /// # Panics
    /// If there isn't exactly one.
    #[track_caller]
    pub fn agent_privileges(self, node: Node<'_>) -> Privileges {
        let pid = node.process(AGENT);
        let status = node.run(["cat", &format!("/proc/{pid}/status")]).stdout();
        status
            .parse()
            .unwrap_or_else(|error| panic!("{error} in:\n{status}"))
    }

    /// Rules and listeners in the outer namespace of a pod, by its uid, in a comparable form.
    ///
    /// # Panics
    /// If the pod has no outer namespace on that node.
    #[track_caller]
    pub fn outer_state(self, node: Node<'_>, uid: &str) -> String {
        let enter = format!("--net=/run/adit/netns/{uid}");
        let rules = node.run(["nsenter", &enter, "ip", "rule"]).stdout();
        let listeners = node.run(["nsenter", &enter, "ss", "-Hltn"]).stdout();
        format!("{rules}{listeners}")
    }

    /// Waits until the outer namespace of a pod is as it was; on-demand ports that nobody uses may take a while to close.
    ///
    /// # Panics
    /// After three minutes.
    #[track_caller]
    pub fn wait_outer_state(self, node: Node<'_>, uid: &str, before: &str) {
        wait_until(
            "the outer namespace to be as it was",
            LIMIT,
            || (self.outer_state(node, uid) == before).then_some(()),
            || format!("before:\n{before}\nnow:\n{}", self.outer_state(node, uid)),
        );
    }
}

/// The manifest, with the link that `ADIT_TEST_LINK` names instead of the helper's own choice.
fn manifest() -> String {
    const ARGUMENT: &str = "- --link=auto\n";
    let path = deployed("adit.yaml");
    let manifest = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let link = std::env::var("ADIT_TEST_LINK").unwrap_or_else(|_| "auto".to_owned());
    eprintln!("ADIT_TEST_LINK={link} (default auto)");
    assert!(manifest.contains(ARGUMENT), "{path} lets the helper choose");
    manifest.replace(ARGUMENT, &format!("- --link={link}\n"))
}

/// The path of one of the manifests in `deploy/`.
fn deployed(manifest: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(manifest);
    path.to_str().expect("the repository's path is text").to_owned()
}
