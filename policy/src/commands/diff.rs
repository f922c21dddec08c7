//! `adit policy diff`: which flows between known workloads change their verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use adit_flow::{Protocol, WorkloadName};
use adit_identity::TrustDomain;

use super::ask::Asker;
use crate::compile::{Compiler, Options};
use crate::objects::Object;
use crate::verdict::Trace;

/// A flow whose verdict changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedFlow {
    /// Who opens it: a workload, or `outside`.
    pub from: String,
    /// Whom it is opened to.
    pub to: String,
    /// The port; 0 for protocols without.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// Whether it is allowed now; it was not before, and the other way round.
    pub allowed: bool,
    /// What decided before.
    pub old_by: String,
    /// What decides now.
    pub new_by: String,
}

/// The differences.
#[derive(Clone, Debug)]
pub struct Report {
    /// The flows that change.
    pub changes: Vec<ChangedFlow>,
    /// How many flows were judged.
    pub judged: usize,
    /// Whether the bound was reached, so that some flows were not judged.
    pub truncated: bool,
}

/// An address of a range set aside for documentation (RFC 5737), standing for all that is outside.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// A port that few declare, standing for all that a workload doesn't.
const OTHER_PORT: u16 = 65_535;

/// One end of the flows that are compared.
struct Place {
    name: String,
    address: IpAddr,
    ports: Vec<(u16, Protocol)>,
}

/// Judges every flow between the workloads that both sides know, and between them and the outside, on each port that
/// the destination declares and one that it doesn't, before and after. At most `limit` flows are judged.
pub fn diff(
    options: Options,
    trust_domain: &TrustDomain,
    old: Vec<Object>,
    new: Vec<Object>,
    limit: usize,
) -> Report {
    let places = places(&old, &new);
    let (old, new) = (Compiler::compile(options, old), Compiler::compile(options, new));
    let old = Asker::new(&old, trust_domain.clone());
    let new = Asker::new(&new, trust_domain.clone());
    let mut report = Report {
        changes: Vec::new(),
        judged: 0,
        truncated: false,
    };
    for from in &places {
        for to in places
            .iter()
            .filter(|to| to.address.is_ipv4() == from.address.is_ipv4())
        {
            for (port, protocol) in &to.ports {
                if from.address == OUTSIDE && to.address == OUTSIDE {
                    continue;
                }
                if report.judged == limit {
                    report.truncated = true;
                    return report;
                }
                report.judged += 1;
                let ask = |asker: &Asker<'_>| {
                    asker.ask_between(from.address, to.address, *port, *protocol, false, Trace::Off)
                };
                let (before, after) = (ask(&old), ask(&new));
                if before.is_allowed() != after.is_allowed() {
                    report.changes.push(ChangedFlow {
                        from: from.name.clone(),
                        to: to.name.clone(),
                        port: *port,
                        protocol: *protocol,
                        allowed: after.is_allowed(),
                        old_by: before.decided_by(),
                        new_by: after.decided_by(),
                    });
                }
            }
        }
    }
    report
}

/// The workloads that both sides know at the same address, and the outside.
fn places(old: &[Object], new: &[Object]) -> Vec<Place> {
    let known = |objects: &[Object]| -> BTreeMap<(WorkloadName, IpAddr), Vec<(u16, Protocol)>> {
        objects
            .iter()
            .filter_map(|object| match object {
                Object::Workload(workload) => Some(workload),
                _ => None,
            })
            .flat_map(|workload| {
                let ports: Vec<_> = workload
                    .ports
                    .iter()
                    .map(|port| (port.number, port.protocol))
                    .collect();
                workload
                    .addresses
                    .iter()
                    .map(move |address| ((workload.name.clone(), *address), ports.clone()))
            })
            .collect()
    };
    let (old, new) = (known(old), known(new));
    let other = (OTHER_PORT, Protocol::Tcp);
    let mut places: Vec<Place> = new
        .into_iter()
        .filter(|(key, _)| old.contains_key(key))
        .map(|((name, address), mut ports)| {
            ports.push(other);
            ports.sort_unstable();
            ports.dedup();
            Place {
                name: name.to_string(),
                address,
                ports,
            }
        })
        .collect();
    places.push(Place {
        name: "outside".to_owned(),
        address: OUTSIDE,
        ports: vec![other],
    });
    places
}

impl Report {
    /// The differences for people: `+` for flows that are allowed now, `-` for those that no longer are.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for change in &self.changes {
            let sign = if change.allowed { '+' } else { '-' };
            let port = if change.port == OTHER_PORT {
                "other ports".to_owned()
            } else {
                change.port.to_string()
            };
            _ = writeln!(
                out,
                "{sign} {} -> {}:{port}/{}",
                change.from, change.to, change.protocol
            );
            _ = writeln!(
                out,
                "    before: {}\n    now:    {}",
                change.old_by, change.new_by
            );
        }
        let more = if self.truncated {
            " (the bound was reached: there are more flows)"
        } else {
            ""
        };
        _ = writeln!(
            out,
            "{} of {} flows change{more}",
            self.changes.len(),
            self.judged
        );
        out
    }
}
