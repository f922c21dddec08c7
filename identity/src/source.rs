use std::future::{Future, ready};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use crate::{CertificateAuthority, IssuedSvid, SpiffeId};

/// Where SVIDs come from.
///
/// The embedded authority has its answer at the first poll, and needs no runtime; one that is asked over the network
/// needs the runtime that it was made on.
pub trait SvidSource: Send + Sync {
    /// An SVID for `id` with a new key, to be used from `now` on.
    fn obtain(&self, id: &SpiffeId, now: SystemTime) -> Obtaining;
}

/// An SVID to come, or why it doesn't.
pub type Obtaining = Pin<Box<dyn Future<Output = Result<IssuedSvid, SourceError>> + Send>>;

/// Why no SVID could be had, in the words of whom was asked.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// The authority in this very process.
#[derive(Debug)]
pub struct EmbeddedSource {
    authority: CertificateAuthority,
    ttl: Duration,
}

impl EmbeddedSource {
    /// A source of SVIDs that are valid for `ttl`.
    pub fn new(authority: CertificateAuthority, ttl: Duration) -> Self {
        Self { authority, ttl }
    }
}

impl SvidSource for EmbeddedSource {
    fn obtain(&self, id: &SpiffeId, now: SystemTime) -> Obtaining {
        let issued = self.authority.issue(id, now, self.ttl).map(|svid| IssuedSvid {
            svid,
            bundle: self.authority.bundle().clone(),
        });
        Box::pin(ready(issued.map_err(SourceError::from)))
    }
}
