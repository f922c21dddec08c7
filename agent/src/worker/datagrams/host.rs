//! A datagram flow to a host outside the mesh, through a socket of the user's own.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use adit_flow::DropReason;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::{Content, Packet};
use crate::worker::Pod;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The socket of one flow and the task that brings its answers to the pod.
pub(super) struct HostFlow {
    socket: Rc<UdpSocket>,
    answers: JoinHandle<()>,
}

/// A UDP payload or an ICMP message has at most this many bytes.
const MESSAGE_LIMIT: usize = 65_535;

/// Type, code, checksum, identifier, sequence (RFC 792, RFC 4443 §4).
const ECHO_HEADER: usize = 8;

impl HostFlow {
    /// A connected socket for the flow that `first` opens: UDP, or a ping socket (`net.ipv4.ping_group_range`
    /// must have the user's group). For SCTP there is none: an ordinary user gets no raw packets of it.
    pub(super) fn open(pod: &Rc<Pod>, first: &Packet) -> io::Result<Self> {
        let socket = match (&first.content, first.dst) {
            (Content::Sctp(_), _) => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "SCTP is carried between workloads of a node, not to hosts outside",
                ));
            }
            (Content::Udp(_), _) => {
                Socket::new(Domain::for_address(first.dst), Type::DGRAM, Some(Protocol::UDP))
            }
            (_, SocketAddr::V4(_)) => Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)),
            (_, SocketAddr::V6(_)) => Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::ICMPV6)),
        }?;
        let any: SocketAddr = match first.dst {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        socket.bind(&any.into())?;
        socket.connect(&first.dst.into())?;
        socket.set_nonblocking(true)?;
        let socket = Rc::new(UdpSocket::from_std(socket.into())?);
        let (opener, outside) = (first.src, first.dst);
        let echo = !matches!(first.content, Content::Udp(_));
        let answers = tokio::task::spawn_local(bring_answers(
            Rc::clone(pod),
            Rc::clone(&socket),
            opener,
            outside,
            echo,
        ));
        Ok(Self { socket, answers })
    }

    /// Sends a packet of the flow on. What the host's socket has no room for is dropped, as on any path.
    pub(super) fn send(&self, packet: &Packet) -> Result<(), DropReason> {
        // Not by tokio's `try_send`: a socket that the reactor hasn't seen yet would count as full, and the packet that
        // opens a flow is sent at once.
        let socket = SockRef::from(&*self.socket);
        let sent = match &packet.content {
            Content::Udp(payload) => socket.send(payload),
            Content::EchoRequest { sequence, payload } => {
                let kind = if packet.dst.is_ipv4() { 8 } else { 128 };
                socket.send(&echo(kind, *sequence, payload))
            }
            Content::EchoReply { .. } => return Err(DropReason::NoFlow),
            Content::Sctp(_) => return Err(DropReason::UnsupportedProtocol),
        };
        match sent {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Err(DropReason::TooBig),
            // An ICMP error for an earlier packet is reported here too; that packet was sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(_) => Err(DropReason::QueueFull),
        }
    }
}

impl Drop for HostFlow {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

async fn bring_answers(
    pod: Rc<Pod>,
    socket: Rc<UdpSocket>,
    opener: SocketAddr,
    outside: SocketAddr,
    is_echo: bool,
) {
    while !pod.is_gone() && socket.readable().await.is_ok() {
        // One buffer for all flows of the worker, borrowed between two awaits: thousands of flows wait here.
        let received = SCRATCH.with_borrow_mut(|buffer| {
            buffer.resize(MESSAGE_LIMIT, 0);
            let length = socket.try_recv(buffer)?;
            let message = &buffer[..length];
            Ok(if is_echo {
                parse_echo_reply(message)
            } else {
                Some(Content::Udp(message.to_vec()))
            })
        });
        match received {
            Ok(Some(content)) => pod.deliver(Packet {
                src: outside,
                dst: opener,
                content,
            }),
            Ok(None) => {}
            Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                pod.unreachable(&Packet {
                    src: opener,
                    dst: outside,
                    content: Content::Udp(Vec::new()),
                });
            }
            Err(error) => {
                tracing::debug!(%error, %outside, "a datagram flow's socket failed");
                return;
            }
        }
    }
}

/// An echo message. Checksum and identifier are the kernel's on a ping socket.
fn echo(kind: u8, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0];
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(payload);
    message
}

/// What a ping socket received, if it's an echo reply.
fn parse_echo_reply(message: &[u8]) -> Option<Content> {
    let (header, payload) = message.split_at_checked(ECHO_HEADER)?;
    matches!(header[0], 0 | 129).then(|| Content::EchoReply {
        sequence: u16::from_be_bytes([header[6], header[7]]),
        payload: payload.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_is_laid_out_as_rfc_792_says() {
        assert_eq!(
            echo(8, 0x0102, b"data"),
            [8, 0, 0, 0, 0, 0, 1, 2, b'd', b'a', b't', b'a']
        );
    }

    #[test]
    fn only_echo_replies_are_taken() {
        let reply = [0, 0, 0xab, 0xcd, 0, 7, 0, 9, b'x'];
        assert_eq!(
            parse_echo_reply(&reply),
            Some(Content::EchoReply {
                sequence: 9,
                payload: b"x".to_vec()
            })
        );
        assert_eq!(parse_echo_reply(&[3, 1, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(parse_echo_reply(&[0, 0, 0]), None);
    }
}
