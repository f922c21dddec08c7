//! The serving side of both sockets.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use adit_flow::WorkloadName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::codec::{self, LINE_LIMIT, LineBuffer};
use super::flows::{FlowHub, Missed, Next};
use super::message::{
    AgentRequest, ExplainQuery, Explained, Fault, FlowLine, FlowQuery, JoinRequest, JoinTicket, MeshUpdate,
    PsReport, Reply, SupervisorRequest, SvidStatus, codes,
};

/// The most connections that one socket serves at a time.
pub const CONNECTION_LIMIT: usize = 64;

/// What the agent does when it is asked to. Each request may be sent again after a lost answer, so each is idempotent.
pub trait Handler: Send + Sync + 'static {
    /// Serves a pod from now on: see [`AgentRequest::AddPod`].
    fn add_pod(&self, pod: WorkloadName) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Every counter, under the name that metrics use.
    fn counters(&self) -> impl Future<Output = Result<BTreeMap<String, u64>, Fault>> + Send;
    /// Refuses new flows; returns when the live ones have ended or `deadline_ms` milliseconds passed.
    fn drain(&self, deadline_ms: u64) -> impl Future<Output = Result<(), Fault>> + Send;
    /// The agent's state for people. The shape isn't an interface.
    fn dump(&self) -> impl Future<Output = Result<serde_json::Value, Fault>> + Send;
    /// Judges a flow without there being one.
    fn explain(&self, query: ExplainQuery) -> impl Future<Output = Result<Explained, Fault>> + Send;
    /// Where flow records are published.
    fn flows(&self) -> Arc<FlowHub>;
    /// The certificates held.
    fn identity(&self) -> impl Future<Output = Result<Vec<SvidStatus>, Fault>> + Send;
    /// Stops serving a pod: see [`AgentRequest::RemovePod`].
    fn remove_pod(&self, pod: WorkloadName) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Takes the mesh as it is from now on.
    fn set_mesh(&self, update: MeshUpdate) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// What the supervisor does when it is asked to.
pub trait SupervisorHandler: Send + Sync + 'static {
    /// A membership: whoever drops it leaves the mesh.
    type Member: Send;
    /// Begins to stop everything.
    fn down(&self) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Makes a pod for someone who joins.
    fn join(
        &self,
        request: JoinRequest,
    ) -> impl Future<Output = Result<(JoinTicket, Self::Member), Fault>> + Send;
    /// What runs.
    fn ps(&self) -> impl Future<Output = Result<PsReport, Fault>> + Send;
    /// Completes when the mesh stops: the connections of those who joined are closed then, and so they know.
    fn stopping(&self) -> impl Future<Output = ()> + Send;
}

/// Binds a control socket at `path`, for its owner only. The folder must be the owner's own (mode 0700): between
/// the binding and the change of mode it is what keeps others out.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::AddrInUse`] if something is at `path`.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the agent's socket until the future is dropped. Run it in a task of its own.
pub async fn serve(listener: UnixListener, handler: Arc<impl Handler>) {
    accept(listener, move |connection| {
        agent_connection(connection, Arc::clone(&handler))
    })
    .await;
}

/// Serves the supervisor's socket until the future is dropped. Run it in a task of its own.
pub async fn serve_supervisor(listener: UnixListener, handler: Arc<impl SupervisorHandler>) {
    accept(listener, move |connection| {
        supervisor_connection(connection, Arc::clone(&handler))
    })
    .await;
}

async fn agent_connection(mut connection: Connection, handler: Arc<impl Handler>) -> io::Result<()> {
    while let Some(request) = connection.request::<AgentRequest>().await? {
        match request {
            AgentRequest::AddPod { pod } => connection.reply(handler.add_pod(pod).await).await?,
            AgentRequest::Counters => connection.reply(handler.counters().await).await?,
            AgentRequest::Drain { deadline_ms } => connection.reply(handler.drain(deadline_ms).await).await?,
            AgentRequest::Dump => connection.reply(handler.dump().await).await?,
            AgentRequest::Explain(query) => connection.reply(handler.explain(query).await).await?,
            AgentRequest::Flows(query) => return stream_flows(connection, &handler.flows(), &query).await,
            AgentRequest::Identity => connection.reply(handler.identity().await).await?,
            AgentRequest::RemovePod { pod } => connection.reply(handler.remove_pod(pod).await).await?,
            AgentRequest::SetMesh(update) => connection.reply(handler.set_mesh(update).await).await?,
        }
    }
    Ok(())
}

