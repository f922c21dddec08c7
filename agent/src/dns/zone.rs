//! Which records a name has, by the snapshot.

use std::collections::BTreeSet;
use std::net::IpAddr;

use adit_control::{Owner, Service, Snapshot, TargetPort, Workload};
use adit_flow::{Protocol, WorkloadName};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::TTL;

/// The zone of the mesh, as in Kubernetes.
pub(super) const CLUSTER_DOMAIN: &str = "cluster.local";

/// What a look-up is about, besides the name.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The type asked for. Records of other types may be left out, except that none at all means no such name.
    pub(super) wanted: RecordType,
}

/// What is known of a name.
#[derive(Debug)]
pub(super) enum Lookup {
    /// It exists and has these records, maybe none.
    Found { zone: Name, records: Records },
    /// The mesh is the authority for it, and it doesn't exist.
    Missing { zone: Name },
    /// The mesh knows nothing of it.
    NotOurs,
}

/// The records of one name, of all types.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) answers: Vec<RData>,
    /// Addresses of the names that SRV records point to.
    pub(super) glue: Vec<(Name, IpAddr)>,
}

/// Looks up a name given by its lower-case labels, from the left.
pub(super) fn look_up(view: View<'_>, from_namespace: &str, labels: &[String], asked: &Name) -> Lookup {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let found = |records| Lookup::Found {
        zone: asked.clone(),
        records,
    };
    match labels[..] {
        [ref rest @ .., "cluster", "local"] => match in_cluster_domain(view, rest) {
            Some(records) => Lookup::Found {
                zone: cluster_domain(),
                records,
            },
            None => Lookup::Missing {
                zone: cluster_domain(),
            },
        },
        [.., "in-addr" | "ip6", "arpa"] => reverse(view.snapshot, asked).map_or(Lookup::NotOurs, found),
        // No top-level domain is called so, and the search list makes these names of `web.shop`.
        [ref rest @ .., "svc"] => match in_services(view, rest) {
            Some(records) => found(records),
            None => Lookup::Missing { zone: fqdn("svc.") },
        },
        [] => Lookup::NotOurs,
        ref bare @ [ref rest @ .., namespace] => of_namespace(view, namespace, rest)
            .or_else(|| of_namespace(view, from_namespace, bare))
            .map_or(Lookup::NotOurs, found),
    }
}

fn in_cluster_domain(view: View<'_>, labels: &[&str]) -> Option<Records> {
    match labels {
        [] => Some(Records {
            answers: vec![soa(view.snapshot), RData::NS(NS(name_server()))],
            glue: Vec::new(),
        }),
        ["dns"] => Some(Records::default()),
        ["ns", "dns"] => Some(addresses(view.snapshot.dns.iter().copied())),
        [rest @ .., "svc"] => in_services(view, rest),
        _ => None,
    }
}

/// Names under `svc.cluster.local`.
fn in_services(view: View<'_>, labels: &[&str]) -> Option<Records> {
    match labels {
        [] => Some(Records::default()),
        [namespace] => view
            .snapshot
            .namespaces
            .contains_key(*namespace)
            .then(Records::default),
        [rest @ .., namespace] => of_namespace(view, namespace, rest),
    }
}

/// Names under `<namespace>.svc.cluster.local`.
fn of_namespace(view: View<'_>, namespace: &str, labels: &[&str]) -> Option<Records> {
    let service = |name: &str| view.snapshot.services.get(&WorkloadName::new(namespace, name));
    match labels {
        [name] => match service(name) {
            Some(service) => Some(of_service(view, service)),
            None => {
                let workload = view
                    .snapshot
                    .workloads
                    .get(&WorkloadName::new(namespace, *name))?;
                Some(addresses(workload.addresses.iter().copied()))
            }
        },
        [port, transport, name] if transport.starts_with('_') => {
            let (protocol, service) = (protocol(transport)?, service(name)?);
            let records = srv(view.snapshot, service, protocol, Some(port.strip_prefix('_')?));
            (!records.answers.is_empty() || has_port(service, protocol, port)).then_some(records)
        }
        // Nothing is called so, but the names of ports are below it (RFC 8020 §2).
        [transport, name] if transport.starts_with('_') => {
            let protocol = protocol(transport)?;
            let named = service(name)?
                .ports
                .iter()
                .any(|port| port.protocol == protocol && port.name.is_some());
            named.then(Records::default)
        }
        [endpoint, name] => {
            let endpoint = WorkloadName::new(namespace, *endpoint);
            let workload = view
                .snapshot
                .workloads
                .get(service(name)?.has_endpoint(&endpoint).then_some(&endpoint)?)?;
            Some(addresses(workload.addresses.iter().copied()))
        }
        _ => None,
    }
}

/// A service's own name: its addresses, or its workloads' if it is headless, and all of its ports.
fn of_service(view: View<'_>, service: &Service) -> Records {
    let mut records = match service.addresses[..] {
        [] => addresses(
            service
                .ready_workloads(view.snapshot)
                .flat_map(|workload| workload.addresses.iter().copied()),
        ),
        ref own => addresses(own.iter().copied()),
    };
    if !matches!(view.wanted, RecordType::SRV | RecordType::ANY) {
        return records;
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let ports = srv(view.snapshot, service, protocol, None);
        records.answers.extend(ports.answers);
        records.glue.extend(ports.glue);
    }
    records
}

