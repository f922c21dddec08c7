//! The mesh at one moment, for one node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::WorkloadName;
use adit_identity::SpiffeId;

use crate::address::{self, RangeExhausted};
use crate::mesh::{Mesh, Replica, ServiceSpec};
use crate::names::{self, DATAPLANE_MODE};
use crate::snapshot::{Endpoint, Location, Reach, Service, Snapshot, SnapshotParts, Workload, WorkloadPort};
use crate::suggest;

/// What a snapshot depends on besides the file.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The node whose agent will hold the snapshot; `None` for a mesh without nodes.
    pub node: Option<&'a str>,
    /// Whether a replica is ready. Asked for every replica, those on other nodes included.
    pub ready: &'a dyn Fn(&WorkloadName) -> bool,
    /// The workloads that joined at run time on this node.
    pub joined: &'a [Joined],
    /// The snapshot's generation.
    pub generation: u64,
}

/// A workload that joined a running mesh (`adit run --mesh shop --as shop/debug`). Made by [`Mesh::join`]; another
/// process that is told of it makes its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its name, which no replica of the file has.
    pub name: WorkloadName,
    /// What it proves to be.
    pub identity: SpiffeId,
    /// Its labels, which services select by too.
    pub labels: BTreeMap<String, String>,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The ports it declares.
    pub ports: Vec<WorkloadPort>,
}

/// What a program wants to join as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The name it wants.
    pub name: WorkloadName,
    /// Its service account; `None` is `default`.
    pub service_account: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The ports it declares.
    pub ports: Vec<WorkloadPort>,
}

/// Why a program can't join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A name that isn't a DNS name.
    #[error("joining as {name}: {got:?} is not a DNS label: {problem}")]
    BadName {
        /// The name asked for.
        name: WorkloadName,
        /// The part of it that's wrong.
        got: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The share of the address range for workloads that join on this node is used up.
    #[error("joining as {name}: no address is left: {source}")]
    Exhausted {
        /// The name asked for.
        name: WorkloadName,
        /// What is used up.
        source: RangeExhausted,
    },
    /// Somebody has that name.
    #[error("joining as {name}: the mesh has a workload of that name; choose another")]
    NameTaken {
        /// The name asked for.
        name: WorkloadName,
    },
    /// The mesh has no such namespace.
    #[error(
        "joining as {name}: the mesh has no namespace {:?}: expected one of: {}{}",
        name.namespace,
        known.join(", "),
        suggest::did_you_mean(&name.namespace, known.iter().map(String::as_str)),
    )]
    UnknownNamespace {
        /// The name asked for.
        name: WorkloadName,
        /// The namespaces of the mesh.
        known: Vec<String>,
    },
}

/// The snapshot of `mesh` as `view` sees it.
///
/// Where the file was changed to have a workload of a joined one's name, the file's counts.
pub fn build(mesh: &Mesh, view: View<'_>) -> Snapshot {
    let mut workloads: Vec<Workload> = mesh
        .replicas()
        .map(|replica| workload(mesh, view, replica))
        .collect();
    let of_file: BTreeSet<WorkloadName> = workloads.iter().map(|workload| workload.name.clone()).collect();
    let joined = view
        .joined
        .iter()
        .filter(|joined| !of_file.contains(&joined.name));
    workloads.extend(joined.map(|joined| Workload {
        name: joined.name.clone(),
        labels: Arc::new(joined.labels.clone()),
        identity: joined.identity.clone(),
        addresses: joined.addresses.clone(),
        ports: joined.ports.clone(),
        location: Location::Local,
        ready: (view.ready)(&joined.name),
        in_mesh: is_in_mesh(mesh, &joined.name, &joined.labels),
        node_addresses: Arc::default(),
    }));
    let services = mesh
        .services
        .iter()
        .map(|spec| Arc::new(service(mesh, spec, &workloads)))
        .collect();
    Snapshot::new(SnapshotParts {
        generation: view.generation,
        mesh: mesh.name.clone(),
        trust_domain: mesh.trust_domain.clone(),
        namespaces: Arc::new(mesh.namespaces.clone()),
        workloads: workloads.into_iter().map(Arc::new).collect(),
        services,
        dns: mesh.ranges.dns(),
        ranges: Some(mesh.ranges.clone()),
    })
}

