//! Descriptors that a parent process left open for us.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Takes over a descriptor that this process inherited by its number, and makes it close-on-exec.
///
/// Only a descriptor that is *not* close-on-exec can be taken: everything that is opened in a Rust process is, so one
/// without the flag came from the parent and nothing here owns it. Taking it sets the flag, so it can be taken once.
///
/// # Errors
/// `InvalidInput` for standard input, output and error, which the standard library owns, and for a descriptor that was
/// opened or taken in this process; `EBADF` when the number is not open.
#[expect(
    unsafe_code,
    reason = "a number from the command line has to become an owned descriptor somewhere"
)]
pub fn inherit_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    let refused = |why| io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number} {why}"));
    if number <= 2 {
        return Err(refused("is not one that can be inherited by number"));
    }
    // SAFETY: the borrow ends within this function; F_GETFD on a number that is not open is EBADF and does nothing.
    // JUSTIFICATION: the flag has to be read before it is known whether the descriptor may be owned.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(refused("belongs to this process, expected an inherited one"));
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open, and has no owner: the standard library, rustix and nix as used here open every
    // descriptor close-on-exec, and it was not. From here on it is, so no second owner can be made this way.
    // JUSTIFICATION: no safe function adopts a number; opening /proc/self/fd/N again fails for sockets and leaves the
    // original open.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn a_descriptor_is_taken_once() {
        let (read, _write) = io::pipe().unwrap();
        let number = read.as_raw_fd();
        assert_eq!(
            inherit_descriptor(number).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        // As if it had come from the parent: open, with no owner, and not close-on-exec.
        fcntl_setfd(&read, FdFlags::empty()).unwrap();
        let number = OwnedFd::from(read).into_raw_fd();
        let taken = inherit_descriptor(number).unwrap();
        assert_eq!(taken.as_raw_fd(), number);
        assert!(inherit_descriptor(number).is_err());
    }

    #[test]
    fn standard_streams_and_closed_numbers_are_refused() {
        assert_eq!(
            inherit_descriptor(0).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(inherit_descriptor(1 << 20).unwrap_err().raw_os_error(), Some(9));
        assert!(inherit_descriptor(-1).is_err());
    }
}
