use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::time::Instant;

use crate::load::{Blocked, Pace, Slot};
use crate::{ResetCode, Side, StreamError};

/// One TCP connection's bytes in a tunnel, both ways.
#[derive(Debug)]
pub struct Stream {
    send: SendHalf,
    recv: RecvHalf,
}

/// The sending side of a [`Stream`].
///
/// To send: await [`ready`](Self::ready), [`send`](Self::send) at most as many bytes as it said, and in the end
/// [`finish`](Self::finish). Dropped before that, it resets the stream with CANCEL: the peer never takes a lost
/// sender for a clean end.
pub struct SendHalf {
    shared: Arc<Shared>,
    blocked: Option<Blocked>,
    pace: Pace,
    finished: bool,
}

/// The receiving side of a [`Stream`].
///
/// Each byte that [`data`](Self::data) gave must be [`release`](Self::release)d once it's passed on; until then it
/// counts against the stream's window, which bounds the memory that a slow reader costs. Dropped before the
/// peer's end, it resets the stream with CANCEL.
pub struct RecvHalf {
    shared: Arc<Shared>,
    recv: RecvStream,
    pace: Pace,
    ended: bool,
}

/// What both halves need. h2 can reset a stream only by its sending side, and either half must be able to.
struct Shared {
    send: Mutex<SendStream<Bytes>>,
    /// Whether this side reset the stream: h2 gives the code of a reset, not who sent it.
    reset: AtomicBool,
    slot: Slot,
}

/// How much capacity a stream asks for at once: several frames, so that the next is ready when one is written.
const RESERVE: usize = 256 << 10;
impl Stream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream, slot: Slot) -> Self {
        let now = Instant::now();
        let shared = Arc::new(Shared {
            send: Mutex::new(send),
            reset: AtomicBool::new(false),
            slot,
        });
        Self {
            send: SendHalf {
                shared: Arc::clone(&shared),
                blocked: None,
                pace: Pace::new(now),
                finished: false,
            },
            recv: RecvHalf {
                shared,
                recv,
                pace: Pace::new(now),
                ended: false,
            },
        }
    }

    /// Both sides, to be used from two tasks or in one.
    pub fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }
}

impl SendHalf {
    /// Waits until the peer's window has room, and says how many bytes may be sent. At least 1.
    ///
    /// The room is this stream's until the next [`send`](Self::send): ask when there is something to send.
    ///
    /// # Errors
    /// The stream or its tunnel ended.
    pub async fn ready(&mut self) -> Result<usize, StreamError> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// The same as a poll function.
    ///
    /// # Errors
    /// The stream or its tunnel ended.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        if self.finished {
            return Poll::Ready(Err(StreamError::Finished));
        }
        let outcome = self.shared.poll_capacity(cx);
        match (&outcome, &self.blocked) {
            (Poll::Pending, None) => self.blocked = Some(self.shared.slot.blocked()),
            (Poll::Ready(_), Some(_)) => self.blocked = None,
            _ => {}
        }
        outcome
    }

    /// Queues bytes. What exceeds the capacity that [`ready`](Self::ready) gave is kept in memory until the window
    /// opens: don't.
    ///
    /// # Errors
    /// The stream or its tunnel ended; the bytes are dropped then.
    pub fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.queue(bytes, false)
    }

    /// Ends the sending side with END_STREAM: the FIN. Receiving goes on.
    ///
    /// # Errors
    /// The stream or its tunnel ended before.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.queue(Bytes::new(), true)?;
        self.finished = true;
        Ok(())
    }

    /// Ends the whole stream with RST_STREAM. What was queued and not written is dropped. For a TCP connection
    /// that was reset, the code is [`ResetCode::CONNECT_ERROR`].
    pub fn reset(mut self, code: ResetCode) {
        self.shared.reset(code);
        self.finished = true;
    }

    /// Waits for the stream to be ended by somebody else than this half: a reset, or the tunnel's end. Pending for
    /// ever on a stream that ends well.
    pub async fn broken(&mut self) -> StreamError {
        poll_fn(|cx| self.poll_broken(cx)).await
    }

    /// The same as a poll function.
    pub fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.shared.poll_broken(cx)
    }

    fn queue(&mut self, bytes: Bytes, end: bool) -> Result<(), StreamError> {
        if self.finished {
            return Err(StreamError::Finished);
        }
        self.pace.carry(bytes.len(), &self.shared.slot);
        let outcome = {
            let mut send = self.shared.lock();
            let outcome = send.send_data(bytes, end);
            // Room that was reserved and not used belongs to the connection's window: a few streams that fell idle
            // with it would stall all others where the peer's window is small.
            send.reserve_capacity(0);
            outcome
        };
        outcome.map_err(|error| self.shared.why_inactive(&error))
    }
}

