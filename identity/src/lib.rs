//! SPIFFE ids, SVIDs, trust bundles, peer verification, rotation schedule, embedded CA. Pure.

mod spiffe;

pub use spiffe::{InvalidSpiffeId, SpiffeId, TrustDomain};
