use adit_flow::{CloseReason, DropReason};

use super::types::Side;

/// What happened in a [`Forwarder`](crate::Forwarder) since it was made. Plain numbers: they only grow.
///
/// They add up: each packet that was handed in was forwarded, is in exactly one drop count, was given back to the kernel, or was
/// `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForwardCounters {
    /// Packets of flows that nobody has judged yet.
    pub unknown: u64,
    /// ICMP errors from the wire that were given back, for the kernel there.
    pub to_kernel: u64,
    /// ICMP errors that passed because they're about a flow that does. Among the forwarded ones.
    pub related: u64,
    /// Flows admitted.
    pub admitted: u64,
    /// Of those, flows that were open before.
    pub picked_up: u64,
    /// Flows refused.
    pub refused: u64,
    /// Flows cut.
    pub cut: u64,
    /// Flows not admitted, or refusals not remembered, because the table was full.
    pub table_full: u64,
    /// Refusals forgotten early, for want of room.
    pub refusals_evicted: u64,
    /// SYNs whose MSS was lowered.
    pub mss_clamped: u64,
    /// Packets answered with "fragmentation needed" or "packet too big". Among the drops.
    pub too_big_answered: u64,
    /// ICMP errors left out because there were too many.
    pub errors_limited: u64,
    /// Resets sent for cut and refused flows.
    pub resets_sent: u64,
    /// First fragments that passed.
    pub first_fragments: u64,
    /// Later fragments that passed. Among the forwarded ones.
    pub later_fragments: u64,
    /// Fragmented packets forgotten early, for want of room.
    pub fragmented_evicted: u64,
    /// Ends that nobody asked for, lost for want of room.
    pub ends_lost: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
    forwarded: [u64; 2],
    drops: [[u64; DropReason::ALL.len()]; 2],
    ended: [u64; CloseReason::ALL.len()],
}

impl ForwardCounters {
    /// Packets handed in from `side`. One that's handed in again counts again.
    pub fn packets_from(&self, side: Side) -> u64 {
        self.packets[side as usize]
    }

    /// Bytes of those packets, IP headers included.
    pub fn bytes_from(&self, side: Side) -> u64 {
        self.bytes[side as usize]
    }

    /// Packets from `side` that passed to the other.
    pub fn forwarded_from(&self, side: Side) -> u64 {
        self.forwarded[side as usize]
    }

    /// Packets from `side` dropped for `reason`.
    pub fn dropped_from(&self, side: Side, reason: DropReason) -> u64 {
        self.drops[side as usize][reason as usize]
    }

    /// Packets dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().flatten().sum()
    }

    /// Admitted flows that ended for `reason`.
    pub fn ended(&self, reason: CloseReason) -> u64 {
        self.ended[reason as usize]
    }

    pub(super) fn on_packet(&mut self, from: Side, length: usize) {
        self.packets[from as usize] += 1;
        self.bytes[from as usize] += length as u64;
    }

    pub(super) fn on_forwarded(&mut self, from: Side) {
        self.forwarded[from as usize] += 1;
    }

    pub(super) fn on_drop(&mut self, from: Side, reason: DropReason) {
        self.drops[from as usize][reason as usize] += 1;
    }

    pub(super) fn on_ended(&mut self, reason: CloseReason) {
        self.ended[reason as usize] += 1;
    }
}
