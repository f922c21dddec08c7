//! Certificates from a signer that speaks as Istio's: adit's own in the cluster, or istiod.

mod client;
pub(crate) mod wire;

pub use client::{BadAddress, SignError, SignerClient, SignerOptions};
