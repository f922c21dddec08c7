//! The records of flows, read from each agent that runs, on their way to a file; and what policy denied among them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_flow::{FlowRecord, Peer, VerdictKind};

use crate::admin::{AgentClient, FlowLine, FlowQuery};
use crate::sink::LineSink;

/// Bytes of the file, at most: some 400,000 records.
const LIMIT: u64 = 256 << 20;
/// Different denied flows that are remembered.
const DENIED_LIMIT: usize = 50;

/// Where records go. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::supervisor) struct FlowLog {
    sink: LineSink,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Denied flows and how often, all those between the same ends for the same reason as one.
    denied: BTreeMap<String, u64>,
    /// Those that found no room above.
    denied_besides: u64,
    /// Records that ended faster than they were read.
    missed: u64,
    /// Records beyond the bound of the file.
    left_out: u64,
    written: u64,
}

impl FlowLog {
    pub(super) fn new(sink: LineSink) -> Self {
        Self {
            sink,
            seen: Arc::default(),
        }
    }

    /// Reads the records of one agent until it has no more to tell, or is gone.
    pub(in crate::supervisor) async fn follow(&self, agent: AgentClient) {
        let query = FlowQuery {
            follow: true,
            ..FlowQuery::default()
        };
        let Ok(mut stream) = agent.flows(query).await else {
            return;
        };
        // A connection that breaks is the agent's end, which its keeper tells of.
        while let Ok(Some(line)) = stream.next().await {
            match line {
                FlowLine::Flow(record) => {
                    let line = self.seen().take(&record);
                    if let Some(line) = line {
                        self.sink.send_patiently(line).await;
                    }
                }
                FlowLine::Missed(count) => self.seen().missed += count,
            }
        }
    }

    /// What policy denied: each kind of flow once, with its count.
    pub(super) fn denied(&self) -> Vec<String> {
        self.seen().denied()
    }

    /// Records that aren't in the file, and why.
    pub(super) fn lost(&self) -> Vec<String> {
        let seen = self.seen();
        let all = [
            (seen.missed, "they ended faster than they were read"),
            (seen.left_out, "the file has 256 MiB at most"),
            (self.sink.dropped(), "the disk didn't take them"),
        ];
        let lost = all.into_iter().filter(|(count, _)| *count > 0);
        lost.map(|(count, why)| format!("adit: {count} records are missing in flows.jsonl: {why}"))
            .collect()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Whole between any two of its methods, so a panic elsewhere leaves nothing half done.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Takes a record in; gives what is to be written of it.
    fn take(&mut self, record: &FlowRecord) -> Option<Vec<u8>> {
        if record.verdict == VerdictKind::Deny {
            let denied = denied(record);
            let has_room = self.denied.len() < DENIED_LIMIT;
            match self.denied.get_mut(&denied) {
                Some(count) => *count += 1,
                None if has_room => drop(self.denied.insert(denied, 1)),
                None => self.denied_besides += 1,
            }
        }
        let mut line = serde_json::to_vec(record).expect("a record has text keys");
        line.push(b'\n');
        if self.written + line.len() as u64 > LIMIT {
            self.left_out += 1;
            return None;
        }
        self.written += line.len() as u64;
        Some(line)
    }

    fn denied(&self) -> Vec<String> {
        let mut denied: Vec<_> = self
            .denied
            .iter()
            .map(|(flow, count)| match count {
                1 => flow.clone(),
                count => format!("{flow} ({count} times)"),
            })
            .collect();
        if self.denied_besides > 0 {
            denied.push(format!("{} others, all in flows.jsonl", self.denied_besides));
        }
        denied
    }
}

/// A denied flow in words, but for what differs from one try to the next.
fn denied(record: &FlowRecord) -> String {
    let end = |peer: &Peer| match &peer.workload {
        Some(workload) => workload.to_string(),
        None => peer.addr.ip().to_string(),
    };
    let port = match record.destination.addr.port() {
        0 => String::new(),
        port => format!(":{port}"),
    };
    let reason = match record.policy.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!(
        "{} -> {}{port} {} by {}{reason}",
        end(&record.source),
        end(&record.destination),
        record.protocol,
        record.policy.decided_by
    )
}

#[cfg(test)]
mod tests {
    use adit_flow::PolicyTrace;

    use super::*;
    use crate::admin::record;

    #[test]
    fn denied_flows_are_counted_by_their_ends_and_what_decided() {
        let mut seen = Seen::default();
        let denied = |port: u16| {
            let mut record = record("shop/e2e", "shop/db");
            record.verdict = VerdictKind::Deny;
            record.source.addr.set_port(port);
            record.policy = PolicyTrace {
                decided_by: "default/KubernetesNetworkPolicy/shop/db/default-deny".into(),
                reason: String::new(),
            };
            record
        };
        assert!(seen.take(&record("shop/e2e", "shop/web")).is_some());
        assert_eq!(seen.denied(), [] as [&str; 0]);
        let line = seen.take(&denied(40_000)).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        seen.take(&denied(40_001));
        let said = seen.denied();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("shop/e2e -> shop/db:")
                && said[0].ends_with("by default/KubernetesNetworkPolicy/shop/db/default-deny (2 times)"),
            "{said:?}"
        );
    }

    #[test]
    fn the_file_and_the_memory_are_bounded() {
        let mut seen = Seen {
            written: LIMIT,
            ..Seen::default()
        };
        for port in 1..=60 {
            let mut record = record("shop/e2e", "shop/db");
            record.verdict = VerdictKind::Deny;
            record.destination.addr.set_port(port);
            assert_eq!(seen.take(&record), None);
        }
        assert_eq!((seen.left_out, seen.denied().len()), (60, DENIED_LIMIT + 1));
        assert_eq!(seen.denied().last().unwrap(), "10 others, all in flows.jsonl");
    }
}
