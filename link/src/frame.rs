//! The buffer that frames are read into.

use crate::VnetHeader;

/// Parts of a packet to be sent, its headers among them, up to which no memory is asked for.
pub(crate) const USUAL_PARTS: usize = 16;

/// A frame as [`Queue::recv`](crate::Queue::recv) left it: its virtio-net header, and the IP packet right after it.
///
/// The memory is used again by the next frame unless it is [replaced](Frame::replace).
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

    /// Where in [`Frame::replace`]'s memory the packet begins, in bytes.
    #[must_use]
    pub fn packet_start(&self) -> usize {
        self.start + VnetHeader::LEN
    }

    /// The memory, for whoever keeps the packet longer than until the next one, which is read into `next`: what that holds is
    /// lost, and it grows if it has to.
    #[must_use]
    pub fn replace(&mut self, next: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.bytes, next)
    }

    /// Has a device write into the memory, `start` bytes of which come before the virtio-net header.
    pub(crate) fn fill<T>(&mut self, start: usize, fill: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.start = start;
        fill(&mut self.bytes)
    }
}