async fn supervisor_connection(
    mut connection: Connection,
    handler: Arc<impl SupervisorHandler>,
) -> io::Result<()> {
    // A member is one as long as its connection lasts: the kernel closes a killed client's.
    while let Some(request) = connection.request::<SupervisorRequest>().await? {
        match request {
            SupervisorRequest::Down => connection.reply(handler.down().await).await?,
            SupervisorRequest::Join(request) => match handler.join(request).await {
                Ok((ticket, member)) => {
                    connection.reply(Ok(ticket)).await?;
                    tokio::select! {
                        closed = connection.closed() => closed?,
                        () = handler.stopping() => {}
                    }
                    drop(member);
                    return Ok(());
                }
                Err(fault) => connection.reply::<JoinTicket>(Err(fault)).await?,
            },
            SupervisorRequest::Ps => connection.reply(handler.ps().await).await?,
        }
    }
    Ok(())
}

/// Writes what is kept and, if asked to follow, what comes. Only this connection waits when its reader is slow.
async fn stream_flows(mut connection: Connection, hub: &Arc<FlowHub>, query: &FlowQuery) -> io::Result<()> {
    let mut reader = hub.reader();
    loop {
        let next = match reader.try_next() {
            Some(next) => next,
            None if !query.follow => return Ok(()),
            None => tokio::select! {
                next = reader.next() => next,
                // The client says nothing more; a read that ends means it is gone.
                _ = connection.closed() => return Ok(()),
            },
        };
        match next {
            Next::Closed => return Ok(()),
            Next::Missed(Missed(count)) => connection.send(&FlowLine::Missed(count)).await?,
            Next::Record(record) if query.matches(&record) => {
                connection
                    .send(&FlowLine::Flow(Box::new((*record).clone())))
                    .await?;
            }
            Next::Record(_) => tokio::task::consume_budget().await,
        }
    }
}

async fn accept<F>(listener: UnixListener, serve: impl Fn(Connection) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let owner = rustix::process::geteuid().as_raw();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket: accepting failed; trying again in a second");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
        };
        let connection = Connection::new(stream);
        let place = Arc::clone(&places).try_acquire_owned();
        let uid = connection.stream.peer_cred().map(|peer| peer.uid());
        let refusal = match (&place, uid) {
            (_, Ok(uid)) if uid != owner && uid != 0 => {
                let message = format!("this socket belongs to uid {owner} and the peer is uid {uid}");
                Some(Fault::new(codes::NOT_PERMITTED, message))
            }
            (_, Err(error)) => Some(Fault::new(
                codes::NOT_PERMITTED,
                format!("who the peer is: {error}"),
            )),
            (Err(_), _) => {
                let message = format!("{CONNECTION_LIMIT} connections are open; close one");
                Some(Fault::new(codes::BUSY, message))
            }
            _ => None,
        };
        match refusal {
            Some(fault) => connection.refuse(&fault),
            None => {
                let session = serve(connection);
                tokio::spawn(async move {
                    if let Err(error) = session.await {
                        tracing::debug!(%error, "control connection ended");
                    }
                    drop(place);
                });
            }
        }
    }
}

struct Connection {
    stream: UnixStream,
    lines: LineBuffer,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            lines: LineBuffer::new(LINE_LIMIT),
        }
    }

    /// The next request; `None` when the client is done. A line that is no request is answered here.
    async fn request<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            match self.lines.next_line() {
                Ok(Some(line)) => match codec::decode(&line) {
                    Ok(request) => return Ok(Some(request)),
                    Err(fault) => self.reply::<()>(Err(fault)).await?,
                },
                Ok(None) => {
                    let mut chunk = [0; CHUNK];
                    match self.stream.read(&mut chunk).await? {
                        0 => return Ok(None),
                        count => self.lines.push(&chunk[..count]),
                    }
                }
                Err(error) => {
                    self.reply::<()>(Err(Fault::new(codes::TOO_LONG, error.to_string())))
                        .await?;
                    return Ok(None);
                }
            }
        }
    }

    async fn reply<T: Serialize>(&mut self, result: Result<T, Fault>) -> io::Result<()> {
        let reply = match result {
            Ok(value) => Reply::Ok(value),
            Err(fault) => Reply::Error(fault),
        };
        self.send(&reply).await
    }

    async fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        self.stream.write_all(&codec::line(message)).await
    }

    /// Ends when the client closes its end. What it still says is thrown away.
    async fn closed(&mut self) -> io::Result<()> {
        let mut chunk = [0; 256];
        while self.stream.read(&mut chunk).await? > 0 {}
        Ok(())
    }

    /// Says why and hangs up. Whatever doesn't fit the socket's buffer at once is lost: nobody waits for a stranger.
    fn refuse(&self, fault: &Fault) {
        let _ = self
            .stream
            .try_write(&codec::line(&Reply::<()>::Error(fault.clone())));
    }
}

/// Bytes read at a time.
const CHUNK: usize = 8 << 10;

#[cfg(test)]
mod tests;
