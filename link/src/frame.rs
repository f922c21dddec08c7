//! The buffer that frames are read into.

use crate::VnetHeader;

/// A frame as [`Queue::recv`](crate::Queue::recv) left it: its virtio-net header, and the IP packet right after it.
///
/// The memory is used again by the next frame unless it is [taken](Frame::take).
#[derive(Debug, Default)]
pub struct Frame {
    bytes: Vec<u8>,
    /// Where the virtio-net header begins.
    start: usize,
}

impl Frame {
    /// The packet.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        self.bytes.get(self.packet_start()..).unwrap_or_default()
    }

    /// Header and packet, as [`Queue::forward`](crate::Queue::forward) takes them.
    #[must_use]
    pub fn whole(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// The same, to change the packet in place.
    #[must_use]
    pub fn whole_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }

    /// Where in [`Frame::take`]'s memory the packet begins, in bytes.
    #[must_use]
    pub fn packet_start(&self) -> usize {
        self.start + VnetHeader::LEN
    }

    /// The memory, for whoever keeps the packet longer than until the next one. What is left has none.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Has a device write into the memory, `start` bytes of which come before the virtio-net header.
    pub(crate) fn fill<T>(&mut self, start: usize, fill: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.start = start;
        fill(&mut self.bytes)
    }
}
