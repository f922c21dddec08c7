//! The client's side of the helper's socket: blocking, one request at a time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_link::{ReceiveError, SeqPacket};
use thiserror::Error;

use crate::codes::Code;
use crate::protocol::{Counters, InvalidMessage, MAX_MESSAGE, PodInfo, PodSpec, Reply, Request};

/// How long an answer may take. The helper serves its clients one after another and gives up on a pod after
/// [`POD_TIMEOUT`](crate::laptop::POD_TIMEOUT), so this is a few clients' worth of the worst case.
const REPLY_TIMEOUT: Duration = Duration::from_secs(120);

/// A connection to the helper.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
}

/// One end of a helper's socket: messages of whatever protocol is spoken there.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: SeqPacket,
    buffer: Vec<u8>,
}

/// Descriptors of a pod's namespaces; holding one keeps the namespace alive.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace that owns the others: the helper's own.
    pub user: OwnedFd,
    /// Network.
    pub net: OwnedFd,
    /// Mount.
    pub mnt: OwnedFd,
    /// Host name.
    pub uts: OwnedFd,
    /// System V IPC and POSIX message queues.
    pub ipc: OwnedFd,
}

/// Why a request was not met.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody answers at the path.
    #[error("connecting to the node helper at {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The request is out of bounds and was not sent.
    #[error("request to the node helper: {0}")]
    Request(#[source] InvalidMessage),
    /// The connection broke, was closed, or no answer came in time.
    #[error("{step} the node helper: {source}")]
    Broken {
        /// Sending to, or receiving from.
        step: &'static str,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The answer is not one of this build.
    #[error("reply of the node helper: {0}")]
    Reply(#[source] InvalidMessage),
    /// The answer is one to another request, or lacks its descriptors.
    #[error("the node helper answered {request} with something else, or without its descriptors")]
    Mismatch {
        /// What was asked.
        request: &'static str,
    },
    /// The helper refused, with its own code and reason.
    #[error("{message}")]
    Refused {
        /// Its code.
        code: Code,
        /// Its reason.
        message: String,
    },
}

impl ClientError {
    /// The code of `adit explain`.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Connect { .. } | Self::Broken { .. } => Code::UNREACHABLE,
            Self::Request(_) => Code::REQUEST,
            Self::Reply(_) | Self::Mismatch { .. } => Code::PROTOCOL,
            Self::Refused { code, .. } => *code,
        }
    }
}

impl Client {
    /// Connects to the helper that listens on `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Ok(Self {
            connection: Connection::open(path, Some(REPLY_TIMEOUT))?,
        })
    }

    /// Makes a pod.
    ///
    /// # Errors
    /// [`ClientError`]; a refused pod leaves nothing behind.
    pub fn create_pod(&mut self, spec: &PodSpec) -> Result<PodInfo, ClientError> {
        match self.call(&Request::CreatePod(spec.clone()))? {
            (Reply::Created(info), _) => Ok(info),
            _ => Err(ClientError::Mismatch {
                request: "create pod",
            }),
        }
    }

    /// The pod's TUN queues: duplicates of those that the helper keeps. Only one process should read them at a time.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn open_queues(&mut self, pod: &str) -> Result<Vec<OwnedFd>, ClientError> {
        match self.call(&Request::OpenQueues { pod: pod.to_owned() })? {
            (Reply::Queues(info), queues) if queues.len() == usize::from(info.queues) => Ok(queues),
            _ => Err(ClientError::Mismatch {
                request: "open queues",
            }),
        }
    }

    /// The pod's namespaces, for [`enter::run`](crate::enter::run).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn namespaces(&mut self, pod: &str) -> Result<Namespaces, ClientError> {
        let mismatch = ClientError::Mismatch {
            request: "namespaces",
        };
        let (Reply::Namespaces, descriptors) = self.call(&Request::Namespaces { pod: pod.to_owned() })?
        else {
            return Err(mismatch);
        };
        let Ok([user, net, mnt, uts, ipc]) = <[OwnedFd; 5]>::try_from(descriptors) else {
            return Err(mismatch);
        };
        Ok(Namespaces {
            user,
            net,
            mnt,
            uts,
            ipc,
        })
    }

    /// Makes the helper forget a pod. Its programs, and whoever holds its descriptors, keep it alive until they end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn delete_pod(&mut self, pod: &str) -> Result<(), ClientError> {
        match self.call(&Request::DeletePod { pod: pod.to_owned() })? {
            (Reply::Deleted, _) => Ok(()),
            _ => Err(ClientError::Mismatch {
                request: "delete pod",
            }),
        }
    }

    /// Names of all pods, in order.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn list(&mut self) -> Result<Vec<String>, ClientError> {
        let mut all = Vec::<String>::new();
        loop {
            let after = all.last().cloned().unwrap_or_default();
            let (Reply::Pods { names, more }, _) = self.call(&Request::List { after: after.clone() })? else {
                return Err(ClientError::Mismatch { request: "list" });
            };
            // Names must go on upwards, or a helper gone wrong could keep us here for ever.
            let onwards = names.first().is_none_or(|first| *first > after) && names.is_sorted();
            if !onwards || (more && names.is_empty()) {
                return Err(ClientError::Mismatch { request: "list" });
            }
            all.extend(names);
            if !more {
                return Ok(all);
            }
        }
    }

    /// What the helper has counted.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stats(&mut self) -> Result<Counters, ClientError> {
        match self.call(&Request::Stats)? {
            (Reply::Stats(counters), _) => Ok(counters),
            _ => Err(ClientError::Mismatch { request: "stats" }),
        }
    }

    fn call(&mut self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let message = request.encode().map_err(ClientError::Request)?;
        self.connection.send(&message)?;
        let (reply, descriptors) = self.connection.receive()?;
        match Reply::decode(reply).map_err(ClientError::Reply)? {
            Reply::Refused { code, message } => Err(ClientError::Refused { code, message }),
            reply => Ok((reply, descriptors)),
        }
    }
}

impl Connection {
    /// Connects to a helper, whose answers may take `patience`, or for ever.
    pub(crate) fn open(path: &Path, patience: Option<Duration>) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect {
            path: path.to_owned(),
            source,
        };
        let socket = SeqPacket::connect(path).map_err(failed)?;
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, patience)
            .map_err(|error| failed(error.into()))?;
        Ok(Self {
            socket,
            buffer: vec![0; MAX_MESSAGE],
        })
    }

    pub(crate) fn send(&self, message: &[u8]) -> Result<(), ClientError> {
        self.socket
            .send(message, &[])
            .map_err(|source| ClientError::Broken {
                step: "sending to",
                source,
            })
    }

    /// The next message, and the descriptors with it.
    pub(crate) fn receive(&mut self) -> Result<(&[u8], Vec<OwnedFd>), ClientError> {
        let receiving = |source| ClientError::Broken {
            step: "receiving from",
            source,
        };
        let received = self.socket.recv(&mut self.buffer).map_err(|error| {
            receiving(match error {
                ReceiveError::Io(source) => source,
                other => io::Error::new(io::ErrorKind::InvalidData, other),
            })
        })?;
        if received.len == 0 {
            return Err(receiving(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection",
            )));
        }
        Ok((&self.buffer[..received.len], received.descriptors))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
