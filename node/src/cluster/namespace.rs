//! Network namespaces by their place in the file system: which one is there, how to go there, how to pin one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

/// `NSFS_MAGIC`: the file system that namespaces show up as.
const NSFS: u64 = 0x6e73_6673;

/// Which namespace a file stands for, as long as that namespace exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// The namespace mounted at `path`; `None` when the file isn't there or is no namespace.
pub(super) fn at(path: &Path) -> io::Result<Option<(OwnedFd, Identity)>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(error) if error == rustix::io::Errno::NOENT => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if rustix::fs::fstatfs(&file)?.f_type as u64 != NSFS {
        return Ok(None);
    }
    let stat = rustix::fs::fstat(&file)?;
    let identity = Identity {
        device: stat.st_dev,
        inode: stat.st_ino,
    };
    Ok(Some((file, identity)))
}

/// Whether the namespace that was at `path` still is, without opening it.
pub(super) fn is_at(path: &Path, identity: Identity) -> bool {
    identity_at(path) == Some(identity)
}

/// What is at `path`, a namespace or not, without opening it.
pub(super) fn identity_at(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok()?;
    Some(Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}

/// Goes to a network namespace. For processes of [`task::run`](super::task::run) only.
pub(super) fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// Makes a network namespace, goes there, and mounts it at `path` so that it stays when everybody leaves.
pub(super) fn create(path: &Path) -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
    fs::write(path, [])?;
    Ok(rustix::mount::mount_bind("/proc/self/ns/net", path)?)
}

/// Takes away what [`create`] mounted, if anything. The namespace goes with its last process, socket and descriptor.
pub(super) fn release(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        // EINVAL: there is a file, but nothing is mounted on it.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
