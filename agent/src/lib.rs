//! The adit binary as a library: what the commands do, and the agent they compose.

pub mod admin;
