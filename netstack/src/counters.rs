use adit_flow::{CloseReason, DropReason, RefuseReason};

/// What happened in a [`Netstack`](crate::Netstack) since it was made. Plain numbers: they only grow.
///
/// They add up: every frame was used or is in exactly one drop count, and of the SYNs that became flows
/// (`syns_held`) each was accepted, refused, given up by the pod, timed out, or is still held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Frames handed in.
    pub frames_in: u64,
    /// Bytes of those frames.
    pub bytes_in: u64,
    /// Frames handed out.
    pub frames_out: u64,
    /// Bytes of those frames.
    pub bytes_out: u64,
    /// SYNs held for a verdict, one for each flow that the pod opened.
    pub syns_held: u64,
    /// Held SYNs that were accepted.
    pub syns_accepted: u64,
    /// Held SYNs that were refused.
    pub syns_refused: u64,
    /// Held SYNs that the pod took back, by a reset.
    pub syns_withdrawn: u64,
    /// Held SYNs that nobody decided on in time.
    pub syns_timed_out: u64,
    /// Repetitions of a held SYN, swallowed.
    pub syns_repeated: u64,
    /// Held SYNs replaced by a newer one of the same four-tuple.
    pub syns_replaced: u64,
    /// SYNs dropped because too many were held.
    pub syns_over_limit: u64,
    /// SYNs answered with RST because the flow table was full.
    pub table_full_resets: u64,
    /// Flows opened towards the pod.
    pub connects: u64,
    /// Flows established, whoever opened them.
    pub established: u64,
    /// Handshakes that the owner gave up.
    pub handshakes_aborted: u64,
    /// Resets sent, for whatever reason.
    pub resets_sent: u64,
    /// ACKs that waited for a segment to go along with and were sent alone after all.
    pub acks_released: u64,
    /// Answers dropped because the queue of answers was full; TCP repeats what matters.
    pub answers_dropped: u64,
    /// TIME-WAIT records that gave way to a new flow because the table was full.
    pub time_waits_evicted: u64,
    /// Four-tuples reused by a new SYN while in TIME-WAIT.
    pub time_waits_reused: u64,
    /// Flows that may have more under way from now on, one way.
    pub rings_grown: u64,
    /// The same, had there been budget.
    pub growth_refused: u64,
    /// Flows handed to the engine with the least rings, for want of budget.
    pub rings_minimal: u64,
    /// Flows handed to the engine because something was out of the ordinary.
    pub engaged: u64,
    /// Flows that came back from the engine, at rest.
    pub disengaged: u64,
    /// Flows handed to the engine with less room than their window had promised the pod, for want of budget.
    pub windows_shrunk: u64,
    /// Socket rebuilds that the engine did not take; the flow went on with what it had.
    pub rebuilds_failed: u64,
    /// Datagrams and echoes from the pod.
    pub datagrams_in: u64,
    /// Datagrams, echoes and ICMP errors to the pod.
    pub datagrams_out: u64,
    /// ICMP errors from the pod that were about something of ours.
    pub icmp_errors_in: u64,
    drops: [u64; DropReason::ALL.len()],
    closed: [u64; CloseReason::ALL.len()],
    connects_refused: [u64; RefuseReason::ALL.len()],
}

impl Counters {
    /// Frames dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Frames dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Flows that ended for `reason`; those never accepted or never connected are not among them.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }

    /// Established flows that ended, for any reason.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// Flows towards the pod, and accepted ones, whose handshake failed for `reason`.
    pub fn connects_refused(&self, reason: RefuseReason) -> u64 {
        self.connects_refused[reason as usize]
    }

    /// Handshakes that failed for any reason.
    pub fn connects_refused_total(&self) -> u64 {
        self.connects_refused.iter().sum()
    }

    pub(crate) fn on_drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    pub(crate) fn on_closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    pub(crate) fn on_connect_refused(&mut self, reason: RefuseReason) {
        self.connects_refused[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_count_of_its_own() {
        let mut counters = Counters::default();
        for &reason in DropReason::ALL {
            counters.on_drop(reason);
            assert_eq!(counters.dropped(reason), 1);
        }
        for &reason in CloseReason::ALL {
            counters.on_closed(reason);
            assert_eq!(counters.closed(reason), 1);
        }
        assert_eq!(counters.dropped_total(), DropReason::ALL.len() as u64);
        assert_eq!(counters.closed_total(), CloseReason::ALL.len() as u64);
    }
}
