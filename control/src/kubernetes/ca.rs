//! The signer of a cluster, `adit ca`: SVIDs for the agents of its nodes.
//!
//! ```text
//!  agent ──TLS, gRPC──▶ service ──▶ decide ──▶ Roots: signs
//!   token, request,        │          ▲ pure
//!   for whom               │          ├── TokenReview: whose token, bound to which pod on which node
//!                          │          └── Placement: which accounts have pods on that node (watched)
//!                        store: the keys in a Secret, the roots in a ConfigMap
//! ```
//!
//! An agent gets SVIDs of those identities alone that have a pod on its own node: who takes over a node gets no more than
//! the node already runs. Nobody but agents gets anything.

mod decide;
mod placement;
mod server;
mod service;
mod status;
mod store;

pub use server::{CaOptions, ServeError, serve};
pub use status::CaStatus;
