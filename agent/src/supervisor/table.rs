//! What runs: one row a workload. Pure; the supervisor owns it, and everything that is told to the agent or to
//! people is made of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_control::{JoinError, Joined, Mesh, PolicyDocument, Snapshot, View, WorkloadSpec};
use adit_flow::WorkloadName;
use adit_identity::TrustDomain;
use adit_link::LinkKind;

use crate::admin::{
    Fault, FilesStatus, JoinRequest, JoinedWorkload, MeshUpdate, PolicyText, PsReport, PsRow, RefusedFiles,
    WorkloadState,
};

/// The mesh as it was read, and which part of it runs here.
#[derive(Clone, Debug)]
pub struct Source {
    /// The mesh file's path.
    pub path: PathBuf,
    /// What stands in it.
    pub text: String,
    /// What it means.
    pub mesh: Arc<Mesh>,
    /// The node that this is; `None` in a mesh without nodes.
    pub node: Option<String>,
}

/// What the agent is to know and to serve. The latest is the only one that counts.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub(super) update: Arc<MeshUpdate>,
    pub(super) pods: Arc<BTreeSet<Pod>>,
}

/// One pod, apart from others that have its name at other times: somebody may leave and join again before the agent
/// was told of either.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pod {
    pub(super) name: WorkloadName,
    /// The generation of the table in which its workload appeared.
    pub(super) born: u64,
}

/// What happened to a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Its program ended.
    Exited {
        /// In words.
        how: String,
        succeeded: bool,
        /// The pause before it is started again, if it is.
        retry_in: Option<Duration>,
    },
    /// The helper made its pod.
    PodMade {
        pod: Pod,
        /// What its packets go through.
        link: LinkKind,
    },
    /// A readiness check changed its state.
    Ready(bool),
    /// Its program was started.
    Started { pid: u32 },
    /// It was told to stop.
    Stopping,
}

/// How much of a changed mesh file took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    /// All that the agent knows: labels, services, service accounts, policies.
    Whole {
        /// Whether commands, probes or restart policies changed too, which a running program doesn't see.
        restart_needed: bool,
    },
    /// The policies alone: the file has other workloads than run.
    Policies,
}

/// How far everything beside a test is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Around {
    /// A workload has ended for good, and not well.
    Failed {
        name: WorkloadName,
        /// In words.
        how: String,
    },
    /// All are ready, or have done their work.
    Ready,
    /// These aren't yet, with their state.
    Waiting(Vec<String>),
}

#[derive(Debug)]
struct Row {
    name: WorkloadName,
    addresses: Vec<IpAddr>,
    /// Readiness follows a probe; without one, running is being ready.
    probed: bool,
    life: Life,
    since: Instant,
    born: u64,
    pod_link: Option<LinkKind>,
    ready: bool,
    starts: u32,
    last_exit: Option<String>,
    joined: Option<Joined>,
    service_account: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Life {
    Completed,
    CrashLoop { until: Instant },
    Elsewhere { node: String },
    Failed,
    Joined,
    Pending,
    Running { pid: u32 },
    Stopping,
}

/// The rows of every workload.
#[derive(Debug)]
pub(super) struct Table {
    source: Source,
    generation: u64,
    files: Files,
    rows: Vec<Row>,
}

/// What became of the versions of the mesh file and its policy files.
#[derive(Debug)]
struct Files {
    /// Those that took effect, the first included.
    accepted: u64,
    since: Instant,
    refused: Option<(Fault, Instant)>,
}

impl Table {
    /// Every replica of the mesh; those of this node are pending.
    pub(super) fn new(source: Source, now: Instant) -> Self {
        let rows = source
            .mesh
            .replicas()
            .map(|replica| Row {
                addresses: source.mesh.allocation.workload(&replica.name).to_vec(),
                probed: replica.spec.readiness.is_some(),
                life: match &replica.spec.node {
                    Some(node) if Some(node) != source.node.as_ref() => {
                        Life::Elsewhere { node: node.clone() }
                    }
                    _ => Life::Pending,
                },
                since: now,
                born: 1,
                pod_link: None,
                // Nobody tells us of other nodes' replicas: whoever connects finds out.
                ready: replica.spec.node.is_some() && replica.spec.node != source.node,
                starts: 0,
                last_exit: None,
                joined: None,
                service_account: replica.spec.identity.service_account().to_owned(),
                name: replica.name,
            })
            .collect();
        Self {
            source,
            generation: 1,
            files: Files {
                accepted: 1,
                since: now,
                refused: None,
            },
            rows,
        }
    }

