//! Objects of the API, as far as they are looked at.
//!
//! A pod is some 5 to 20 KB of JSON and a few hundred bytes here: what isn't named in these types is skipped while the text
//! is read.

mod policy;
mod slice;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use adit_flow::{Protocol, WorkloadName};
use adit_identity::{SpiffeId, TrustDomain};
use serde::de::DeserializeOwned;

use super::kind::{Kind, Role};
use super::state::Account;
use crate::mesh::PolicyDocument;
use crate::names::DEFAULT_ACCOUNT;
use crate::snapshot::WorkloadPort;

use wire::Meta;

pub(super) use slice::{Backend, Slice};

/// Labels of one object.
pub(super) type Labels = BTreeMap<String, String>;

/// Namespace, empty for kinds without, and name.
pub(super) type Key = WorkloadName;

/// What an object is to the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Account(Account),
    Definition,
    EndpointSlice(Slice),
    Namespace(Labels),
    Node(Node),
    Pod(Pod),
    Policy(PolicyDocument),
    Service(Service),
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Addresses that are certainly its own.
    pub(super) addresses: Vec<IpAddr>,
    /// Addresses that are its own if its CNI plugin follows the custom: the first of each of its ranges for pods.
    pub(super) gateways: Vec<IpAddr>,
}

/// A pod that has addresses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pod {
    pub(super) uid: Arc<str>,
    pub(super) node: Arc<str>,
    pub(super) labels: Labels,
    pub(super) identity: SpiffeId,
    /// IPv4 first, one of each version at most; its node's if it is on the host's network.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<WorkloadPort>,
    pub(super) ready: bool,
    pub(super) host_network: bool,
    /// Whether it's being deleted: its addresses may be another's soon.
    pub(super) is_leaving: bool,
    /// Whether it has a proxy of its own (Istio's sidecar).
    pub(super) has_sidecar: bool,
    pub(super) capability: Capability,
}

/// A pod's identity and where it runs, for who asks for nothing else.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    pub(super) uid: Arc<str>,
    pub(super) node: Arc<str>,
    pub(super) identity: SpiffeId,
}

/// Where a pod takes HBONE, by its own account: the two annotations that [`annotate`](super::annotate()) writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// On port 15008 alone, as Istio's.
    Hbone,
    /// On port 15008, and on the port that a flow is for.
    HboneOnOriginalPort,
    /// Nowhere.
    None,
}

