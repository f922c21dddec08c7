//! What the agent does when its control socket asks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_control::kubernetes::Account;
use adit_control::{Joined, Mesh, PolicyDocument, Snapshot, View};
use adit_flow::WorkloadName;
use adit_identity::SpiffeId;
use adit_link::Queue;
use adit_policy::Trace;
use adit_policy::commands::ask::{Asker, Query, QueryError};
use serde_json::json;
use tokio::sync::Mutex;

use super::AgentSettings;
use super::arrivals::Arrivals;
use super::policies::Policies;
use super::running::Running;
use crate::admin::{
    ExplainQuery, Explained, Fault, FlowHub, Handler, JoinedWorkload, MeshUpdate, PolicyText, SvidStatus,
};
use crate::identities::IdentityStatus;

/// The agent behind its control socket. There is no mesh until the supervisor gives one.
pub(crate) struct Agent {
    settings: AgentSettings,
    /// Of the helper that makes the supervisor's pods; there is none on a node.
    node_socket: Option<PathBuf>,
    hub: Arc<FlowHub>,
    /// Connections from other nodes that have no worker yet.
    pub(super) arrivals: Arc<Arrivals>,
    running: OnceLock<Arc<Running>>,
    /// One change at a time: a pod isn't added while the mesh it belongs to is being replaced.
    changing: Mutex<Policies>,
}

impl Agent {
    /// An agent without a mesh.
    pub(crate) fn new(settings: AgentSettings, node_socket: Option<PathBuf>, hub: Arc<FlowHub>) -> Self {
        Self {
            settings,
            node_socket,
            hub,
            arrivals: Arc::default(),
            running: OnceLock::new(),
            changing: Mutex::new(Policies::new()),
        }
    }

    /// The mesh being served.
    pub(crate) fn running(&self) -> Option<&Arc<Running>> {
        self.running.get()
    }

    /// Takes the mesh and the policies as they are now; the first time the workers are started. Workloads that are `joining`
    /// are outside the mesh still, and will need their SVIDs.
    pub(crate) async fn publish(
        &self,
        snapshot: Arc<Snapshot>,
        joining: &[WorkloadName],
        texts: &[Arc<PolicyDocument>],
        accounts: &[Arc<Account>],
    ) -> Result<&Arc<Running>, Fault> {
        let mut policies = self.changing.lock().await;
        policies
            .read(texts)
            .map_err(|error| Fault::new(BAD_POLICY, error.to_string()))?;
        let set = policies.compile(&snapshot, accounts);
        match self.running() {
            Some(running) if *running.trust_domain() != snapshot.trust_domain => Err(Fault::new(
                BAD_MESH,
                format!(
                    "the trust domain of a running mesh can't change: expected {}, got {}; stop the mesh and start it again",
                    running.trust_domain(),
                    snapshot.trust_domain
                ),
            )),
            Some(running) => {
                running.publish(snapshot, joining, set).await;
                Ok(running)
            }
            None => {
                let running = Running::start(&self.settings, snapshot, joining, set, Arc::clone(&self.hub))
                    .map_err(|error| Fault::new(BAD_MESH, error.to_string()))?;
                Ok(self.running.get_or_init(|| running))
            }
        }
    }

    /// On a node nobody but Kubernetes says what the mesh is.
    fn expect_laptop(&self) -> Result<&PathBuf, Fault> {
        self.node_socket.as_ref().ok_or_else(|| {
            Fault::new(
                NOT_OURS_TO_TELL,
                "this agent serves a node: the Kubernetes API says what its mesh is, and which pods are in it",
            )
        })
    }

    fn expect_running(&self) -> Result<&Arc<Running>, Fault> {
        self.running()
            .ok_or_else(|| Fault::new(NO_MESH, "the agent was not told its mesh yet"))
    }

    /// Ends the flow records, once those who read them have the last ones: this process ends next, and with it the
    /// connections on which they are told.
    pub(crate) async fn tell_last_records(&self) {
        self.hub.close();
        self.hub.read_out(LAST_RECORDS).await;
    }
}

