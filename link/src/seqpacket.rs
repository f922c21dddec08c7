//! Messages with descriptors over `SOCK_SEQPACKET` Unix sockets.
//!
//! The socket type keeps message boundaries, so there is no framing to get wrong: one send is one receive. A message
//! that does not fit the receiver's buffer, or carries more descriptors than [`MAX_DESCRIPTORS`], is an error and
//! never a shorter message; received descriptors are close-on-exec from the start and are closed if not taken.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials as SoPeerCred};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use thiserror::Error;

/// Most descriptors in one message. The kernel's limit is 253.
pub const MAX_DESCRIPTORS: usize = 64;

/// One end of a connected socket.
#[derive(Debug)]
pub struct SeqPacket {
    fd: OwnedFd,
}

/// A message that arrived.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the message, now at the start of the buffer. 0 is the end: the peer closed.
    pub len: usize,
    /// Its descriptors, in the order they were sent.
    pub descriptors: Vec<OwnedFd>,
}

/// Who is at the other end, as of the time it connected (`SO_PEERCRED`), in the reader's own namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process, or 0 when it is outside our pid namespace.
    pub pid: i32,
    /// Effective user; the overflow uid (65534) when it has no place in our user namespace.
    pub uid: u32,
    /// Effective group, likewise.
    pub gid: u32,
}

/// Why a message could not be taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The message was longer than the buffer; it is gone.
    #[error("message longer than the {limit} bytes allowed")]
    TooLong {
        /// Bytes of the buffer.
        limit: usize,
    },
    /// The message carried more descriptors than allowed, or than this process may hold; all are closed.
    #[error("message carried more descriptors than the {limit} allowed")]
    TooManyDescriptors {
        /// The bound.
        limit: usize,
    },
    /// The kernel's error; `WouldBlock` on a non-blocking socket without a message.
    #[error("receiving a message: {0}")]
    Io(#[from] io::Error),
}

