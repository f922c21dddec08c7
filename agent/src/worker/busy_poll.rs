//! Looks for work a little longer before the thread sleeps, where that has paid lately.
//!
//! Waking a sleeping thread costs its waker an interrupt to another processor, and the thread the way out of that
//! processor's sleep: together a multiple of what a packet costs, and more in a virtual machine. A request and its response
//! meet an agent twice within some tens of microseconds; a thread that is still awake by then needs no waking.
//!
//! How long it looks follows what it has seen, as guests of KVM poll before they halt: work that came after a sleep no longer
//! than the longest window doubles the window, later work halves it, down to none. So a worker at rest sleeps at once, and one
//! whose packets come further apart than the longest window doesn't poll.
//!
//! When it looks matters as much. Not before all of the worker's tasks have done what they can: a look costs two system calls, and the
//! processor is offered to others, who may take long. Then once at once, since what a worker has written is often answered
//! by the pod's kernel before the call returns, and from then on after others had the processor.

use std::cell::Cell;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
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
    fn look(&mut self, now: Instant) -> Look {
        if now.saturating_duration_since(self.worked) >= self.size {
            self.state = State::Asleep;
        }
        match self.state {
            State::Asleep => Look::No,
            State::Awake => {
                self.state = State::Looking;
                Look::AtOnce
            }
            State::Looking => Look::AfterOthers,
        }
    }
}

/// Whether to look for more, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    No,
    /// For what came while the last work was done.
    AtOnce,
    /// There was nothing the last time: others may have the processor first.
    AfterOthers,
}

/// Whether somebody has left something for a last turn before the thread sleeps: at which closing of the window.
#[derive(Default)]
pub(super) struct LastTurn(Cell<Option<u64>>);

/// A worker's window, and what keeps the worker from sleeping while it's open.
///
/// Behind a lock that only the worker's thread takes: the runtime asks for hooks that could be called by any.
pub(super) struct BusyPoll {
    inner: Mutex<Inner>,
    again: Notify,
    counters: Arc<Counters>,
}

struct Inner {
    window: Window,
    /// How often the window closed.
    closings: u64,
    /// Those that have a last turn before the thread sleeps, each once: a pod at most.
    last_turns: Vec<Waker>,
}