/// A service that has virtual addresses, or none because it's headless.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Service {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<ServicePort>,
    /// Whether it leads to endpoints of the dialler's own node alone (`internalTrafficPolicy: Local`).
    pub(super) local_only: bool,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServicePort {
    pub(super) name: Option<String>,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// An object of which something that matters can't be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The annotation by which Istio's peers know that a pod takes HBONE on port 15008.
pub const REDIRECTION_ANNOTATION: &str = "ambient.istio.io/redirection";
/// The annotation by which adit's peers know on which other ports a pod takes HBONE: `original`.
pub const HBONE_PORT_ANNOTATION: &str = "adit.dev/hbone-port";
/// What the kubelet writes on pods that it has of its own files.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
pub(super) const SIDECAR_ANNOTATION: &str = "sidecar.istio.io/status";
pub(super) const REDIRECTION_ENABLED: &str = "enabled";
pub(super) const HBONE_PORT_ORIGINAL: &str = "original";

/// The key of an object of any kind, from its JSON.
///
/// # Errors
/// No name.
pub(super) fn key(json: &str) -> Result<Key, Malformed> {
    let wire::Named { metadata } = serde_json::from_str(json)?;
    Ok(metadata.key())
}

/// Reads an object. `None` for one that has no bearing on the model, such as a pod that has ended.
///
/// # Errors
/// Something in it that matters can't be understood.
pub(super) fn read(kind: Kind, json: &str, trust_domain: &TrustDomain) -> Result<Option<Object>, Malformed> {
    fn of<T: DeserializeOwned>(json: &str) -> Result<T, Malformed> {
        Ok(serde_json::from_str(json)?)
    }
    match kind.role {
        Role::Account => Ok(account(of(json)?).map(Object::Account)),
        Role::Definition => Ok(Some(Object::Definition)),
        Role::EndpointSlice => Ok(slice::slice(of(json)?)?.map(Object::EndpointSlice)),
        Role::Namespace => Ok(Some(Object::Namespace(
            of::<wire::Named>(json)?.metadata.labels.unwrap_or_default(),
        ))),
        Role::Node => Ok(Some(Object::Node(node(of(json)?)?))),
        Role::Pod => Ok(pod(of(json)?, trust_domain)?.map(Object::Pod)),
        Role::Policy => policy::document(kind, json).map(|document| Some(Object::Policy(document))),
        Role::Service => Ok(service(of(json)?)?.map(Object::Service)),
    }
}

fn account(account: wire::Named) -> Option<Account> {
    let meta = account.metadata;
    let labels = meta.labels.filter(|labels| !labels.is_empty())?;
    Some(Account {
        namespace: meta.namespace,
        name: meta.name,
        labels,
    })
}

fn node(node: wire::Node) -> Result<Node, Malformed> {
    let internal = node.status.addresses.into_iter().filter(|address| {
        // Names are in there too, and addresses on the far side of somebody's NAT.
        address.kind == "InternalIP" || address.kind == "ExternalIP"
    });
    let mut addresses = Vec::new();
    for address in internal {
        addresses.push(ip("status.addresses", &address.address)?);
    }
    // Cilium's own interface, from which the kubelet's probes come.
    for key in [
        "network.cilium.io/ipv4-cilium-host",
        "network.cilium.io/ipv6-cilium-host",
    ] {
        if let Some(text) = node.metadata.annotation(key) {
            addresses.push(ip("metadata.annotations", text)?);
        }
    }
    let mut gateways = Vec::new();
    for net in &node.spec.pod_cidrs {
        gateways.push(first_address("spec.podCIDRs", net)?);
    }
    Ok(Node { addresses, gateways })
}

/// The address that bridge, ptp and flannel give to the node itself.
fn first_address(field: &'static str, net: &str) -> Result<IpAddr, Malformed> {
    let parsed: ipnet::IpNet = net.parse().map_err(|_| Malformed::Field {
        field,
        reason: format!("expected a CIDR, got {net:?}"),
    })?;
    Ok(match parsed.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) | 1).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) | 1).into()),
    })
}

fn pod(pod: wire::Pod, trust_domain: &TrustDomain) -> Result<Option<Pod>, Malformed> {
    let (meta, spec, status) = (pod.metadata, pod.spec, pod.status);
    let Some(node) = spec.node_name else {
        return Ok(None);
    };
    if matches!(status.phase.as_str(), "Failed" | "Succeeded") {
        return Ok(None);
    }
    let mut addresses = Vec::new();
    for listed in &status.pod_ips {
        addresses.push(ip("status.podIPs", &listed.ip)?);
    }
    if let ([], Some(single)) = (&addresses[..], &status.pod_ip) {
        addresses.push(ip("status.podIP", single)?);
    }
    if addresses.is_empty() {
        return Ok(None);
    }
    addresses.sort();
    addresses.dedup_by_key(|address| address.is_ipv4());
    let identity = identity(
        trust_domain,
        &meta.namespace,
        spec.service_account_name.as_deref(),
    )?;
    let long_lived = spec
        .init_containers
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports = Vec::new();
    for port in long_lived
        .chain(&spec.containers)
        .flat_map(|container| &container.ports)
    {
        ports.push(WorkloadPort {
            name: port.name.clone(),
            number: port.container_port,
            protocol: protocol("spec.containers.ports.protocol", port.protocol.as_deref())?,
        });
    }
    ports.shrink_to_fit();
    let ready = status
        .conditions
        .iter()
        .any(|condition| condition.kind == "Ready" && condition.status == "True");
    Ok(Some(Pod {
        capability: capability(&meta),
        is_leaving: meta.is_leaving(),
        has_sidecar: meta.annotation(SIDECAR_ANNOTATION).is_some(),
        uid: meta.uid.into(),
        node: node.into(),
        labels: meta.labels.unwrap_or_default(),
        identity,
        addresses,
        ports,
        ready,
        host_network: spec.host_network,
    }))
}

