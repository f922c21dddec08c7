//! Where a new flow goes: a pure function of the snapshot and what was dialled.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_control::{Owner, Snapshot, Workload};
use adit_flow::{Protocol, RefuseReason, WorkloadName};

/// The way that a new flow takes.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// To the mesh's own DNS responder.
    Dns,
    /// To a host outside the mesh, through the user's own network.
    Outside(SocketAddr),
    /// Nowhere: refused with this reason.
    Refused(RefuseReason),
    /// To a workload of the mesh.
    Workload {
        /// The one chosen.
        workload: Arc<Workload>,
        /// Its address and the port it serves.
        address: SocketAddr,
        /// The service that was dialled, if one was.
        service: Option<WorkloadName>,
    },
}

/// Finds the way for a flow of `protocol` to `dialled`. `draw` spreads flows over the ready replicas of a
/// service: any number, even in distribution.
pub(crate) fn route(snapshot: &Snapshot, protocol: Protocol, dialled: SocketAddr, draw: u64) -> Route {
    match snapshot.owner(dialled.ip()) {
        None => outside(dialled),
        Some(Owner::Dns)
            if dialled.port() == DNS_PORT && matches!(protocol, Protocol::Tcp | Protocol::Udp) =>
        {
            Route::Dns
        }
        Some(Owner::Dns) => Route::Refused(RefuseReason::Refused),
        // Never outside: what is meant for a workload must not go to whoever has that address there.
        Some(Owner::Unassigned) => Route::Refused(RefuseReason::Unreachable),
        Some(Owner::Workload(workload)) => Route::Workload {
            workload: Arc::clone(workload),
            address: dialled,
            service: None,
        },
        Some(Owner::Service(service)) => {
            let Some(ready) = service.ready_endpoints(snapshot, dialled, protocol) else {
                return Route::Refused(RefuseReason::Refused);
            };
            let ready: Vec<_> = ready.collect();
            if ready.is_empty() {
                return Route::Refused(RefuseReason::NoEndpoint);
            }
            let (workload, address) = ready[(draw % ready.len() as u64) as usize];
            let service = Some(service.name.clone());
            Route::Workload {
                workload: Arc::clone(workload),
                address,
                service,
            }
        }
    }
}

/// A pod's own loopback never leaves its namespace, so a loopback address here would be the user's: refused,
/// as are addresses that no host has.
fn outside(dialled: SocketAddr) -> Route {
    let ip = dialled.ip().to_canonical();
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return Route::Refused(RefuseReason::Unreachable);
    }
    Route::Outside(dialled)
}

const DNS_PORT: u16 = 53;
