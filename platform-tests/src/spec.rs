//! Mesh files for tests. JSON is YAML.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// The namespace of every workload in the tests.
pub const NAMESPACE: &str = "test";

/// A mesh file.
#[derive(Clone, Debug)]
pub struct MeshSpec {
    name: String,
    nodes: Vec<Value>,
    workloads: Vec<Workload>,
    services: Vec<Value>,
    policies: Vec<PathBuf>,
    addresses: Option<Value>,
    test: Option<String>,
}

/// One workload of it.
#[derive(Clone, Debug)]
pub struct Workload {
    name: String,
    fields: Value,
}

impl MeshSpec {
    /// An empty mesh with the namespace [`NAMESPACE`].
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            nodes: Vec::new(),
            workloads: Vec::new(),
            services: Vec::new(),
            policies: Vec::new(),
            addresses: None,
            test: None,
        }
    }

    /// The mesh's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a workload, and a service of the same name if it declares a port.
    pub fn workload(mut self, workload: Workload) -> Self {
        if let Some(ports) = workload.fields.get("ports").and_then(Value::as_array) {
            let ports: Vec<Value> = ports
                .iter()
                .map(|port| {
                    let protocol = port.get("protocol").cloned().unwrap_or_else(|| "TCP".into());
                    json!({"name": port["name"], "port": port["containerPort"], "targetPort": port["name"], "protocol": protocol})
                })
                .collect();
            let service = json!({
                "name": workload.name, "namespace": NAMESPACE, "selector": {"app": workload.name}, "ports": ports,
            });
            self.services.push(service);
        }
        self.workloads.push(workload);
        self
    }

    /// Adds a node that others reach at `hbone`.
    pub fn node(mut self, name: &str, hbone: &str) -> Self {
        self.nodes.push(json!({"name": name, "hbone": hbone}));
        self
    }

    /// Takes addresses from these ranges, one of each IP version at most.
    pub fn addresses(mut self, pods: &[&str], services: &[&str]) -> Self {
        self.addresses = Some(json!({"pods": pods, "services": services}));
        self
    }

    /// Names a policy file, or a folder of them.
    pub fn policies(mut self, path: impl Into<PathBuf>) -> Self {
        self.policies.push(path.into());
        self
    }

    /// Names the workload that `adit up --once` runs as the test.
    pub fn test(mut self, workload: &str) -> Self {
        self.test = Some(format!("{NAMESPACE}/{workload}"));
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let workloads: Vec<&Value> = self.workloads.iter().map(|workload| &workload.fields).collect();
        let mut file = json!({
            "apiVersion": "adit.dev/v1alpha1", "kind": "Mesh", "name": self.name, "trustDomain": "test.local",
            "namespaces": [{"name": NAMESPACE}], "workloads": workloads, "services": self.services,
            "policies": self.policies,
        });
        if let Some(addresses) = &self.addresses {
            file["addresses"] = addresses.clone();
        }
        if let Some(test) = &self.test {
            file["test"] = json!(test);
        }
        if !self.nodes.is_empty() {
            file["nodes"] = json!(self.nodes);
        }
        serde_json::to_string_pretty(&file).expect("JSON is JSON")
    }
}

impl Workload {
    /// A program. It isn't started again if it ends.
    pub fn new<S: Into<String>>(name: &str, argv: impl IntoIterator<Item = S>) -> Self {
        let command: Vec<String> = argv.into_iter().map(Into::into).collect();
        let fields = json!({
            "name": name, "namespace": NAMESPACE, "labels": {"app": name}, "serviceAccountName": name,
            "command": command, "restartPolicy": "Never",
        });
        Self {
            name: name.to_owned(),
            fields,
        }
    }

    /// A program that listens on `port` and is ready when it does.
    pub fn server<S: Into<String>>(name: &str, port: u16, argv: impl IntoIterator<Item = S>) -> Self {
        let mut workload = Self::new(name, argv);
        workload.fields["ports"] = json!([{"name": "main", "containerPort": port}]);
        workload.set("readinessProbe", json!({"tcpSocket": {"port": "main"}}))
    }

    /// `adit-load serve` on 16 ports from `port` on.
    pub fn load_server(sandbox: &Sandbox, name: &str, port: u16) -> Self {
        let server = Self::server(name, port, load_server_command(sandbox, name, port));
        let named = |index: u16| match index {
            0 => "main".to_owned(),
            index => format!("port-{index}"),
        };
        let ports: Vec<Value> = (0..LOAD_PORTS)
            .map(|index| json!({"name": named(index), "containerPort": port + index}))
            .collect();
        server.set("ports", json!(ports))
    }

    /// Runs until stopped and does nothing: a place to be.
    pub fn idle(name: &str) -> Self {
        Self::new(name, ["sleep", "infinity"])
    }

    /// A shell that runs what [`Mesh::run_in`](crate::Mesh::run_in) gives it. Other nodes know a workload of the file but
    /// none that joins, so between nodes the clients are of this kind.
    ///
    /// # Panics
    /// If its queue can't be made.
    #[track_caller]
    pub fn shell(sandbox: &Sandbox, name: &str) -> Self {
        let jobs = sandbox.folder(&format!("home/{name}.jobs"));
        sandbox.fifo(&format!("home/{name}.jobs/queue"));
        // Held open both ways: a job that is written while another is read would go with a descriptor that is closed in between.
        let script = "exec 3<>$0/queue; while read -r job <&3; do sh $job 3<&- & done";
        Self::new(name, ["sh", "-c", script, &jobs.to_string_lossy()])
    }

    /// On which node it runs.
    pub fn on(self, node: &str) -> Self {
        self.set("nodeName", json!(node))
    }

    /// Sets any field of the file.
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.fields[field] = value;
        self
    }
}

/// `adit-load serve` on [`LOAD_PORTS`] ports from `port` on, with its log in the home of the sandbox's user.
pub(crate) fn load_server_command(sandbox: &Sandbox, name: &str, port: u16) -> Vec<String> {
    let log = sandbox.dir().join(format!("home/{name}.served"));
    let (port, ports) = (port.to_string(), LOAD_PORTS.to_string());
    let words = [
        "--limit",
        SERVER_LIMIT,
        "serve",
        "--port",
        &port,
        "--ports",
        &ports,
        "--log",
        &log.to_string_lossy(),
    ];
    std::iter::once(sandbox.load())
        .chain(words.map(str::to_owned))
        .collect()
}

/// Seconds after which such a server ends by itself: no run is as long, the soak of an hour included.
const SERVER_LIMIT: &str = "10800";

/// How many ports such a server has: enough that closed connections never use up a client's ports.
pub(crate) const LOAD_PORTS: u16 = 16;
