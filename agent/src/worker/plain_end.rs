//! One end of a pipe in memory between two pods, as one end of a relay.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use adit_flow::CloseReason;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::oneshot;

use crate::pipeline::relay::{End, Ended};

/// Bytes on their way, each direction.
const CAPACITY: usize = 256 * 1024;
/// Bytes taken at once: little enough for the stack.
const READ: usize = 16 * 1024;

/// An end that its task owns. Dropped before both sides have ended, the other end sees a reset.
///
/// The pipe itself ends alike when its writer has finished and when it was dropped; a flag beside it tells which.
pub(crate) struct PlainEnd {
    pipe: Option<DuplexStream>,
    /// Whether this end has sent its FIN; read by the other one.
    finished: Arc<AtomicBool>,
    peer_finished: Arc<AtomicBool>,
    /// Tells the other end of a reset at once, whatever it waits for.
    on_reset: Option<oneshot::Sender<()>>,
    peer_reset: Option<oneshot::Receiver<()>>,
    read_fin: bool,
}

impl PlainEnd {
    /// Both ends of a new pipe.
    pub(crate) fn pair() -> (Self, Self) {
        let (one, other) = tokio::io::duplex(CAPACITY);
        let (first, second) = (Arc::default(), Arc::default());
        let (reset_one, one_reset) = oneshot::channel();
        let (reset_other, other_reset) = oneshot::channel();
        let one = Self {
            pipe: Some(one),
            finished: Arc::clone(&first),
            peer_finished: Arc::clone(&second),
            on_reset: Some(reset_one),
            peer_reset: Some(other_reset),
            read_fin: false,
        };
        let other = Self {
            pipe: Some(other),
            finished: second,
            peer_finished: first,
            on_reset: Some(reset_other),
            peer_reset: Some(one_reset),
            read_fin: false,
        };
        (one, other)
    }

    fn pipe(&mut self) -> Result<Pin<&mut DuplexStream>, Ended> {
        self.pipe.as_mut().map(Pin::new).ok_or_else(Ended::reset)
    }
}

impl End for PlainEnd {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Ended>> {
        let mut chunk = [0; READ];
        let mut buffer = ReadBuf::new(&mut chunk);
        ready!(self.pipe()?.poll_read(cx, &mut buffer)).map_err(|_| Ended::reset())?;
        if !buffer.filled().is_empty() {
            return Poll::Ready(Ok(Some(Bytes::copy_from_slice(buffer.filled()))));
        }
        // The flag was set before the pipe was shut down.
        if !self.peer_finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(Ended::reset()));
        }
        self.read_fin = true;
        Poll::Ready(Ok(None))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Ended>> {
        let taken = ready!(self.pipe()?.poll_write(cx, data)).map_err(|_| Ended::reset())?;
        data.advance(taken);
        Poll::Ready(Ok(()))
    }

    /// The pipe has room again when bytes are read; they are read only when there is room for them.
    fn consumed(&mut self, _count: usize) {}

    fn finish(&mut self) -> Result<(), Ended> {
        self.finished.store(true, Ordering::Release);
        // A pipe in memory is shut down at once.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.pipe()?.poll_shutdown(&mut cx) {
            Poll::Ready(Err(error)) => Err(broken(&error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.pipe.is_none() {
            return Poll::Ready(Err(Ended::reset()));
        }
        if self.read_fin && self.finished.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        if let Some(reset) = &mut self.peer_reset {
            match Pin::new(reset).poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Err(Ended::reset())),
                // It went in order; what it sent last is still to be read.
                Poll::Ready(Err(_)) => self.peer_reset = None,
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    fn reset(&mut self) {
        // Taken back, so that the other end doesn't take the end of the pipe for a FIN.
        self.finished.store(false, Ordering::Release);
        if let Some(on_reset) = self.on_reset.take() {
            let _ = on_reset.send(());
        }
        self.pipe = None;
    }
}

impl Drop for PlainEnd {
    fn drop(&mut self) {
        if !self.read_fin {
            self.reset();
        }
    }
}

fn broken(error: &io::Error) -> Ended {
    Ended {
        reason: CloseReason::Reset,
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn send(end: &mut PlainEnd, text: &'static str) {
        let mut data = Bytes::from_static(text.as_bytes());
        while !data.is_empty() {
            poll_fn(|cx| end.poll_send(cx, &mut data)).await.unwrap();
        }
    }

    async fn receive(end: &mut PlainEnd) -> Result<Option<Bytes>, Ended> {
        poll_fn(|cx| end.poll_data(cx)).await
    }

    #[tokio::test]
    async fn a_fin_is_a_fin_and_what_came_before_it_arrives() {
        let (mut one, mut other) = PlainEnd::pair();
        send(&mut one, "last words").await;
        one.finish().unwrap();
        assert_eq!(receive(&mut other).await, Ok(Some("last words".into())));
        assert_eq!(receive(&mut other).await, Ok(None));
        send(&mut other, "answer").await;
        assert_eq!(receive(&mut one).await, Ok(Some("answer".into())));
        other.finish().unwrap();
        assert_eq!(receive(&mut one).await, Ok(None));
        assert!(poll_fn(|cx| one.poll_closed(cx)).await.is_ok());
        assert!(poll_fn(|cx| other.poll_closed(cx)).await.is_ok());
    }

    #[tokio::test]
    async fn anything_else_is_a_reset() {
        let (one, mut other) = PlainEnd::pair();
        drop(one);
        assert_eq!(receive(&mut other).await, Err(Ended::reset()));
        let (mut one, mut other) = PlainEnd::pair();
        one.finish().unwrap();
        one.reset();
        assert_eq!(receive(&mut other).await, Err(Ended::reset()));
        assert!(poll_fn(|cx| other.poll_closed(cx)).await.is_err());
        let mut data = Bytes::from_static(b"x");
        assert!(poll_fn(|cx| other.poll_send(cx, &mut data)).await.is_err());
    }
}
