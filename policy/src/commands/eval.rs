//! `adit policy eval`: documents of objects and flows, one JSON a line, to verdicts.

use std::net::{IpAddr, SocketAddr};

use adit_flow::{FourTuple, Protocol, VerdictKind, WorkloadName};
use adit_identity::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::compile::{Compiler, Options};
use crate::flow::{Flow, Icmp};
use crate::model::Body;
use crate::objects::{Object, Reader, Reading};
use crate::set::PolicySet;
use crate::verdict::{Decision, Trace};

/// Why a document couldn't be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The line is no document.
    #[error("expected a JSON document with objects and flows: {0}")]
    NoDocument(#[from] serde_json::Error),
    /// A flow's field doesn't fit.
    #[error("flow {index}: expected {expected} in {field}, got {got:?}")]
    BadFlow {
        /// The flow's index.
        index: usize,
        /// The field.
        field: &'static str,
        /// What it may hold.
        expected: &'static str,
        /// What it holds.
        got: String,
    },
}

#[derive(Deserialize)]
struct Document {
    objects: Vec<serde_json::Value>,
    flows: Vec<FlowLine>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FlowLine {
    src: String,
    dst: String,
    proto: String,
    #[serde(default)]
    sport: u16,
    #[serde(default)]
    dport: u16,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    /// Whether the connection came over mutual TLS; its being there asks for the mesh's verdict.
    mtls: Option<bool>,
    src_identity: Option<String>,
}

/// The verdict on one flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowVerdict {
    /// Whether both sides allow it.
    pub allowed: bool,
    /// What decided: the side that denies, or both sides that have a pod.
    pub decided_by: String,
    /// Every rule that was looked at, in order.
    pub trace: Vec<String>,
    /// What staged and dry-run policies would have decided, where any concerns the flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<bool>,
}

/// Evaluates one line: `{"objects":[…],"flows":[…]}` to a JSON array of [`FlowVerdict`]s in the order of the flows.
///
/// Policies that can't be read fail closed, as everywhere; `adit policy lint` says what is wrong with them. Where something
/// that policies lean on can't be read, every flow of the document is denied by `unreadable-objects`.
///
/// # Errors
/// [`EvalError`] if the line is no such document, or a flow names no address or pod.
pub fn eval_line(line: &str) -> Result<String, EvalError> {
    Ok(serde_json::to_string(&eval(line)?)?)
}

/// As [`eval_line`], before it is rendered.
///
/// # Errors
/// See [`eval_line`].
pub fn eval(line: &str) -> Result<Vec<FlowVerdict>, EvalError> {
    let document: Document = serde_json::from_str(line)?;
    let mut reading = Reading::default();
    let reader = Reader::default();
    for object in document.objects {
        reader.read_value("", object, &mut reading);
    }
    if reading.incomplete {
        return Ok(vec![unreadable(&reading); document.flows.len()]);
    }
    let cluster = Cluster::new(reading.objects);
    document
        .flows
        .iter()
        .enumerate()
        .map(|(index, flow)| cluster.judge(index, flow))
        .collect()
}

/// The verdict on any flow where nobody can tell what denies it.
fn unreadable(reading: &Reading) -> FlowVerdict {
    let errors = reading.diagnostics.iter().filter(|found| found.is_error());
    FlowVerdict {
        allowed: false,
        decided_by: "unreadable-objects".to_owned(),
        trace: errors.map(ToString::to_string).collect(),
        pending: None,
    }
}

struct Cluster {
    set: std::sync::Arc<PolicySet>,
    pods: Vec<(WorkloadName, Vec<IpAddr>)>,
    has_network_policies: bool,
}

/// One end as it is written.
enum Written<'a> {
    Address(IpAddr),
    Pod(&'a [IpAddr]),
}

impl Cluster {
    fn new(objects: Vec<Object>) -> Self {
        let mut pods = Vec::new();
        let mut has_network_policies = false;
        for object in &objects {
            match object {
                Object::Workload(workload) => pods.push((workload.name.clone(), workload.addresses.clone())),
                Object::Policy(policy) => has_network_policies |= matches!(policy.body, Body::Network(_)),
                _ => {}
            }
        }
        pods.sort();
        Self {
            set: Compiler::compile(Options::default(), objects),
            pods,
            has_network_policies,
        }
    }

