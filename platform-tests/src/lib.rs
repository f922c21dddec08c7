//! Tests that need namespaces, real programs and real peers.

pub mod load;
pub mod stats;