impl SeqPacket {
    /// Connects to a listener.
    ///
    /// # Errors
    /// The path is longer than 107 bytes, nobody listens there, or the kernel's own error.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = socket(SocketFlags::CLOEXEC)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self { fd })
    }

    /// Two ends connected to each other.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self { fd: a }, Self { fd: b }))
    }

    /// Adopts a connected socket.
    ///
    /// # Errors
    /// `InvalidInput` when the descriptor is not a `SOCK_SEQPACKET` socket; its own when it is no socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if rustix::net::sockopt::socket_type(&fd)? != SocketType::SEQPACKET {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "descriptor is no SOCK_SEQPACKET socket",
            ));
        }
        Ok(Self { fd })
    }

    /// Makes sends and receives return `WouldBlock` instead of waiting, or wait again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, nonblocking)?)
    }

    /// Sends one message. Copies of `descriptors` travel with it; the caller keeps its own.
    ///
    /// # Errors
    /// `InvalidInput` for an empty message (it would look like the end to the receiver) or more than
    /// [`MAX_DESCRIPTORS`] descriptors; `EMSGSIZE` when it exceeds the socket's buffer; `BrokenPipe` when the peer is
    /// gone (never a signal); `WouldBlock`.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.is_empty() || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "message of {} bytes with {} descriptors, expected 1 or more bytes and at most {MAX_DESCRIPTORS}",
                    message.len(),
                    descriptors.len()
                ),
            ));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            debug_assert!(fits, "the buffer is sized for MAX_DESCRIPTORS");
        }
        retry(|| {
            rustix::net::sendmsg(
                &self.fd,
                &[IoSlice::new(message)],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        })?;
        Ok(())
    }

    /// Takes one message into `buffer`.
    ///
    /// # Errors
    /// [`ReceiveError`]; after one that is not `Io` the socket still works, but a peer that sends such a message
    /// doesn't speak our protocol.
    pub fn recv(&self, buffer: &mut [u8]) -> Result<Received, ReceiveError> {
        let limit = buffer.len();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = retry(|| {
            let mut iov = [IoSliceMut::new(&mut *buffer)];
            rustix::net::recvmsg(&self.fd, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut descriptors = Vec::new();
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = item {
                descriptors.extend(received);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ReceiveError::TooManyDescriptors {
                limit: MAX_DESCRIPTORS,
            });
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(ReceiveError::TooLong { limit });
        }
        Ok(Received {
            len: message.bytes,
            descriptors,
        })
    }

    /// Who connected, or was connected to.
    ///
    /// # Errors
    /// The kernel's.
    pub fn peer(&self) -> io::Result<PeerCredentials> {
        let peer = getsockopt(&self.fd, SoPeerCred)?;
        Ok(PeerCredentials {
            pid: peer.pid(),
            uid: peer.uid(),
            gid: peer.gid(),
        })
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for SeqPacket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<SeqPacket> for OwnedFd {
    fn from(socket: SeqPacket) -> Self {
        socket.fd
    }
}

/// A socket that others connect to by its path.
#[derive(Debug)]
pub struct SeqListener {
    fd: OwnedFd,
}

impl SeqListener {
    /// Listens on `path`, non-blocking, with room for `backlog` connections not yet accepted.
    ///
    /// The file's mode follows the process's umask; who may reach it is for the folder's mode to say.
    ///
    /// # Errors
    /// The path is longer than 107 bytes or exists, or the kernel's own error.
    pub fn bind(path: &Path, backlog: i32) -> io::Result<Self> {
        let fd = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&fd, backlog)?;
        Ok(Self { fd })
    }

    /// Takes the next connection, which is non-blocking too.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; the kernel's own otherwise, `EMFILE` among them.
    pub fn accept(&self) -> io::Result<SeqPacket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = retry(|| rustix::net::accept_with(&self.fd, flags))?;
        Ok(SeqPacket { fd })
    }
}

impl AsFd for SeqListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Signals may arrive at any time in the helper; they are handled by its loop, not here.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, io::Error> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn a_message_arrives_whole_with_its_descriptors_in_order() {
        let (a, b) = SeqPacket::pair().unwrap();
        let (read, write) = io::pipe().unwrap();
        a.send(b"take these", &[read.as_fd(), write.as_fd()]).unwrap();
        drop((read, write));

        let mut buffer = [0; 64];
        let received = b.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..received.len], b"take these");
        let [read, write] = <[OwnedFd; 2]>::try_from(received.descriptors).unwrap();
        assert!(
            rustix::io::fcntl_getfd(&read)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        std::fs::File::from(write).write_all(b"through the pipe").unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the pipe");
    }

    #[test]
    fn boundaries_are_kept() {
        let (a, b) = SeqPacket::pair().unwrap();
        a.send(b"one", &[]).unwrap();
        a.send(b"two", &[]).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(b.recv(&mut buffer).unwrap().len, 3);
        assert_eq!(b.recv(&mut buffer).unwrap().len, 3);
        assert_eq!(&buffer[..3], b"two");
    }

    #[test]
    fn a_longer_message_is_an_error_and_not_a_shorter_one() {
        let (a, b) = SeqPacket::pair().unwrap();
        a.send(&[7; 65], &[]).unwrap();
        a.send(b"next", &[]).unwrap();
        let mut buffer = [0; 64];
        assert!(matches!(
            b.recv(&mut buffer),
            Err(ReceiveError::TooLong { limit: 64 })
        ));
        assert_eq!(b.recv(&mut buffer).unwrap().len, 4);
    }

    #[test]
    fn the_bounds_of_a_message_are_checked_before_it_is_sent() {
        let (a, _b) = SeqPacket::pair().unwrap();
        let file = tempfile();
        let many = vec![file.as_fd(); MAX_DESCRIPTORS + 1];
        assert_eq!(
            a.send(b"x", &many).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(a.send(b"", &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        a.send(b"x", &many[..MAX_DESCRIPTORS]).unwrap();
    }

    #[test]
    fn a_closed_peer_is_an_end_when_reading_and_a_broken_pipe_when_writing() {
        let (a, b) = SeqPacket::pair().unwrap();
        drop(b);
        assert_eq!(a.recv(&mut [0; 8]).unwrap().len, 0);
        assert_eq!(a.send(b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (a, _b) = SeqPacket::pair().unwrap();
        let peer = a.peer().unwrap();
        assert_eq!(peer.pid.unsigned_abs(), std::process::id());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn only_a_seqpacket_socket_is_adopted() {
        let (a, _b) = SeqPacket::pair().unwrap();
        assert!(SeqPacket::from_fd(a.into()).is_ok());
        assert!(SeqPacket::from_fd(tempfile().into()).is_err());
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(SeqPacket::from_fd(stream.into()).is_err());
    }

    fn tempfile() -> std::fs::File {
        let mut file =
            std::fs::File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.rewind().unwrap();
        file
    }
}
