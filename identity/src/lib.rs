//! SPIFFE ids, SVIDs, trust bundles, peer verification, rotation schedule, embedded CA. Pure.
//!
//! Nothing here opens a socket or reads a clock: the time is an argument everywhere. Randomness is drawn only
//! where a key or a serial number is made.

mod bundle;
mod ca;
mod leaf;
mod request;
mod roots;
mod rotation;
mod source;
mod spiffe;
mod svid;
mod verify;

pub use bundle::{InvalidBundle, TrustBundle};
pub use ca::{CaError, CertificateAuthority, ServerCertificate};
pub use leaf::BadLeaf;
pub use request::{InvalidAnswer, IssuedSvid, RequestError, SvidRequest};
pub use roots::{RootPolicy, Roots};
pub use rotation::{Rotation, RotationPolicy, RotationStep, SvidState};
pub use source::{EmbeddedSource, Obtaining, SourceError, SvidSource};
pub use spiffe::{InvalidSpiffeId, SpiffeId, TrustDomain};
pub use svid::{InvalidSvid, Svid};
pub use verify::{Expected, MAX_CHAIN, PeerIdentity, PeerRole, VerifyError, VerifyLabel, verify};
