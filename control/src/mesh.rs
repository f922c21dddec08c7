//! The checked mesh: what the file means, with defaults filled in and references resolved.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use adit_flow::WorkloadName;
use adit_identity::{SpiffeId, TrustDomain};

use crate::address::{Allocation, Ranges};
use crate::file::RestartPolicy;
use crate::snapshot::{ServicePort, WorkloadPort};
use crate::suggest;

/// A mesh file that passed every check. Made by [`parse`](crate::parse) and [`load`](crate::load()) alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mesh {
    /// The mesh's name, a DNS label.
    pub name: String,
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Where addresses come from.
    pub ranges: Ranges,
    /// The nodes in the order of the file; empty where one host runs everything.
    pub nodes: Vec<Node>,
    /// The labels of each namespace, `kubernetes.io/metadata.name` included.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// The workloads in the order of the file.
    pub workloads: Vec<WorkloadSpec>,
    /// The services in the order of the file.
    pub services: Vec<ServiceSpec>,
    /// The policy files and folders that the file names, relative ones joined to its folder.
    pub policy_paths: Vec<PathBuf>,
    /// The policy documents found there, read but not interpreted. Empty after [`parse`](crate::parse), which
    /// reads no files.
    pub policies: Vec<PolicyDocument>,
    /// The replica that `adit up --once` runs as the test, if the file names one.
    pub test: Option<WorkloadName>,
    /// The addresses of every replica and service.
    pub allocation: Allocation,
}

/// A host that runs some of the workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where other nodes reach its HBONE listener.
    pub hbone: SocketAddr,
}

/// A workload, before it is multiplied into replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadSpec {
    /// Namespace and name as the file has them, without a replica's number.
    pub name: WorkloadName,
    /// The node that runs it; set exactly when the mesh has nodes.
    pub node: Option<String>,
    /// The number of numbered replicas; `None` is one replica that has the workload's own name.
    pub replicas: Option<u32>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it proves to be.
    pub identity: SpiffeId,
    /// The program and its first arguments; never empty.
    pub command: Vec<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Environment variables, in order.
    pub env: Vec<(String, String)>,
    /// The folder it starts in: absolute if the mesh file's path was.
    pub working_dir: PathBuf,
    /// The ports it declares.
    pub ports: Vec<WorkloadPort>,
    /// When services may send it connections; `None`: as soon as it runs.
    pub readiness: Option<Probe>,
    /// What happens when it ends.
    pub restart: RestartPolicy,
}

/// A readiness check and its timing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is checked.
    pub action: ProbeAction,
    /// The wait before the first check.
    pub initial_delay: Duration,
    /// The time from check to check; at least a second.
    pub period: Duration,
    /// How long one check may take; at least a second.
    pub timeout: Duration,
    /// Checks in a row that must pass before it is ready; at least 1.
    pub success_threshold: u32,
    /// Checks in a row that must fail before it is not ready; at least 1.
    pub failure_threshold: u32,
}

/// What a readiness check does, in the workload's own network namespace. Named ports are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAction {
    /// Runs a command and wants status 0. Never empty.
    Exec(Vec<String>),
    /// Sends an HTTP/1.1 GET and wants a status from 200 to 399.
    HttpGet {
        /// The port.
        port: u16,
        /// The path and query; begins with a slash.
        path: String,
    },
    /// Opens a TCP connection.
    TcpSocket {
        /// The port.
        port: u16,
    },
}

/// A service as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Namespace and name.
    pub name: WorkloadName,
    /// The labels that its workloads have; never empty.
    pub selector: BTreeMap<String, String>,
    /// Whether it has no address of its own.
    pub headless: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A policy file, uninterpreted: one or more YAML or JSON documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDocument {
    /// Where it was read, for messages.
    pub path: PathBuf,
    /// What stands in it.
    pub text: String,
}

/// One replica of a workload: what runs, has addresses and gets a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica<'a> {
    /// Namespace and the replica's own name.
    pub name: WorkloadName,
    /// The workload it is one of.
    pub spec: &'a WorkloadSpec,
}

/// The node that `adit up --node` named doesn't fit the mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeChoiceError {
    /// The mesh is for several nodes and none was named.
    #[error("mesh {mesh:?} runs on several nodes: choose one with --node ({})", known.join(", "))]
    Missing {
        /// The mesh.
        mesh: String,
        /// Its nodes.
        known: Vec<String>,
    },
    /// The mesh has no node of that name.
    #[error(
        "mesh {mesh:?} has no node {got:?}: expected one of: {}{}",
        known.join(", "),
        suggest::did_you_mean(got, known.iter().map(String::as_str)),
    )]
    Unknown {
        /// The mesh.
        mesh: String,
        /// What was asked for.
        got: String,
        /// Its nodes.
        known: Vec<String>,
    },
}

impl Mesh {
    /// Every replica on every node, in the order of the file.
    pub fn replicas(&self) -> impl Iterator<Item = Replica<'_>> {
        self.workloads.iter().flat_map(WorkloadSpec::expand)
    }

    /// The replicas that `node` runs; `None` for a mesh without nodes.
    pub fn replicas_on<'a>(&'a self, node: Option<&'a str>) -> impl Iterator<Item = Replica<'a>> {
        self.replicas()
            .filter(move |replica| replica.spec.node.as_deref() == node)
    }

    /// The node that an agent is to be, from the name its user gave.
    ///
    /// # Errors
    /// A name that the mesh doesn't have, or none where it has nodes. Naming a node in a mesh without any
    /// is an error too.
    pub fn choose_node(&self, name: Option<&str>) -> Result<Option<&Node>, NodeChoiceError> {
        let known = || self.nodes.iter().map(|node| node.name.clone()).collect();
        let Some(name) = name else {
            return match self.nodes.is_empty() {
                true => Ok(None),
                false => Err(NodeChoiceError::Missing {
                    mesh: self.name.clone(),
                    known: known(),
                }),
            };
        };
        let unknown = || NodeChoiceError::Unknown {
            mesh: self.name.clone(),
            got: name.to_owned(),
            known: known(),
        };
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .map(Some)
            .ok_or_else(unknown)
    }
}

impl WorkloadSpec {
    /// Its replicas.
    pub fn expand(&self) -> impl Iterator<Item = Replica<'_>> {
        (0..self.replicas.unwrap_or(1)).map(|ordinal| Replica {
            name: self.replica_name(ordinal),
            spec: self,
        })
    }

    /// The name of replica `ordinal`, counted from 0.
    pub(crate) fn replica_name(&self, ordinal: u32) -> WorkloadName {
        match self.replicas {
            Some(_) => WorkloadName::new(&self.name.namespace, format!("{}-{ordinal}", self.name.name)),
            None => self.name.clone(),
        }
    }
}

impl ServiceSpec {
    /// Whether its selector matches a workload of its own namespace with `labels`.
    pub fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        namespace == self.name.namespace
            && self
                .selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    }
}