impl BusyPoll {
    /// With windows of at most `limit`; none switches it off.
    pub(super) fn new(limit: Duration, counters: Arc<Counters>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                window: Window::new(limit, Instant::now()),
                closings: 0,
                last_turns: Vec::new(),
            }),
            again: Notify::new(),
            counters,
        }
    }

    /// Whether there are windows at all.
    pub(super) fn is_on(&self) -> bool {
        !self.inner().window.limit.is_zero()
    }

    /// A turn of somebody begins who may have left something for his last: there is work, unless he was woken for that.
    pub(super) fn begin_turn(&self, last: &LastTurn, now: Instant) {
        let mut inner = self.inner();
        if last.0.get().is_some_and(|closings| closings != inner.closings) {
            last.0.set(None);
            if inner.window.state == State::Asleep {
                return;
            }
        }
        if inner.window.work(now) == State::Looking {
            self.counters.busy_poll_paid();
        }
    }

    /// Has `waker` woken for a last turn before the thread sleeps. `false` if it sleeps after this one.
    pub(super) fn wake_for_last(&self, last: &LastTurn, waker: &Waker) -> bool {
        let mut inner = self.inner();
        if last.0.get() == Some(inner.closings) {
            return true;
        }
        if inner.window.state == State::Asleep {
            return false;
        }
        last.0.set(Some(inner.closings));
        inner.last_turns.push(waker.clone());
        true
    }

    /// No task of the worker can go on, and its thread is about to sleep. While the window is open it doesn't: with a task woken
    /// the runtime asks the kernel for events without waiting for any. Nor does it before those had their last turns who have
    /// one.
    pub(super) fn before_sleep(&self) {
        match self.look() {
            Look::No => return self.close(),
            Look::AtOnce => {}
            Look::AfterOthers => std::thread::yield_now(),
        }
        self.again.notify_one();
    }

    /// Has those woken that have a last turn.
    fn close(&self) {
        let woken = {
            let mut inner = self.inner();
            inner.closings += 1;
            mem::take(&mut inner.last_turns)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// The task that is woken, one of the worker's.
    pub(super) async fn run(&self) {
        loop {
            self.again.notified().await;
        }
    }

    fn look(&self) -> Look {
        let window = &mut self.inner().window;
        let looked = window.state == State::Looking;
        let look = window.look(Instant::now());
        if looked && look == Look::No {
            self.counters.busy_poll_vain();
        }
        look
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whatever panicked, it's whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);

    /// Looks every microsecond until there's work after `gap`; how long that took of the processor.
    fn gap(window: &mut Window, now: &mut Instant, gap: Duration) -> Duration {
        let begun = *now;
        let mut looked = Duration::ZERO;
        while window.look(begun + looked) != Look::No && looked < gap {
            looked += Duration::from_micros(1);
        }
        *now = begun + gap;
        window.work(*now);
        looked
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// However long this machine takes: work always follows soon, and the window is of the shortest size.
    fn opened_by_others(busy_poll: &BusyPoll) {
        busy_poll.begin_turn(&LastTurn::default(), Instant::now());
        assert_ne!(busy_poll.inner().window.state, State::Asleep);
    }

    fn closes(busy_poll: &BusyPoll) {
        while busy_poll.inner().window.state != State::Asleep {
            busy_poll.before_sleep();
        }
    }

    #[test]
    fn a_last_turn_comes_before_sleep_and_is_no_work() {
        let busy_poll = BusyPoll::new(Duration::from_secs(3600), Arc::default());
        let (woken, last) = (Arc::new(Woken::default()), LastTurn::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(
            !busy_poll.wake_for_last(&last, &waker),
            "it sleeps after this turn"
        );
        busy_poll.begin_turn(&last, Instant::now());
        for _ in 0..3 {
            assert!(busy_poll.wake_for_last(&last, &waker));
        }
        closes(&busy_poll);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        busy_poll.begin_turn(&last, Instant::now());
        assert_eq!(busy_poll.inner().window.state, State::Asleep);
        assert!(!busy_poll.wake_for_last(&last, &waker));
        busy_poll.begin_turn(&last, Instant::now());
        let state = busy_poll.inner().window.state;
        assert_eq!(state, State::Awake, "the turn after that is work again");
    }

    #[test]
    fn a_last_turn_that_is_not_the_last_after_all_may_be_followed_by_another() {
        let busy_poll = BusyPoll::new(Duration::from_secs(3600), Arc::default());
        let (woken, last) = (Arc::new(Woken::default()), LastTurn::default());
        let waker = Waker::from(Arc::clone(&woken));
        for times in 1..=3 {
            opened_by_others(&busy_poll);
            busy_poll.begin_turn(&last, Instant::now());
            assert!(busy_poll.wake_for_last(&last, &waker));
            closes(&busy_poll);
            assert_eq!(woken.0.load(Ordering::Relaxed), times);
        }
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

    #[test]
    fn others_have_the_processor_once_a_look_was_in_vain() {
        let now = Instant::now();
        let mut window = Window::new(LIMIT, now);
        window.work(now);
        let looks = [(); 3].map(|()| window.look(now));
        assert_eq!(looks, [Look::AtOnce, Look::AfterOthers, Look::AfterOthers]);
        window.work(now);
        assert_eq!(window.look(now), Look::AtOnce);
    }

    /// A hundred tasks, of which each wakes the next, with a look due all the time: none comes between.
    #[test]
    fn what_can_go_on_goes_on_before_a_look() {
        const HOUR: Duration = Duration::from_secs(3600);
        let busy_poll = Arc::new(BusyPoll::new(HOUR, Arc::default()));
        for _ in 0..64 {
            busy_poll.inner().window.work(Instant::now());
            busy_poll.inner().window.state = State::Asleep;
        }
        assert_eq!(busy_poll.inner().window.size, HOUR);
        let runtime = super::super::runtime(Arc::clone(&busy_poll)).unwrap();
        let states = runtime.block_on(async move {
            let looks = Arc::clone(&busy_poll);
            tokio::task::spawn_local(async move { looks.run().await });
            let gates: Vec<_> = (0..100).map(|_| Arc::new(Notify::new())).collect();
            let chain: Vec<_> = gates
                .windows(2)
                .map(|pair| (Arc::clone(&pair[0]), Arc::clone(&pair[1])))
                .map(|(mine, next)| {
                    let busy_poll = Arc::clone(&busy_poll);
                    tokio::task::spawn_local(async move {
                        mine.notified().await;
                        next.notify_one();
                        busy_poll.inner().window.state
                    })
                })
                .collect();
            // The window is open, and has been looked through in vain, when the first is woken.
            busy_poll.begin_turn(&LastTurn::default(), Instant::now());
            while busy_poll.inner().window.state != State::Looking {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            busy_poll.begin_turn(&LastTurn::default(), Instant::now());
            gates[0].notify_one();
            let mut states = Vec::new();
            for task in chain {
                states.push(task.await.unwrap());
            }
            states
        });
        assert_eq!(states, [State::Awake; 99]);
    }

    proptest! {
        /// Whatever comes: no look beyond the limit, and none before there was work.
        #[test]
        fn a_look_ends_within_the_limit(gaps in prop::collection::vec(0_u64..400, 1..100), limit in 0_u64..200) {
            let mut now = Instant::now();
            let limit = Duration::from_micros(limit);
            let mut window = Window::new(limit, now);
            prop_assert_eq!(window.look(now), Look::No);
            for micros in gaps {
                let looked = gap(&mut window, &mut now, Duration::from_micros(micros));
                prop_assert!(looked <= limit);
                prop_assert!(window.size <= limit);
            }
            prop_assert_eq!(window.look(now + limit), Look::No);
        }
    }
}
