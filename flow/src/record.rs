use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{CloseReason, Closer, Protocol, RefuseReason, WorkloadName};

/// Which side of the flow the recording agent served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// At the destination workload.
    Inbound,
    /// At the source workload.
    Outbound,
}

/// How the flow travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As plain packets or through a plain socket.
    Forward,
    /// In an HBONE stream.
    Hbone,
}

/// Whether the flow was protected by mutual TLS and, where not, why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MtlsState {
    /// TLS 1.3, both certificates verified.
    Mutual,
    /// Plain: the other end is not in the mesh.
    PeerOutsideMesh,
    /// Plain: only TCP travels in HBONE.
    ProtocolNotTcp,
    /// Nothing was carried: the flow ended before the tunnel was up.
    NotEstablished,
    /// Plain: the workload that was served here is not in the mesh.
    WorkloadOutsideMesh,
}

/// What the policy engine decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictKind {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

/// The policy that decided, as far as one did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTrace {
    /// `tier/kind/[namespace/]name/rule`, or a default such as `default-allow`.
    pub decided_by: String,
    /// The reason in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Address and port as this end's packets carry them.
    pub addr: SocketAddr,
    /// The workload that owns the address, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadName>,
    /// The SPIFFE id: verified in an HBONE flow, absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// One flow at its end: the line and the JSON record of design section 8.
///
/// The JSON field names are those of this struct and are an interface: they change only with the changelog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// When it started, in microseconds since the Unix epoch.
    pub started_us: u64,
    /// How long it lasted, in microseconds.
    pub duration_us: u64,
    /// Which side this agent served.
    pub direction: Direction,
    /// Who opened it.
    pub source: Peer,
    /// The workload that served it. Differs from `original_destination` when a service was dialled.
    pub destination: Peer,
    /// What the opener dialled.
    pub original_destination: SocketAddr,
    /// The service dialled, `namespace/name`, where the original destination is a service address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<WorkloadName>,
    /// The transport.
    pub protocol: Protocol,
    /// The port on the wire between agents; `None` in an in-memory tunnel or without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire_port: Option<u16>,
    /// How it travelled.
    pub mode: Mode,
    /// Whether mutual TLS protected it, and why not.
    pub mtls: MtlsState,
    /// The enforced verdict.
    pub verdict: VerdictKind,
    /// What decided it.
    pub policy: PolicyTrace,
    /// The verdict of staged policies, where there are any that differ in kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<VerdictKind>,
    /// Payload bytes from source to destination.
    pub bytes_sent: u64,
    /// Payload bytes from destination to source.
    pub bytes_received: u64,
    /// Why it ended.
    pub close: CloseReason,
    /// Who ended it.
    pub closed_by: Closer,
    /// Why it wasn't established, with [`CloseReason::Refused`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefuseReason>,
    /// Detail for people: the error's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.workload {
            Some(workload) => write!(f, "{workload}({})", self.addr),
            None => write!(f, "{}", self.addr),
        }
    }
}

/// The one line of a flow, without its time: the printer knows the reader's time zone.
impl fmt::Display for FlowRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = |direction| {
            if direction == Direction::Outbound {
                "out"
            } else {
                "in"
            }
        };
        write!(
            f,
            "{:<3} {} -> {}",
            label(self.direction),
            self.source,
            self.destination
        )?;
        if self.original_destination != self.destination.addr {
            write!(f, " via {}", self.original_destination)?;
        }
        let mode = match (self.mode, self.wire_port) {
            (Mode::Forward, _) => "forward".to_owned(),
            (Mode::Hbone, None) => "hbone".to_owned(),
            (Mode::Hbone, Some(port)) => format!("hbone:{port}"),
        };
        let mtls = match self.mtls {
            MtlsState::Mutual => "mtls",
            MtlsState::PeerOutsideMesh => "plain(peer outside the mesh)",
            MtlsState::ProtocolNotTcp => "plain(not TCP)",
            MtlsState::NotEstablished => "not established",
            MtlsState::WorkloadOutsideMesh => "plain(workload outside the mesh)",
        };
        let verdict = if self.verdict == VerdictKind::Allow {
            "allow"
        } else {
            "deny"
        };
        write!(
            f,
            " {} {mode} {mtls} {verdict} [{}] sent {} B received {} B {:.3} s {} by {}",
            self.protocol,
            self.policy.decided_by,
            self.bytes_sent,
            self.bytes_received,
            self.duration_us as f64 / 1e6,
            self.close,
            self.closed_by,
        )?;
        if let Some(refused) = self.refused {
            write!(f, " ({refused})")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> FlowRecord {
        FlowRecord {
            started_us: 1,
            duration_us: 1_500_000,
            direction: Direction::Outbound,
            source: Peer {
                addr: "10.77.0.2:40000".parse().unwrap(),
                workload: Some(WorkloadName::new("shop", "debug")),
                identity: Some("spiffe://demo.local/ns/shop/sa/debug".into()),
            },
            destination: Peer {
                addr: "10.77.0.3:8080".parse().unwrap(),
                workload: Some(WorkloadName::new("shop", "web-0")),
                identity: None,
            },
            original_destination: "10.78.0.1:80".parse().unwrap(),
            service: Some(WorkloadName::new("shop", "web")),
            protocol: Protocol::Tcp,
            wire_port: None,
            mode: Mode::Hbone,
            mtls: MtlsState::Mutual,
            verdict: VerdictKind::Allow,
            policy: PolicyTrace {
                decided_by: "default-allow".into(),
                reason: String::new(),
            },
            pending: None,
            bytes_sent: 10,
            bytes_received: 20,
            close: CloseReason::Fin,
            closed_by: Closer::Source,
            refused: None,
            detail: None,
        }
    }

    #[test]
    fn the_json_record_round_trips() {
        let json = serde_json::to_string(&record()).unwrap();
        assert_eq!(serde_json::from_str::<FlowRecord>(&json).unwrap(), record());
    }

    #[test]
    fn the_line_names_the_port_on_the_wire_where_there_is_one() {
        let line = FlowRecord {
            wire_port: Some(15008),
            ..record()
        }
        .to_string();
        assert!(line.contains(" tcp hbone:15008 mtls "), "{line}");
    }

    #[test]
    fn the_line_names_both_ends_and_the_dialled_service() {
        assert_eq!(
            record().to_string(),
            "out shop/debug(10.77.0.2:40000) -> shop/web-0(10.77.0.3:8080) via 10.78.0.1:80 tcp hbone mtls allow \
             [default-allow] sent 10 B received 20 B 1.500 s fin by source"
        );
    }
}
