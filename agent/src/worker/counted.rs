//! How many of something there are on a worker's thread, by the lives of their guards.

use std::cell::Cell;
use std::rc::Rc;

/// One of those that are counted, as long as this lives.
pub(super) struct Counted(Rc<Cell<usize>>);

impl Counted {
    /// One more.
    pub(super) fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
