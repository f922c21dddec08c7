//! The words that every part of adit uses: four-tuples, workload names, reasons, the flow record.
//!
//! Data only: no behaviour that needs a clock, a socket or an allocation policy. Every other crate may depend
//! on this one; it depends on none of them.

mod code;
mod reason;
mod record;
mod tuple;
mod workload;

pub use code::Code;
pub use reason::{CloseReason, Closer, DropReason, RefuseReason};
pub use record::{Direction, FlowRecord, Mode, MtlsState, Peer, PolicyTrace, VerdictKind};
pub use tuple::{FourTuple, Protocol};
pub use workload::{InvalidWorkloadName, WorkloadName};
