use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use adit_control::{Snapshot, Workload};
use adit_flow::{
    CloseReason, Closer, Direction, FlowRecord, FourTuple, Mode, MtlsState, Peer, PolicyTrace, Protocol,
    RefuseReason, VerdictKind, WorkloadName,
};
use adit_identity::SpiffeId;
use adit_policy::Verdict;

use super::Counters;
use crate::admin::FlowHub;
use crate::pipeline::relay::{Moved, Outcome, Side};

/// A flow's record while the flow lives. Dropped unfinished (its task was ended), it says that the agent drained.
pub(crate) struct Recorder {
    hub: Arc<FlowHub>,
    counters: Arc<Counters>,
    started: Instant,
    record: Option<Box<FlowRecord>>,
}

impl Recorder {
    /// Starts the record of a flow as its packets carry it.
    pub(crate) fn new(
        hub: &Arc<FlowHub>,
        counters: &Arc<Counters>,
        direction: Direction,
        protocol: Protocol,
        tuple: FourTuple,
        snapshot: &Snapshot,
    ) -> Self {
        let peer = |addr: SocketAddr| Peer {
            addr,
            workload: snapshot
                .workload_at(addr.ip())
                .map(|workload| workload.name.clone()),
            identity: None,
        };
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = FlowRecord {
            started_us: started.as_micros() as u64,
            duration_us: 0,
            direction,
            source: peer(tuple.src),
            destination: peer(tuple.dst),
            original_destination: tuple.dst,
            service: None,
            protocol,
            wire_port: None,
            mode: Mode::Forward,
            mtls: if protocol == Protocol::Tcp {
                MtlsState::PeerOutsideMesh
            } else {
                MtlsState::ProtocolNotTcp
            },
            verdict: VerdictKind::Allow,
            policy: PolicyTrace {
                decided_by: NOT_JUDGED.to_owned(),
                reason: String::new(),
            },
            pending: None,
            bytes_sent: 0,
            bytes_received: 0,
            close: CloseReason::Drained,
            closed_by: Closer::Agent,
            refused: None,
            detail: None,
        };
        counters.opened(direction);
        Self {
            hub: Arc::clone(hub),
            counters: Arc::clone(counters),
            started: Instant::now(),
            record: Some(Box::new(record)),
        }
    }

    /// The workload that was chosen to serve the flow.
    pub(crate) fn destination(
        &mut self,
        workload: &Workload,
        addr: SocketAddr,
        service: Option<WorkloadName>,
    ) {
        let Some(record) = &mut self.record else { return };
        record.destination.addr = addr;
        record.destination.workload = Some(workload.name.clone());
        record.service = service;
    }

    /// It travels in HBONE, with these two ends verified.
    pub(crate) fn hbone(&mut self, source: &SpiffeId, destination: &SpiffeId, wire_port: Option<u16>) {
        let Some(record) = &mut self.record else { return };
        record.mode = Mode::Hbone;
        record.mtls = MtlsState::Mutual;
        record.wire_port = wire_port;
        record.source.identity = Some(source.to_string());
        record.destination.identity = Some(destination.to_string());
    }

    /// The workload that is served here isn't in the mesh, so it travels plain.
    pub(crate) fn outside_mesh(&mut self) {
        let Some(record) = &mut self.record else { return };
        record.mtls = MtlsState::WorkloadOutsideMesh;
    }

    /// What the policy engine said.
    pub(crate) fn verdict(&mut self, verdict: &Verdict) {
        let Some(record) = &mut self.record else { return };
        record.verdict = verdict.kind();
        record.policy = verdict.policy_trace();
        record.pending = verdict.pending().filter(|pending| *pending != verdict.kind());
    }

    /// Bytes carried so far.
    pub(crate) fn moved(&mut self, moved: Moved) {
        let Some(record) = &mut self.record else { return };
        record.bytes_sent = moved.sent;
        record.bytes_received = moved.received;
    }

    /// It was never established.
    pub(crate) fn refused(mut self, reason: RefuseReason, by: Closer, detail: impl Into<Option<String>>) {
        let Some(record) = &mut self.record else { return };
        record.mtls = MtlsState::NotEstablished;
        record.close = CloseReason::Refused;
        record.closed_by = by;
        record.refused = Some(reason);
        record.detail = detail.into();
    }

    /// It ended, as the relay says.
    pub(crate) fn relayed(self, outcome: Outcome) {
        let by = match (outcome.reason, outcome.by) {
            (CloseReason::PeerLost | CloseReason::TimedOut, _) => Closer::Network,
            (_, Side::Opener) => Closer::Source,
            (_, Side::Target) => Closer::Destination,
        };
        self.closed(
            outcome.reason,
            by,
            Some(outcome.detail).filter(|detail| !detail.is_empty()),
        );
    }

    /// It ended.
    pub(crate) fn closed(mut self, reason: CloseReason, by: Closer, detail: Option<String>) {
        let Some(record) = &mut self.record else { return };
        record.close = reason;
        record.closed_by = by;
        record.detail = detail;
    }
}

/// Stands for the policy of a flow that was refused before it came to a verdict.
const NOT_JUDGED: &str = "not-judged";

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.duration_us = self.started.elapsed().as_micros() as u64;
            self.counters.ended(record.close, record.refused);
            self.hub.publish(*record);
        }
    }
}
