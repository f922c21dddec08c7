//! How the signer is: readable at any time, for metrics and for people.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::placement::Placement;
use tokio::sync::watch;

/// Shared by the signer and whoever asks how it is.
#[derive(Debug)]
pub struct CaStatus {
    has_keys: AtomicBool,
    signed: AtomicU64,
    /// By gRPC code: few.
    refused: Mutex<BTreeMap<String, u64>>,
    pub(super) placement: watch::Sender<Placement>,
}

impl Default for CaStatus {
    fn default() -> Self {
        Self {
            has_keys: AtomicBool::new(false),
            signed: AtomicU64::new(0),
            refused: Mutex::default(),
            placement: watch::Sender::new(Placement::default()),
        }
    }
}

impl CaStatus {
    /// Whether it can sign.
    ///
    /// # Errors
    /// What it lacks, in words.
    pub fn ready(&self) -> Result<(), String> {
        if !self.has_keys.load(Ordering::Relaxed) {
            return Err("the signer has no keys yet: the Secret was not read or written".to_owned());
        }
        match self.placement.borrow().is_listed() {
            true => Ok(()),
            false => Err("which pods run where isn't known yet".to_owned()),
        }
    }

    /// Certificates signed since the start.
    pub fn signed(&self) -> u64 {
        self.signed.load(Ordering::Relaxed)
    }

    /// Certificates refused since the start, by gRPC code.
    pub fn refused(&self) -> BTreeMap<String, u64> {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn took_keys(&self) {
        self.has_keys.store(true, Ordering::Relaxed);
    }

    pub(super) fn answered<T>(&self, outcome: &Result<T, tonic::Status>) {
        match outcome {
            Ok(_) => {
                self.signed.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                *refused.entry(format!("{:?}", status.code())).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::placement::tests::placement;
    use super::*;

    #[test]
    fn it_is_ready_with_keys_and_pods() {
        let status = CaStatus::default();
        assert!(status.ready().unwrap_err().contains("no keys"));
        status.took_keys();
        assert!(status.ready().unwrap_err().contains("which pods"));
        status
            .placement
            .send_replace(placement(&[("shop/web-1", "uid-1", "one", "web")]));
        assert_eq!(status.ready(), Ok(()));
    }

    #[test]
    fn answers_are_counted_by_code() {
        let status = CaStatus::default();
        status.answered(&Ok(()));
        status.answered::<()>(&Err(tonic::Status::unavailable("later")));
        status.answered::<()>(&Err(tonic::Status::unavailable("later")));
        assert_eq!(status.signed(), 1);
        assert_eq!(status.refused(), BTreeMap::from([("Unavailable".to_owned(), 2)]));
    }
}
