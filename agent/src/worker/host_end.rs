//! A TCP connection through the user's own network as one end of a relay.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use adit_flow::CloseReason;
use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;

use crate::pipeline::relay::{CHUNK_LIMIT, End, Ended};

/// A connected host socket. Dropped before both sides have ended, its peer sees a reset.
pub(crate) struct HostEnd {
    socket: TcpStream,
    /// Room for what comes, while something does.
    buffer: BytesMut,
    read_fin: bool,
    write_fin: bool,
}

/// Fewer bytes than this are copied out of the buffer: handed on in it they would hold all of it until the pod has
/// acknowledged them.
const LONG_READ: usize = CHUNK_LIMIT / 2;

impl HostEnd {
    /// Takes over a connected socket.
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            buffer: BytesMut::new(),
            read_fin: false,
            write_fin: false,
        }
    }
}

impl End for HostEnd {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Ended>> {
        loop {
            let Poll::Ready(readable) = self.socket.poll_read_ready(cx) else {
                self.buffer = BytesMut::new(); // an idle flow holds no memory
                return Poll::Pending;
            };
            readable.map_err(Ended::from)?;
            self.buffer.reserve(CHUNK_LIMIT);
            match self.socket.try_read_buf(&mut self.buffer) {
                Ok(0) => {
                    self.read_fin = true;
                    return Poll::Ready(Ok(None));
                }
                Ok(length) if length < LONG_READ => {
                    let chunk = Bytes::copy_from_slice(&self.buffer);
                    self.buffer.clear();
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Ok(_) => return Poll::Ready(Ok(Some(std::mem::take(&mut self.buffer).freeze()))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Ended>> {
        loop {
            ready!(self.socket.poll_write_ready(cx)).map_err(Ended::from)?;
            match self.socket.try_write(data) {
                Ok(taken) => {
                    data.advance(taken);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// The kernel opens the window when bytes are read; they are read only when there is room for them.
    fn consumed(&mut self, _count: usize) {}

    fn finish(&mut self) -> Result<(), Ended> {
        self.write_fin = true;
        socket2::SockRef::from(&self.socket)
            .shutdown(std::net::Shutdown::Write)
            .map_err(Ended::from)
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if let Some(error) = self.socket.take_error().map_err(Ended::from)? {
            return Poll::Ready(Err(error.into()));
        }
        if self.read_fin && self.write_fin {
            return Poll::Ready(Ok(()));
        }
        // A reset makes the socket readable; nothing else has to be seen here.
        let _ = self.socket.poll_read_ready(cx);
        Poll::Pending
    }

    fn reset(&mut self) {
        // With a linger time of zero, closing sends RST (socket(7)).
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        if !(self.read_fin && self.write_fin) {
            self.reset();
        }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CloseReason::Reset,
            io::ErrorKind::TimedOut => CloseReason::TimedOut,
            _ => CloseReason::PeerLost,
        };
        Self {
            reason,
            detail: error.to_string(),
        }
    }
}
