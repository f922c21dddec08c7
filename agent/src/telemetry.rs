//! Flow records and counters: what the agent says of itself.

mod counters;
mod netstack;
mod pool;
mod pulse;
mod queue;
mod recorder;

pub(crate) use counters::Counters;
pub(crate) use netstack::collect_netstack;
pub(crate) use pool::collect_pool;
pub(crate) use pulse::Pulse;
pub(crate) use queue::collect_queue;
pub(crate) use recorder::Recorder;
