//! When a flow on the fast path has to be looked at.

use std::time::Duration;

use super::Fast;
use crate::clock::{Tick, after};
use crate::config::Config;

impl Fast {
    /// When the engine has to take over because something that was sent, or is to be, does not get on.
    pub(crate) fn engine_deadline(&self) -> Option<Tick> {
        let waits = self.in_flight() > 0 || self.unsent() > 0;
        self.unanswered_since
            .filter(|_| waits)
            .map(|since| after(since, FIRST_RETRANSMISSION))
    }

    /// The earliest of the flow's timers.
    pub(crate) fn deadline(&self, config: &Config, is_released: bool) -> Option<Tick> {
        let timers = [
            self.engine_deadline(),
            self.answer_deadline(config),
            self.idle_deadline(config),
            self.orphan_deadline(config, is_released),
            self.keep_alive_deadline(config),
        ];
        timers.into_iter().flatten().min()
    }

    /// When the pod has owed an answer for too long.
    pub(crate) fn answer_deadline(&self, config: &Config) -> Option<Tick> {
        self.unanswered_since
            .map(|since| after(since, config.retransmit_timeout))
    }

    pub(crate) fn idle_deadline(&self, config: &Config) -> Option<Tick> {
        let timeout = config.idle_timeout?;
        self.is_open().then(|| after(self.last_activity, timeout))
    }

    /// In FIN-WAIT-2 nothing but the pod can go on; if nobody would notice, that has a limit.
    pub(crate) fn orphan_deadline(&self, config: &Config, is_released: bool) -> Option<Tick> {
        let waits = is_released && self.is_fin_acknowledged() && !self.peer_fin;
        waits.then(|| after(self.last_activity, config.orphan_timeout))
    }

    /// When to ask a silent pod whether it's still there.
    pub(crate) fn keep_alive_deadline(&self, config: &Config) -> Option<Tick> {
        let interval = config.keep_alive?;
        let asks = self.is_open() && !self.is_over() && self.in_flight() == 0;
        asks.then(|| after(self.last_activity.max(self.last_probe), interval))
    }
}

/// RFC 6298 §2.1 and §2.4.
const FIRST_RETRANSMISSION: Duration = Duration::from_secs(1);
