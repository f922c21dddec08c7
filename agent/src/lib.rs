//! The adit binary as a library: what the commands do, and the agent they compose.

pub mod admin;
pub mod agent;
pub mod ca;
pub mod cli;
pub mod cluster;
mod confine;
mod dns;
pub mod explain;
mod identities;
mod junit;
mod metrics;
mod pipeline;
pub mod rundir;
pub mod sink;
pub mod supervisor;
mod telemetry;
mod worker;
