//! Policy objects to compiled sets to a verdict with its trace. Pure.
//!
//! Objects of five APIs (Kubernetes NetworkPolicy and ClusterNetworkPolicy, Calico's policies, Istio's
//! AuthorizationPolicy and PeerAuthentication) are read by [`objects`], brought into one shape ([`model`]), compiled
//! together with the workloads they are about ([`compile`]) into an immutable [`PolicySet`], and asked about flows.
//! No IO, no clock, no task.

pub mod codes;
pub mod commands;
pub mod compile;
pub mod diagnostic;
pub mod document;
pub mod inventory;
pub mod model;
pub mod net;
pub mod objects;
pub mod selector;

mod flow;
mod gate;
mod judge;
mod set;
mod verdict;

pub use compile::{Change, Compiler, L7WithoutWaypoint, Options};
pub use flow::{Direction, Flow, Icmp};
pub use set::PolicySet;
pub use verdict::{Decision, Denial, Field, Outcome, Permit, Side, Step, Trace, Unenforced, Verdict};
