//! The messages of both control sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use adit_control::PolicyDocument;
use adit_flow::{FlowRecord, Peer, VerdictKind, WorkloadName};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The version of the protocol that this build speaks.
pub const VERSION: u32 = 1;

/// The codes of faults that the protocol itself gives.
pub mod codes {
    /// The connection limit was reached.
    pub const BUSY: &str = "ADIT-A033";
    /// A request that isn't one.
    pub const MALFORMED: &str = "ADIT-A030";
    /// The peer's user is not the owner of the socket.
    pub const NOT_PERMITTED: &str = "ADIT-A034";
    /// A line beyond the limit.
    pub const TOO_LONG: &str = "ADIT-A032";
    /// Another version of the protocol.
    pub const VERSION: &str = "ADIT-A031";
}

/// A request line: the version and the request's own fields.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) body: T,
}

/// What may be asked of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum AgentRequest {
    /// Serve a pod: fetch its TUN queues from the node helper and start. Idempotent.
    AddPod {
        /// Which.
        pod: WorkloadName,
    },
    /// Every counter.
    Counters,
    /// The agent's state for people: the snapshot, tunnels, flows.
    Dump,
    /// Refuse new flows and end when the live ones have, or at the deadline.
    Drain {
        /// Milliseconds until the remaining flows are reset.
        deadline_ms: u64,
    },
    /// Why policy allows or denies a flow, rule by rule.
    Explain(ExplainQuery),
    /// Flow records: those kept, then new ones if asked to follow.
    Flows(FlowQuery),
    /// The certificates that it holds.
    Identity,
    /// Stop serving a pod: its flows end and its queues are closed. Idempotent.
    RemovePod {
        /// Which.
        pod: WorkloadName,
    },
    /// The mesh as it is from now on. Replaces the last one whole.
    SetMesh(MeshUpdate),
}

/// What may be asked of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum SupervisorRequest {
    /// Stop everything in order. Answered at once; the connection closes when it is done.
    Down,
    /// Become a workload of the mesh until the connection closes. The last request of its connection.
    Join(JoinRequest),
    /// What runs.
    Ps,
}

/// Everything that an agent needs to make a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshUpdate {
    /// Rises with every update of one supervisor.
    pub generation: u64,
    /// The mesh file's path, for messages only: the agent doesn't read it.
    pub path: PathBuf,
    /// The mesh file itself, as the supervisor read and checked it.
    pub text: String,
    /// The policy documents that the mesh file names.
    #[serde(default)]
    pub policies: Vec<PolicyText>,
    /// Which of the mesh's nodes this agent serves; `None` in a mesh without nodes.
    #[serde(default)]
    pub node: Option<String>,
    /// The replicas that services may send new flows to.
    #[serde(default)]
    pub ready: BTreeSet<WorkloadName>,
    /// Workloads that joined besides those of the file.
    #[serde(default)]
    pub joined: Vec<JoinedWorkload>,
}

/// A policy file, uninterpreted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    /// Where it was read.
    pub path: PathBuf,
    /// What stands in it.
    pub text: String,
}

impl PolicyText {
    /// As those take it who read it.
    pub(crate) fn to_document(&self) -> Arc<PolicyDocument> {
        Arc::new(PolicyDocument {
            path: self.path.clone(),
            text: self.text.clone(),
        })
    }
}

/// A workload that isn't in the mesh file: `adit run --mesh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedWorkload {
    /// Namespace and name.
    pub name: WorkloadName,
    /// Labels that selectors see.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whose identity it has, in its namespace.
    pub service_account: String,
    /// Its addresses, allocated by the supervisor.
    pub addresses: Vec<IpAddr>,
}

/// What `adit run --mesh` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The name to have.
    pub name: WorkloadName,
    /// Labels that selectors see.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whose identity to have; `default` unless given.
    #[serde(default)]
    pub service_account: Option<String>,
}

/// What the one who joined needs in order to enter its pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTicket {
    /// The node helper's socket.
    pub node_socket: PathBuf,
    /// The pod's name there.
    pub pod: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

