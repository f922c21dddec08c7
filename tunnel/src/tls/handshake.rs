//! rustls' handshake, driven over any IO, up to the traffic secrets.

use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::server::{Accepted, Acceptor, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, Error, ExtractedSecrets, InvalidMessage, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ALPN;
use super::stream::{Rekey, TlsStream};

/// Why a handshake didn't come to its end. The peer has been told, where TLS has an alert for it.
#[derive(Debug)]
pub(super) enum Failure {
    /// The transport failed, or ended too early.
    Io(io::Error),
    /// The peer speaks another protocol than HTTP/2 inside, or none that it names.
    Protocol,
    /// TLS failed.
    Tls(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Tls(error)
    }
}

/// Bytes of a peer that wait for the rest of a message: rustls takes no handshake message longer than 64 KiB, and each
/// record of it has a header.
const UNREAD_LIMIT: usize = 128 << 10;
/// What one read asks for.
const READ: usize = 8 << 10;

/// The client's handshake.
pub(super) async fn client<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
) -> Result<TlsStream<Io>, Failure> {
    let side = UnbufferedClientConnection::new(config, server_name)?;
    shake_hands(io, side, Vec::new()).await
}

/// A connection whose ClientHello was read and not answered.
pub(super) struct Hello<Io> {
    io: Io,
    accepted: Accepted,
    unread: Vec<u8>,
}

/// Reads the ClientHello (RFC 8446 §4.1.2): what it asks for decides which configuration answers it.
pub(super) async fn read_hello<Io: AsyncRead + AsyncWrite + Unpin>(mut io: Io) -> Result<Hello<Io>, Failure> {
    let mut acceptor = Acceptor::default();
    let mut unread = Vec::new();
    loop {
        let before = unread.len();
        read_more(&mut io, &mut unread).await?;
        let mut fresh = &unread[before..];
        while !fresh.is_empty() {
            if acceptor.read_tls(&mut fresh)? == 0 {
                return Err(too_large());
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Ok(Hello { io, accepted, unread }),
                Err((error, mut alert)) => {
                    let mut told = Vec::new();
                    alert.write(&mut told)?;
                    tell(&mut io, &told).await;
                    return Err(Failure::Tls(error));
                }
            }
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Hello<Io> {
    /// The name that the client asks for.
    pub(super) fn server_name(&self) -> Option<String> {
        self.accepted.client_hello().server_name().map(str::to_owned)
    }

    /// The server's handshake.
    pub(super) async fn answer(self, config: Arc<ServerConfig>) -> Result<TlsStream<Io>, Failure> {
        let side = UnbufferedServerConnection::new(config)?;
        shake_hands(self.io, side, self.unread).await
    }
}

/// One side of a handshake: what rustls' two types have in common and no trait for.
trait Side {
    type Data;
    fn process<'c, 'i>(&'c mut self, unread: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn is_handshaking(&self) -> bool;
    fn protocol(&self) -> Option<&[u8]>;
    fn into_secrets(self) -> Result<(ExtractedSecrets, Box<dyn Rekey>), Error>;
}

macro_rules! side {
    ($connection:ty, $data:ty) => {
        impl Side for $connection {
            type Data = $data;

            fn process<'c, 'i>(&'c mut self, unread: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, $data> {
                self.process_tls_records(unread)
            }

            fn is_handshaking(&self) -> bool {
                (**self).is_handshaking()
            }

            fn protocol(&self) -> Option<&[u8]> {
                self.alpn_protocol()
            }

            fn into_secrets(self) -> Result<(ExtractedSecrets, Box<dyn Rekey>), Error> {
                let (secrets, connection): (_, KernelConnection<$data>) =
                    self.dangerous_into_kernel_connection()?;
                Ok((secrets, Box::new(connection)))
            }
        }
    };
}

side!(UnbufferedClientConnection, ClientConnectionData);
side!(UnbufferedServerConnection, ServerConnectionData);

/// What rustls wants done next.
enum Next {
    /// Call it again.
    Again,
    Fail(Error),
    /// Send what was encoded.
    Send,
    /// It waits for the peer, or needs nothing more.
    Wait,
}

async fn shake_hands<Io: AsyncRead + AsyncWrite + Unpin, S: Side>(
    mut io: Io,
    mut side: S,
    mut unread: Vec<u8>,
) -> Result<TlsStream<Io>, Failure> {
    let mut to_send = Vec::new();
    // The peer's first bytes of HTTP/2 may come with the end of its handshake.
    let mut plain = Vec::new();
    loop {
        match step(&mut side, &mut unread, &mut to_send, &mut plain) {
            Next::Again => {}
            Next::Send => {
                io.write_all(&to_send).await?;
                io.flush().await?;
                to_send.clear();
            }
            Next::Wait if side.is_handshaking() => read_more(&mut io, &mut unread).await?,
            Next::Wait => break,
            Next::Fail(error) => {
                // What rustls has to say about it.
                while let Next::Again = step(&mut side, &mut unread, &mut to_send, &mut plain) {}
                tell(&mut io, &to_send).await;
                return Err(Failure::Tls(error));
            }
        }
    }
    if side.protocol() != Some(ALPN) {
        return Err(Failure::Protocol);
    }
    let (secrets, rekey) = side.into_secrets()?;
    Ok(TlsStream::new(io, secrets, rekey, &plain, &unread)?)
}

fn step<S: Side>(side: &mut S, unread: &mut Vec<u8>, to_send: &mut Vec<u8>, plain: &mut Vec<u8>) -> Next {
    let UnbufferedStatus { mut discard, state } = side.process(unread);
    let next = match state {
        Err(error) => Next::Fail(error),
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, to_send),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Next::Send
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Next::Fail(error),
                None => break Next::Again,
            }
        },
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Next::Wait,
        // The peer closes; early data is never offered.
        Ok(_) => Next::Fail(Error::HandshakeNotComplete),
    };
    unread.drain(..discard);
    next
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, to_send: &mut Vec<u8>) -> Next {
    let start = to_send.len();
    let mut room = READ;
    loop {
        to_send.resize(start + room, 0);
        match data.encode(&mut to_send[start..]) {
            Ok(written) => {
                to_send.truncate(start + written);
                return Next::Again;
            }
            Err(EncodeError::InsufficientSize(error)) => room = error.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                to_send.truncate(start);
                return Next::Again;
            }
        }
    }
}

async fn read_more<Io: AsyncRead + Unpin>(io: &mut Io, unread: &mut Vec<u8>) -> Result<(), Failure> {
    if unread.len() >= UNREAD_LIMIT {
        return Err(too_large());
    }
    unread.reserve(READ);
    if io.read_buf(unread).await? == 0 {
        return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

fn too_large() -> Failure {
    Failure::Tls(Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge))
}

/// Tells the peer why the handshake fails. If it can't be told, it sees the end of the connection.
async fn tell<Io: AsyncWrite + Unpin>(io: &mut Io, alert: &[u8]) {
    if !alert.is_empty() && io.write_all(alert).await.is_ok() {
        let _ = io.flush().await;
    }
}