    fn judge(&self, index: usize, line: &FlowLine) -> Result<FlowVerdict, EvalError> {
        let flow = self.flow(index, line)?;
        let mesh = line.mtls.is_some();
        let egress = self
            .set
            .workload_at(flow.tuple.src.ip())
            .map(|_| self.set.egress(&flow, Trace::On));
        let ingress = self
            .set
            .workload_at(flow.tuple.dst.ip())
            .map(|_| self.set.ingress(&flow, Trace::On));
        let sides: Vec<&Decision> = egress.iter().chain(&ingress).collect();
        let denial = sides.iter().find(|side| !side.is_allowed());
        let pending = sides
            .iter()
            .any(|side| side.verdict().pending().is_some())
            .then(|| {
                sides.iter().all(|side| {
                    side.verdict().pending().unwrap_or_else(|| side.verdict().kind()) == VerdictKind::Allow
                })
            });
        let decided_by = match denial {
            Some(side) => self.side(side, mesh),
            None => sides
                .iter()
                .map(|side| self.side(side, mesh))
                .filter(|text| !text.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
        };
        Ok(FlowVerdict {
            allowed: denial.is_none(),
            decided_by,
            trace: sides
                .iter()
                .flat_map(|side| {
                    let verdict = side.verdict();
                    verdict
                        .steps()
                        .iter()
                        .map(move |step| format!("{} {step}", verdict.direction()))
                })
                .collect(),
            pending,
        })
    }

    /// What one side says. The network layer names its direction; the mesh's has but one, and speaks alone where the
    /// document has no policies of the network layer.
    fn side(&self, side: &Decision, mesh: bool) -> String {
        let verdict = side.verdict();
        let mut parts = Vec::new();
        let network_denies = verdict.network().kind() == VerdictKind::Deny;
        let mesh_ruling = verdict.mesh().filter(|_| mesh);
        let mesh_denies = mesh_ruling.is_some_and(|ruling| ruling.kind() == VerdictKind::Deny);
        if network_denies || !mesh_denies && (self.has_network_policies || !mesh) {
            parts.push(format!("{} {}", verdict.direction(), verdict.network()));
        }
        if !network_denies {
            parts.extend(mesh_ruling.map(ToString::to_string));
        }
        parts.join("; ")
    }

    fn flow(&self, index: usize, line: &FlowLine) -> Result<Flow, EvalError> {
        let bad = |field, expected, got: &str| EvalError::BadFlow {
            index,
            field,
            expected,
            got: got.to_owned(),
        };
        let end = |field, text: &str| {
            self.written(text)
                .ok_or_else(|| bad(field, "an address or the namespace/name of a pod", text))
        };
        let (src, dst) = (end("src", &line.src)?, end("dst", &line.dst)?);
        let is_v6 = |end: &Written<'_>| matches!(end, Written::Address(IpAddr::V6(_)));
        let v6 = is_v6(&src) || is_v6(&dst);
        let address = |field, end: &Written<'_>, text: &str| match end {
            Written::Address(address) => Ok(*address),
            Written::Pod(addresses) => addresses
                .iter()
                .find(|address| address.is_ipv6() == v6)
                .or_else(|| addresses.first())
                .copied()
                .ok_or_else(|| bad(field, "a pod with an address", text)),
        };
        let protocol =
            protocol(&line.proto).ok_or_else(|| bad("proto", "a protocol's name or number", &line.proto))?;
        let identity = line.src_identity.as_deref().filter(|_| line.mtls == Some(true));
        let source_identity = identity
            .map(str::parse::<SpiffeId>)
            .transpose()
            .map_err(|_| bad("srcIdentity", "a SPIFFE id", identity.unwrap_or_default()))?;
        Ok(Flow {
            tuple: FourTuple::new(
                SocketAddr::new(address("src", &src, &line.src)?, line.sport),
                SocketAddr::new(address("dst", &dst, &line.dst)?, line.dport),
            ),
            protocol,
            icmp: line.icmp_type.map(|kind| Icmp {
                kind,
                code: line.icmp_code.unwrap_or_default(),
            }),
            source_identity,
        })
    }

    fn written(&self, text: &str) -> Option<Written<'_>> {
        if let Ok(address) = text.parse() {
            return Some(Written::Address(address));
        }
        let name: WorkloadName = text.parse().ok()?;
        let index = self.pods.binary_search_by(|(other, _)| other.cmp(&name)).ok()?;
        Some(Written::Pod(&self.pods[index].1))
    }
}

/// A protocol as flows are written: a name in lower case, or a number.
pub(super) fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "icmp" => Some(Protocol::Icmp),
        "icmpv6" => Some(Protocol::Icmpv6),
        "sctp" => Some(Protocol::Sctp),
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => text.parse::<u8>().ok().map(Protocol::from),
    }
}
