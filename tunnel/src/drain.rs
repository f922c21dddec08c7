use tokio::sync::watch;
use tokio::time::Instant;

/// Starts the drain of every tunnel that holds one of its [`Drain`]s.
#[derive(Debug)]
pub struct Drainer(watch::Sender<DrainState>);

/// The signal to drain, as a tunnel sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<DrainState>);

/// Whether tunnels are draining. Moves forward only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainState {
    /// Take streams.
    Open,
    /// Take no new stream; cut what is left at this time.
    Draining {
        /// When to cut.
        deadline: Instant,
    },
}

impl Drainer {
    /// A drainer, and the signal that its tunnels watch.
    pub fn new() -> (Self, Drain) {
        let (sender, receiver) = watch::channel(DrainState::Open);
        (Self(sender), Drain(receiver))
    }

    /// Starts the drain, or moves its deadline. Dropping the drainer starts nothing.
    pub fn start(&self, deadline: Instant) {
        self.0.send_replace(DrainState::Draining { deadline });
    }
}

impl Drain {
    /// How it stands.
    pub fn state(&self) -> DrainState {
        *self.0.borrow()
    }

    /// Waits for a state other than the one seen last. Pending for ever once the drainer is gone.
    pub(crate) async fn changed(&mut self) -> DrainState {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.0.borrow_and_update()
    }
}
