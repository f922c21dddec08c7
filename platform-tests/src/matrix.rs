//! Where adit works, cell by cell: kernels × conditions × paths × links. Each cell asks `adit check` and does the real thing, and
//! compares the two.
//!
//! ```text
//!   adit-matrix ─▶ vm.sh ─▶ a VM of each suite ─▶ adit-cells: each cell in namespaces of its own ─▶ one Outcome a cell
//!        └─ judge: what the check said beside what came of it, beside what is expected of the cell ─▶ table, page, JUnit
//! ```
//!
//! `adit-cells` ([`inside`]) runs in the virtual machine, as root; what it finds is judged outside of it ([`judge()`]), so that
//! a judgement can be read without a machine.

mod cell;
pub mod inside;
mod judge;
mod outcome;
mod report;
mod suite;

pub use cell::{Cell, Condition, Expected, Link, Path, Version};
pub use judge::{Judged, Verdict, judge};
pub use outcome::{Attempt, Ended, Outcome, codes};
pub use report::{Column, junit, page, table};
pub use suite::{Boot, BootError, Programs, boots, prepare};