/// How long those who read flow records may take for the last ones.
const LAST_RECORDS: Duration = Duration::from_millis(500);
/// The agent was asked before it had a mesh.
const NO_MESH: &str = "ADIT-A050";
/// The mesh can't be taken: the file, the CA.
const BAD_MESH: &str = "ADIT-A051";
/// A policy file can't be read.
const BAD_POLICY: &str = "ADIT-A053";
/// A flow that can't be asked about.
const BAD_QUESTION: &str = "ADIT-A054";
/// The agent of a node was told something that only Kubernetes tells it.
const NOT_OURS_TO_TELL: &str = "ADIT-A055";
/// The helper gave no queue.
const NO_QUEUE: &str = "ADIT-A052";

impl Handler for Agent {
    async fn add_pod(&self, pod: WorkloadName) -> Result<(), Fault> {
        let _changing = self.changing.lock().await;
        let node_socket = self.expect_laptop()?.clone();
        let running = self.expect_running()?;
        let queue = fetch_queue(node_socket, pod.to_string()).await?;
        running
            .add_pod(pod, queue)
            .await
            .map_err(|error| Fault::new(NO_QUEUE, error.to_string()))
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, Fault> {
        let running = self.expect_running()?;
        let mut counters = running.counters();
        self.arrivals.collect(&mut counters);
        for gauges in running.gauges().await {
            *counters.entry("pods".to_owned()).or_default() += gauges.pods as u64;
            *counters.entry("flows_relayed".to_owned()).or_default() += gauges.flows as u64;
            *counters.entry("tunnels".to_owned()).or_default() += gauges.tunnels as u64;
            for (name, value) in gauges.counts {
                *counters.entry(name).or_default() += value;
            }
        }
        Ok(counters)
    }

    async fn drain(&self, deadline_ms: u64) -> Result<(), Fault> {
        if let Some(running) = self.running() {
            running.drain(Duration::from_millis(deadline_ms)).await;
        }
        self.tell_last_records().await;
        Ok(())
    }

    async fn dump(&self) -> Result<serde_json::Value, Fault> {
        let running = self.expect_running()?;
        let snapshot = running.shared.snapshot.load();
        Ok(json!({
            "mesh": snapshot.mesh,
            "generation": snapshot.generation,
            "trustDomain": snapshot.trust_domain.as_str(),
            "policies": {
                "generation": running.shared.policy.load().generation(),
                "count": running.shared.policy.load().policy_count(),
            },
            "workloads": snapshot.workloads.values().map(|workload| json!({
                "name": workload.name,
                "identity": workload.identity.to_string(),
                "addresses": workload.addresses,
                "ready": workload.ready,
                "inMesh": workload.in_mesh,
                "location": format!("{:?}", workload.location),
                "worker": running.shared.places.load().get(&workload.name),
            })).collect::<Vec<_>>(),
            "services": snapshot.services.values().map(|service| json!({
                "name": service.name,
                "addresses": service.addresses,
                "endpoints": service.endpoints.iter().map(|endpoint| &endpoint.workload).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "workers": running.gauges().await.iter().map(|gauges| json!({
                "pods": gauges.pods, "flows": gauges.flows, "tunnels": gauges.tunnels,
            })).collect::<Vec<_>>(),
        }))
    }

    async fn explain(&self, query: ExplainQuery) -> Result<Explained, Fault> {
        let running = self.expect_running()?;
        let bad = |error: QueryError| Fault::new(BAD_QUESTION, error.to_string());
        let question = Query {
            plain: query.plain,
            ..Query::parse(&query.from, &query.to).map_err(bad)?
        };
        let set = running.shared.policy.load_full();
        let snapshot = running.shared.snapshot.load_full();
        let outside = snapshot.workloads.values().filter(|workload| !workload.in_mesh);
        let outside = outside
            .flat_map(|workload| workload.addresses.iter().copied())
            .collect();
        let asker = Asker::new(&set, running.trust_domain().clone()).with_outside(outside);
        let answer = asker.ask(&question, Trace::On).map_err(bad)?;
        Ok(Explained {
            allowed: answer.is_allowed(),
            text: answer.render(),
        })
    }

    fn flows(&self) -> Arc<FlowHub> {
        Arc::clone(&self.hub)
    }

    async fn identity(&self) -> Result<Vec<SvidStatus>, Fault> {
        let running = self.expect_running()?;
        let snapshot = running.shared.snapshot.load();
        Ok(running
            .identities()
            .into_iter()
            .filter_map(|held| svid_status(held, &snapshot))
            .collect())
    }

    async fn remove_pod(&self, pod: WorkloadName) -> Result<(), Fault> {
        self.expect_laptop()?;
        let _changing = self.changing.lock().await;
        if let Some(running) = self.running() {
            running.remove_pod(&pod).await;
        }
        Ok(())
    }

    async fn set_mesh(&self, update: MeshUpdate) -> Result<(), Fault> {
        self.expect_laptop()?;
        let snapshot = snapshot(&update)?;
        let policies: Vec<_> = update.policies.iter().map(PolicyText::to_document).collect();
        self.publish(Arc::new(snapshot), &[], &policies, &[])
            .await
            .map(drop)
    }
}

/// The supervisor has checked the file already; what it sends is checked again, since it decides who is who.
fn snapshot(update: &MeshUpdate) -> Result<Snapshot, Fault> {
    let loaded = adit_control::parse(&update.path, &update.text)
        .map_err(|report| Fault::new(BAD_MESH, report.render(adit_control::Style::Plain)))?;
    let joined = update
        .joined
        .iter()
        .map(|joined| restore(&loaded.mesh, joined))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(adit_control::build(
        &loaded.mesh,
        View {
            node: update.node.as_deref(),
            ready: &|name| update.ready.contains(name),
            joined: &joined,
            generation: update.generation,
        },
    ))
}

/// A workload that joined, as the supervisor allocated it.
fn restore(mesh: &Mesh, joined: &JoinedWorkload) -> Result<Joined, Fault> {
    let identity = SpiffeId::new(
        mesh.trust_domain.clone(),
        &joined.name.namespace,
        &joined.service_account,
    )
    .map_err(|error| Fault::new(BAD_MESH, format!("joined workload {}: {error}", joined.name)))?;
    Ok(Joined {
        name: joined.name.clone(),
        identity,
        labels: joined.labels.clone(),
        addresses: joined.addresses.clone(),
        ports: Vec::new(),
    })
}

/// The helper answers at once; it is asked on a thread of its own all the same, since this one serves others.
async fn fetch_queue(socket: PathBuf, pod: String) -> Result<Queue, Fault> {
    let fetched = tokio::task::spawn_blocking(move || {
        let mut client = adit_node::Client::connect(&socket).map_err(|error| error.to_string())?;
        let mut queues = client.open_queues(&pod).map_err(|error| error.to_string())?;
        let queue = queues
            .pop()
            .ok_or_else(|| format!("the node helper has no queue of {pod}"))?;
        Queue::from_fd(queue).map_err(|error| format!("taking the queue of {pod}: {error}"))
    });
    fetched
        .await
        .unwrap_or_else(|panic| Err(panic.to_string()))
        .map_err(|error| Fault::new(NO_QUEUE, error))
}

fn svid_status(held: IdentityStatus, snapshot: &Snapshot) -> Option<SvidStatus> {
    let svid = held.svid?;
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let users = snapshot
        .workloads
        .values()
        .filter(|workload| workload.is_local() && workload.identity == held.id);
    Some(SvidStatus {
        identity: held.id.to_string(),
        serial: svid.serial().to_owned(),
        not_before: seconds(svid.not_before()),
        not_after: seconds(svid.not_after()),
        rotations: held.rotations,
        workloads: users.map(|workload| workload.name.clone()).collect(),
        renewal_error: held.error,
    })
}
