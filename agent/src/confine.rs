//! What the agent gives up before it reads a packet: capabilities, new privileges, and system calls.
//!
//! The agent parses what pods and peers send. It needs sockets, memory, threads and the descriptors that the
//! node helper hands it, and nothing else: no capability, no program to execute, no namespace, no mount.

use std::collections::BTreeMap;

use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Why the agent could not be confined. It must not run then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfineError {
    /// The kernel refused to read or to drop the capabilities.
    #[error("[ADIT-A020] dropping capabilities: the kernel answered {source}")]
    Capabilities {
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// Capabilities were left after dropping them.
    #[error(
        "[ADIT-A021] the agent needs no capability and still holds {held:?}; start it as an ordinary user"
    )]
    Privileged {
        /// What is still held.
        held: CapabilitySet,
    },
    /// `PR_SET_NO_NEW_PRIVS` was refused.
    #[error("[ADIT-A022] setting no-new-privileges: the kernel answered {source}")]
    NoNewPrivs {
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// The filter could not be built or installed.
    #[error("[ADIT-A023] installing the seccomp filter: {detail}")]
    Seccomp {
        /// What the library said.
        detail: String,
    },
}

/// Confines this process. Call it while it has one thread: threads started later inherit everything.
///
/// # Errors
/// Anything that was not given up is an error: security fails closed.
pub(crate) fn confine() -> Result<(), ConfineError> {
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true).map_err(|source| ConfineError::NoNewPrivs { source })?;
    for program in [clone3_is_unknown(), allow_list()] {
        let program = program.map_err(|error| ConfineError::Seccomp {
            detail: error.to_string(),
        })?;
        seccompiler::apply_filter(&program).map_err(|error| ConfineError::Seccomp {
            detail: error.to_string(),
        })?;
    }
    Ok(())
}

fn drop_capabilities() -> Result<(), ConfineError> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let failed = |source| ConfineError::Capabilities { source };
    rustix::thread::set_capabilities(None, none).map_err(failed)?;
    let left = rustix::thread::capabilities(None).map_err(failed)?;
    let held = left.effective | left.permitted | left.inheritable;
    if held.is_empty() {
        Ok(())
    } else {
        Err(ConfineError::Privileged { held })
    }
}

/// `clone3` takes its flags from memory, where a filter can't look. Told that it doesn't exist, the C library
/// falls back to `clone`, whose flags [`allow_list`] checks.
fn clone3_is_unknown() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        unknown,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

/// Everything outside the list fails with `EPERM`: a library that probes for an optional call goes on without.
fn allow_list() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|&number| (number, Vec::new())).collect();
    rules.insert(libc::SYS_socket, socket_rules()?);
    rules.insert(libc::SYS_setsockopt, vec![no_packet_options()?]);
    rules.insert(libc::SYS_clone, vec![thread_only()?]);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(
        rules,
        refused,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

/// Unix and IP sockets of the kinds that need no privilege; no raw, packet or netlink socket.
fn socket_rules() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    const KIND: u64 = 0xf; // the type without SOCK_CLOEXEC and SOCK_NONBLOCK
    let equals = |arg, mask, value| {
        SeccompCondition::new(arg, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
    };
    let mut rules = Vec::new();
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
            rules.push(SeccompRule::new(vec![
                equals(0, u64::from(u32::MAX), family as u64)?,
                equals(1, KIND, kind as u64)?,
            ])?);
        }
    }
    Ok(rules)
}

/// A pod's queue may be a packet socket, which comes with its options set. Its rings and groups are a privilege elsewhere.
fn no_packet_options() -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        1,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Ne,
        libc::SOL_PACKET as u64,
    )?])
}

/// `clone` makes threads; a new process or namespace is refused.
fn thread_only() -> Result<SeccompRule, seccompiler::BackendError> {
    let thread = libc::CLONE_THREAD as u64;
    SeccompRule::new(vec![SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(thread),
        thread,
    )?])
}

/// By purpose; what isn't here the agent doesn't need. No execve, ptrace, mount, setns, unshare, bpf, keyctl.
const ALLOWED: &[i64] = &[
    // Reading and writing descriptors.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_lseek,
    // Sockets.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg, // the C library asks for IPv4 and IPv6 addresses at once
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    // Threads and signals.
    libc::SYS_clone3, // answered ENOSYS by the first filter
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_prctl,
    libc::SYS_membarrier,
    // Files: the resolver's configuration and, where asked for, the CA's state folder.
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_fsync,
    libc::SYS_fchmod,
    libc::SYS_getdents64,
    // Facts about itself.
    libc::SYS_getrandom,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    // What the C library makes of the same functions where the kernel has only the newer calls.
    #[cfg(target_arch = "aarch64")]
    libc::SYS_renameat,
    #[cfg(target_arch = "aarch64")]
    libc::SYS_faccessat,
    // And where it has the older ones besides.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
];