/// A reply line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<T> {
    /// It was not done.
    Error(Fault),
    /// It was done; the answer.
    Ok(T),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("[{code}] {message}")]
pub struct Fault {
    /// A code that `adit explain` knows.
    pub code: String,
    /// What went wrong, for people.
    pub message: String,
}

/// A question about a flow, as `adit policy explain` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// Who opens it: `NAMESPACE/NAME` or an address.
    pub from: String,
    /// Whom it is opened to: `TO:PORT`, `TO:PORT/PROTOCOL` or `TO/icmp`.
    pub to: String,
    /// Judge it as plain, even between two workloads of the mesh.
    #[serde(default)]
    pub plain: bool,
}

/// The answer to [`AgentRequest::Explain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Whether both sides allow it.
    pub allowed: bool,
    /// The verdict and the way to it, for people.
    pub text: String,
}

/// Which flow records are wanted. An absent field lets all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowQuery {
    /// Whether to go on with new records after those kept.
    #[serde(default)]
    pub follow: bool,
    /// Only flows opened by this end.
    #[serde(default)]
    pub from: Option<EndpointPattern>,
    /// Only flows to this end: the workload, the service dialled, or the address dialled.
    #[serde(default)]
    pub to: Option<EndpointPattern>,
    /// Only flows with this verdict.
    #[serde(default)]
    pub verdict: Option<VerdictKind>,
}

/// Names one or more ends of flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EndpointPattern {
    /// An address or a range.
    Addresses(IpNet),
    /// A workload or service of any namespace; a workload's name stands for all its replicas.
    Name(String),
    /// Everything in a namespace (`shop/`).
    Namespace(String),
    /// A workload or service in its namespace; a workload's name stands for all its replicas.
    Qualified(WorkloadName),
}

/// A text that names no end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected NAME, NAMESPACE/NAME, NAMESPACE/, an address or a range such as 10.77.0.0/16, got {got:?}")]
pub struct InvalidPattern {
    /// What was given.
    pub got: String,
}

/// One line of the answer to [`AgentRequest::Flows`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowLine {
    /// A flow that ended.
    Flow(Box<FlowRecord>),
    /// Records that this reader was too slow for. Counted before the filter.
    Missed(u64),
}

/// A certificate that the agent holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SvidStatus {
    /// The SPIFFE id.
    pub identity: String,
    /// The certificate's serial number in hexadecimal.
    pub serial: String,
    /// Start of validity, in seconds since the Unix epoch.
    pub not_before: u64,
    /// End of validity, in seconds since the Unix epoch.
    pub not_after: u64,
    /// How often it was replaced.
    pub rotations: u64,
    /// The local workloads that use it.
    pub workloads: Vec<WorkloadName>,
    /// Why the last renewal failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_error: Option<String>,
}

/// What runs, for `adit ps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsReport {
    /// The mesh.
    pub mesh: String,
    /// The node, in a mesh with nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The process of `adit up`.
    pub supervisor_pid: u32,
    /// The agent's process, while there is one.
    pub agent_pid: Option<u32>,
    /// How often the agent was started again.
    pub agent_restarts: u32,
    /// Lines of output that were dropped because nobody read them, or because they could not be written.
    #[serde(default)]
    pub lines_dropped: u64,
    /// The files that it goes by.
    pub files: FilesStatus,
    /// The workloads, in the order of the mesh file, then those that joined.
    pub workloads: Vec<PsRow>,
}

/// What became of the mesh file and its policy files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesStatus {
    /// The mesh file.
    pub path: PathBuf,
    /// Counts the versions that took effect: 1 is that of the start.
    pub generation: u64,
    /// Seconds since that version took effect.
    pub seconds_in_force: u64,
    /// The newest version, if it was refused: the one before it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedFiles>,
}

/// A version of the files that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedFiles {
    /// Why.
    pub fault: Fault,
    /// Seconds since it was saved.
    pub seconds_ago: u64,
}