    /// Takes a change in. Whether the agent has to know.
    pub(super) fn on_change(&mut self, name: &WorkloadName, change: Change, now: Instant) -> bool {
        let Some(row) = self.rows.iter_mut().find(|row| row.name == *name) else {
            return false;
        };
        let before = (row.ready, row.pod_link);
        match change {
            Change::Exited {
                how,
                succeeded,
                retry_in,
            } => {
                row.ready = false;
                row.last_exit = Some(how);
                row.enter(
                    match retry_in {
                        Some(pause) => Life::CrashLoop { until: now + pause },
                        None if succeeded => Life::Completed,
                        None => Life::Failed,
                    },
                    now,
                );
            }
            Change::PodMade { pod, link } => {
                if pod.born == row.born {
                    row.pod_link = Some(link);
                }
                // Its program is another's to start: with its pod it is as ready as we can tell.
                row.ready |= row.pod_link.is_some() && row.joined.is_some();
            }
            Change::Ready(ready) => row.ready = ready && matches!(row.life, Life::Running { .. }),
            Change::Started { pid } => {
                row.ready = !row.probed;
                row.starts += 1;
                row.enter(Life::Running { pid }, now);
            }
            Change::Stopping => {
                row.ready = false;
                row.enter(Life::Stopping, now);
            }
        }
        let changed = before != (row.ready, row.pod_link);
        self.generation += u64::from(changed);
        changed
    }

    /// Adds a workload that joins. Its pod is still to be made.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub(super) fn join(&mut self, request: JoinRequest, now: Instant) -> Result<Pod, JoinError> {
        let before = self.joined();
        let request = adit_control::JoinRequest {
            name: request.name,
            service_account: request.service_account,
            labels: request.labels,
            ports: Vec::new(),
        };
        let joined = self
            .source
            .mesh
            .join(self.source.node.as_deref(), &before, request)?;
        self.generation += 1;
        let pod = Pod {
            name: joined.name.clone(),
            born: self.generation,
        };
        self.rows.push(Row {
            name: joined.name.clone(),
            addresses: joined.addresses.clone(),
            probed: false,
            life: Life::Joined,
            since: now,
            born: pod.born,
            pod_link: None,
            ready: false,
            starts: 0,
            last_exit: None,
            service_account: joined.identity.service_account().to_owned(),
            joined: Some(joined),
        });
        Ok(pod)
    }

    /// Removes a workload that joined; nothing happens for any other. Whether the agent has to know.
    pub(super) fn leave(&mut self, pod: &Pod) -> bool {
        let before = self.rows.len();
        self.rows.retain(|row| row.joined.is_none() || row.pod() != *pod);
        let left = self.rows.len() != before;
        self.generation += u64::from(left);
        left
    }

    /// Takes what the mesh file and its policy files say now. Where the file has other workloads than run, or they
    /// have other addresses, only its policies are taken: what runs is decided at the start.
    pub(super) fn replace(&mut self, mesh: Mesh, text: String, now: Instant) -> Replaced {
        self.generation += 1;
        self.files = Files {
            accepted: self.files.accepted + 1,
            since: now,
            refused: None,
        };
        let running = &self.source.mesh;
        if placed(running).eq(placed(&mesh)) {
            let restart_needed = !run_alike(running, &mesh);
            self.source.mesh = Arc::new(mesh);
            self.source.text = text;
            return Replaced::Whole { restart_needed };
        }
        let mut running = (**running).clone();
        running.policy_paths = mesh.policy_paths;
        running.policies = mesh.policies;
        self.source.mesh = Arc::new(running);
        Replaced::Policies
    }

