//! What a worker does with new flows when its agent is about to end, and when the old ones have ended.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Worker;

/// What becomes of new flows that would end in the agent. What only passes through is never held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// They are served.
    Open,
    /// They aren't answered: their kernels repeat the SYN, and by then this agent serves again, or the next one does.
    /// Tunnels that are served end after the streams that they carry.
    Held,
    /// They are refused: no other agent will come.
    Refused,
}

/// Flows whose end is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that are relayed now.
    Present,
    /// All, those that begin meanwhile and the tunnels that are served included.
    All,
}

impl Worker {
    pub(super) fn admit(&self, admission: Admission) {
        match admission {
            Admission::Open => {}
            Admission::Held => self.tunnels.retire(),
            Admission::Refused => self.tunnels.drain(),
        }
        self.admission.send_replace(admission);
    }

    pub(super) fn await_flows(self: &Rc<Self>, which: Which, done: oneshot::Sender<()>) {
        const POLL: Duration = Duration::from_millis(20);
        let worker = Rc::clone(self);
        let later = self.live.upcoming();
        tokio::task::spawn_local(async move {
            let remain = || match which {
                Which::Present => worker.live.any_before(later),
                Which::All => worker.has_flows() || worker.tunnels.serving() > 0,
            };
            while remain() {
                if done.is_closed() {
                    return worker.tell_what_lives(which);
                }
                tokio::time::sleep(POLL).await;
            }
            let _ = done.send(());
        });
    }

    fn has_flows(&self) -> bool {
        self.live.len() > 0 || self.pods.borrow().values().any(|pod| pod.has_flows())
    }

    /// For who asks why an agent takes so long to end.
    fn tell_what_lives(&self, which: Which) {
        let pods = self.pods.borrow();
        let pods: Vec<_> = pods
            .iter()
            .filter(|(_, pod)| pod.has_flows())
            .map(|(name, _)| name.to_string())
            .collect();
        tracing::debug!(
            ?which,
            relayed = self.live.len(),
            ?pods,
            tunnels = self.tunnels.serving(),
            "flows live on"
        );
    }

    /// Whether new flows are refused.
    pub(crate) fn is_refusing(&self) -> bool {
        *self.admission.borrow() == Admission::Refused
    }

    /// Whether new flows aren't answered.
    pub(crate) fn is_holding(&self) -> bool {
        *self.admission.borrow() == Admission::Held
    }

    /// Returns once what becomes of new flows is as `wanted`.
    pub(super) async fn until(&self, wanted: impl Fn(Admission) -> bool) {
        let mut admission = self.admission.subscribe();
        // It can't fail: the sender is this worker's.
        let _ = admission.wait_for(|admission| wanted(*admission)).await;
    }
}
