//! Certificates from a signer that speaks as Istio's: adit's own in the cluster, or istiod.

mod client;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod wire;

pub use client::{BadAddress, SignError, SignerClient, SignerOptions};
