//! Sources (mesh file; later Kubernetes, xDS) to one immutable snapshot.

mod snapshot;

pub use snapshot::{
    Location, Owner, Service, ServicePort, Snapshot, SnapshotParts, TargetPort, Workload, WorkloadPort,
};
