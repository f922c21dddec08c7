//! Flow records and counters: what the agent says of itself.

mod counters;
mod recorder;

pub(crate) use counters::Counters;
pub(crate) use recorder::Recorder;
