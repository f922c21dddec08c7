//! The privileged helper: it makes pods and hands out their descriptors.
//!
//! A *pod* is a set of namespaces (network, mount, host name, IPC) with one device as its only way out: a TUN device, or
//! one end of a veth pair. On a laptop
//! the helper is "root" of a user namespace that it makes itself, so it needs no privilege on the machine; see
//! [`laptop::run`]. The agent, which parses what the pods send, has no capability and asks the helper for descriptors
//! through [`Client`]. Programs are put into pods by [`enter::run`]. [`probe::run`] tells beforehand whether the
//! machine allows all this.
//!
//! ```text
//! supervisor ──lifeline──▶ helper (root of user namespace U1, one thread, no network of its own)
//!     │                      │ keeps a duplicate of every queue, pins every namespace
//!     │                      ▼
//!     └─ adit enter ──▶ pod: net + mnt + uts + ipc, owned by U1
//!            └─ init: pid 1 of a new pid namespace, in U1
//!                 └─ the program: in user namespace U2 under U1, where it is the caller's own uid again and holds no
//!                    capability over the pod
//! ```
//!
//! Everything here runs in processes with one thread, because namespaces belong to threads and `fork` copies only
//! one; the functions that need it check. The crate has no async runtime, no TLS, no YAML, and all it parses is
//! [`protocol`].

mod client;
pub mod cluster;
pub mod codes;
pub mod enter;
pub mod laptop;
mod link;
pub mod memory;
pub mod names;
mod netlink;
mod pod;
pub mod probe;

pub mod protocol;
mod sys;

pub use client::{Client, ClientError, Namespaces};
pub use link::{InvalidLink, LinkChoice};
