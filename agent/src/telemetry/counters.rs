use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use adit_flow::{CloseReason, Direction, DropReason, RefuseReason};

use super::Pulse;

/// Counts of everything that a worker does, written by one thread and read by any.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Whether the worker works on.
    pub(crate) pulse: Pulse,
    flows_outbound: AtomicU64,
    flows_inbound: AtomicU64,
    flows_live: AtomicU64,
    /// By label: few, since each is a variant of an error.
    tunnels_ended: Mutex<BTreeMap<&'static str, u64>>,
    tunnels_failed: Mutex<BTreeMap<&'static str, u64>>,
    bad_heads: Mutex<BTreeMap<&'static str, u64>>,
    listeners_failed: AtomicU64,
    busy_polls_paid: AtomicU64,
    busy_polls_vain: AtomicU64,
    refused: [AtomicU64; RefuseReason::ALL.len()],
    closed: [AtomicU64; CloseReason::ALL.len()],
    dropped: [AtomicU64; DropReason::ALL.len()],
}

impl Counters {
    /// A flow begins.
    pub(crate) fn opened(&self, direction: Direction) {
        bump(if direction == Direction::Outbound {
            &self.flows_outbound
        } else {
            &self.flows_inbound
        });
        bump(&self.flows_live);
    }

    /// A flow has ended.
    pub(crate) fn ended(&self, close: CloseReason, refused: Option<RefuseReason>) {
        self.flows_live.fetch_sub(1, Ordering::Relaxed);
        bump(&self.closed[close as usize]);
        if let Some(reason) = refused {
            bump(&self.refused[reason as usize]);
        }
    }

    /// A tunnel that was served has ended, for the reason with this label.
    pub(crate) fn tunnel_ended(&self, label: &'static str) {
        bump_label(&self.tunnels_ended, label);
    }

    /// A flow got no tunnel, for the reason with this label.
    pub(crate) fn tunnel_failed(&self, label: &'static str) {
        bump_label(&self.tunnels_failed, label);
    }

    /// A captured pod has no listener where it should have one.
    pub(crate) fn listener_failed(&self) {
        bump(&self.listeners_failed);
    }

    /// Work came while it was looked for.
    pub(crate) fn busy_poll_paid(&self) {
        bump(&self.busy_polls_paid);
    }

    /// Work was looked for, and none came in time.
    pub(crate) fn busy_poll_vain(&self) {
        bump(&self.busy_polls_vain);
    }

    /// A CONNECT was refused unread, for the reason with this label.
    pub(crate) fn bad_head(&self, label: &'static str) {
        bump_label(&self.bad_heads, label);
    }

    /// A packet is dropped.
    pub(crate) fn dropped(&self, reason: DropReason) {
        bump(&self.dropped[reason as usize]);
    }

    /// Adds these counts to `into`, under the names that metrics use.
    pub(crate) fn collect(&self, into: &mut BTreeMap<String, u64>) {
        let mut add = |name: String, counter: &AtomicU64| {
            *into.entry(name).or_default() += counter.load(Ordering::Relaxed);
        };
        add("flows_outbound_total".into(), &self.flows_outbound);
        add("flows_inbound_total".into(), &self.flows_inbound);
        add("flows_live".into(), &self.flows_live);
        add("listeners_failed_total".into(), &self.listeners_failed);
        add("busy_polls_total{outcome=paid}".into(), &self.busy_polls_paid);
        add("busy_polls_total{outcome=vain}".into(), &self.busy_polls_vain);
        for reason in RefuseReason::ALL {
            add(
                format!("flows_refused_total{{reason={reason}}}"),
                &self.refused[*reason as usize],
            );
        }
        for reason in CloseReason::ALL {
            add(
                format!("flows_closed_total{{reason={reason}}}"),
                &self.closed[*reason as usize],
            );
        }
        for reason in DropReason::ALL {
            add(
                format!("packets_dropped_total{{reason={reason}}}"),
                &self.dropped[*reason as usize],
            );
        }
        for (name, labels) in [
            ("tunnels_ended_total", &self.tunnels_ended),
            ("tunnels_failed_total", &self.tunnels_failed),
            ("bad_connects_total", &self.bad_heads),
        ] {
            for (label, count) in lock(labels).iter() {
                *into.entry(format!("{name}{{reason={label}}}")).or_default() += count;
            }
        }
    }
}

/// Adds one under a label. Off the data path: once a tunnel or a bad request, so a lock is cheap enough.
fn bump_label(labels: &Mutex<BTreeMap<&'static str, u64>>, label: &'static str) {
    *lock(labels).entry(label).or_default() += 1;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A count is whole whatever panicked elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds one. Relaxed: counts are read for people, not for decisions.
fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
