//! Sources (mesh file, Kubernetes; later xDS) to one immutable snapshot.
//!
//! ```text
//! text ─▶ tree ─▶ MeshFile ─▶ Mesh ─▶ Snapshot
//!      YAML   shape     meaning   one node's view: readiness, joined workloads
//! ```
//!
//! [`load()`] goes as far as [`Mesh`], reporting everything that is wrong on the way; [`build()`] makes a [`Snapshot`]
//! of it, again and again as workloads become ready or join.

mod address;
mod build;
mod check;
mod codes;
mod diagnostic;
mod file;
pub mod kubernetes;
mod load;
mod mesh;
mod names;
mod schema;
pub mod signing;
mod snapshot;
mod suggest;
mod tree;
mod watch;

pub use address::{AddressRange, Allocation, RangeExhausted, Ranges};
pub use build::{JoinError, JoinRequest, Joined, View, build};
pub use codes::CODES;
pub use diagnostic::{Diagnostic, Report, Severity, Style};
pub use file::{
    API_VERSION, AddressesFile, ApiVersion, ClusterIp, ContainerPort, EnvVar, ExecFile, HttpGetFile, Kind,
    MeshFile, NamespaceFile, NodeFile, PortFile, ProbeFile, RestartPolicy, ServiceFile, ServicePortFile,
    TcpSocketFile, Transport, WorkloadFile,
};
pub use load::{Loaded, MAX_FILE, MAX_POLICY_FILE, MAX_POLICY_FILES, decode, load, parse, reload};
pub use mesh::{
    Mesh, Node, NodeChoiceError, PolicyDocument, Probe, ProbeAction, Replica, ServiceSpec, WorkloadSpec,
};
pub use schema::json_schema;
pub use snapshot::{
    Endpoint, Location, Owner, Reach, Service, ServicePort, Snapshot, SnapshotParts, TargetPort, Workload,
    WorkloadPort,
};
pub use watch::{FileSource, Update, WatchError};