/// One replica, for `adit ps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsRow {
    /// Namespace and name.
    pub name: WorkloadName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What its pod's packets go through, once it has one here: `tun` or `packet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Where it is in its life.
    pub state: WorkloadState,
    /// Whether services may send it new flows.
    pub ready: bool,
    /// How often its program was started again.
    pub restarts: u32,
    /// How the program last ended, in words (`status 1`, `signal 9`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Seconds since the current state began.
    pub seconds_in_state: u64,
}

/// Where a replica is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum WorkloadState {
    /// Its program ended and won't be started again; it ended well.
    Completed,
    /// Its program keeps ending; it is started again after a pause.
    CrashLoop {
        /// Seconds until then.
        retry_in_seconds: u64,
    },
    /// It runs on another node.
    Elsewhere {
        /// Which.
        node: String,
    },
    /// Its program ended and won't be started again; it ended badly.
    Failed,
    /// It joined: its program belongs to another terminal.
    Joined,
    /// Its pod is being made.
    Pending,
    /// Its program runs.
    Running {
        /// The process that carries it.
        pid: u32,
    },
    /// It was told to stop.
    Stopping,
}

impl Fault {
    /// A fault with its code and its words.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for WorkloadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("Completed"),
            Self::CrashLoop { .. } => f.write_str("CrashLoop"),
            Self::Elsewhere { node } => write!(f, "On {node}"),
            Self::Failed => f.write_str("Failed"),
            Self::Joined => f.write_str("Joined"),
            Self::Pending => f.write_str("Pending"),
            Self::Running { .. } => f.write_str("Running"),
            Self::Stopping => f.write_str("Stopping"),
        }
    }
}

impl FlowQuery {
    /// Whether `record` is wanted.
    pub fn matches(&self, record: &FlowRecord) -> bool {
        let from = |pattern: &EndpointPattern| pattern.matches(&record.source);
        let to = |pattern: &EndpointPattern| {
            pattern.matches(&record.destination)
                || pattern.contains(record.original_destination.ip())
                || record
                    .service
                    .as_ref()
                    .is_some_and(|service| pattern.names(service))
        };
        self.from.as_ref().is_none_or(from)
            && self.to.as_ref().is_none_or(to)
            && self.verdict.is_none_or(|verdict| verdict == record.verdict)
    }
}

impl EndpointPattern {
    fn matches(&self, peer: &Peer) -> bool {
        self.contains(peer.addr.ip())
            || peer
                .workload
                .as_ref()
                .is_some_and(|workload| self.names(workload))
    }

    fn contains(&self, address: IpAddr) -> bool {
        matches!(self, Self::Addresses(range) if range.contains(&address))
    }

    fn names(&self, name: &WorkloadName) -> bool {
        match self {
            Self::Addresses(_) => false,
            Self::Name(wanted) => name.is_called(wanted),
            Self::Namespace(wanted) => name.namespace == *wanted,
            Self::Qualified(wanted) => name.namespace == wanted.namespace && name.is_called(&wanted.name),
        }
    }
}