    /// The trust domain of the mesh that runs, which can't change while it does.
    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.source.mesh.trust_domain
    }

    /// Notes that a saved version of the files can't be taken: the last one stays in force.
    pub(super) fn refuse(&mut self, fault: Fault, now: Instant) {
        self.files.refused = Some((fault, now));
    }

    /// What the agent is to know and to serve.
    pub(super) fn desired(&self) -> Desired {
        let joined = self.rows.iter().filter_map(|row| {
            let joined = row.joined.as_ref()?;
            Some(JoinedWorkload {
                name: joined.name.clone(),
                labels: joined.labels.clone(),
                service_account: row.service_account.clone(),
                addresses: joined.addresses.clone(),
            })
        });
        let update = MeshUpdate {
            generation: self.generation,
            path: self.source.path.clone(),
            text: self.source.text.clone(),
            policies: policy_texts(&self.source.mesh),
            node: self.source.node.clone(),
            ready: self
                .rows
                .iter()
                .filter(|row| row.ready)
                .map(|row| row.name.clone())
                .collect(),
            joined: joined.collect(),
        };
        let pods = self
            .rows
            .iter()
            .filter(|row| row.pod_link.is_some())
            .map(Row::pod);
        Desired {
            update: Arc::new(update),
            pods: Arc::new(pods.collect()),
        }
    }

    /// How far the workloads of this node are that are there for `test`. Those that joined aren't.
    pub(super) fn around(&self, test: &WorkloadName, now: Instant) -> Around {
        let mut waiting = Vec::new();
        for row in self
            .rows
            .iter()
            .filter(|row| row.name != *test && row.joined.is_none())
        {
            match &row.life {
                Life::Completed | Life::Elsewhere { .. } => {}
                Life::Failed => {
                    return Around::Failed {
                        name: row.name.clone(),
                        how: row.last_exit.clone().unwrap_or_default(),
                    };
                }
                _ if row.ready => {}
                life => waiting.push(match &row.last_exit {
                    Some(how) => format!("{} ({}, last ended with {how})", row.name, life.state(now)),
                    None => format!("{} ({})", row.name, life.state(now)),
                }),
            }
        }
        match waiting.is_empty() {
            true => Around::Ready,
            false => Around::Waiting(waiting),
        }
    }

    /// How a workload's program last ended, in words.
    pub(super) fn last_exit(&self, name: &WorkloadName) -> Option<String> {
        let row = self.rows.iter().find(|row| row.name == *name)?;
        row.last_exit.clone()
    }

    /// The version of what the agent is to know.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// What `adit ps` shows, without the processes.
    pub(super) fn report(&self, now: Instant) -> PsReport {
        let rows = self.rows.iter().map(|row| PsRow {
            name: row.name.clone(),
            addresses: row.addresses.clone(),
            link: row.pod_link.map(|link| link.to_string()),
            state: row.life.state(now),
            ready: row.ready,
            restarts: row.starts.saturating_sub(1),
            last_exit: row.last_exit.clone(),
            seconds_in_state: now.saturating_duration_since(row.since).as_secs(),
        });
        PsReport {
            mesh: self.source.mesh.name.clone(),
            node: self.source.node.clone(),
            supervisor_pid: 0,
            agent_pid: None,
            agent_restarts: 0,
            lines_dropped: 0,
            files: FilesStatus {
                path: self.source.path.clone(),
                generation: self.files.accepted,
                seconds_in_force: now.saturating_duration_since(self.files.since).as_secs(),
                refused: self.files.refused.as_ref().map(|(fault, at)| RefusedFiles {
                    fault: fault.clone(),
                    seconds_ago: now.saturating_duration_since(*at).as_secs(),
                }),
            },
            workloads: rows.collect(),
        }
    }

    /// The pod that `name` has or will have.
    pub(super) fn pod(&self, name: &WorkloadName) -> Option<Pod> {
        self.rows.iter().find(|row| row.name == *name).map(Row::pod)
    }

    /// The mesh as workloads see it, for what doesn't depend on readiness.
    pub(super) fn snapshot(&self) -> Snapshot {
        let view = View {
            node: self.source.node.as_deref(),
            ready: &|_| false,
            joined: &self.joined(),
            generation: self.generation,
        };
        adit_control::build(&self.source.mesh, view)
    }

    fn joined(&self) -> Vec<Joined> {
        self.rows.iter().filter_map(|row| row.joined.clone()).collect()
    }
}

impl Row {
    fn pod(&self) -> Pod {
        Pod {
            name: self.name.clone(),
            born: self.born,
        }
    }

    fn enter(&mut self, life: Life, now: Instant) {
        self.life = life;
        self.since = now;
    }
}

impl Life {
    fn state(&self, now: Instant) -> WorkloadState {
        match self {
            Self::Completed => WorkloadState::Completed,
            Self::CrashLoop { until } => WorkloadState::CrashLoop {
                retry_in_seconds: until.saturating_duration_since(now).as_secs(),
            },
            Self::Elsewhere { node } => WorkloadState::Elsewhere { node: node.clone() },
            Self::Failed => WorkloadState::Failed,
            Self::Joined => WorkloadState::Joined,
            Self::Pending => WorkloadState::Pending,
            Self::Running { pid } => WorkloadState::Running { pid: *pid },
            Self::Stopping => WorkloadState::Stopping,
        }
    }
}

