//! Taking single things of the kernel away from a program, by a seccomp filter that fails them.
//!
//! A filter can't be taken off again and is inherited by everything that the program starts, so it's put on in a process
//! that then becomes the program: `adit-deny NAME[,NAME…] PROGRAM…`.

use std::collections::BTreeMap;
use std::error::Error;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Something that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What it's called on the command line.
    pub name: &'static str,
    /// The system call.
    call: i64,
    /// It's failed when all of these hold.
    when: &'static [When],
    /// What it's failed with.
    errno: i32,
}

/// What an argument of a system call must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct When {
    argument: u8,
    /// Bits that are looked at.
    mask: u32,
    value: u32,
}

const fn is(argument: u8, value: u32) -> When {
    When {
        argument,
        mask: u32::MAX,
        value,
    }
}

const fn has(argument: u8, bits: i32) -> When {
    When {
        argument,
        mask: bits.cast_unsigned(),
        value: bits.cast_unsigned(),
    }
}

const fn lacks(argument: u8, bits: i32) -> When {
    When {
        argument,
        mask: bits.cast_unsigned(),
        value: 0,
    }
}

const fn denial(name: &'static str, call: i64, when: &'static [When]) -> Denial {
    Denial {
        name,
        call,
        when,
        errno: libc::EPERM,
    }
}

/// `TUNSETIFF` and `TUNSETOFFLOAD` of `linux/if_tun.h`: the numbers are those of all architectures whose `_IOW` is the
/// generic one.
const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
/// Of `linux/if_packet.h`.
const PACKET_VNET_HDR: u32 = 15;

/// Everything that can be taken away, each by its name. Several rows of one name go together.
pub const DENIALS: &[Denial] = &[
    denial(
        "user-namespace",
        libc::SYS_unshare,
        &[has(0, libc::CLONE_NEWUSER)],
    ),
    denial(
        "network-namespace",
        libc::SYS_unshare,
        &[has(0, libc::CLONE_NEWNET)],
    ),
    denial("mount-namespace", libc::SYS_unshare, &[has(0, libc::CLONE_NEWNS)]),
    denial("pid-namespace", libc::SYS_unshare, &[has(0, libc::CLONE_NEWPID)]),
    denial("setns", libc::SYS_setns, &[]),
    denial("mount", libc::SYS_mount, &[]),
    denial("host-name", libc::SYS_sethostname, &[]),
    denial("tun", libc::SYS_ioctl, &[is(1, TUNSETIFF)]),
    denial("tun-offload", libc::SYS_ioctl, &[is(1, TUNSETOFFLOAD)]),
    denial(
        "packet-socket",
        libc::SYS_socket,
        &[is(0, libc::AF_PACKET as u32)],
    ),
    denial(
        "packet-header",
        libc::SYS_setsockopt,
        &[is(1, libc::SOL_PACKET as u32), is(2, PACKET_VNET_HDR)],
    ),
    denial("netlink", libc::SYS_socket, &[is(0, libc::AF_NETLINK as u32)]),
    denial(
        "ping",
        libc::SYS_socket,
        &[is(0, libc::AF_INET as u32), is(2, libc::IPPROTO_ICMP as u32)],
    ),
    denial("seccomp", libc::SYS_seccomp, &[]),
    denial(
        "no-new-privileges",
        libc::SYS_prctl,
        &[is(0, libc::PR_SET_NO_NEW_PRIVS as u32)],
    ),
    denial(
        "parent-death",
        libc::SYS_prctl,
        &[is(0, libc::PR_SET_PDEATHSIG as u32)],
    ),
    denial("capset", libc::SYS_capset, &[]),
    denial("epoll", libc::SYS_epoll_create1, &[]),
    denial("eventfd", libc::SYS_eventfd2, &[]),
    denial("signalfd", libc::SYS_signalfd4, &[]),
    denial("socket-pair", libc::SYS_socketpair, &[]),
    denial("listen", libc::SYS_listen, &[]),
    denial("processes", libc::SYS_clone, &[lacks(0, libc::CLONE_THREAD)]),
    // Its flags are in memory, where no filter looks; told that it doesn't exist, the C library uses clone.
    Denial {
        errno: libc::ENOSYS,
        ..denial("processes", libc::SYS_clone3, &[])
    },
    denial("threads", libc::SYS_clone, &[has(0, libc::CLONE_THREAD)]),
    Denial {
        errno: libc::ENOSYS,
        ..denial("threads", libc::SYS_clone3, &[])
    },
    // What the profiles of container runtimes forbid besides, and adit doesn't need.
    denial("container", libc::SYS_add_key, &[]),
    denial("container", libc::SYS_bpf, &[]),
    denial("container", libc::SYS_clock_settime, &[]),
    denial("container", libc::SYS_delete_module, &[]),
    denial("container", libc::SYS_finit_module, &[]),
    denial("container", libc::SYS_init_module, &[]),
    denial("container", libc::SYS_kexec_load, &[]),
    denial("container", libc::SYS_keyctl, &[]),
    denial("container", libc::SYS_open_by_handle_at, &[]),
    denial("container", libc::SYS_perf_event_open, &[]),
    denial("container", libc::SYS_process_vm_readv, &[]),
    denial("container", libc::SYS_process_vm_writev, &[]),
    denial("container", libc::SYS_ptrace, &[]),
    denial("container", libc::SYS_quotactl, &[]),
    denial("container", libc::SYS_reboot, &[]),
    denial("container", libc::SYS_request_key, &[]),
    denial("container", libc::SYS_settimeofday, &[]),
    denial("container", libc::SYS_swapoff, &[]),
    denial("container", libc::SYS_swapon, &[]),
    denial("container", libc::SYS_userfaultfd, &[]),
];