impl FromStr for EndpointPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPattern { got: text.to_owned() };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Addresses(address.into()));
        }
        if let Ok(range) = text.parse::<IpNet>() {
            return Ok(Self::Addresses(range));
        }
        let plain = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
            !part.is_empty() && part.bytes().all(allowed)
        };
        // A namespace is a DNS label: without a dot, so that a mistyped range isn't taken for a name.
        match text.split_once('/') {
            Some((namespace, _)) if namespace.contains('.') => Err(invalid()),
            None if plain(text) => Ok(Self::Name(text.to_owned())),
            Some((namespace, "")) if plain(namespace) => Ok(Self::Namespace(namespace.to_owned())),
            Some((namespace, name)) if plain(namespace) && plain(name) => {
                Ok(Self::Qualified(WorkloadName::new(namespace, name)))
            }
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for EndpointPattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EndpointPattern> for String {
    fn from(pattern: EndpointPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for EndpointPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(range) => write!(f, "{range}"),
            Self::Name(name) => f.write_str(name),
            Self::Namespace(namespace) => write!(f, "{namespace}/"),
            Self::Qualified(name) => write!(f, "{name}"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use adit_flow::{CloseReason, Closer, Direction, Mode, MtlsState, PolicyTrace, Protocol};

    use super::*;

    pub(crate) fn record(source: &str, destination: &str) -> FlowRecord {
        let peer = |workload: &str, addr: &str| Peer {
            addr: addr.parse().unwrap(),
            workload: workload.parse().ok(),
            identity: None,
        };
        FlowRecord {
            started_us: 1,
            duration_us: 2,
            direction: Direction::Outbound,
            source: peer(source, "10.77.0.2:40000"),
            destination: peer(destination, "10.77.0.3:8080"),
            original_destination: "10.78.0.1:80".parse().unwrap(),
            service: Some(WorkloadName::new("shop", "front")),
            protocol: Protocol::Tcp,
            wire_port: None,
            mode: Mode::Hbone,
            mtls: MtlsState::Mutual,
            verdict: VerdictKind::Allow,
            policy: PolicyTrace::default(),
            pending: None,
            bytes_sent: 0,
            bytes_received: 0,
            close: CloseReason::Fin,
            closed_by: Closer::Source,
            refused: None,
            detail: None,
        }
    }

    fn query(from: Option<&str>, to: Option<&str>) -> FlowQuery {
        let pattern = |text: &str| text.parse().unwrap();
        FlowQuery {
            from: from.map(pattern),
            to: to.map(pattern),
            ..FlowQuery::default()
        }
    }

    #[test]
    fn names_stand_for_their_replicas_and_no_other() {
        let record = record("shop/debug", "shop/web-0");
        for (from, to, expected) in [
            (None, None, true),
            (Some("debug"), None, true),
            (Some("shop/debug"), Some("shop/web"), true),
            (None, Some("web-0"), true),
            (None, Some("web-1"), false),
            (None, Some("we"), false),
            (None, Some("other/web"), false),
            (None, Some("shop/"), true),
            (Some("other/"), None, false),
            (None, Some("front"), true),
            (Some("front"), None, false),
            (None, Some("10.78.0.1"), true),
            (None, Some("10.77.0.0/16"), true),
            (Some("10.77.0.3"), None, false),
        ] {
            assert_eq!(query(from, to).matches(&record), expected, "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn the_verdict_filters() {
        let deny = FlowQuery {
            verdict: Some(VerdictKind::Deny),
            ..FlowQuery::default()
        };
        assert!(!deny.matches(&record("shop/debug", "shop/web-0")));
    }

    #[test]
    fn patterns_round_trip_and_bad_ones_are_refused() {
        for text in ["web", "shop/web", "shop/", "10.77.0.0/16", "fd00::/64"] {
            assert_eq!(text.parse::<EndpointPattern>().unwrap().to_string(), text);
        }
        for bad in ["", "/", "/web", "a/b/c", "we b", "10.0.0.0/33"] {
            assert!(bad.parse::<EndpointPattern>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn requests_round_trip_as_json() {
        let update = MeshUpdate {
            generation: 7,
            path: "shop.yaml".into(),
            text: "name: shop\n".into(),
            policies: vec![PolicyText {
                path: "p.yaml".into(),
                text: "{}".into(),
            }],
            node: None,
            ready: [WorkloadName::new("shop", "web-0")].into(),
            joined: vec![JoinedWorkload {
                name: WorkloadName::new("shop", "debug"),
                labels: BTreeMap::new(),
                service_account: "default".into(),
                addresses: vec!["10.77.0.9".parse().unwrap()],
            }],
        };
        for request in [
            AgentRequest::SetMesh(update),
            AgentRequest::Flows(query(Some("shop/debug"), Some("10.0.0.0/8"))),
            AgentRequest::Drain { deadline_ms: 5 },
            AgentRequest::Identity,
        ] {
            let json = serde_json::to_string(&request).unwrap();
            assert_eq!(
                serde_json::from_str::<AgentRequest>(&json).unwrap(),
                request,
                "{json}"
            );
        }
    }
}
