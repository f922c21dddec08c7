//! A netlink socket, whichever of the kernel's parts it speaks to.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{Messages, NLMSG_DONE, NLMSG_ERROR, Request, verdict};

/// Bytes of one read of a dump; the kernel fills at most 32 KiB at a time.
const READ: usize = 64 * 1024;

/// Entries of a dump, at most. Who may configure a pod's network chooses how many interfaces, addresses and routes it has:
/// more than this are not read, let alone kept.
const MAX_ENTRIES: usize = 8192;

/// Times that a dump is begun again because what it lists changed meanwhile.
const DUMP_ATTEMPTS: usize = 8;

/// It stays in the network namespace that it was made in, wherever its thread goes.
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Of rtnetlink, which is protocol 0, if `None`.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; READ],
        })
    }

    /// An interface's index.
    pub(super) fn index(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.fd, name)?)
    }

    /// Sends one request and waits for the kernel's verdict, which it gives before `send` returns.
    pub(super) fn call(&mut self, request: &Request) -> io::Result<()> {
        self.call_with(request, |_, _| {})
    }

    /// [`call`](Self::call) for what has an answer besides: `take` is given its kind and body before the verdict.
    pub(super) fn call_with(
        &mut self,
        request: &Request,
        mut take: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.send(request)?;
        loop {
            let len = self.receive()?;
            for message in Messages::new(&self.buffer[..len]) {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_ERROR => return verdict(message.body),
                    kind => take(kind, message.body),
                }
            }
        }
    }

    /// [`call`](Self::call) for what may be there already.
    pub(super) fn ensure(&mut self, request: &Request) -> io::Result<()> {
        match self.call(request) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Asks for a list and takes from each of its entries what `take` finds in it.
    pub(super) fn dump<T>(
        &mut self,
        request: &Request,
        mut take: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(list) = self.dump_once(request, &mut take)? {
                return Ok(list);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "what was being listed kept changing",
        ))
    }

    /// One list, or `None` when it changed while it was read.
    fn dump_once<T>(
        &mut self,
        request: &Request,
        take: &mut impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        self.send(request)?;
        let (mut list, mut consistent, mut entries) = (Vec::new(), true, 0);
        loop {
            let len = self.receive()?;
            for message in Messages::new(&self.buffer[..len]) {
                if message.sequence != self.sequence {
                    continue;
                }
                consistent &= !message.interrupted;
                match message.kind {
                    NLMSG_DONE => return Ok(consistent.then_some(list)),
                    NLMSG_ERROR => return verdict(message.body).map(|()| consistent.then_some(list)),
                    _ if entries == MAX_ENTRIES => {
                        return Err(io::Error::other(format!("it has more than {MAX_ENTRIES}")));
                    }
                    _ => {
                        entries += 1;
                        list.extend(take(message.body));
                    }
                }
            }
        }
    }

    fn send(&mut self, request: &Request) -> io::Result<()> {
        self.sequence += 1;
        rustix::net::send(&self.fd, &request.finish(self.sequence), SendFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        let (len, _) = rustix::net::recv(&self.fd, &mut self.buffer[..], RecvFlags::empty())?;
        Ok(len)
    }
}