/// Takes what these names say away from this thread and all that it starts, for good. Sets no-new-privileges.
///
/// # Errors
/// A name that isn't in [`DENIALS`], or what the kernel answers.
pub fn deny(names: &[&str]) -> Result<(), Box<dyn Error>> {
    for name in names {
        if !DENIALS.iter().any(|denial| denial.name == *name) {
            return Err(format!("{name:?} is nothing that can be denied; DENIALS has the names").into());
        }
    }
    let chosen = || DENIALS.iter().filter(|denial| names.contains(&denial.name));
    // One filter for each answer. The last that is put on is asked first, and any that refuses counts.
    let mut filters = Vec::new();
    for errno in [libc::EPERM, libc::ENOSYS] {
        let denials = chosen()
            .filter(|denial| denial.errno == errno)
            .collect::<Vec<_>>();
        if !denials.is_empty() {
            filters.push(filter(&denials, errno)?);
        }
    }
    // The first may be about putting on filters.
    for filter in filters.iter().rev() {
        seccompiler::apply_filter(filter)?;
    }
    Ok(())
}

fn filter(denials: &[&Denial], errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for denial in denials {
        // Without a rule a call is failed whatever its arguments.
        let rules = rules.entry(denial.call).or_default();
        let conditions = denial.when.iter().map(|when| {
            let mask = SeccompCmpOp::MaskedEq(when.mask.into());
            SeccompCondition::new(when.argument, SeccompCmpArgLen::Dword, mask, when.value.into())
        });
        let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
        if !conditions.is_empty() {
            rules.push(SeccompRule::new(conditions)?);
        }
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_fails_and_nothing_else_does() {
        // In a thread of its own: the filter stays on it.
        std::thread::spawn(|| {
            deny(&["eventfd", "packet-header"]).unwrap();
            let refused = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
            assert_eq!(refused.unwrap_err(), rustix::io::Errno::PERM);
            rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
            std::net::UdpSocket::bind("127.0.0.1:0")
                .unwrap()
                .set_broadcast(true)
                .unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(deny(&["everything"]).is_err());
    }
}