/// Reads a pod that has a node and hasn't ended, and for whose account somebody may ask. Pods on their host's network are
/// never in the mesh. Nor does a pod without an account count: the API server gives each one, but for mirror pods, which a
/// kubelet may make in every namespace; a node could have the SVIDs of every namespace's default account by them.
///
/// # Errors
/// Something in it that matters can't be understood.
pub(super) fn placed(json: &str, trust_domain: &TrustDomain) -> Result<Option<Placed>, Malformed> {
    let pod: wire::Pod = serde_json::from_str(json)?;
    let has_ended = matches!(pod.status.phase.as_str(), "Failed" | "Succeeded");
    let is_mirror = pod.metadata.annotation(MIRROR_ANNOTATION).is_some();
    let account = pod.spec.service_account_name.filter(|name| !name.is_empty());
    let (Some(node), Some(account), false) = (
        pod.spec.node_name,
        account,
        has_ended || is_mirror || pod.spec.host_network,
    ) else {
        return Ok(None);
    };
    Ok(Some(Placed {
        identity: identity(trust_domain, &pod.metadata.namespace, Some(&account))?,
        uid: pod.metadata.uid.into(),
        node: node.into(),
    }))
}

fn identity(
    trust_domain: &TrustDomain,
    namespace: &str,
    account: Option<&str>,
) -> Result<SpiffeId, Malformed> {
    let account = account.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_ACCOUNT);
    SpiffeId::new(trust_domain.clone(), namespace, account).map_err(|error| Malformed::Field {
        field: "spec.serviceAccountName",
        reason: error.to_string(),
    })
}

fn capability(meta: &Meta) -> Capability {
    let enabled = meta.annotation(REDIRECTION_ANNOTATION) == Some(REDIRECTION_ENABLED);
    let original = meta.annotation(HBONE_PORT_ANNOTATION) == Some(HBONE_PORT_ORIGINAL);
    match (enabled, original) {
        (false, _) => Capability::None,
        (true, false) => Capability::Hbone,
        (true, true) => Capability::HboneOnOriginalPort,
    }
}

/// `None` for a name for something outside (`ExternalName`), which has neither addresses nor endpoints.
fn service(service: wire::Service) -> Result<Option<Service>, Malformed> {
    let spec = service.spec;
    if spec.kind.as_deref() == Some("ExternalName") {
        return Ok(None);
    }
    let mut addresses = Vec::new();
    let single = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_empty());
    for text in spec.cluster_ips.iter().chain(single) {
        if !matches!(text.as_str(), "None" | "") {
            addresses.push(ip("spec.clusterIPs", text)?);
        }
    }
    let mut ports = Vec::with_capacity(spec.ports.len());
    for port in spec.ports {
        ports.push(ServicePort {
            name: port.name.filter(|name| !name.is_empty()),
            port: port.port,
            protocol: protocol("spec.ports.protocol", port.protocol.as_deref())?,
        });
    }
    Ok(Some(Service {
        addresses,
        ports,
        local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
    }))
}

fn ip(field: &'static str, text: &str) -> Result<IpAddr, Malformed> {
    text.parse().map_err(|_| Malformed::Field {
        field,
        reason: format!("expected an IP address, got {text:?}"),
    })
}

/// The API's default is TCP.
fn protocol(field: &'static str, text: Option<&str>) -> Result<Protocol, Malformed> {
    match text {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some("UDP") => Ok(Protocol::Udp),
        Some(other) => Err(Malformed::Field {
            field,
            reason: format!("expected TCP, UDP or SCTP, got {other:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn is_placed(change: impl FnOnce(&mut Value)) -> bool {
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": "web-1", "uid": "uid-1"},
            "spec": {"nodeName": "one", "serviceAccountName": "web", "containers": []},
            "status": {"phase": "Pending"},
        });
        change(&mut pod);
        let domain = "demo.local".parse().unwrap();
        placed(&pod.to_string(), &domain).unwrap().is_some()
    }

    #[test]
    fn a_node_has_the_identities_of_pods_that_the_api_server_gave_an_account() {
        assert!(is_placed(|_| {}));
        assert!(!is_placed(|pod| pod["spec"]["hostNetwork"] = true.into()));
        assert!(!is_placed(|pod| pod["status"]["phase"] = "Succeeded".into()));
        assert!(!is_placed(|pod| pod["spec"]["nodeName"] = Value::Null));
    }

    #[test]
    fn mirror_pods_which_a_kubelet_makes_in_any_namespace_give_it_no_identity() {
        assert!(!is_placed(|pod| pod["spec"]["serviceAccountName"] = Value::Null));
        assert!(!is_placed(|pod| pod["spec"]["serviceAccountName"] = "".into()));
        assert!(!is_placed(|pod| {
            pod["metadata"]["annotations"] = json!({MIRROR_ANNOTATION: "hash"});
        }));
    }
}