fn service(mesh: &Mesh, spec: &ServiceSpec, workloads: &[Workload]) -> Service {
    let selected = workloads
        .iter()
        .filter(|pod| spec.selects(&pod.name.namespace, &pod.labels));
    let endpoint = |pod: &Workload| Endpoint {
        workload: pod.name.clone(),
        ready: pod.ready,
    };
    let mut endpoints: Vec<Endpoint> = selected.map(endpoint).collect();
    endpoints.sort_by(|a, b| a.workload.cmp(&b.workload));
    Service {
        name: spec.name.clone(),
        addresses: mesh.allocation.service(&spec.name).to_vec(),
        ports: spec.ports.clone(),
        endpoints,
    }
}

fn workload(mesh: &Mesh, view: View<'_>, replica: Replica<'_>) -> Workload {
    let node = replica.spec.node.as_deref();
    let location = match mesh
        .nodes
        .iter()
        .find(|candidate| Some(candidate.name.as_str()) == node)
    {
        Some(node) if Some(node.name.as_str()) != view.node => Location::Remote {
            node: node.name.as_str().into(),
            reach: Reach::Agent(node.hbone),
        },
        _ => Location::Local,
    };
    Workload {
        labels: Arc::new(replica.spec.labels.clone()),
        identity: replica.spec.identity.clone(),
        addresses: mesh.allocation.workload(&replica.name).to_vec(),
        ports: replica.spec.ports.clone(),
        location,
        ready: (view.ready)(&replica.name),
        in_mesh: is_in_mesh(mesh, &replica.name, &replica.spec.labels),
        node_addresses: Arc::default(),
        name: replica.name,
    }
}

/// Istio's label for leaving the mesh: the workload's own comes before its namespace's. Whoever is in the file is in the
/// mesh otherwise.
fn is_in_mesh(mesh: &Mesh, name: &WorkloadName, labels: &BTreeMap<String, String>) -> bool {
    let of_namespace = mesh.namespaces.get(&name.namespace);
    let mode = labels
        .get(DATAPLANE_MODE)
        .or_else(|| of_namespace?.get(DATAPLANE_MODE));
    mode.is_none_or(|mode| mode != "none")
}

impl Mesh {
    /// Takes in a workload that joins at run time on `node`, beside those that joined before it.
    ///
    /// # Errors
    /// A name that's no DNS name or is taken, a namespace that doesn't exist, or no address left.
    pub fn join(
        &self,
        node: Option<&str>,
        before: &[Joined],
        request: JoinRequest,
    ) -> Result<Joined, JoinError> {
        let JoinRequest {
            name,
            service_account,
            labels,
            ports,
        } = request;
        if !self.namespaces.contains_key(&name.namespace) {
            let known = self.namespaces.keys().cloned().collect();
            return Err(JoinError::UnknownNamespace { name, known });
        }
        let account = service_account.unwrap_or_else(|| names::DEFAULT_ACCOUNT.to_owned());
        let bad = [&name.name, &account].into_iter().find_map(|part| {
            let problem = names::check_label(part).err()?.to_string();
            Some((part.clone(), problem))
        });
        if let Some((got, problem)) = bad {
            return Err(JoinError::BadName { name, got, problem });
        }
        let taken = before.iter().any(|joined| joined.name == name);
        if taken || self.replicas().any(|replica| replica.name == name) {
            return Err(JoinError::NameTaken { name });
        }
        let index = self
            .nodes
            .iter()
            .position(|candidate| Some(candidate.name.as_str()) == node)
            .unwrap_or(0);
        let used = before.iter().flat_map(|joined| joined.addresses.iter().copied());
        let addresses = match address::joined(&self.ranges, index, &name, used) {
            Ok(addresses) => addresses,
            Err(source) => return Err(JoinError::Exhausted { name, source }),
        };
        let identity = SpiffeId::new(self.trust_domain.clone(), &name.namespace, &account)
            .expect("DNS labels are SPIFFE path segments");
        Ok(Joined {
            name,
            identity,
            labels,
            addresses,
            ports,
        })
    }
}
