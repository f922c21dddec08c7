//! Policy objects to compiled sets to a verdict with its trace. Pure.

mod flow;
mod set;
mod verdict;

pub use flow::{Direction, Flow, Icmp};
pub use set::PolicySet;
pub use verdict::{Decision, Denial, Permit, Trace, Verdict};
