//! The privileged helper: namespaces, TUN devices, descriptor broker.
