//! The record of one flow.

use std::time::Duration;

use adit_flow::CloseReason;

use super::config::ForwardConfig;
use super::track::{Phase, Track};
use super::types::{Key, Side, Traffic};
use crate::clock::{Tick, after};
use crate::ends::Ends;
use crate::event::Refusal;
use crate::packet::ip;
use crate::table::Between;

/// A slot of the table in use.
pub(super) struct Flow {
    ends: Ends,
    /// Where its first packet came from.
    pub(super) from: Side,
    pub(super) stage: Stage,
    /// The side that still has to be sent a reset.
    pub(super) owes_reset: [bool; 2],
    pub(super) opened: Tick,
    /// When its last packet passed, or it was ended or refused.
    pub(super) last: Tick,
    pub(super) traffic: [Traffic; 2],
    /// Of TCP only.
    pub(super) track: Track,
}

/// Whether packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// They do.
    Admitted,
    /// Its end was told; what's under way of it passes still.
    Ended,
    /// They don't.
    Refused(Refusal),
}

impl Between for Flow {
    fn ends(&self) -> Ends {
        self.ends
    }
}

impl Flow {
    pub(super) fn new(now: Tick, ends: Ends, from: Side, stage: Stage, by_syn: bool) -> Self {
        Self {
            ends,
            from,
            stage,
            owes_reset: [false; 2],
            opened: now,
            last: now,
            traffic: [Traffic::default(); 2],
            track: Track::new(by_syn),
        }
    }

    pub(super) fn key(&self) -> Key {
        Key::of(&self.ends, self.from)
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.ends.protocol() == ip::TCP
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self.stage, Stage::Refused(_))
    }

    /// A packet with so many bytes behind its headers passes.
    pub(super) fn note(&mut self, now: Tick, from: Side, bytes: usize) {
        self.last = now;
        let traffic = &mut self.traffic[from as usize];
        traffic.packets += 1;
        traffic.bytes += bytes as u64;
    }

    /// When it's forgotten, if nothing happens.
    pub(super) fn expires_at(&self, config: &ForwardConfig) -> Tick {
        after(self.last, self.timeout(config))
    }

    fn timeout(&self, config: &ForwardConfig) -> Duration {
        let idle = &config.idle;
        match (self.stage, self.ends.protocol()) {
            (Stage::Refused(_), _) => config.refusal_timeout,
            (Stage::Ended, _) => idle.tcp_closed,
            (_, ip::TCP) => match self.track.phase {
                Phase::Opening => idle.tcp_transitory,
                Phase::Open if self.track.is_closing() => idle.tcp_transitory,
                Phase::Open => idle.tcp_established,
                Phase::Reset(_) => idle.tcp_reset,
            },
            (_, ip::UDP) if self.destination_port() < WELL_KNOWN => idle.udp_well_known,
            (_, ip::UDP) => idle.udp,
            (_, ip::ICMP | ip::ICMPV6) => idle.icmp,
            (_, ip::SCTP) => idle.sctp,
            _ => idle.other,
        }
    }

    fn destination_port(&self) -> u16 {
        match self.from {
            Side::Pod => self.ends.remote_port(),
            Side::Wire => self.ends.pod_port(),
        }
    }

    /// Why it's over when its time has run out, and who ended it.
    pub(super) fn expiry(&self) -> (CloseReason, Option<Side>) {
        match self.track.phase {
            Phase::Reset(by) => (CloseReason::Reset, Some(by)),
            Phase::Opening if self.is_tcp() && self.track.by_syn => (CloseReason::TimedOut, None),
            Phase::Open if self.track.is_closing() => (CloseReason::TimedOut, None),
            Phase::Opening | Phase::Open => (CloseReason::Idle, None),
        }
    }

    /// How readily it gives way to a new flow, the least first; `None` if it never does.
    pub(super) fn rank(&self) -> Option<(u8, Tick)> {
        let class = match (self.stage, self.is_tcp(), self.track.phase) {
            (Stage::Refused(_), ..) => 0,
            (Stage::Ended, ..) | (Stage::Admitted, true, Phase::Reset(_)) => 1,
            (Stage::Admitted, true, Phase::Opening) => 2,
            (Stage::Admitted, false, _) => 3,
            (Stage::Admitted, true, Phase::Open) => return None,
        };
        Some((class, self.last))
    }
}

/// Ports below this are well known (RFC 6335 §6).
const WELL_KNOWN: u16 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_price() {
        assert_eq!(size_of::<Flow>(), 128);
    }
}
