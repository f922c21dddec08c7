//! The privileged helper of a cluster's node: it puts running pods behind the agent and takes them out again.
//!
//! A pod keeps its own network namespace (**P**), but its real interface is moved to a second one (**O**); in its stead
//! P has a device of the agent's with the interface's name, addresses and default route: a TUN device, or the end of a veth
//! pair whose other end, with a packet socket, is in a third namespace (**W**). Everything that the pod sends, and
//! everything that comes for it, passes the agent, which holds one queue of each side ([`PodQueues`]) and makes its
//! own connections from sockets of O. `docs/node.md` of the repository has it step by step.
//!
//! * [`serve()`]: the helper itself; [`uninstall()`] takes adit off the node, and [`probe()`] says how it is there;
//!   [`check()`] tries beforehand what it will need.
//! * [`cni::main`]: the CNI plugin, which the container runtime runs for each pod and which asks the helper.
//! * [`Client`] and [`Admissions`]: the agent's side of the helper's socket. What is said there is [`protocol`].
//!
//! ```text
//! runtime ──▶ cni ──cni.sock──▶ server ──▶ members ──▶ journal
//!              agent ──agent.sock──▶ │        └──▶ task: inspect, interpose (in a process of its own, in P and O)
//!                                    └──▶ conflist
//! ```

use std::time::Duration;

mod admissions;
mod check;
mod client;
pub mod cni;
mod conflist;
mod failure;
mod inspect;
mod interface;
mod interpose;
mod journal;
mod members;
mod namespace;
mod probe;
pub mod protocol;
mod sandbox;
mod serve;
mod server;
mod task;
mod uninstall;

pub use admissions::{Admissions, Notice};
pub use check::check;
pub use client::{Client, PodQueues};
pub use probe::{Probe, probe};
pub use protocol::{Admission, Counters, Decision, Family, Kind, Member, PodRef};
pub use serve::{Error, Limits, Options, PluginFolders, serve};
pub use uninstall::{stay_uninstalled, uninstall};

/// Entries for `fuzz/`, each of which panics if its parser doesn't keep its word.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use super::cni::fuzz as plugin_call;
    pub use super::conflist::fuzz as plugin_list;
    pub use super::journal::fuzz as journal_entry;
    pub use super::protocol::plugin::fuzz as plugin_message;
}

/// How long one step of the helper's own work may take: a join, a leave, sockets, a rule. One that hangs is killed.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the agent may think about a pod that is about to start.
pub const ADMISSION_TIMEOUT: Duration = Duration::from_secs(10);
