//! The Kubernetes API as a source: what is watched there becomes a [`State`] after each change.
//!
//! ```text
//! API ─▶ list_watch (a task a kind) ─▶ Change ─▶ Model ─▶ State
//!        pages, 410, pauses             bounded    pure     one Arc, replaced whole
//! ```
//!
//! Everything that decides is in the model, a pure function; the tasks only fetch. Nothing is published before everything that is
//! watched was listed once: a state without the policies that somebody wrote would allow what they deny. After that the last
//! state stays in force through any outage, and [`Health`] says how old it is.

mod annotate;
mod api;
pub mod ca;
mod discovery;
mod enrolment;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod kind;
mod list_watch;
mod membership;
mod model;
mod object;
mod rollout;
mod roster;
mod source;
mod state;

pub(crate) use api::with_causes;

pub use annotate::{AnnotateError, Annotated, annotate};
pub use enrolment::{EnrolmentError, await_settled, enrol, roster};
pub use health::{Health, KindHealth, Rejected};
pub use kube::{Client as KubeClient, Config as KubeConfig};
pub use membership::{Belonging, MembershipError, belongs, is_joining};
pub use object::{Capability, HBONE_PORT_ANNOTATION, REDIRECTION_ANNOTATION};
pub use rollout::{Laggard, Rollout, UnfinishedError, await_daemon_set};
pub use roster::{Captured, Outside, Roster, Standing, WirePort};
pub use source::{ConnectError, Source, SourceOptions, connect, connect_as};
pub use state::{Account, State, WantedPod};
