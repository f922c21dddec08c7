//! What has to work in a namespace, in the mesh as outside it; and checks that only a mesh can meet.
//!
//! The former panic if something doesn't work. The latter say what they found, so that a test can expect it or its
//! opposite.

mod access;
mod database;
mod escape;
mod faults;
mod newborn;
mod opening;
mod policy;
mod probes;
mod scan;
mod services;
mod streams;
mod traffic;
mod wire;

pub use access::access;
pub use database::database;
pub use escape::{Escape, escape};
pub use faults::{Churn, Reach, churn, reach};
pub use newborn::first_connections;
pub use opening::Opening;
pub use policy::{Cut, cut_by};
pub use probes::{Probes, probes};
pub use scan::{ports, scan_under_load};
pub use services::services;
pub use streams::{Ends, Streams};
pub use traffic::{dial, http};
pub use wire::{wire, wire_between, wire6};
