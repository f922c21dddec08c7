//! A tunnel's stream as one end of a relay.

use std::task::{Context, Poll, ready};

use adit_tunnel::{RecvHalf, ResetCode, SendHalf, Stream, StreamError};
use bytes::Bytes;

use crate::pipeline::relay::{End, Ended};

/// A stream that its task owns. Dropped before both sides have ended, the peer sees a reset.
pub(crate) struct TunnelEnd {
    send: Option<SendHalf>,
    recv: RecvHalf,
    read_fin: bool,
    write_fin: bool,
}

impl TunnelEnd {
    /// Takes over an established stream.
    pub(crate) fn new(stream: Stream) -> Self {
        let (send, recv) = stream.split();
        Self {
            send: Some(send),
            recv,
            read_fin: false,
            write_fin: false,
        }
    }
}

impl End for TunnelEnd {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Ended>> {
        let data = ready!(self.recv.poll_data(cx)).map_err(Ended::from)?;
        self.read_fin = data.is_none();
        Poll::Ready(Ok(data))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Ended>> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(Err(Ended::reset()));
        };
        let room = ready!(send.poll_ready(cx)).map_err(Ended::from)?;
        let part = data.split_to(room.min(data.len()));
        Poll::Ready(send.send(part).map_err(Ended::from))
    }

    fn consumed(&mut self, count: usize) {
        self.recv.release(count);
    }

    fn finish(&mut self) -> Result<(), Ended> {
        let Some(send) = &mut self.send else {
            return Err(Ended::reset());
        };
        self.write_fin = true;
        send.finish().map_err(Ended::from)
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.read_fin && self.write_fin {
            return Poll::Ready(Ok(()));
        }
        let Some(send) = &mut self.send else {
            return Poll::Ready(Err(Ended::reset()));
        };
        send.poll_broken(cx).map(|error| Err(error.into()))
    }

    fn reset(&mut self) {
        if let Some(send) = self.send.take() {
            send.reset(ResetCode::CONNECT_ERROR);
        }
    }
}

impl From<StreamError> for Ended {
    fn from(error: StreamError) -> Self {
        Self {
            reason: error.close_reason(),
            detail: error.to_string(),
        }
    }
}
