//! Bounded queues of packets that belong to no socket.

use std::collections::VecDeque;

use crate::config::QueueLimit;

/// Short segments that the stack answers with: resets, acknowledgements. They're kept in place, so that queueing
/// one allocates nothing once the queue has grown.
#[derive(Default)]
pub(crate) struct Answers {
    queue: VecDeque<Answer>,
}

struct Answer {
    length: u8,
    bytes: [u8; ANSWER_SIZE],
}

impl Answers {
    /// Whether there was room for it.
    pub(crate) fn push(&mut self, frame: &[u8]) -> bool {
        if self.queue.len() >= ANSWERS_LIMIT || frame.len() > ANSWER_SIZE {
            return false;
        }
        let mut bytes = [0; ANSWER_SIZE];
        bytes[..frame.len()].copy_from_slice(frame);
        self.queue.push_back(Answer {
            length: frame.len() as u8,
            bytes,
        });
        true
    }

    /// Replaces `out` by the oldest.
    pub(crate) fn pop(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(answer) = self.queue.pop_front() else {
            return false;
        };
        out.clear();
        out.extend_from_slice(&answer.bytes[..usize::from(answer.length)]);
        true
    }
}

/// IPv6 header, TCP header, all its options.
const ANSWER_SIZE: usize = 40 + 60;

/// A turn of the driver reads some tens of frames, each answered at most once.
const ANSWERS_LIMIT: usize = 4096;

/// Packets with their sizes in bytes, bounded by both.
pub(crate) struct PacketQueue<T> {
    queue: VecDeque<(T, usize)>,
    bytes: usize,
    limit: QueueLimit,
}

impl<T> PacketQueue<T> {
    pub(crate) fn new(limit: QueueLimit) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    /// Whether a packet of `bytes` has room. An empty queue takes any: a limit below a packet would let nothing pass.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.queue.is_empty()
            || (self.queue.len() < self.limit.packets && self.bytes.saturating_add(bytes) <= self.limit.bytes)
    }

    pub(crate) fn push(&mut self, packet: T, bytes: usize) {
        self.bytes += bytes;
        self.queue.push_back((packet, bytes));
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let (packet, bytes) = self.queue.pop_front()?;
        self.bytes -= bytes;
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_queue_is_bounded_in_packets_and_bytes() {
        let mut queue = PacketQueue::new(QueueLimit {
            packets: 2,
            bytes: 10,
        });
        assert!(queue.has_room(1000), "an empty one takes any");
        queue.push('a', 4);
        assert!(queue.has_room(6) && !queue.has_room(7));
        queue.push('b', 4);
        assert!(!queue.has_room(0));
        assert_eq!(queue.pop(), Some('a'));
        assert!(queue.has_room(6));
    }

    #[test]
    fn answers_are_bounded() {
        let mut answers = Answers::default();
        assert!(!answers.push(&[0; ANSWER_SIZE + 1]));
        assert!((0..ANSWERS_LIMIT).all(|_| answers.push(&[1; 40])));
        assert!(!answers.push(&[1; 40]));
        let mut out = vec![9; 900];
        assert!(answers.pop(&mut out) && out == [1; 40]);
    }
}
