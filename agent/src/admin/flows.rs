//! Flow records on their way to readers, without a writer ever waiting.
//!
//! One ring of the latest records, numbered. Writers append and never wait for a reader; each reader has its own
//! position. A reader that falls behind the ring's tail goes on at the tail and is told how many it missed. So
//! one structure serves `adit flows` (what is kept), `adit flows -f` (what comes), and counts what was lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_flow::FlowRecord;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Records that were dropped from the ring before a reader took them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed(pub u64);

/// What a reader got.
#[derive(Clone, Debug)]
pub enum Next {
    /// Nobody will publish any more.
    Closed,
    /// The reader was too slow for these.
    Missed(Missed),
    /// The next record.
    Record(Arc<FlowRecord>),
}

/// The latest flow records, shared by those who write and those who read.
#[derive(Debug)]
pub struct FlowHub {
    ring: Mutex<Ring>,
    more: Notify,
    missed: AtomicU64,
    /// How many read.
    readers: watch::Sender<usize>,
}

#[derive(Debug)]
struct Ring {
    records: VecDeque<Arc<FlowRecord>>,
    /// The number of the oldest record kept; the first ever published has number 0.
    tail: u64,
    limit: usize,
    closed: bool,
}

/// A reader's position in a [`FlowHub`].
#[derive(Debug)]
pub struct FlowReader {
    hub: Arc<FlowHub>,
    position: u64,
}

impl FlowHub {
    /// A hub that keeps the latest `limit` records, at least one.
    pub fn new(limit: usize) -> Arc<Self> {
        let ring = Ring {
            records: VecDeque::new(),
            tail: 0,
            limit: limit.max(1),
            closed: false,
        };
        Arc::new(Self {
            ring: Mutex::new(ring),
            more: Notify::new(),
            missed: AtomicU64::new(0),
            readers: watch::Sender::new(0),
        })
    }

    /// Appends a record; the oldest goes if the ring is full. Takes a lock for a few instructions, never waits
    /// for a reader.
    pub fn publish(&self, record: FlowRecord) {
        let record = Arc::new(record);
        let mut ring = self.ring();
        if ring.records.len() == ring.limit {
            ring.records.pop_front();
            ring.tail += 1;
        }
        ring.records.push_back(record);
        drop(ring);
        self.more.notify_waiters();
    }

    /// Lets readers that follow come to an end once they have read what is kept.
    pub fn close(&self) {
        self.ring().closed = true;
        self.more.notify_waiters();
    }

    /// Returns once nobody reads any more, or after `limit`: whoever ends the process after [`FlowHub::close`] waits for those
    /// who are still to be given the last records, but not for one who takes none.
    pub async fn read_out(&self, limit: Duration) {
        let mut readers = self.readers.subscribe();
        // The sender is ours, and so not gone.
        let _ = timeout(limit, readers.wait_for(|count| *count == 0)).await;
    }

    /// A reader that begins with the oldest record kept.
    pub fn reader(self: &Arc<Self>) -> FlowReader {
        self.readers.send_modify(|count| *count += 1);
        FlowReader {
            hub: Arc::clone(self),
            position: self.ring().tail,
        }
    }

    /// How many records all readers together missed.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is whole between any two statements, so a panic elsewhere leaves nothing half done.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlowReader {
    /// The next record kept, without waiting; `None` when there is no newer one for now.
    pub fn try_next(&mut self) -> Option<Next> {
        let ring = self.hub.ring();
        if self.position < ring.tail {
            let missed = ring.tail - self.position;
            self.position = ring.tail;
            self.hub.missed.fetch_add(missed, Ordering::Relaxed);
            return Some(Next::Missed(Missed(missed)));
        }
        let offset = usize::try_from(self.position - ring.tail).unwrap_or(usize::MAX);
        match ring.records.get(offset) {
            Some(record) => {
                self.position += 1;
                Some(Next::Record(Arc::clone(record)))
            }
            None => ring.closed.then_some(Next::Closed),
        }
    }

    /// The next record, waiting for it. Safe to drop at any point.
    pub async fn next(&mut self) -> Next {
        loop {
            let hub = Arc::clone(&self.hub);
            let mut more = std::pin::pin!(hub.more.notified());
            // Registered before the ring is looked at: a record published in between is not slept through.
            more.as_mut().enable();
            if let Some(next) = self.try_next() {
                return next;
            }
            more.await;
        }
    }
}

impl Drop for FlowReader {
    fn drop(&mut self) {
        self.hub.readers.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::record;
    use super::*;

    fn numbered(number: u64) -> FlowRecord {
        FlowRecord {
            bytes_sent: number,
            ..record("shop/a", "shop/b")
        }
    }

    fn drain(reader: &mut FlowReader) -> Vec<String> {
        std::iter::from_fn(|| reader.try_next())
            .map(|next| match next {
                Next::Closed => "closed".to_owned(),
                Next::Missed(Missed(count)) => format!("missed {count}"),
                Next::Record(record) => record.bytes_sent.to_string(),
            })
            .take(100)
            .collect()
    }

    #[test]
    fn a_new_reader_gets_what_is_kept_and_a_slow_one_is_told() {
        let hub = FlowHub::new(3);
        let mut slow = hub.reader();
        (0..5).for_each(|number| hub.publish(numbered(number)));
        assert_eq!(drain(&mut hub.reader()), ["2", "3", "4"]);
        assert_eq!(drain(&mut slow), ["missed 2", "2", "3", "4"]);
        assert_eq!(hub.missed(), 2);
        hub.publish(numbered(5));
        assert_eq!(drain(&mut slow), ["5"]);
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes_for_a_record_and_for_the_end() {
        let hub = FlowHub::new(3);
        let mut reader = hub.reader();
        let waiting = tokio::spawn(async move {
            let first = reader.next().await;
            let second = reader.next().await;
            (first, second)
        });
        tokio::task::yield_now().await;
        hub.publish(numbered(9));
        tokio::task::yield_now().await;
        hub.close();
        let (first, second) = waiting.await.unwrap();
        assert!(matches!(first, Next::Record(record) if record.bytes_sent == 9));
        assert!(matches!(second, Next::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn readers_are_waited_for_and_one_that_takes_nothing_is_not() {
        const LIMIT: Duration = Duration::from_millis(500);
        let hub = FlowHub::new(3);
        let started = tokio::time::Instant::now();
        hub.read_out(LIMIT).await;
        assert_eq!(started.elapsed(), Duration::ZERO, "nobody reads");
        let mut reader = hub.reader();
        hub.publish(numbered(9));
        hub.close();
        let reading = tokio::spawn(async move {
            tokio::time::sleep(LIMIT / 2).await;
            let first = reader.next().await;
            (first, reader.next().await)
        });
        hub.read_out(LIMIT).await;
        assert!((LIMIT / 2..LIMIT).contains(&started.elapsed()));
        assert!(matches!(reading.await.unwrap(), (Next::Record(_), Next::Closed)));
        let _stuck = hub.reader();
        hub.read_out(LIMIT).await;
        assert!((LIMIT / 2 + LIMIT..2 * LIMIT).contains(&started.elapsed()));
    }
}
