//! The asking side of both sockets.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use adit_flow::WorkloadName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::codec::{self, LINE_LIMIT, LineBuffer, LineTooLong};
use super::message::{
    AgentRequest, ExplainQuery, Explained, Fault, FlowLine, FlowQuery, JoinRequest, JoinTicket, MeshUpdate,
    PsReport, Reply, SupervisorRequest, SvidStatus,
};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("[ADIT-A008] connecting to {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The other end closed before it answered.
    #[error("[ADIT-A009] the other end of {} closed the connection before it answered", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("[ADIT-A009] the connection to {} broke: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The answer makes no sense: the other end is of another build.
    #[error("[ADIT-A031] the answer from {} is none that this build knows: {detail}", path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// It was asked and refused.
    #[error(transparent)]
    Refused(#[from] Fault),
}

/// A connection to the agent.
#[derive(Debug)]
pub struct AgentClient(Connection);

/// A connection to the supervisor.
#[derive(Debug)]
pub struct SupervisorClient(Connection);

/// Flow records as they arrive.
#[derive(Debug)]
pub struct FlowStream(Connection);

/// A membership in a mesh. Dropping it leaves the mesh.
#[derive(Debug)]
pub struct Joined {
    /// What is needed to enter the pod.
    pub ticket: JoinTicket,
    connection: Connection,
}

impl AgentClient {
    /// Connects to the agent's socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        Connection::open(path).await.map(Self)
    }

    /// See [`AgentRequest::AddPod`].
    ///
    /// # Errors
    /// Any [`ClientError`]; as with every request here, what happened at the other end is then unknown.
    pub async fn add_pod(&mut self, pod: WorkloadName) -> Result<(), ClientError> {
        self.0.call(AgentRequest::AddPod { pod }).await
    }

    /// See [`AgentRequest::Counters`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn counters(&mut self) -> Result<BTreeMap<String, u64>, ClientError> {
        self.0.call(AgentRequest::Counters).await
    }

    /// See [`AgentRequest::Drain`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn drain(&mut self, deadline_ms: u64) -> Result<(), ClientError> {
        self.0.call(AgentRequest::Drain { deadline_ms }).await
    }

    /// See [`AgentRequest::Dump`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn dump(&mut self) -> Result<serde_json::Value, ClientError> {
        self.0.call(AgentRequest::Dump).await
    }

    /// See [`AgentRequest::Explain`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn explain(&mut self, query: ExplainQuery) -> Result<Explained, ClientError> {
        self.0.call(AgentRequest::Explain(query)).await
    }

    /// See [`AgentRequest::Flows`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn flows(mut self, query: FlowQuery) -> Result<FlowStream, ClientError> {
        self.0.send(AgentRequest::Flows(query)).await?;
        Ok(FlowStream(self.0))
    }

    /// See [`AgentRequest::Identity`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn identity(&mut self) -> Result<Vec<SvidStatus>, ClientError> {
        self.0.call(AgentRequest::Identity).await
    }

    /// See [`AgentRequest::RemovePod`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_pod(&mut self, pod: WorkloadName) -> Result<(), ClientError> {
        self.0.call(AgentRequest::RemovePod { pod }).await
    }

    /// See [`AgentRequest::SetMesh`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn set_mesh(&mut self, update: MeshUpdate) -> Result<(), ClientError> {
        self.0.call(AgentRequest::SetMesh(update)).await
    }
}

impl FlowStream {
    /// The next line; `None` at the end. Not safe to drop before it is done: use one task for the stream.
    ///
    /// # Errors
    /// Any [`ClientError`]. A refusal arrives as the first line.
    pub async fn next(&mut self) -> Result<Option<FlowLine>, ClientError> {
        let Some(line) = self.0.line().await? else {
            return Ok(None);
        };
        match serde_json::from_slice(&line) {
            Ok(flow) => Ok(Some(flow)),
            // A refusal isn't a flow line; an `ok` would be malformed.
            Err(_) => self.0.answer::<FlowLine>(&line).map(Some),
        }
    }
}

impl SupervisorClient {
    /// Connects to the supervisor's socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        Connection::open(path).await.map(Self)
    }

    /// Stops the mesh; returns when the supervisor is gone.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn down(mut self) -> Result<(), ClientError> {
        self.0.call::<()>(SupervisorRequest::Down).await?;
        // However the connection ends, the supervisor is at its end.
        while let Ok(Some(_)) = self.0.line().await {}
        Ok(())
    }

    /// Joins the mesh for as long as the result lives.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn join(mut self, request: JoinRequest) -> Result<Joined, ClientError> {
        let ticket = self.0.call(SupervisorRequest::Join(request)).await?;
        Ok(Joined {
            ticket,
            connection: self.0,
        })
    }

    /// What runs.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn ps(&mut self) -> Result<PsReport, ClientError> {
        self.0.call(SupervisorRequest::Ps).await
    }
}

impl Joined {
    /// The ticket, and the connection as a descriptor: at its end the mesh is, and closing it leaves.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn into_lifeline(self) -> io::Result<(JoinTicket, OwnedFd)> {
        Ok((self.ticket, self.connection.stream.into_std()?.into()))
    }

    /// Ends when the mesh does: the supervisor closed the connection.
    pub async fn ended(&mut self) {
        while let Ok(Some(_)) = self.connection.line().await {}
    }
}

#[derive(Debug)]
struct Connection {
    path: PathBuf,
    stream: UnixStream,
    lines: LineBuffer,
}

impl Connection {
    async fn open(path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect {
            path: path.to_owned(),
            source,
        };
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            stream,
            lines: LineBuffer::new(LINE_LIMIT),
        })
    }

    async fn call<T: DeserializeOwned>(&mut self, request: impl Serialize) -> Result<T, ClientError> {
        self.send(request).await?;
        match self.line().await? {
            Some(line) => self.answer(&line),
            None => Err(ClientError::Closed {
                path: self.path.clone(),
            }),
        }
    }

    async fn send(&mut self, request: impl Serialize) -> Result<(), ClientError> {
        match self.stream.write_all(&codec::encode(request)).await {
            // The other end hung up on us. It may have said why before: the answer is read next.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|source| self.broken(source)),
        }
    }

    fn answer<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, ClientError> {
        match serde_json::from_slice(line) {
            Ok(Reply::Ok(value)) => Ok(value),
            Ok(Reply::Error(fault)) => Err(fault.into()),
            Err(error) => Err(self.malformed(&error)),
        }
    }

    async fn line(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(line) = self
                .lines
                .next_line()
                .map_err(|error: LineTooLong| self.malformed(&error))?
            {
                return Ok(Some(line));
            }
            let mut chunk = [0; CHUNK];
            match self.stream.read(&mut chunk).await {
                Ok(0) => return Ok(None),
                Ok(count) => self.lines.push(&chunk[..count]),
                Err(source) => return Err(self.broken(source)),
            }
        }
    }

    fn malformed(&self, error: &dyn std::error::Error) -> ClientError {
        ClientError::Malformed {
            path: self.path.clone(),
            detail: error.to_string(),
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
