//! EndpointSlices.

use std::net::IpAddr;

use adit_flow::{Protocol, WorkloadName};

use super::wire;
use super::{Malformed, ip, protocol};

/// A part of a service's endpoints, all of one IP version and on the same ports.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::kubernetes) struct Slice {
    /// Whose.
    pub(in crate::kubernetes) service: WorkloadName,
    pub(in crate::kubernetes) ports: Vec<SlicePort>,
    pub(in crate::kubernetes) backends: Vec<Backend>,
}

/// A port of all endpoints of a slice, known to its service's port by name and protocol.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::kubernetes) struct SlicePort {
    pub(in crate::kubernetes) name: Option<String>,
    pub(in crate::kubernetes) number: u16,
    pub(in crate::kubernetes) protocol: Protocol,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::kubernetes) struct Backend {
    pub(in crate::kubernetes) address: IpAddr,
    /// The pod that it is, where it says so.
    pub(in crate::kubernetes) pod: Option<WorkloadName>,
    pub(in crate::kubernetes) node: Option<Box<str>>,
    pub(in crate::kubernetes) ready: bool,
    /// Whether it's on its way out and serves as long as it can: for when nobody else is left.
    pub(in crate::kubernetes) last_resort: bool,
}

/// `None` for a slice of no service, or of host names.
pub(super) fn slice(slice: wire::EndpointSlice) -> Result<Option<Slice>, Malformed> {
    const SERVICE_NAME: &str = "kubernetes.io/service-name";
    let labels = slice.metadata.labels.as_ref();
    let Some(service) = labels
        .and_then(|labels| labels.get(SERVICE_NAME))
        .filter(|name| !name.is_empty())
    else {
        return Ok(None);
    };
    if slice.address_type == "FQDN" {
        return Ok(None);
    }
    let namespace = slice.metadata.namespace.as_str();
    let mut ports = Vec::with_capacity(slice.ports.len());
    for port in slice.ports {
        // A port without a number is for everything: kube-proxy leaves it out, and so does adit.
        let Some(number) = port.port else { continue };
        ports.push(SlicePort {
            name: port.name.filter(|name| !name.is_empty()),
            number,
            protocol: protocol("ports.protocol", port.protocol.as_deref())?,
        });
    }
    let mut backends = Vec::with_capacity(slice.endpoints.len());
    for endpoint in slice.endpoints {
        // Of several addresses kube-proxy takes the first, and nobody writes more (KEP 752).
        let Some(address) = endpoint.addresses.first() else {
            continue;
        };
        let conditions = endpoint.conditions;
        let ready = conditions.ready.unwrap_or(true);
        let pod = endpoint
            .target_ref
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| {
                let namespace = target.namespace.unwrap_or_else(|| namespace.to_owned());
                Some(WorkloadName::new(namespace, target.name?))
            });
        backends.push(Backend {
            address: ip("endpoints.addresses", address)?,
            pod,
            node: endpoint.node_name.map(String::into_boxed_str),
            ready,
            last_resort: conditions.terminating == Some(true) && conditions.serving.unwrap_or(ready),
        });
    }
    Ok(Some(Slice {
        service: WorkloadName::new(namespace, service),
        ports,
        backends,
    }))
}
