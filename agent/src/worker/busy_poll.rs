//! Looks for work a little longer before the thread sleeps, where that has paid lately.
//!
//! Waking a sleeping thread costs its waker an interrupt to another processor, and the thread the way out of that
//! processor's sleep: together a multiple of what a packet costs, and more in a virtual machine. A request and its response
//! meet an agent twice within some tens of microseconds; a thread that is still awake by then needs no waking.
//!
//! How long it looks follows what it has seen, as guests of KVM poll before they halt: work that came after a sleep no longer
//! than the longest window doubles the window, later work halves it, down to none. So a worker at rest sleeps at once, and one
//! whose packets come further apart than the longest window doesn't poll. Between two looks the processor is offered to others.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::telemetry::Counters;

/// The shortest window but none.
const SHORTEST: Duration = Duration::from_micros(10);

/// How long to look, and since when.
#[derive(Debug)]
struct Window {
    /// At most this; none switches it off.
    limit: Duration,
    size: Duration,
    /// When there was work last.
    worked: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody looks before there is work.
    Asleep,
    /// There was work, and nobody has looked for more yet.
    Awake,
    /// Looked, and there was none.
    Looking,
}

impl Window {
    fn new(limit: Duration, now: Instant) -> Self {
        Self {
            limit,
            size: Duration::ZERO,
            worked: now,
            state: State::Asleep,
        }
    }

    /// There is work; what was done before it came.
    fn work(&mut self, now: Instant) -> State {
        let before = self.state;
        if before == State::Asleep {
            let slept = now.saturating_duration_since(self.worked);
            self.size = if slept <= self.limit {
                (self.size * 2).max(SHORTEST).min(self.limit)
            } else {
                Some(self.size / 2)
                    .filter(|half| *half >= SHORTEST)
                    .unwrap_or_default()
            };
        }
        self.worked = now;
        self.state = if self.size.is_zero() {
            State::Asleep
        } else {
            State::Awake
        };
        before
    }

    /// Whether to look for more. Once it says no, only work changes that.
    fn looks(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.worked) >= self.size {
            self.state = State::Asleep;
        } else if self.state == State::Awake {
            self.state = State::Looking;
        }
        self.state != State::Asleep
    }
}

/// A worker's window, and the task that keeps the worker from sleeping while it's open.
pub(super) struct BusyPoll {
    window: RefCell<Window>,
    opened: Notify,
    counters: Arc<Counters>,
}

impl BusyPoll {
    /// With windows of at most `limit`; none switches it off.
    pub(super) fn new(limit: Duration, counters: Arc<Counters>) -> Self {
        Self {
            window: RefCell::new(Window::new(limit, Instant::now())),
            opened: Notify::new(),
            counters,
        }
    }

    /// There is work.
    pub(super) fn work(&self) {
        let mut window = self.window.borrow_mut();
        match window.work(Instant::now()) {
            State::Looking => self.counters.busy_poll_paid(),
            State::Asleep if window.state == State::Awake => self.opened.notify_one(),
            State::Asleep | State::Awake => {}
        }
    }

    /// Looks whenever the window is open. A task that yields runs again after the runtime has asked the kernel for events
    /// without waiting for any.
    pub(super) async fn run(&self) {
        loop {
            if self.looks() {
                std::thread::yield_now();
                tokio::task::yield_now().await;
            } else {
                self.opened.notified().await;
            }
        }
    }

    fn looks(&self) -> bool {
        let mut window = self.window.borrow_mut();
        let looked = window.state == State::Looking;
        let looks = window.looks(Instant::now());
        if looked && !looks {
            self.counters.busy_poll_vain();
        }
        looks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);

    /// Looks every microsecond until there's work after `gap`; how long that took of the processor.
    fn gap(window: &mut Window, now: &mut Instant, gap: Duration) -> Duration {
        let begun = *now;
        let mut looked = Duration::ZERO;
        while window.looks(begun + looked) && looked < gap {
            looked += Duration::from_micros(1);
        }
        *now = begun + gap;
        window.work(*now);
        looked
    }

    #[test]
    fn work_that_follows_soon_is_looked_for_and_found() {
        let mut now = Instant::now();
        let mut window = Window::new(LIMIT, now);
        let soon = Duration::from_micros(50);
        for _ in 0..4 {
            gap(&mut window, &mut now, soon); // 10, 20, 40, 80 µs
        }
        assert_eq!(gap(&mut window, &mut now, soon), soon);
        assert_eq!(window.state, State::Awake);
    }

    #[test]
    fn work_that_comes_late_is_slept_for() {
        let mut now = Instant::now();
        let mut window = Window::new(LIMIT, now);
        for _ in 0..8 {
            gap(&mut window, &mut now, Duration::from_micros(90));
        }
        assert_eq!(window.size, LIMIT);
        let late = Duration::from_millis(1);
        let looked: Vec<_> = (0..6)
            .map(|_| gap(&mut window, &mut now, late).as_micros())
            .collect();
        assert_eq!(looked, [100, 50, 25, 13, 0, 0]);
    }

    #[test]
    fn without_a_limit_nothing_is_looked_for() {
        let mut now = Instant::now();
        let mut window = Window::new(Duration::ZERO, now);
        for _ in 0..8 {
            assert_eq!(
                gap(&mut window, &mut now, Duration::from_micros(1)),
                Duration::ZERO
            );
        }
    }

    proptest! {
        /// Whatever comes: no look beyond the limit, and none before there was work.
        #[test]
        fn a_look_ends_within_the_limit(gaps in prop::collection::vec(0_u64..400, 1..100), limit in 0_u64..200) {
            let mut now = Instant::now();
            let limit = Duration::from_micros(limit);
            let mut window = Window::new(limit, now);
            prop_assert!(!window.looks(now));
            for micros in gaps {
                let looked = gap(&mut window, &mut now, Duration::from_micros(micros));
                prop_assert!(looked <= limit);
                prop_assert!(window.size <= limit);
            }
            prop_assert!(!window.looks(now + limit));
        }
    }
}
