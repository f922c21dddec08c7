/// Hands out small ids and takes them back.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    next: u32,
    free: Vec<u32>,
}

impl Ids {
    /// The lowest id never used, or one that was given back.
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub(super) fn give_back(&mut self, id: u32) {
        self.free.push(id);
    }
}
