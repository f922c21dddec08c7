//! A TLS connection after its handshake, as `AsyncRead + AsyncWrite`.
//!
//! rustls' own record layer hands everything on in vectors of its own: each byte is copied once on the way out and three
//! times on the way in beside what is done here. Where a byte goes instead: out, from the caller's slice into a record
//! (encrypted on the way where it fills one), from there to the transport; in, from the transport into the buffer, and
//! decrypted into the caller's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::kernel::KernelConnection;
use rustls::{AlertDescription, Error, ExtractedSecrets};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::input::{Input, InputError, Step};
use super::output::{LIMIT, Output};
use super::record::{Opener, Sealer};

/// The next traffic secrets of a connection (RFC 8446 §7.2), in either role.
pub(super) trait Rekey: Send + Sync {
    fn next_sealer(&mut self) -> Result<Sealer, Error>;
    fn next_opener(&mut self) -> Result<Opener, Error>;
}

impl<Data: Send + Sync> Rekey for KernelConnection<Data> {
    fn next_sealer(&mut self) -> Result<Sealer, Error> {
        Sealer::new(self.update_tx_secret()?)
    }

    fn next_opener(&mut self) -> Result<Opener, Error> {
        Opener::new(self.update_rx_secret()?)
    }
}

/// TLS over `io`.
///
/// Dropped without [`poll_shutdown`](AsyncWrite::poll_shutdown) the peer gets no close_notify: to it, the connection
/// was lost. An end of the transport without the peer's close_notify is `UnexpectedEof`, never an end of file.
pub(crate) struct TlsStream<Io> {
    io: Io,
    rekey: Box<dyn Rekey>,
    input: Input,
    output: Output,
    /// Records under one of our keys before it's changed.
    key_limit: u64,
    /// The peer asked for our next key.
    owes_key: bool,
    /// The peer has sent its last byte.
    read_closed: bool,
    /// We have sent ours.
    write_closed: bool,
    /// What ended the connection for good.
    failed: Option<InputError>,
}

/// Far below what AES-GCM bears (RFC 8446 §5.5: 2^24.5 full records), and 64 GiB.
const KEY_LIMIT: u64 = 1 << 22;
/// Sealed bytes that are worth a write before the caller flushes: the peer opens them while we seal the next.
const WRITE_AT: usize = 64 << 10;
/// Records without data that are taken in one poll.
const IDLE_RECORDS: usize = 32;

impl<Io> TlsStream<Io> {
    /// With what was read in the handshake beyond its end: opened already, and not.
    pub(super) fn new(
        io: Io,
        secrets: ExtractedSecrets,
        rekey: Box<dyn Rekey>,
        plain: &[u8],
        unopened: &[u8],
    ) -> Result<Self, Error> {
        Ok(Self {
            io,
            rekey,
            input: Input::new(Opener::new(secrets.rx)?, plain, unopened),
            output: Output::new(Sealer::new(secrets.tx)?),
            key_limit: KEY_LIMIT,
            owes_key: false,
            read_closed: false,
            write_closed: false,
            failed: None,
        })
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> TlsStream<Io> {
    /// Opens records into `out` until one doesn't fit, none is left, or something ends it.
    fn open(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Result<Opened, InputError> {
        let before = out.filled().len();
        let mut idle = 0;
        loop {
            out.put_slice(self.input.take_plain(out.remaining()));
            if out.remaining() == 0 || self.read_closed {
                return Ok(Opened::Data);
            }
            match self.input.step(out)? {
                Step::Data => continue,
                Step::Starved if out.filled().len() == before => return Ok(Opened::Starved),
                Step::Starved => return Ok(Opened::Data),
                Step::Closed => self.read_closed = true,
                Step::Nothing => {}
                Step::UpdateKey { ours_too } => {
                    self.input
                        .update_key(self.rekey.next_opener().map_err(|_| InputError::NoNextKey)?);
                    self.owes_key |= ours_too;
                }
            }
            idle += 1;
            if idle == IDLE_RECORDS {
                cx.waker().wake_by_ref(); // after the others had their turn
                return Ok(Opened::Paused);
            }
        }
    }

    /// Ends the connection, and tells the peer why if it takes it at once.
    fn fail(&mut self, cx: &mut Context<'_>, error: InputError) -> io::Error {
        self.failed = Some(error);
        if let Some(alert) = error.alert()
            && !self.write_closed
        {
            self.write_closed = true;
            self.output.alert(alert);
            let _ = self.poll_drain(cx);
        }
        broken(error)
    }

    /// Our next key where it's due.
    fn keep_key(&mut self) -> io::Result<()> {
        if self.owes_key || self.output.sealed_with_key() >= self.key_limit {
            self.owes_key = false;
            let sealer = self.rekey.next_sealer().map_err(io::Error::other)?;
            self.output.update_key(sealer);
        }
        Ok(())
    }

    /// Writes until nothing that's sealed is left.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.sealed().is_empty() {
            ready!(self.poll_write_some(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.output.sealed()))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.output.written(written);
        Poll::Ready(Ok(()))
    }
}

/// What [`TlsStream::open`] came to.
enum Opened {
    /// There is data, or the peer's end.
    Data,
    /// There was much and none of it data.
    Paused,
    /// The transport has to be read first.
    Starved,
}

fn broken(error: InputError) -> io::Error {
    let kind = match error {
        InputError::Alert(_) => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        loop {
            if let Some(error) = this.failed {
                return Poll::Ready(Err(broken(error)));
            }
            match this.open(cx, out) {
                Ok(Opened::Data) => return Poll::Ready(Ok(())),
                Ok(Opened::Paused) if out.filled().len() > before => return Poll::Ready(Ok(())),
                Ok(Opened::Paused) => return Poll::Pending,
                Ok(Opened::Starved) => {}
                Err(error) => {
                    let told = this.fail(cx, error);
                    // What came before it is handed out first.
                    let has_data = out.filled().len() > before;
                    return Poll::Ready(if has_data { Ok(()) } else { Err(told) });
                }
            }
            let mut room = ReadBuf::new(this.input.room());
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut room))?;
            let count = room.filled().len();
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            this.input.was_read(count);
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.write_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        while this.output.sealed().len() >= LIMIT {
            ready!(this.poll_write_some(cx))?;
        }
        this.keep_key()?;
        let taken = this.output.take(slices);
        if this.output.sealed().len() >= WRITE_AT
            && let Poll::Ready(Err(error)) = this.poll_write_some(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.write_closed {
            this.keep_key()?;
            this.output.close_record();
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Sends close_notify, then ends the transport's sending side.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.write_closed {
            this.write_closed = true;
            this.output.alert(AlertDescription::CloseNotify);
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
