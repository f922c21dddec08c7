//! TUN queues, virtio-net headers, descriptor passing.