impl RecvHalf {
    /// The next bytes, at least one; `None` for the peer's END_STREAM, and for nothing else.
    ///
    /// # Errors
    /// The stream or its tunnel ended otherwise. Bytes that arrived before are given first.
    pub async fn data(&mut self) -> Result<Option<Bytes>, StreamError> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// The same as a poll function.
    ///
    /// # Errors
    /// The stream or its tunnel ended otherwise.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        loop {
            match ready!(self.recv.poll_data(cx)) {
                // An END_STREAM often comes in an empty frame. h2 bounds how many a peer may send.
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.pace.carry(bytes.len(), &self.shared.slot);
                    return Poll::Ready(Ok(Some(bytes)));
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Err(self.shared.error(&error)));
                }
                None => return self.poll_end(cx),
            }
        }
    }

    /// Gives `bytes` back to the peer's window; more than were received count as all of them.
    pub fn release(&mut self, bytes: usize) {
        let flow = self.recv.flow_control();
        let bytes = bytes.min(flow.used_capacity());
        // An error means that the stream has ended, and with it the window.
        let _ = flow.release_capacity(bytes);
    }

    /// Ends the whole stream with RST_STREAM, as [`SendHalf::reset`].
    pub fn reset(mut self, code: ResetCode) {
        self.shared.reset(code);
        self.ended = true;
    }

    /// END_STREAM came with the last DATA, or with trailers, which may not follow a CONNECT (RFC 9113 §8.5).
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        let trailers = ready!(self.recv.poll_trailers(cx));
        self.ended = true;
        Poll::Ready(match trailers {
            Ok(None) => Ok(None),
            Ok(Some(_)) => {
                self.shared.reset(ResetCode::CANCEL);
                Err(StreamError::Malformed)
            }
            Err(error) => Err(self.shared.error(&error)),
        })
    }
}

impl Shared {
    /// Never held across an await or a call out of this file; nothing under it panics.
    fn lock(&self) -> MutexGuard<'_, SendStream<Bytes>> {
        self.send.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset(&self, code: ResetCode) {
        self.reset.store(true, Ordering::Release);
        self.lock().send_reset(code.0.into());
    }

    fn error(&self, error: &h2::Error) -> StreamError {
        StreamError::of(error, self.slot.end())
    }

    fn poll_capacity(&self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        let mut send = self.lock();
        send.reserve_capacity(RESERVE);
        if send.capacity() > 0 {
            return Poll::Ready(Ok(send.capacity()));
        }
        match send.poll_capacity(cx) {
            Poll::Ready(Some(Ok(capacity))) => Poll::Ready(Ok(capacity)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(self.error(&error))),
            Poll::Ready(None) => Poll::Ready(Err(self.reason(&mut send, cx))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Why a stream that doesn't take data any more doesn't.
    fn reason(&self, send: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> StreamError {
        match send.poll_reset(cx) {
            Poll::Ready(Ok(code)) => self.reset_by(code.into()),
            Poll::Ready(Err(error)) => self.error(&error),
            Poll::Pending => StreamError::Finished,
        }
    }

    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match ready!(self.lock().poll_reset(cx)) {
            Ok(code) => Poll::Ready(self.reset_by(code.into())),
            Err(error) => Poll::Ready(self.error(&error)),
        }
    }

    /// `poll_reset` gives the code alone, of a reset or of a GOAWAY; the tunnel's end tells the second.
    fn reset_by(&self, code: ResetCode) -> StreamError {
        match self.slot.end() {
            Some(end) => StreamError::TunnelEnded { end: end.clone() },
            None if self.reset.load(Ordering::Acquire) => StreamError::Reset {
                by: Side::Local,
                code,
            },
            None => StreamError::Reset { by: Side::Peer, code },
        }
    }

    /// `send_data` on an ended stream says "inactive stream"; the reason is had by asking for a reset.
    fn why_inactive(&self, error: &h2::Error) -> StreamError {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.reason(&mut self.lock(), &mut cx) {
            StreamError::Finished => self.error(error),
            reason => reason,
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.reset(ResetCode::CANCEL);
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.reset(ResetCode::CANCEL);
        }
    }
}

impl fmt::Debug for SendHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendHalf")
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RecvHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvHalf")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
