use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use adit_flow::{Protocol, WorkloadName};
use adit_identity::{SpiffeId, TrustDomain};

use crate::address::Ranges;

/// What the mesh is at one moment: immutable, shared behind an `Arc`, replaced whole.
///
/// Lookups by address are constant time. Built by [`Snapshot::new`], which makes the indexes.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Rises by one with every snapshot published by one source.
    pub generation: u64,
    /// The mesh's name.
    pub mesh: String,
    /// The trust domain of every workload here.
    pub trust_domain: TrustDomain,
    /// Labels of each namespace.
    pub namespaces: Arc<BTreeMap<String, BTreeMap<String, String>>>,
    /// All workloads, on this node and on others.
    pub workloads: BTreeMap<WorkloadName, Arc<Workload>>,
    /// All services.
    pub services: BTreeMap<WorkloadName, Arc<Service>>,
    /// The address that answers DNS queries, one of each IP version in use.
    pub dns: Vec<IpAddr>,
    ranges: Option<Ranges>,
    by_address: HashMap<IpAddr, Owner>,
}

/// One replica: the unit that has addresses and an identity. Kubernetes calls it a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Namespace and name; replicas are numbered (`web-0`).
    pub name: WorkloadName,
    /// Labels that selectors see. Replicas have the same ones, so they share them.
    pub labels: Arc<BTreeMap<String, String>>,
    /// What it proves to be.
    pub identity: SpiffeId,
    /// One address of each IP version at most; never empty.
    pub addresses: Vec<IpAddr>,
    /// The ports it declares.
    pub ports: Vec<WorkloadPort>,
    /// Where it runs.
    pub location: Location,
    /// Whether it says that it's ready. Whether a service sends it new flows is the service's: [`Endpoint::ready`].
    pub ready: bool,
    /// Whether its TCP flows travel in HBONE. Where not (`istio.io/dataplane-mode: none`), they are carried plain, and
    /// nobody can tell who it is.
    pub in_mesh: bool,
    /// Addresses of the node that it runs on, from which its probes come. Empty where nodes have no part in the mesh.
    pub node_addresses: Arc<[IpAddr]>,
}

/// Where a workload runs, seen from the agent that holds the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Served by this agent.
    Local,
    /// On another node, where another agent may serve it.
    Remote {
        /// The node's name.
        node: Arc<str>,
        /// Where its end of a tunnel is.
        reach: Reach,
    },
}

/// Where a workload of another node takes HBONE. Each workload says so itself, and nothing is presumed of one that doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At its agent's one listener, shared by the workloads of the node.
    Agent(SocketAddr),
    /// At its own address, on the very port that the flow is for.
    OriginalPort,
    /// Nowhere: flows to it are plain.
    Plain,
    /// At its own address on port 15008, as Istio's peers.
    Port15008,
}

/// A port that a workload declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPort {
    /// The name by which services and policies may refer to it.
    pub name: Option<String>,
    /// The number.
    pub number: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

/// A stable address for a set of workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: WorkloadName,
    /// Its virtual addresses, one of each IP version at most; empty for a headless service.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The workloads behind it, ready or not, in order of name.
    pub endpoints: Vec<Endpoint>,
}

/// A workload behind a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which one.
    pub workload: WorkloadName,
    /// Whether the service may send it new flows.
    pub ready: bool,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The number that clients dial.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port on the workload.
    pub target: TargetPort,
    /// Ready endpoints of this port that are no workloads: hosts, pods on their host's network, addresses that
    /// somebody wrote down. Where there are any, what dials the port must be left to the node's service proxy, which
    /// knows them all.
    pub outside: Vec<SocketAddr>,
}

/// The port of a workload that a service port leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// Listed for each workload; one that isn't listed doesn't serve the port.
    Listed(BTreeMap<WorkloadName, u16>),
    /// Looked up by name on each workload.
    Name(String),
    /// The same number on all.
    Number(u16),
}

/// Whose an address is.
#[derive(Clone, Debug)]
pub enum Owner {
    /// The mesh's DNS responder.
    Dns,
    /// A service's virtual address.
    Service(Arc<Service>),
    /// Nobody's that is known here, though it's of the mesh's own ranges: it must not be looked for outside.
    Unassigned,
    /// A workload's own address.
    Workload(Arc<Workload>),
}