/// The policy files as the agent takes them.
pub(super) fn policy_texts(mesh: &Mesh) -> Vec<PolicyText> {
    let text = |file: &PolicyDocument| PolicyText {
        path: file.path.clone(),
        text: file.text.clone(),
    };
    mesh.policies.iter().map(text).collect()
}

/// Every replica with its place in the network.
fn placed(mesh: &Mesh) -> impl Iterator<Item = (WorkloadName, Option<&str>, &[IpAddr])> {
    mesh.replicas().map(|replica| {
        let addresses = mesh.allocation.workload(&replica.name);
        (replica.name, replica.spec.node.as_deref(), addresses)
    })
}

/// Whether the workloads of both, which are placed alike, have programs that are run alike: what only a new start changes.
fn run_alike(running: &Mesh, saved: &Mesh) -> bool {
    let alike = |(one, other): (&WorkloadSpec, &WorkloadSpec)| {
        one.command == other.command
            && one.args == other.args
            && one.env == other.env
            && one.working_dir == other.working_dir
            && one.restart == other.restart
            && one.readiness == other.readiness
    };
    running.workloads.len() == saved.workloads.len()
        && running.workloads.iter().zip(&saved.workloads).all(alike)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    const MESH: &str = "
apiVersion: adit.dev/v1alpha1
kind: Mesh
name: shop
namespaces: [{name: shop}]
workloads:
- {name: web, namespace: shop, replicas: 2, command: [httpd], readinessProbe: {tcpSocket: {port: 8080}}}
- {name: db, namespace: shop, command: [postgres]}
";

    fn table(now: Instant) -> Table {
        let path = Path::new("/mesh.yaml");
        let mesh = Arc::new(adit_control::parse(path, MESH).unwrap().mesh);
        Table::new(
            Source {
                path: path.into(),
                text: MESH.into(),
                mesh,
                node: None,
            },
            now,
        )
    }

    #[test]
    fn a_changed_file_takes_effect_as_far_as_the_same_workloads_run() {
        let replace = |from: &str, to: &str| {
            let mut table = table(Instant::now());
            let before = table.desired().update;
            let text = MESH.replace(from, to);
            let mesh = adit_control::parse(Path::new("/mesh.yaml"), &text).unwrap().mesh;
            let replaced = table.replace(mesh, text, Instant::now());
            let after = table.desired().update;
            assert!(after.generation > before.generation);
            (replaced, after.text != before.text)
        };
        let whole = |restart_needed| Replaced::Whole { restart_needed };
        assert_eq!(
            replace("command: [postgres]", "command: [postgres], labels: {a: b}"),
            (whole(false), true)
        );
        assert_eq!(replace("[postgres]", "[mariadbd]"), (whole(true), true));
        assert_eq!(replace("replicas: 2", "replicas: 3"), (Replaced::Policies, false));
    }

    #[test]
    fn the_version_in_force_and_a_refused_one_are_told() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut table = table(start);
        table.refuse(Fault::new("ADIT-A019", "no"), later(5));
        let files = table.report(later(8)).files;
        assert_eq!((files.generation, files.seconds_in_force), (1, 8));
        assert_eq!(files.refused.map(|refused| refused.seconds_ago), Some(3));
        let mesh = adit_control::parse(Path::new("/mesh.yaml"), MESH).unwrap().mesh;
        table.replace(mesh, MESH.to_owned(), later(9));
        let files = table.report(later(10)).files;
        assert_eq!(
            (files.generation, files.seconds_in_force, files.refused),
            (2, 1, None)
        );
    }

    fn name(text: &str) -> WorkloadName {
        text.parse().unwrap()
    }

    fn ready(table: &Table) -> Vec<String> {
        table
            .desired()
            .update
            .ready
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn without_a_probe_running_is_ready_and_with_one_it_is_not_yet() {
        let now = Instant::now();
        let mut table = table(now);
        assert_eq!(ready(&table), [] as [&str; 0]);
        assert!(table.on_change(&name("shop/db"), Change::Started { pid: 7 }, now));
        assert!(!table.on_change(&name("shop/web-0"), Change::Started { pid: 8 }, now));
        assert_eq!(ready(&table), ["shop/db"]);
        assert!(table.on_change(&name("shop/web-0"), Change::Ready(true), now));
        assert_eq!(ready(&table), ["shop/db", "shop/web-0"]);
        assert!(table.on_change(&name("shop/web-0"), Change::Stopping, now));
        assert_eq!(ready(&table), ["shop/db"]);
    }

    #[test]
    fn a_test_waits_until_all_beside_it_are_ready_or_done() {
        let now = Instant::now();
        let (mut table, test) = (table(now), name("shop/web-1"));
        let waiting = |table: &Table| match table.around(&test, now) {
            Around::Waiting(waiting) => waiting,
            other => panic!("{other:?}"),
        };
        assert_eq!(waiting(&table), ["shop/web-0 (Pending)", "shop/db (Pending)"]);
        table.on_change(&name("shop/web-0"), Change::Started { pid: 7 }, now);
        table.on_change(&name("shop/web-0"), Change::Ready(true), now);
        let exited = |succeeded, retry_in| Change::Exited {
            how: if succeeded { "status 0" } else { "status 1" }.into(),
            succeeded,
            retry_in,
        };
        table.on_change(&name("shop/db"), exited(false, Some(Duration::from_secs(2))), now);
        assert_eq!(waiting(&table), ["shop/db (CrashLoop, last ended with status 1)"]);
        table.on_change(&name("shop/db"), exited(true, None), now);
        assert_eq!(table.around(&test, now), Around::Ready);
        table.on_change(&name("shop/db"), exited(false, None), now);
        let failed = Around::Failed {
            name: name("shop/db"),
            how: "status 1".into(),
        };
        assert_eq!(table.around(&test, now), failed);
    }

    #[test]
    fn a_late_check_of_a_program_that_ended_makes_nothing_ready() {
        let now = Instant::now();
        let mut table = table(now);
        table.on_change(&name("shop/web-0"), Change::Started { pid: 8 }, now);
        let exited = Change::Exited {
            how: "status 1".into(),
            succeeded: false,
            retry_in: Some(Duration::from_secs(4)),
        };
        table.on_change(&name("shop/web-0"), exited, now);
        assert!(!table.on_change(&name("shop/web-0"), Change::Ready(true), now));
        let row = &table.report(now + Duration::from_secs(1)).workloads[0];
        assert_eq!(row.state, WorkloadState::CrashLoop { retry_in_seconds: 3 });
        assert_eq!((row.last_exit.as_deref(), row.restarts), (Some("status 1"), 0));
    }

    fn made(pod: &Pod) -> Change {
        Change::PodMade {
            pod: pod.clone(),
            link: LinkKind::Tun,
        }
    }

    #[test]
    fn generations_rise_with_what_the_agent_must_know() {
        let now = Instant::now();
        let mut table = table(now);
        let first = table.desired().update.generation;
        let pod = table.pod(&name("shop/db")).unwrap();
        assert!(table.on_change(&pod.name, made(&pod), now));
        assert!(!table.on_change(&pod.name, made(&pod), now));
        assert_eq!(table.desired().update.generation, first + 1);
        assert_eq!(*table.desired().pods, [pod].into());
    }

    #[test]
    fn joining_gives_an_address_and_leaving_takes_it_back() {
        let now = Instant::now();
        let mut table = table(now);
        let request = || JoinRequest {
            name: name("shop/debug"),
            labels: BTreeMap::new(),
            service_account: None,
        };
        let first = table.join(request(), now).unwrap();
        let addresses = table.snapshot().workloads[&first.name].addresses.clone();
        assert_eq!(addresses.len(), 2);
        assert!(matches!(
            table.join(request(), now),
            Err(JoinError::NameTaken { .. })
        ));
        assert_eq!(table.desired().update.joined[0].addresses, addresses);
        assert!(
            !table.leave(&table.pod(&name("shop/db")).unwrap()),
            "workloads of the file stay"
        );
        assert!(table.leave(&first));
        let second = table.join(request(), now).unwrap();
        assert_eq!(table.desired().update.joined[0].addresses, addresses);
        assert_ne!(first, second);
        assert!(!table.leave(&first), "who left can't leave for who came after");
        table.on_change(&first.name, made(&first), now);
        assert!(table.desired().pods.is_empty(), "nor have a pod for them");
        table.on_change(&second.name, made(&second), now);
        assert_eq!(
            (table.desired().pods.len(), ready(&table)),
            (1, vec!["shop/debug".to_owned()])
        );
    }
}
