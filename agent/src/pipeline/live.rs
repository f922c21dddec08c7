//! Flows that are being relayed, so that a change of policy, identity or membership can end them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use adit_control::Snapshot;
use adit_flow::{CloseReason, Closer, Direction};
use adit_policy::{Decision, Permit, PolicySet, Trace, Verdict};

use super::relay::{End, Relay};
use crate::telemetry::Recorder;

/// The relayed flows of one worker. Its owner is the worker; entries live as long as their [`Live`].
#[derive(Clone, Default)]
pub(crate) struct LiveFlows(Rc<RefCell<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    flows: BTreeMap<u64, Rc<Watched>>,
}

/// What a change is judged by, and where its outcome is left for the flow's task.
struct Watched {
    direction: Direction,
    flow: adit_policy::Flow,
    permit: RefCell<Permit>,
    cut: RefCell<Option<Cut>>,
    task: Cell<Option<Waker>>,
}

/// Why the agent ends a flow that was allowed when it began.
struct Cut {
    reason: CloseReason,
    verdict: Option<Verdict>,
    detail: Option<String>,
}

/// A flow and the engine's leave for it.
pub(crate) struct Permitted {
    /// What was judged.
    pub(crate) flow: adit_policy::Flow,
    /// The proof.
    pub(crate) permit: Permit,
}

/// One flow's place in the table.
pub(crate) struct Live {
    table: LiveFlows,
    key: u64,
    watched: Rc<Watched>,
}

impl LiveFlows {
    /// Enters a flow. It is watched from here on, so no change between its verdict and its first byte is missed:
    /// a set published since the permit was given is asked at once.
    pub(crate) fn watch(
        &self,
        direction: Direction,
        permitted: Permitted,
        current: &PolicySet,
        snapshot: &Snapshot,
    ) -> Live {
        let watched = Rc::new(Watched {
            direction,
            flow: permitted.flow,
            permit: RefCell::new(permitted.permit),
            cut: RefCell::default(),
            task: Cell::default(),
        });
        watched.judge(current, snapshot);
        let mut table = self.0.borrow_mut();
        let key = table.next;
        table.next += 1;
        table.flows.insert(key, Rc::clone(&watched));
        Live {
            table: self.clone(),
            key,
            watched,
        }
    }

    /// How many flows are being relayed.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().flows.len()
    }

    /// The number of the flow that is entered next.
    pub(crate) fn upcoming(&self) -> u64 {
        self.0.borrow().next
    }

    /// Whether a flow with a lower number is being relayed.
    pub(crate) fn any_before(&self, number: u64) -> bool {
        let table = self.0.borrow();
        table
            .flows
            .first_key_value()
            .is_some_and(|(oldest, _)| *oldest < number)
    }

    /// Judges every flow again and ends those that `current` no longer allows, and those whose opener is no longer whom
    /// it proved to be.
    pub(crate) fn judge(&self, current: &PolicySet, snapshot: &Snapshot) {
        for watched in self.0.borrow().flows.values() {
            watched.judge(current, snapshot);
        }
    }

    /// Ends every flow: the drain deadline has passed.
    pub(crate) fn drain(&self) {
        for watched in self.0.borrow().flows.values() {
            watched.cut(Cut {
                reason: CloseReason::Drained,
                verdict: None,
                detail: None,
            });
        }
    }
}

impl Watched {
    fn judge(&self, current: &PolicySet, snapshot: &Snapshot) {
        // A workload that leaves the mesh is who it was when it proved it: its streams go on to their end.
        if let Some(proven) = &self.flow.source_identity
            && snapshot
                .workload_at(self.flow.tuple.src.ip())
                .is_none_or(|workload| workload.identity != *proven)
        {
            return self.cut(Cut {
                reason: CloseReason::PolicyChanged,
                verdict: None,
                detail: Some(format!(
                    "{} no longer belongs to {proven}",
                    self.flow.tuple.src.ip()
                )),
            });
        }
        if self.permit.borrow().verdict().generation() == current.generation() {
            return;
        }
        let decision = match self.direction {
            Direction::Inbound => current.ingress(&self.flow, Trace::Off),
            Direction::Outbound => current.egress(&self.flow, Trace::Off),
        };
        match decision {
            Decision::Allowed(permit) => *self.permit.borrow_mut() = permit,
            Decision::Denied(denial) => self.cut(Cut {
                reason: CloseReason::PolicyChanged,
                verdict: Some(denial.verdict().clone()),
                detail: None,
            }),
        }
    }

    fn cut(&self, cut: Cut) {
        self.cut.borrow_mut().get_or_insert(cut);
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

impl Live {
    /// Relays until both ends have ended or the flow is cut, and writes the outcome to the record.
    pub(crate) async fn relay<A: End, B: End>(self, mut relay: Relay<A, B>, mut recorder: Recorder) {
        let ended = {
            let mut running = pin!(relay.run());
            poll_fn(|cx| {
                if let Some(cut) = self.watched.cut.borrow_mut().take() {
                    return Poll::Ready(Err(cut));
                }
                self.watched.task.set(Some(cx.waker().clone()));
                running.as_mut().poll(cx).map(Ok)
            })
            .await
        };
        recorder.moved(relay.moved());
        match ended {
            Ok(outcome) => recorder.relayed(outcome),
            Err(Cut {
                reason,
                verdict,
                detail,
            }) => {
                relay.cut();
                if let Some(verdict) = verdict {
                    recorder.verdict(&verdict);
                }
                recorder.closed(reason, Closer::Agent, detail);
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.table.0.borrow_mut().flows.remove(&self.key);
    }
}