/// The SRV records (RFC 2782) of the port called `name`, or of all.
fn srv(snapshot: &Snapshot, service: &Service, protocol: Protocol, name: Option<&str>) -> Records {
    const PRIORITY: u16 = 0;
    const WEIGHT: u16 = 100;
    let mut records = Records::default();
    let mut add = |port: u16, target: Name, addresses: &[IpAddr]| {
        records
            .answers
            .push(RData::SRV(SRV::new(PRIORITY, WEIGHT, port, target.clone())));
        records
            .glue
            .extend(addresses.iter().map(|address| (target.clone(), *address)));
    };
    let wanted = |port: &&adit_control::ServicePort| {
        port.protocol == protocol && name.is_none_or(|name| port.name.as_deref() == Some(name))
    };
    for port in service.ports.iter().filter(wanted) {
        if !service.addresses.is_empty() {
            add(port.port, service_name(&service.name), &service.addresses);
            continue;
        }
        for workload in service.ready_workloads(snapshot) {
            if let Some(number) = target(&port.target, workload, protocol) {
                add(
                    number,
                    endpoint_name(&workload.name, &service.name),
                    &workload.addresses,
                );
            }
        }
    }
    // Several ports of one target need its addresses once.
    let mut seen = BTreeSet::new();
    records.glue.retain(|glue| seen.insert(glue.clone()));
    records
}

fn has_port(service: &Service, protocol: Protocol, label: &str) -> bool {
    service
        .ports
        .iter()
        .any(|port| port.protocol == protocol && port.name.as_deref() == label.strip_prefix('_'))
}

fn target(target: &TargetPort, workload: &Workload, protocol: Protocol) -> Option<u16> {
    target.resolve(&workload.name, &workload.ports, protocol)
}

fn protocol(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// The name of an address of the mesh.
fn reverse(snapshot: &Snapshot, asked: &Name) -> Option<Records> {
    let net = asked.parse_arpa_name().ok()?;
    if net.prefix_len() != net.max_prefix_len() {
        return None;
    }
    let name = match snapshot.owner(net.addr())? {
        Owner::Unassigned => return None,
        Owner::Dns => name_server(),
        Owner::Service(service) => service_name(&service.name),
        Owner::Workload(workload) => workload_name(snapshot, &workload.name),
    };
    Some(Records {
        answers: vec![RData::PTR(PTR(name))],
        glue: Vec::new(),
    })
}

/// The name that leads to a workload's address: of a workload that has a service's name, the one behind a service.
fn workload_name(snapshot: &Snapshot, name: &WorkloadName) -> Name {
    let behind = || {
        snapshot
            .services
            .values()
            .find(|service| service.has_endpoint(name))
    };
    match snapshot.services.contains_key(name).then(behind).flatten() {
        Some(service) => endpoint_name(name, &service.name),
        None => service_name(name),
    }
}

fn service_name(name: &WorkloadName) -> Name {
    fqdn(&format!("{}.{}.svc.{CLUSTER_DOMAIN}.", name.name, name.namespace))
}

fn endpoint_name(workload: &WorkloadName, service: &WorkloadName) -> Name {
    fqdn(&format!(
        "{}.{}.{}.svc.{CLUSTER_DOMAIN}.",
        workload.name, service.name, service.namespace
    ))
}

fn cluster_domain() -> Name {
    fqdn(&format!("{CLUSTER_DOMAIN}."))
}

fn name_server() -> Name {
    fqdn(&format!("ns.dns.{CLUSTER_DOMAIN}."))
}

/// A name made of at most three names of the mesh. The mesh file's are DNS labels, and always fit. Those of other
/// sources may be too long (RFC 1035 §2.3.4) or no labels at all: the root, which leads nowhere, stands for them.
fn fqdn(text: &str) -> Name {
    Name::from_ascii(text).unwrap_or_else(|_| Name::root())
}

/// The record that tells how long the absence of `zone`'s names may be remembered (RFC 2308 §5).
pub(super) fn start_of_authority(snapshot: &Snapshot, zone: Name) -> Record {
    Record::from_rdata(zone, TTL, soa(snapshot))
}

fn soa(snapshot: &Snapshot) -> RData {
    const REFRESH: i32 = 7200;
    const RETRY: i32 = 1800;
    const EXPIRE: i32 = 86_400;
    let contact = fqdn(&format!("hostmaster.{CLUSTER_DOMAIN}."));
    let serial = snapshot.generation as u32; // serial numbers wrap (RFC 1982)
    RData::SOA(SOA::new(
        name_server(),
        contact,
        serial,
        REFRESH,
        RETRY,
        EXPIRE,
        TTL,
    ))
}

fn addresses(addresses: impl Iterator<Item = IpAddr>) -> Records {
    Records {
        answers: addresses.map(rdata).collect(),
        glue: Vec::new(),
    }
}

/// An address as a record.
pub(super) fn rdata(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}
