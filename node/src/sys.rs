//! Processes, user namespaces and capabilities: the few steps that the helper, `enter` and the probe share.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::ForkResult;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Exit code of a child whose body panicked; the panic's own message is on standard error.
const PANICKED: i32 = 70;

/// Whether this process has exactly one thread.
pub(crate) fn single_threaded() -> io::Result<bool> {
    Ok(fs::read_dir("/proc/self/task")?.take(2).count() == 1)
}

/// Runs `body` in a child process, which ends with the code that it returns.
///
/// Refused (`Unsupported`) in a process with several threads, where the child could find a lock held by a thread that
/// it doesn't have.
#[expect(unsafe_code, reason = "fork")]
pub(crate) fn fork_child(body: impl FnOnce() -> u8) -> io::Result<Pid> {
    if !single_threaded()? {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "fork in a process with several threads",
        ));
    }
    // What is buffered must not be written twice.
    let _ = io::stdout().flush();
    // SAFETY: fork's one rule is that the child of a process with several threads does nothing but async-signal-safe
    // work. This process has one thread, checked above, and nothing runs between the check and the call that could
    // start another.
    // JUSTIFICATION: a new pid namespace begins with a child, and the work in it is a page of code that needs what its
    // parent knows. Running our own executable again instead would pass that through argv, for the sake of one line.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            // Unwinding would return into the parent's code in the child.
            let code = catch_unwind(AssertUnwindSafe(body)).map_or(PANICKED, i32::from);
            std::process::exit(code)
        }
        ForkResult::Parent { child } => {
            Pid::from_raw(child.as_raw()).ok_or_else(|| io::Error::other("fork returned pid 0 to the parent"))
        }
    }
}

/// Waits for a child to end.
pub(crate) fn wait_for(child: Pid) -> io::Result<WaitStatus> {
    loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Maps one user and one group into the user namespace that this process has just made: `outside` as its parent
/// namespace numbers them, `inside` as programs in it will see them.
pub(crate) fn map_ids(inside: (u32, u32), outside: (u32, u32)) -> io::Result<()> {
    // user_namespaces(7): without privilege in the parent, groups may be mapped only once setgroups is denied. The
    // file came with Linux 3.19; before that there was nothing to deny.
    match fs::write("/proc/self/setgroups", "deny") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write("/proc/self/uid_map", format!("{} {} 1", inside.0, outside.0))?;
    fs::write("/proc/self/gid_map", format!("{} {} 1", inside.1, outside.1))
}

/// Keeps `kept` of this process's capabilities, for good: nothing is inheritable, and no-new-privileges is set.
pub(crate) fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Does something with no capability in force but those of `allowed` that the process has, which it all has again after.
pub(crate) fn with_capabilities<T>(allowed: CapabilitySet, body: impl FnOnce() -> T) -> io::Result<T> {
    let held = rustix::thread::capabilities(None)?;
    let fewer = CapabilitySets {
        effective: held.effective & allowed,
        ..held
    };
    rustix::thread::set_capabilities(None, fewer)?;
    let outcome = body();
    rustix::thread::set_capabilities(None, held)?;
    Ok(outcome)
}

/// Blocks signals in this thread, so that a `signalfd` or nobody gets them, and returns them as a set.
pub(crate) fn block_signals(signals: &[Signal]) -> io::Result<SigSet> {
    let set = signals.iter().copied().collect::<SigSet>();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(set)
}

/// Waits until one of `fds` can be read or has ended, or until `deadline`. Says which, in order.
pub(crate) fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    deadline: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    poll_until(&mut polled, deadline)?;
    Ok(polled.map(|fd| !fd.revents().is_empty()))
}

/// `poll(2)` that a signal doesn't end early.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Whether the other side of a lifeline is gone: all its write ends are closed. Call when it polls readable.
///
/// Bytes on it mean nothing and are thrown away.
pub(crate) fn lifeline_ended(lifeline: BorrowedFd<'_>) -> bool {
    let mut bytes = [0; 64];
    match rustix::io::read(lifeline, &mut bytes) {
        Ok(0) => true,
        Ok(_) | Err(Errno::INTR | Errno::AGAIN) => false,
        Err(_) => true,
    }
}

/// Makes an inherited descriptor close-on-exec: programs started from here must not hold it, or the end that it
/// stands for would never come.
pub(crate) fn set_close_on_exec(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?)
}

/// Opens one of this process's namespaces.
pub(crate) fn open_namespace(kind: &str) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(
        format!("/proc/self/ns/{kind}"),
        flags,
        rustix::fs::Mode::empty(),
    )?)
}
