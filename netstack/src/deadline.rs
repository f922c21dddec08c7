//! The deadline queue: for each flow at most one entry, the earliest time at which it may have something to do.
//!
//! A binary heap that knows each slot's position, so it never holds a stale entry and its size is bounded by
//! that of the flow table. Deadlines mostly move *later* with every packet; such a move leaves the entry where it is and
//! costs nothing: the flow is looked at once too early, and put back. Moving it earlier sifts it up.

use crate::clock::Tick;

/// Slots by deadline.
#[derive(Default)]
pub(crate) struct DeadlineQueue {
    heap: Vec<Entry>,
    /// Where each slot's entry is in the heap, plus one; 0 for none.
    positions: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Entry {
    at: Tick,
    slot: u32,
}

impl DeadlineQueue {
    /// The earliest entry.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.heap.first().map(|entry| entry.at)
    }

    /// Sees to it that `slot` is looked at no later than `at`.
    pub(crate) fn arm(&mut self, slot: u32, at: Tick) {
        if self.positions.len() <= slot as usize {
            self.positions.resize(slot as usize + 1, 0);
        }
        match self.positions[slot as usize] {
            0 => {
                self.heap.push(Entry { at, slot });
                self.rise(self.heap.len() - 1);
            }
            position => {
                let index = position as usize - 1;
                if at < self.heap[index].at {
                    self.heap[index].at = at;
                    self.rise(index);
                }
            }
        }
    }

    /// Removes the entry of `slot`, if it has one.
    pub(crate) fn disarm(&mut self, slot: u32) {
        if let Some(&position) = self.positions.get(slot as usize)
            && position != 0
        {
            self.remove(position as usize - 1);
        }
    }

    /// Takes out a slot whose entry is due.
    pub(crate) fn pop_due(&mut self, now: Tick) -> Option<u32> {
        let first = self.heap.first().filter(|entry| entry.at <= now)?;
        let slot = first.slot;
        self.remove(0);
        Some(slot)
    }

    fn remove(&mut self, index: usize) {
        let entry = self.heap.swap_remove(index);
        self.positions[entry.slot as usize] = 0;
        if index < self.heap.len() {
            self.place(index);
            self.sink(index);
            self.rise(index);
        }
    }

    fn rise(&mut self, mut index: usize) {
        while index > 0 && self.heap[index].at < self.heap[(index - 1) / 2].at {
            self.heap.swap(index, (index - 1) / 2);
            self.place(index);
            index = (index - 1) / 2;
        }
        self.place(index);
    }

    fn sink(&mut self, mut index: usize) {
        loop {
            let left = 2 * index + 1;
            let Some(least) = (left..self.heap.len().min(left + 2)).min_by_key(|&child| self.heap[child].at)
            else {
                return;
            };
            if self.heap[index].at <= self.heap[least].at {
                return;
            }
            self.heap.swap(index, least);
            self.place(index);
            self.place(least);
            index = least;
        }
    }

    fn place(&mut self, index: usize) {
        self.positions[self.heap[index].slot as usize] = index as u32 + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Arm(u32, i64),
        Disarm(u32),
        Pop(i64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..20_u32, 0..100_i64).prop_map(|(slot, at)| Op::Arm(slot, at)),
            1 => (0..25_u32).prop_map(Op::Disarm),
            2 => (0..100_i64).prop_map(Op::Pop),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_of_earliest_times(ops in proptest::collection::vec(op(), 0..200)) {
            let mut queue = DeadlineQueue::default();
            let mut model = BTreeMap::<u32, i64>::new();
            for op in ops {
                match op {
                    Op::Arm(slot, at) => {
                        queue.arm(slot, Tick::from_micros(at));
                        model.entry(slot).and_modify(|old| *old = at.min(*old)).or_insert(at);
                    }
                    Op::Disarm(slot) => {
                        queue.disarm(slot);
                        model.remove(&slot);
                    }
                    Op::Pop(now) => match queue.pop_due(Tick::from_micros(now)) {
                        Some(slot) => {
                            let at = model.remove(&slot).expect("popped a slot that was armed");
                            prop_assert!(at <= now && model.values().all(|&other| at <= other));
                        }
                        None => prop_assert!(model.values().all(|&at| at > now)),
                    },
                }
                prop_assert_eq!(queue.next().map(|at| at.total_micros()), model.values().copied().min());
                prop_assert_eq!(queue.heap.len(), model.len());
            }
        }
    }
}
