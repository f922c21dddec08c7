//! The CA's key on disk, for those who ask for it: so that agents on two hosts share a root, and a restart keeps
//! it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use adit_identity::{CaError, CertificateAuthority, TrustDomain};

/// Why the CA could not be loaded or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The authority could not be made, or what the file holds is none.
    #[error("[ADIT-A040] the embedded CA {origin}: {source}")]
    Authority {
        /// Where it came from: a path, or "in memory".
        origin: String,
        /// What's wrong with it.
        source: Box<CaError>,
    },
    /// Others could read the key.
    #[error(
        "[ADIT-A041] {path} holds the CA's key: expected it to belong to this user with mode {expected:o}, got user {uid} and \
         mode {mode:o}",
        path = path.display()
    )]
    Exposed {
        /// The folder or file.
        path: PathBuf,
        /// The mode that it must have at most.
        expected: u32,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// The kernel refused a file operation.
    #[error("[ADIT-A042] {doing} {path}: {source}", path = path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The CA of `trust_domain`: a new one in memory, or the one kept in `state_dir`, which is made if there is none.
pub(super) fn authority(
    state_dir: Option<&Path>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<CertificateAuthority, StoreError> {
    let Some(folder) = state_dir else {
        return CertificateAuthority::new(trust_domain.clone(), now).map_err(|source| {
            StoreError::Authority {
                origin: "in memory".into(),
                source: Box::new(source),
            }
        });
    };
    prepare(folder)?;
    let path = folder.join(format!("ca-{trust_domain}.pem"));
    match fs::read_to_string(&path) {
        Ok(text) => {
            check(&path, FILE_MODE)?;
            CertificateAuthority::from_pem(trust_domain.clone(), &text).map_err(|source| {
                StoreError::Authority {
                    origin: format!("in {}", path.display()),
                    source: Box::new(source),
                }
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(folder, &path, trust_domain, now),
        Err(source) => Err(StoreError::File {
            doing: "reading",
            path,
            source,
        }),
    }
}

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

fn prepare(folder: &Path) -> Result<(), StoreError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder);
    made.map_err(|source| StoreError::File {
        doing: "making",
        path: folder.to_owned(),
        source,
    })?;
    check(folder, FOLDER_MODE)
}

/// The owner is this user and nobody else may look.
fn check(path: &Path, expected: u32) -> Result<(), StoreError> {
    let found = fs::metadata(path).map_err(|source| StoreError::File {
        doing: "looking at",
        path: path.to_owned(),
        source,
    })?;
    let (uid, mode) = (found.uid(), found.mode() & 0o777);
    if uid != rustix::process::geteuid().as_raw() || mode & !expected != 0 {
        return Err(StoreError::Exposed {
            path: path.to_owned(),
            expected,
            uid,
            mode,
        });
    }
    Ok(())
}

/// Makes a CA and keeps it: written whole under another name first. Of two agents that start at once, the one
/// whose link comes second takes the other's.
fn create(
    folder: &Path,
    path: &Path,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<CertificateAuthority, StoreError> {
    let authority =
        CertificateAuthority::new(trust_domain.clone(), now).map_err(|source| StoreError::Authority {
            origin: format!("for {}", path.display()),
            source: Box::new(source),
        })?;
    let draft = folder.join(format!(".ca-{trust_domain}.{}", std::process::id()));
    let failed = |doing, source| StoreError::File {
        doing,
        path: draft.clone(),
        source,
    };
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&draft)
        .map_err(|source| failed("making", source))?;
    let written = file
        .write_all(authority.to_pem().as_bytes())
        .and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    match linked {
        Ok(()) => removed
            .map_err(|source| failed("removing", source))
            .map(|()| authority),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            self::authority(Some(folder), trust_domain, now)
        }
        Err(source) => Err(failed("writing", source)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("adit-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn the_second_start_has_the_first_ones_root() {
        let folder = folder("twice");
        let domain: TrustDomain = "demo.local".parse().unwrap();
        let first = authority(Some(&folder), &domain, SystemTime::now()).unwrap();
        let second = authority(Some(&folder), &domain, SystemTime::now()).unwrap();
        assert_eq!(first.bundle().roots(), second.bundle().roots());
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no draft is left");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = folder("exposed");
        let domain: TrustDomain = "demo.local".parse().unwrap();
        authority(Some(&folder), &domain, SystemTime::now()).unwrap();
        let file = folder.join("ca-demo.local.pem");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = authority(Some(&folder), &domain, SystemTime::now());
        assert!(matches!(refused, Err(StoreError::Exposed { mode: 0o644, .. })));
        fs::remove_dir_all(&folder).unwrap();
    }
}
