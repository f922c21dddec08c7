//! The adit binary as a library: what the commands do, and the agent they compose.

pub mod admin;
pub mod agent;
mod confine;
mod dns;
mod identities;
mod pipeline;
mod telemetry;
mod worker;