/// The parts from which [`Snapshot::new`] builds a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotParts {
    /// See [`Snapshot::generation`].
    pub generation: u64,
    /// See [`Snapshot::mesh`].
    pub mesh: String,
    /// See [`Snapshot::trust_domain`].
    pub trust_domain: TrustDomain,
    /// See [`Snapshot::namespaces`].
    pub namespaces: Arc<BTreeMap<String, BTreeMap<String, String>>>,
    /// See [`Snapshot::workloads`].
    pub workloads: Vec<Arc<Workload>>,
    /// See [`Snapshot::services`].
    pub services: Vec<Arc<Service>>,
    /// See [`Snapshot::dns`].
    pub dns: Vec<IpAddr>,
    /// Every address in these is the mesh's; `None` where the mesh gives out no addresses.
    pub ranges: Option<Ranges>,
}

impl Snapshot {
    /// Indexes the parts. Where two owners claim one address the first stays: workloads, then services.
    pub fn new(parts: SnapshotParts) -> Self {
        let workloads: BTreeMap<_, _> = parts
            .workloads
            .into_iter()
            .map(|workload| (workload.name.clone(), workload))
            .collect();
        let services: BTreeMap<_, _> = parts
            .services
            .into_iter()
            .map(|service| (service.name.clone(), service))
            .collect();
        let mut by_address = HashMap::with_capacity(workloads.len() + services.len());
        for workload in workloads.values() {
            for address in &workload.addresses {
                by_address
                    .entry(*address)
                    .or_insert_with(|| Owner::Workload(Arc::clone(workload)));
            }
        }
        for service in services.values() {
            for address in &service.addresses {
                by_address
                    .entry(*address)
                    .or_insert_with(|| Owner::Service(Arc::clone(service)));
            }
        }
        for address in &parts.dns {
            by_address.entry(*address).or_insert(Owner::Dns);
        }
        Self {
            generation: parts.generation,
            mesh: parts.mesh,
            trust_domain: parts.trust_domain,
            namespaces: parts.namespaces,
            workloads,
            services,
            dns: parts.dns,
            ranges: parts.ranges,
            by_address,
        }
    }

    /// Whose `address` is; `None` outside the mesh.
    pub fn owner(&self, address: IpAddr) -> Option<&Owner> {
        static UNASSIGNED: Owner = Owner::Unassigned;
        let of_mesh = || self.ranges.as_ref()?.contains(address).then_some(&UNASSIGNED);
        self.by_address.get(&address).or_else(of_mesh)
    }

    /// The workload that owns `address`.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        match self.owner(address)? {
            Owner::Workload(workload) => Some(workload),
            Owner::Dns | Owner::Service(_) | Owner::Unassigned => None,
        }
    }
}

impl Workload {
    /// The address of the same IP version as `like`.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == like.is_ipv4())
    }

    /// Whether this agent serves it.
    pub fn is_local(&self) -> bool {
        self.location == Location::Local
    }
}

impl Service {
    /// The ready endpoints of `port` in the IP version of the dialled address, each with its target port.
    /// `None` where the service has no such port.
    pub fn ready_endpoints<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        dialled: SocketAddr,
        protocol: Protocol,
    ) -> Option<impl Iterator<Item = (&'a Arc<Workload>, SocketAddr)>> {
        let service_port = self.port(dialled.port(), protocol)?;
        Some(self.ready_workloads(snapshot).filter_map(move |workload| {
            let address = workload.address_like(dialled.ip())?;
            let number = service_port
                .target
                .resolve(&workload.name, &workload.ports, protocol)?;
            Some((workload, SocketAddr::new(address, number)))
        }))
    }

    /// The port that clients dial by this number.
    pub fn port(&self, number: u16, protocol: Protocol) -> Option<&ServicePort> {
        let mut ports = self.ports.iter();
        ports.find(|port| port.port == number && port.protocol == protocol)
    }

    /// The workloads that it may send new flows to.
    pub fn ready_workloads<'a>(
        &'a self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = &'a Arc<Workload>> + use<'a> {
        let ready = self.endpoints.iter().filter(|endpoint| endpoint.ready);
        ready.filter_map(|endpoint| snapshot.workloads.get(&endpoint.workload))
    }

    /// Whether `workload` is behind it, ready or not.
    pub fn has_endpoint(&self, workload: &WorkloadName) -> bool {
        self.endpoints
            .binary_search_by(|endpoint| endpoint.workload.cmp(workload))
            .is_ok()
    }
}

impl TargetPort {
    /// The number it means on the workload called `name`, which declares `ports`; `None` where it doesn't serve it.
    pub fn resolve(&self, name: &WorkloadName, ports: &[WorkloadPort], protocol: Protocol) -> Option<u16> {
        match self {
            Self::Listed(numbers) => numbers.get(name).copied(),
            Self::Number(number) => Some(*number),
            Self::Name(target) => ports
                .iter()
                .find(|port| port.name.as_ref() == Some(target) && port.protocol == protocol)
                .map(|port| port.number),
        }
    }
}
