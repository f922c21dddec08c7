//! Workloads that join the mesh, and dial before this node is told that they are in it.
//!
//! Their agent tells the API and then serves them; our watch may be a little behind its. A tunnel's SYN that came in between would
//! pass for a plain connection, and the application would be given its bytes. So it's dropped, for its sender to repeat; and where the
//! kernel has taken the connection, it waits. Not for ever: a workload may be labelled on a node without an agent, and its plain
//! connections may come from any port.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use adit_flow::WorkloadName;

/// How long word of a workload is waited for: longer than a SYN's first repetition takes, which is a second (RFC 6298 §2.1).
const PATIENCE: Duration = Duration::from_secs(2);

/// After this time word of it is waited for anew, which costs a plain connection of it a few seconds.
const MEMORY: Duration = Duration::from_secs(300);

/// So many at a time, of all pods of a worker; others aren't waited for.
const LIMIT: usize = 256;

/// Those that word was waited for of late.
#[derive(Default)]
pub(crate) struct Newcomers {
    since: RefCell<HashMap<WorkloadName, Instant>>,
}

impl Newcomers {
    /// Whether to wait for word of `name`, which dials at `now`.
    pub(crate) fn await_word(&self, now: Instant, name: &WorkloadName) -> bool {
        let mut since = self.since.borrow_mut();
        let age = |at: Instant| now.saturating_duration_since(at);
        if let Some(&at) = since.get(name)
            && age(at) < MEMORY
        {
            return age(at) < PATIENCE;
        }
        if since.len() >= LIMIT {
            since.retain(|_, at| age(*at) < MEMORY);
        }
        if since.len() >= LIMIT {
            return false;
        }
        since.insert(name.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> WorkloadName {
        WorkloadName::new("shop", format!("web-{number}"))
    }

    #[test]
    fn word_is_waited_for_once() {
        let newcomers = Newcomers::default();
        let start = Instant::now();
        let waits = |after: Duration| newcomers.await_word(start + after, &name(0));
        assert!(waits(Duration::ZERO));
        assert!(waits(PATIENCE - Duration::from_millis(1)), "the same wait");
        assert!(!waits(PATIENCE));
        assert!(!waits(MEMORY - Duration::from_millis(1)), "it has been");
        assert!(waits(MEMORY), "it may have left since, and joins anew");
        assert!(!waits(MEMORY + PATIENCE));
    }

    #[test]
    fn so_many_and_no_more() {
        let newcomers = Newcomers::default();
        let start = Instant::now();
        for number in 0..LIMIT {
            assert!(newcomers.await_word(start, &name(number)));
        }
        assert!(!newcomers.await_word(start, &name(LIMIT)), "no room");
        assert!(newcomers.await_word(start, &name(0)), "one of them");
        assert!(newcomers.await_word(start + MEMORY, &name(LIMIT)), "room again");
        assert_eq!(newcomers.since.borrow().len(), 1);
    }
}
